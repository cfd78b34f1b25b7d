"""Every branch of the policy as a scenario, and what feeds it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import pytest

from gateway.core.arrivals import ArrivalReading
from gateway.core.attribution import Attribution, Move
from gateway.core.evidence import Evidence, EvidencePlan, ShareTest, Side
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Finding, Verdict
from gateway.core.hindsight import RAILS, Worsening
from gateway.core.plans import HoldOutcome, Inconclusive, Plan, ShadowPhase, Step
from gateway.core.policy import Advance, Decision, Facts, Hold, Rollback, decide, quarantine_s
from gateway.core.rollouts import Event, Rollout, RolloutState, apply_event, begin
from gateway.core.routes import champion_route
from gateway.core.trouble import BurstWatch, FleetBreaker, FleetReading

ERRORS, LOSS = DEFAULT_GUARDRAILS
SOUND_SPLIT = ShareTest().reading()
BROKEN_SPLIT = replace(SOUND_SPLIT, log_e_best=SOUND_SPLIT.bound, keys=100, challenger_keys=50, share=0.1)
RISEN = {ERRORS.name: Move(0.1, 0.2, bound=0.15), LOSS.name: Move(0.2, 0.2, bound=0.25)}
FACTS = Facts(now_s=10_000.0, step_since_s=0.0, seen_s=10_000.0, challenger_keys=1_000, srm=SOUND_SPLIT)


def rollout(state: RolloutState = RolloutState.CANARY, step: int = 0, **plan: object) -> Rollout:
    """Return a rollout in a state since time 0."""
    begun, _ = begin(champion_route("m", "1"), id="r", challenger="2", plan=replace(Plan(), **plan), salt="s", now_s=0.0)
    return replace(begun, state=state, step=step, held_in=RolloutState.CANARY if state is RolloutState.HELD else None)


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
    event: Event | None = None


VERSION, WORLD, DATA, ASSIGNMENT = Attribution.VERSION, Attribution.WORLD, Attribution.DATA, Attribution.ASSIGNMENT
HELD, LIVE, SHADOW = RolloutState.HELD, RolloutState.LIVE, RolloutState.SHADOW
BAKING, AWAITING = RolloutState.BAKING, RolloutState.AWAITING_APPROVAL
UNKNOWN = findings(Verdict.INCONCLUSIVE, Verdict.PASS)
UNHEARD = findings(Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
LEANING = findings(Verdict.PASS, Verdict.INCONCLUSIVE, loss_estimate=LOSS.margin)
HEARD_UNKNOWN = tuple(replace(one, reading=replace(one.reading, challenger_count=50)) for one in UNHEARD)
SHADOWED = rollout(SHADOW, shadow=ShadowPhase())
COOLING = replace(rollout(LIVE), cools_until_s=11_000.0)
LATE = replace(FACTS, now_s=86_700.0)  # a step's dwell and a day's patience after 0
APPROVED_FACTS = replace(FACTS, needs_approval=True)
DOUBTFUL = ArrivalReading(values=100, corrected=50)


def helped(verdict: str) -> Facts:
    """Return what is known when a promoted version's losses rose and the version before was asked."""
    asked = Finding(RAILS["loss"], Verdict(verdict), Evidence(EvidencePlan()).reading(), "on the same requests")
    return replace(FACTS, hindsight=(asked,), worsening=Worsening("loss", "loss of version 2 rose"))


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
    Scenario("held", Hold, rollout=rollout(HELD), says="held"),
    Scenario("held, and a guardrail fails", Rollback, VERSION, rollout=rollout(HELD), findings=BAD),
    Scenario("held, and hard faults", Rollback, VERSION, rollout=rollout(HELD), facts=replace(FACTS, is_burst=True)),
    Scenario(
        "ended",
        Hold,
        rollout=rollout(RolloutState.ROLLED_BACK),
        findings=BAD,
        facts=replace(FACTS, is_burst=True),
        says="ROLLED_BACK",
    ),
    Scenario(
        "automation off", Hold, findings=BAD, facts=replace(FACTS, is_burst=True, is_automation_on=False), says="automation"
    ),
    Scenario("a person advances", Hold, rollout=rollout(advances_itself=False), says="person"),
    Scenario("last step", Advance, rollout=rollout(step=1), event=Event.BAKE),
    Scenario("last step of one", Advance, rollout=rollout(steps=(Step(500),)), event=Event.BAKE),
    Scenario("bake time", Hold, rollout=rollout(BAKING), facts=replace(FACTS, seen_s=3_599.0), says="1 s more"),
    Scenario("baked", Advance, rollout=rollout(BAKING), event=Event.PROMOTE),
    Scenario("baked, and a guardrail fails", Rollback, VERSION, rollout=rollout(BAKING), findings=BAD, event=Event.CONVICT),
    Scenario("baked, and not proven", Hold, rollout=rollout(BAKING), findings=UNKNOWN, says="inconclusive"),
    Scenario("baked, and a person promotes", Hold, rollout=rollout(BAKING, promotes_itself=False), says="person"),
    Scenario("baked, and approval wanted", Advance, rollout=rollout(BAKING), facts=APPROVED_FACTS, event=Event.ASK),
    Scenario(
        "baked, by hand, and approval wanted",
        Advance,
        rollout=rollout(BAKING, promotes_itself=False),
        facts=APPROVED_FACTS,
        event=Event.ASK,
    ),
    Scenario("awaiting approval", Hold, rollout=rollout(AWAITING), says="approval"),
    Scenario("awaiting approval, and a guardrail fails", Rollback, VERSION, rollout=rollout(AWAITING), findings=BAD),
    Scenario(
        "awaiting approval for a day", Rollback, rollout=rollout(AWAITING), facts=LATE, event=Event.GIVE_UP, says="approval"
    ),
    Scenario("in the shadow, sound", Advance, rollout=rollout(SHADOW, shadow=ShadowPhase()), findings=UNHEARD),
    Scenario("in the shadow, hard faults", Rollback, VERSION, rollout=SHADOWED, facts=replace(FACTS, is_burst=True)),
    Scenario("in the shadow, too few keys", Hold, rollout=SHADOWED, facts=replace(FACTS, challenger_keys=99), says="99 keys"),
    Scenario("in the shadow, dwell", Hold, rollout=SHADOWED, facts=replace(FACTS, seen_s=299.0), says="1 s more"),
    Scenario("in the shadow, heard and unclear", Hold, rollout=SHADOWED, findings=HEARD_UNKNOWN, says="inconclusive"),
    Scenario("patience not over", Hold, findings=UNKNOWN, facts=replace(LATE, now_s=86_699.0), says="inconclusive: errors"),
    Scenario("patience over", Hold, findings=UNKNOWN, facts=LATE, event=Event.HOLD, says="inconclusive for 86400 s"),
    Scenario(
        "patience over, rollback",
        Rollback,
        rollout=rollout(inconclusive=Inconclusive.ROLLBACK),
        findings=UNKNOWN,
        facts=LATE,
        event=Event.GIVE_UP,
        says="inconclusive",
    ),
    Scenario("patience over, advance", Advance, rollout=rollout(inconclusive=Inconclusive.ADVANCE), findings=UNKNOWN, facts=LATE),
    Scenario(
        "patience over, advance, leaning",
        Hold,
        rollout=rollout(inconclusive=Inconclusive.ADVANCE),
        findings=LEANING,
        facts=LATE,
        event=Event.HOLD,
    ),
    Scenario(
        "patience over, advance, frozen",
        Hold,
        WORLD,
        rollout=rollout(inconclusive=Inconclusive.ADVANCE),
        findings=UNKNOWN,
        facts=replace(LATE, frozen_by=WORLD),
        event=Event.HOLD,
    ),
    Scenario("patience over with a broken split", Hold, ASSIGNMENT, facts=replace(LATE, srm=BROKEN_SPLIT), event=Event.HOLD),
    Scenario("patience is a person's by hand", Hold, rollout=rollout(advances_itself=False), facts=LATE, says="person"),
    Scenario("patience does not end a wait", Hold, facts=replace(LATE, last_increase_s=86_701.0), says="automatic increase"),
    Scenario("a hold times out", Rollback, rollout=rollout(HELD), facts=LATE, event=Event.GIVE_UP, says="nobody ended"),
    Scenario("a hold has time left", Hold, rollout=rollout(HELD), facts=replace(LATE, now_s=86_399.0), says="held"),
    Scenario("a hold resumes", Advance, rollout=rollout(HELD, hold_outcome=HoldOutcome.RESUME), facts=LATE, event=Event.RESUME),
    Scenario("a hold stays", Hold, rollout=rollout(HELD, hold_outcome=HoldOutcome.STAY), facts=LATE, says="held"),
    Scenario("approval is not resumed", Hold, rollout=rollout(AWAITING, hold_outcome=HoldOutcome.RESUME), facts=LATE),
    Scenario("automation off ends no hold", Hold, rollout=rollout(HELD), facts=replace(LATE, is_automation_on=False)),
    Scenario("cooling", Hold, rollout=COOLING, facts=replace(FACTS, now_s=10_999.0), says="1 s more"),
    Scenario("cooled", Advance, rollout=COOLING, facts=replace(FACTS, now_s=11_000.0), event=Event.SETTLE),
    Scenario("cooling, and hard faults", Rollback, VERSION, rollout=COOLING, facts=replace(FACTS, is_burst=True)),
    Scenario("the fleet fails", Hold, facts=replace(FACTS, is_fleet_failing=True), says="too many routes"),
    Scenario(
        "the fleet fails, baking goes on",
        Advance,
        rollout=rollout(step=1),
        facts=replace(FACTS, is_fleet_failing=True),
        event=Event.BAKE,
    ),
    Scenario("the fleet fails, no promotion", Hold, rollout=rollout(BAKING), facts=replace(FACTS, is_fleet_failing=True)),
    Scenario(
        "rollback does not wait for the fleet",
        Rollback,
        findings=BAD,
        facts=replace(FACTS, is_fleet_failing=True),
        attribution=VERSION,
    ),
    Scenario("too few keys", Hold, facts=replace(FACTS, challenger_keys=99), says="99 keys"),
    Scenario("just enough keys", Advance, facts=replace(FACTS, challenger_keys=100)),
    Scenario("dwell not over", Hold, facts=replace(FACTS, seen_s=299.0), says="1 s more"),
    Scenario("worse than at first, and the one before does better", Rollback, VERSION, rollout=COOLING, facts=helped("FAIL")),
    Scenario("worse than at first, and the one before is no better", Hold, WORLD, rollout=COOLING, facts=helped("PASS")),
    Scenario("worse, and nobody knows", Hold, rollout=COOLING, facts=helped("INCONCLUSIVE"), says="not known yet"),
    Scenario("not worse than at first", Hold, rollout=COOLING, facts=replace(helped("FAIL"), worsening=None)),
    Scenario("worse by doubtful ground truth", Hold, rollout=COOLING, facts=replace(helped("FAIL"), truth=DOUBTFUL)),
    Scenario("dwell without records", Hold, facts=replace(FACTS, seen_s=0.0, stalled="no record"), says="no record"),
    Scenario("dwell over", Advance, facts=replace(FACTS, seen_s=300.0)),
    Scenario("increased lately", Hold, facts=replace(FACTS, last_increase_s=9_101.0), says="last automatic increase"),
    Scenario("increased long ago", Advance, facts=replace(FACTS, last_increase_s=9_100.0)),
    Scenario("monitor far behind", Hold, facts=replace(FACTS, lag_s=30.1), says="30 s behind"),
    Scenario("monitor hardly behind", Advance, facts=replace(FACTS, lag_s=30.0)),
    Scenario("rollback by a monitor far behind", Rollback, VERSION, findings=BAD, facts=replace(FACTS, lag_s=9_999.0)),
    Scenario("rollback does not wait", Rollback, VERSION, findings=BAD, facts=replace(FACTS, last_increase_s=9_999.0)),
]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_decision_is_as_the_rules_say(scenario: Scenario) -> None:
    """Rolling back never waits, going on waits for everything, and each decision says where the change comes from and why."""
    decision = decide(scenario.rollout, scenario.findings, scenario.facts)
    assert isinstance(decision, scenario.expected)
    assert decision.attribution is scenario.attribution
    assert scenario.says in decision.reason
    default = {Hold: None, Advance: Event.ADVANCE, Rollback: Event.CONVICT}[scenario.expected]
    assert decision.event is (scenario.event or default)
    if decision.event is not None:
        _, split = begin(champion_route("m", "1"), id="r", challenger="2", plan=scenario.rollout.plan, salt="s", now_s=0.0)
        apply_event(scenario.rollout, split, decision.event, reason="", now_s=scenario.facts.now_s)  # the table allows it
    json.dumps(decision.evidence, allow_nan=False)


def test_quarantine_grows_fourfold_to_seven_days() -> None:
    """30 minutes, 2 hours, 8 hours, …, never above a week."""
    assert [quarantine_s(strikes) for strikes in range(3)] == [1_800.0, 7_200.0, 28_800.0]
    assert quarantine_s(5) == quarantine_s(1_000) == 7 * 86_400.0
    assert [quarantine_s(strikes, 60.0) for strikes in range(2)] == [60.0, 240.0]


def test_fleet_breaker_opens_for_three_routes_or_a_share_of_few() -> None:
    """Three routes within ten minutes are too many, and two of forty; one never is, however often, nor yesterday's."""
    fleet = FleetBreaker()
    fleet.observe("a", 0.0)
    fleet.observe("a", 10.0)
    assert not fleet.is_open(1, 10.0)
    fleet.observe("b", 20.0)
    assert fleet.is_open(40, 20.0)
    assert not fleet.is_open(41, 20.0)
    fleet.observe("c", 30.0)
    assert FleetBreaker(json.loads(json.dumps(fleet.state()))).is_open(1_000, 30.0)
    shown = fleet.reading(1_000, 30.0)
    assert (shown.rolled_back, shown.until_s) == (("a", "b", "c"), 610.0)
    assert FleetReading.from_body(json.loads(json.dumps(shown.body()))) == shown
    assert "3 routes were rolled back within 10 minutes: a, b, c" in shown.reason
    assert not fleet.is_open(1_000, 610.0)
    assert fleet.reading(1_000, 610.0) == FleetReading(("b", "c"))
    assert fleet.reading(40, 30.0).until_s == 620.0, "of so few routes two are too many"
    assert fleet.routes(615.0) == ["b", "c"]
    assert not fleet.is_open(1_000, 615.0)
    fleet.observe("d", 10_000.0)
    assert list(fleet.state()) == ["d"]


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
