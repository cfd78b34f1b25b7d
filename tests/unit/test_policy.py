"""Every branch of the policy as a scenario, and what feeds it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from gateway.core.attribution import Attribution, Move
from gateway.core.evidence import Evidence, EvidencePlan, ShareTest, Side
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Finding, Verdict
from gateway.core.policy import Advance, BurstWatch, Decision, Facts, Hold, Rollback, decide, quarantine_s
from gateway.core.rollouts import Plan, Rollout, RolloutState, begin
from gateway.core.routes import champion_route

ERRORS, LOSS = DEFAULT_GUARDRAILS
SOUND_SPLIT = ShareTest().reading()
BROKEN_SPLIT = replace(SOUND_SPLIT, log_e_best=SOUND_SPLIT.bound, keys=100, challenger_keys=50, share=0.1)
RISEN = {ERRORS.name: Move(0.1, 0.2, has_risen=True), LOSS.name: Move(0.2, 0.2, has_risen=False)}
FACTS = Facts(now_s=10_000.0, step_since_s=0.0, challenger_keys=1_000, srm=SOUND_SPLIT)


def rollout(state: RolloutState = RolloutState.CANARY, step: int = 0, **plan: object) -> Rollout:
    begun, _ = begin(champion_route("m", "1"), id="r", challenger="2", plan=replace(Plan(), **plan), salt="s", now_s=0.0)
    return replace(begun, state=state, step=step)


def findings(errors: Verdict, loss: Verdict, *, loss_estimate: float = 0.0) -> tuple[Finding, ...]:
    empty = Evidence(EvidencePlan()).reading()
    return (
        Finding(ERRORS, errors, empty, "errors"),
        Finding(LOSS, loss, replace(empty, estimate=loss_estimate), "loss"),
    )


SOUND = findings(Verdict.PASS, Verdict.PASS)
BAD = findings(Verdict.FAIL, Verdict.PASS)
WORSE = findings(Verdict.PASS, Verdict.FAIL)


@dataclass(frozen=True)
class Scenario:
    """What is known, and what the policy makes of it."""

    name: str
    expected: type[Decision]
    attribution: Attribution = Attribution.NONE
    rollout: Rollout = field(default_factory=rollout)
    findings: tuple[Finding, ...] = SOUND
    facts: Facts = FACTS
    says: str = ""


VERSION, WORLD, DATA, ASSIGNMENT = Attribution.VERSION, Attribution.WORLD, Attribution.DATA, Attribution.ASSIGNMENT
HELD, LIVE = RolloutState.HELD, RolloutState.LIVE
SCENARIOS = [
    Scenario("everything passes", Advance),
    Scenario("ground truth never came", Advance, findings=findings(Verdict.PASS, Verdict.INCONCLUSIVE)),
    Scenario("errors inconclusive", Hold, findings=findings(Verdict.INCONCLUSIVE, Verdict.PASS), says="inconclusive"),
    Scenario(
        "loss leans to harm", Hold, findings=findings(Verdict.PASS, Verdict.INCONCLUSIVE, loss_estimate=LOSS.margin), says="leans"
    ),
    Scenario("no guardrail", Hold, findings=(), says="no guardrail"),
    Scenario("a guardrail fails", Rollback, VERSION, findings=BAD, says="errors"),
    Scenario("loss fails", Rollback, VERSION, findings=WORSE, says="loss"),
    Scenario("hard faults", Rollback, VERSION, facts=replace(FACTS, is_burst=True), says="hard faults"),
    Scenario("hard faults with a broken split", Rollback, VERSION, facts=replace(FACTS, is_burst=True, srm=BROKEN_SPLIT)),
    Scenario("hard faults while frozen", Rollback, VERSION, facts=replace(FACTS, is_burst=True, frozen_by=WORLD)),
    Scenario("a broken split", Hold, ASSIGNMENT, facts=replace(FACTS, srm=BROKEN_SPLIT), says="assignment"),
    Scenario("a broken split voids a fail", Hold, ASSIGNMENT, findings=BAD, facts=replace(FACTS, srm=BROKEN_SPLIT)),
    Scenario("both got worse", Hold, WORLD, facts=replace(FACTS, moves=RISEN), says="champion"),
    Scenario("both got worse, one far more", Rollback, VERSION, findings=BAD, facts=replace(FACTS, moves=RISEN)),
    Scenario("frozen by the world", Hold, WORLD, facts=replace(FACTS, frozen_by=WORLD), says="freezes"),
    Scenario("frozen by data", Hold, DATA, facts=replace(FACTS, frozen_by=DATA)),
    Scenario("frozen, and a guardrail fails", Rollback, VERSION, findings=BAD, facts=replace(FACTS, frozen_by=DATA)),
    Scenario("held", Hold, rollout=rollout(HELD), says="HELD"),
    Scenario("held, and a guardrail fails", Rollback, VERSION, rollout=rollout(HELD), findings=BAD),
    Scenario("held, and hard faults", Rollback, VERSION, rollout=rollout(HELD), facts=replace(FACTS, is_burst=True)),
    Scenario("ended", Hold, rollout=rollout(LIVE), findings=BAD, facts=replace(FACTS, is_burst=True), says="LIVE"),
    Scenario(
        "automation off", Hold, findings=BAD, facts=replace(FACTS, is_burst=True, is_automation_on=False), says="automation"
    ),
    Scenario("a person advances", Hold, rollout=rollout(advances_itself=False), says="person"),
    Scenario("last step", Hold, rollout=rollout(step=1), says="promotion"),
    Scenario("too few keys", Hold, facts=replace(FACTS, challenger_keys=99), says="99 keys"),
    Scenario("just enough keys", Advance, facts=replace(FACTS, challenger_keys=100)),
    Scenario("dwell not over", Hold, facts=replace(FACTS, step_since_s=9_701.0), says="1 s more"),
    Scenario("dwell over", Advance, facts=replace(FACTS, step_since_s=9_700.0)),
    Scenario("increased lately", Hold, facts=replace(FACTS, last_increase_s=9_101.0), says="last automatic increase"),
    Scenario("increased long ago", Advance, facts=replace(FACTS, last_increase_s=9_100.0)),
    Scenario("rollback does not wait", Rollback, VERSION, findings=BAD, facts=replace(FACTS, last_increase_s=9_999.0)),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_decision_is_as_the_rules_say(scenario: Scenario) -> None:
    """Rolling back never waits, going on waits for everything, and each decision says where the change comes from and why."""
    decision = decide(scenario.rollout, scenario.findings, scenario.facts)
    assert isinstance(decision, scenario.expected)
    assert decision.attribution is scenario.attribution
    assert scenario.says in decision.reason
    json.dumps(decision.evidence, allow_nan=False)


def test_quarantine_grows_fourfold_to_seven_days() -> None:
    """30 minutes, 2 hours, 8 hours, …, never above a week."""
    assert [quarantine_s(strikes) for strikes in range(3)] == [1_800.0, 7_200.0, 28_800.0]
    assert quarantine_s(5) == quarantine_s(1_000) == 7 * 86_400.0


def burst(challenger: int, champion: int, *, champion_keys: int = 50) -> BurstWatch:
    watch = BurstWatch()
    watch.observe(Side.CHALLENGER, "b0", 0.0, is_fault=challenger > 0)
    for key in range(champion_keys):
        watch.observe(Side.CHAMPION, f"a{key}", 1.0, is_fault=key < champion)
    for key in range(1, 10):
        watch.observe(Side.CHALLENGER, f"b{key}", 2.0, is_fault=key < challenger)
    return watch


def test_burst_needs_nine_of_ten_keys_and_a_sound_champion() -> None:
    """Hard faults roll back when nearly all of the challenger's keys fail and hardly any of the champion's does."""
    assert burst(9, 5).is_burst
    assert not burst(8, 0).is_burst
    assert not burst(10, 6).is_burst
    assert not burst(10, 0, champion_keys=9).is_burst
    assert burst(10, 1, champion_keys=10).is_burst
    assert not BurstWatch().is_burst


def test_burst_takes_one_failing_caller_for_one() -> None:
    """A caller who always fails and calls all the time is no burst."""
    watch = burst(1, 0)
    for _ in range(100):
        watch.observe(Side.CHALLENGER, "b0", 3.0, is_fault=True)
    assert not watch.is_burst


def test_burst_compares_what_came_at_the_same_time() -> None:
    """A champion that failed while the challenger did is not sound, however well it did before and has done since."""
    watch = BurstWatch()
    for at in range(200):
        is_fault = 100 <= at < 120
        watch.observe(Side.CHAMPION, f"a{at}", float(at), is_fault=is_fault)
        if at < 120:
            watch.observe(Side.CHALLENGER, f"b{at}", at + 0.5, is_fault=is_fault)
        assert not watch.is_burst


def test_burst_says_nothing_of_a_time_that_is_not_remembered() -> None:
    """With more of the champion's keys than are kept, those left do not speak for the whole time."""
    watch = burst(8, 0)
    for key in range(1_000):
        watch.observe(Side.CHAMPION, f"c{key}", 3.0, is_fault=False)
    watch.observe(Side.CHALLENGER, "b8", 4.0, is_fault=True)
    assert not watch.is_burst


def test_restored_watches_go_on_exactly() -> None:
    """State survives JSON."""
    watch = burst(8, 1)
    again = BurstWatch.restored(json.loads(json.dumps(watch.state())))
    for one in (watch, again):
        one.observe(Side.CHALLENGER, "b9", 3.0, is_fault=True)
    assert again.is_burst
    assert again.state() == watch.state()
