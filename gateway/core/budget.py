"""A route's yearly budget of false rollbacks: what each rollout reserves of it before it starts, and when it is whole again.

A rollout's evidence may convict a sound challenger with probability alpha, so a year of rollouts may do so Σ alpha times on
average. What a rollout reserved is spent for a year, however it ended: nothing tells afterwards how much of it was needed. Only
what ended before anything could be compared needed none, whatever its challenger is like: that is free again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.core.errors import BudgetSpent
from gateway.core.fields import Json
from gateway.core.plans import Plan
from gateway.core.rollouts import Rollout

FREE: Final = "rollout.free"  # the action in the audit log
YEAR_S: Final = 365 * 86_400.0
_ROUNDING: Final = 1.0 + 1e-9  # fifty times a fiftieth is the whole


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a year's false rollbacks is reserved.

    Attributes:
        per_year: What the newest plan allows.
        reserved: By the rollouts of the last year that are open, or are over and had their chance to be wrong.
        frees_at_s: When enough is free for one more rollout of that plan; 0 when it is now.
    """

    per_year: float
    reserved: float
    frees_at_s: float

    def body(self) -> Json:
        """Return the budget as the admin API shows it."""
        return {"per_year": self.per_year, "reserved": self.reserved, "frees_at_s": self.frees_at_s}


def budget_of(plan: Plan, rollouts: Iterable[Rollout], now_s: float) -> Budget:
    """Return where a route's budget stands for one more rollout of a plan.

    Args:
        rollouts: Of the route, in any order; those older than a year count no more.
    """
    spent = sorted((one.started_at_s, reserved_by(one)) for one in rollouts if one.started_at_s > now_s - YEAR_S)
    reserved = sum(alpha for _, alpha in spent)
    left, frees_at_s = reserved, 0.0
    for started_at_s, alpha in spent:
        if left + plan.false_rollback_alpha <= plan.false_rollbacks_per_year * _ROUNDING:
            break
        left, frees_at_s = left - alpha, started_at_s + YEAR_S
    return Budget(plan.false_rollbacks_per_year, reserved, frees_at_s)


def reserved_by(rollout: Rollout) -> float:
    """Return what a rollout of the last year has of the budget: nothing once it is over and nothing was compared."""
    return rollout.plan.false_rollback_alpha if rollout.is_open or rollout.is_spent else 0.0


def refuse_overspent(route: str, plan: Plan, rollouts: Iterable[Rollout], now_s: float) -> None:
    """Raise `BudgetSpent`, saying when it frees, unless one more rollout of a plan fits into the route's budget."""
    budget = budget_of(plan, rollouts, now_s)
    if budget.frees_at_s == 0.0:
        return
    frees = datetime.fromtimestamp(budget.frees_at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    raise BudgetSpent(
        f"route {route} has reserved {budget.reserved:.3g} of {budget.per_year:g} false rollbacks a year, and this rollout needs "
        f"{plan.false_rollback_alpha:.3g} more; it frees on {frees}",
        hint="a plan with more rollouts_per_year needs less for each and more traffic to decide",
    )
