"""The yearly budget of false rollbacks that a route's rollouts share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.budget import YEAR_S, budget_of, refuse_overspent
from gateway.core.errors import BudgetSpent
from gateway.core.guardrail_bodies import guardrails_from_bodies
from gateway.core.plans import Plan, ShadowPhase
from gateway.core.rollouts import Event, Rollout, apply_event, begin
from gateway.core.routes import champion_route

NOW_S = 1_800_000_000.0
QUARTERLY = Plan(false_rollbacks_per_year=0.04, rollouts_per_year=4)


def started(*ages_s: float, plan: Plan = QUARTERLY) -> list[Rollout]:
    """Return rollouts that began so long before now."""
    rollout, _ = begin(champion_route("m", "1"), id="r", challenger="2", plan=plan, salt="s", now_s=0.0)
    return [replace(rollout, started_at_s=NOW_S - age_s) for age_s in ages_s]


def test_budget_lets_as_many_rollouts_start_as_the_plan_counts_on():
    """Four a year are four a year; the fifth waits until the oldest is a year old."""
    refuse_overspent("m", QUARTERLY, started(300.0, 200.0, 100.0), NOW_S)
    with pytest.raises(BudgetSpent, match=r"reserved 0.04 of 0.04 .* needs 0.01 more; it frees on 2028-01-15 07:55 UTC"):
        refuse_overspent("m", QUARTERLY, started(100.0, 200.0, 300.0, 400.0 - 100.0), NOW_S)
    assert budget_of(QUARTERLY, started(1.0, 2.0, 3.0, YEAR_S - 5.0), NOW_S).frees_at_s == NOW_S + 5.0
    refuse_overspent("m", QUARTERLY, started(1.0, 2.0, 3.0, YEAR_S), NOW_S)


def test_budget_waits_for_as_many_as_a_greedier_plan_needs():
    """A rollout that reserves more waits until enough of the others are over."""
    greedy = replace(QUARTERLY, rollouts_per_year=2)
    spent = started(10.0, 20.0, 30.0)
    budget = budget_of(greedy, spent, NOW_S)
    assert budget.reserved == pytest.approx(0.03)
    assert budget.frees_at_s == NOW_S - 30.0 + YEAR_S
    assert budget_of(replace(greedy, false_rollbacks_per_year=0.1), started(1.0), NOW_S).frees_at_s == 0.0


def test_budget_of_one_year_is_what_all_its_rollouts_together_reserve():
    """Whatever the two numbers are, exactly so many rollouts fit: rounding costs none."""
    for count in (1, 3, 7, 50, 365):
        plan = Plan(false_rollbacks_per_year=0.3, rollouts_per_year=count)
        refuse_overspent("m", plan, started(*(1.0 + at for at in range(count - 1)), plan=plan), NOW_S)
        with pytest.raises(BudgetSpent):
            refuse_overspent("m", plan, started(*(1.0 + at for at in range(count)), plan=plan), NOW_S)


@pytest.mark.parametrize(
    ("rails", "events", "is_free"),
    [
        ((), (Event.ROLLBACK,), True),
        ((), (Event.HOLD, Event.GIVE_UP), True),
        ((), (Event.CONVICT,), True),  # hard faults alone convict there, and they are no matter of chance
        (({"measure": "disagreement"},), (Event.ROLLBACK,), False),
        ((), (Event.ADVANCE, Event.ROLLBACK), False),
        ((), (Event.HOLD, Event.PROMOTE, Event.ROLLBACK), False),
    ],
)
def test_budget_has_back_what_ended_before_anything_was_compared(rails, events, is_free):
    """A rollout that ended in its shadow had no chance to be wrong, unless copies were compared; while open it reserves all."""
    plan = replace(QUARTERLY, shadow=ShadowPhase())
    if rails:
        plan = replace(plan, guardrails=guardrails_from_bodies(rails, "g"))
    rollout, route = begin(champion_route("m", "1"), id="r", challenger="2", plan=plan, salt="s", now_s=NOW_S)
    assert budget_of(plan, [rollout], NOW_S).reserved == pytest.approx(0.01)
    for event in events:
        rollout, route = apply_event(rollout, route, event, reason="", now_s=NOW_S)
    assert budget_of(plan, [rollout], NOW_S).reserved == pytest.approx(0.0 if is_free else 0.01)
