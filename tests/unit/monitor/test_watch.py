"""What enters a rollout's evidence, and what is left out of it on both sides."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.attribution import Attribution
from gateway.core.evidence import Outcome as Evidence
from gateway.core.evidence import Side
from gateway.core.guardrails import Guardrail, Measure, Verdict
from gateway.core.hindsight import Worsening
from gateway.core.plans import Plan
from gateway.core.policy import Facts
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.rollouts import CHALLENGER, CHAMPION, PREVIOUS, Rollout, RolloutState, begin
from gateway.core.routes import champion_route
from gateway.monitor.state import VIEWS_MAX, RouteState
from gateway.monitor.views import RouteView
from gateway.monitor.watch import RolloutWatch
from tests.records import prediction

RECORD = prediction(attempts=(), latency_us=500)


def new_watch(plan: Plan | None = None) -> RolloutWatch:
    rollout, _ = begin(champion_route("delays", "1"), id="r", challenger="2", plan=plan or Plan(), salt="s", now_s=0.0)
    assert isinstance(rollout, Rollout)
    return RolloutWatch(rollout, epoch_s=600.0)


def answered(assigned: str, key: str, outcome: Outcome = Outcome.OK, *, resting: tuple[str, ...] = ()) -> PredictionRecord:
    variant = CHAMPION if CHALLENGER in resting else assigned
    attempts = (Attempt(variant, "1", outcome, 400),)
    return replace(RECORD, assigned=assigned, variant=variant, attempts=attempts, assignment_key=key, resting=resting)


def facts(watch: RolloutWatch) -> Facts:
    return watch.facts(now_s=1.0, frozen_by=Attribution.NONE, is_automation_on=True, last_increase_s=None)


def test_answers_given_while_a_variant_rests_count_for_neither() -> None:
    """While the challenger rests the champion's answers are no evidence either; the split is tested all the same."""
    watch = new_watch()
    for at in range(100):
        assigned = CHALLENGER if at % 2 else CHAMPION
        watch.observe(answered(assigned, f"k{at}", resting=(CHALLENGER,)), float(at), 0.5)
    assert {finding.reading.keys for finding in watch.findings()} == {0}
    assert facts(watch).challenger_keys == 0
    assert (facts(watch).srm.keys, facts(watch).srm.challenger_keys) == (100, 50)
    watch.observe(answered(CHAMPION, "k0"), 101.0, 0.5)
    assert max(finding.reading.keys for finding in watch.findings()) == 1


def test_watch_measures_by_the_guardrails_of_the_plan_alone() -> None:
    """What the plan does not name gathers no evidence, and the rest comes back from a saved state exactly."""
    rail = Guardrail("wrong", Measure.LOSS, alpha_share=1.0, margin=0.2, harm=0.03, samples_min=7, is_required=True)
    watch = new_watch(Plan(guardrails=(rail,)))
    for at in range(20):
        watch.observe(answered(CHALLENGER, f"k{at}", Outcome.FAILED), float(at), 0.5)
        watch.observe_value(Measure.LOSS, Evidence(Side.CHALLENGER, f"k{at}", 1.0, float(at), 0.5))
    assert [(finding.guardrail, finding.reading.keys) for finding in watch.findings()] == [(rail, 20)]
    assert RolloutWatch.restored(watch.state(), epoch_s=600.0).findings() == watch.findings()


def test_one_death_of_a_worker_is_one_key() -> None:
    """Nine requests that died together are one failing key: no burst, no evidence to speak of, and one key of the split."""
    watch = new_watch()
    for at in range(40):
        watch.observe(answered(CHAMPION, f"a{at}"), float(at), 0.5)
        if at >= 20:
            watch.observe(answered(CHALLENGER, f"b{at}"), float(at), 0.5)
    before = facts(watch).srm
    urgent = [watch.observe(answered(CHALLENGER, "death", Outcome.CRASHED), 40.0, 0.5) for _ in range(9)]
    assert not any(urgent)
    assert not facts(watch).is_burst
    assert facts(watch).srm.keys == before.keys + 1
    assert facts(watch).srm.challenger_keys == before.challenger_keys + 1


def test_ground_truth_that_is_rarer_for_one_variant_convicts_nobody() -> None:
    """Nine in ten outcomes known of one variant and four in ten of the other, by chance: equal losses give no FAIL, ever."""
    failed = []
    for seed in range(80):
        rng, watch = np.random.default_rng(seed), new_watch()
        known = (0.9, 0.4) if seed % 2 else (0.4, 0.9)
        for at in range(500):
            is_challenger = bool(rng.random() < 0.5)
            if rng.random() < known[is_challenger]:
                side = Side.CHALLENGER if is_challenger else Side.CHAMPION
                outcome = Evidence(side, f"{seed}-{at}", float(rng.random() < 0.2), float(at), 0.5)
                if watch.observe_value(Measure.LOSS, outcome):
                    failed.append(seed)
    assert failed == []


def test_revisions_of_long_ago_are_kept_while_they_are_read() -> None:
    """A monitor that is far behind learns each old revision once, and the newest stays the route's view."""
    state = RouteState(RouteView("delays", "delays", 100))
    for revision in range(60, 101):
        state.learn(RouteView("delays", "delays", revision))
    state.learn(RouteView("delays", "delays", 3))
    state.learn(RouteView("delays", "delays", 4))
    assert {3, 4} <= set(state.views)
    assert len(state.views) == VIEWS_MAX
    assert state.view.revision == 100


def promoted_watch() -> RolloutWatch:
    """Return the watch of a rollout that cools down."""
    begun = new_watch(Plan(cool_down_s=600.0)).rollout
    return RolloutWatch(replace(begun, state=RolloutState.LIVE, cools_until_s=600.0), epoch_s=600.0)


def observe_pairs(watch: RolloutWatch, count: int) -> None:
    """Let the promoted version fail on requests that the version before can answer."""
    for at in range(count):
        live = replace(
            answered(CHAMPION, f"k{at}"), prediction_id=f"p{at}", attempts=(Attempt(CHAMPION, "2", Outcome.FAILED, 1),)
        )
        copy = replace(live, prediction_id=f"c{at}", kind=Kind.SHADOW, variant=PREVIOUS, version="1", shadow_of=f"p{at}")
        watch.observe_pairable(live, float(at))
        watch.observe_pairable(replace(copy, attempts=(Attempt(PREVIOUS, "1", Outcome.OK, 1),)), float(at))


def test_shadow_of_a_promoted_version_is_asked_anew_when_that_gets_worse() -> None:
    """Errors on the same requests pair up, come back from a saved state, and those from before the first worsening count no more.

    A further one begins nothing anew: each beginning would be another chance to blame a sound version.
    """
    watch = promoted_watch()
    observe_pairs(watch, 50)
    errors, _ = facts(watch).hindsight
    assert (errors.reading.keys, errors.verdict) == (50, Verdict.FAIL)
    again = RolloutWatch.restored(json.loads(json.dumps(watch.state())), epoch_s=600.0)
    assert facts(again).hindsight == facts(watch).hindsight
    again.worsen("1", Worsening("errors", "of another version"))
    assert facts(again).worsening is None
    again.worsen("2", Worsening("errors", "it rose"))
    assert [finding.reading.keys for finding in facts(again).hindsight] == [0, 0]
    assert facts(again).worsening == Worsening("errors", "it rose")
    observe_pairs(again, 20)
    again.worsen("2", Worsening("loss", "that rose too"))
    assert [finding.reading.keys for finding in facts(again).hindsight] == [20, 0]
    assert facts(again).worsening == Worsening("loss", "that rose too")


def test_whatever_may_blame_a_sound_version_shares_what_its_rollout_reserved() -> None:
    """The bounds of all guardrails and of what is asked after a promotion add up to one alpha; without the latter, as well."""
    watch = promoted_watch()
    bounds = [finding.reading.bound for finding in (*watch.findings(), *facts(watch).hindsight)]
    assert len(bounds) == 4
    assert sum(math.exp(-bound) for bound in bounds) == pytest.approx(watch.rollout.plan.false_rollback_alpha)
    alone = new_watch(Plan(cool_down_s=0.0))
    bounds = [finding.reading.bound for finding in alone.findings()]
    assert sum(math.exp(-bound) for bound in bounds) == pytest.approx(alone.rollout.plan.false_rollback_alpha)
