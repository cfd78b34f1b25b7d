"""A rollout that nobody touches: from the shadow to the end of the cool-down, or back, whenever the monitor looks or dies."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from monitor_world import ROUTE, START_S, World, commit, records
from test_monitor import Scene

from gateway.core.audit import AuditEntry
from gateway.core.changes import PutRollout, PutRoute
from gateway.core.outcomes import LEARN_OUTCOMES
from gateway.core.outlook import explained
from gateway.core.plans import HoldOutcome, Plan, ShadowPhase, Step
from gateway.core.records import Attempt, GroundTruthRecord, Kind, Outcome, PredictionRecord, Record
from gateway.core.retraining import ASK
from gateway.core.rollouts import CHALLENGER, PREVIOUS, Event, Rollout, RolloutState, apply_event
from gateway.core.routes import Shadow
from gateway.core.tensors import Datatype, Tensor
from gateway.replay.decisions import Finding, recompute_decisions
from gateway.settings import MonitorSettings, Settings

FINE = World({"1": 0.0, "2": 0.0}, {"1": 0.02, "2": 0.02})
PLAN = Plan(
    shadow=ShadowPhase(1.0, 2.0, 50),
    steps=(Step(2_000, 2.0, 50), Step(5_000, 2.0, 50)),
    bake_s=300.0,
    cool_down_s=500.0,
)
APART_S = 1_000.0  # between two parts of the log: more than between two increases


def with_copies(written: Iterable[tuple[str, Record]], shadow: Shadow, *, fails: bool = False) -> Iterator[tuple[str, Record]]:
    """Yield what was written and, after each live answer, that of the shadow's copy."""
    for stream, record in written:
        yield stream, record
        if isinstance(record, PredictionRecord):
            outcome = Outcome.FAILED if fails else Outcome.OK
            yield (
                stream,
                replace(
                    record,
                    prediction_id=f"{record.prediction_id}-copy",
                    kind=Kind.SHADOW,
                    assigned=shadow.name,
                    variant=shadow.name,
                    version=shadow.version,
                    attempts=(Attempt(shadow.name, shadow.version, outcome, 900),),
                    outcome=outcome,
                    shadow_of=record.prediction_id,
                ),
            )


class Run:
    """A scene whose monitor is thrown away and begun again now and then."""

    def __init__(self, plan: Plan = PLAN, *, lives: int = 1, **route: object) -> None:
        self.scene = Scene(plan, Settings(monitor=MonitorSettings(checkpoint_s=2.0, page_records=100)), **route)
        self._lives, self._random, self._parts = lives, np.random.default_rng(7), 0

    def part(self, world: World = FINE, count: int = 700, *, copies_fail: bool = False) -> None:
        """Let some seconds of traffic pass at the route as it is now, the shadows' copies with it."""
        scene = self.scene
        route = scene.registry.table().routes[ROUTE]
        written: Iterable[tuple[str, Record]] = records(
            scene.registry, world, count, seed=self._parts + 1, start_s=START_S + self._parts * APART_S
        )
        for shadow in route.shadows:
            written = with_copies(written, shadow, fails=copies_fail)
        scene.write(written)
        self._parts += 1
        for _ in range(self._lives - 1):
            for _ in range(int(self._random.integers(1, 6))):
                scene.monitor.turn(threading.Event())
                scene.clock.move(1.0)
            scene.monitor = scene.begun()
        scene.run()

    @property
    def rollout(self) -> Rollout:
        """Return the rollout as it stands."""
        return self.scene.registry.rollout("r1")

    def decisions(self) -> list[AuditEntry]:
        """Return what the monitor did."""
        return self.scene.decisions()


def test_rollout_runs_by_itself_whatever_becomes_of_the_monitor(past_of):
    """Shadow, steps, bake time, promotion and the end of the cool-down follow from the log alone, and are found again in it."""
    told = []
    for lives in (1, 6):
        run = Run(lives=lives)
        states = []
        for _ in range(5):
            run.part()
            states.append((run.rollout.state, run.rollout.step))
        told.append([(entry.decision_id, entry.reason, entry.evidence, entry.after) for entry in run.decisions()])
    assert told[0] == told[1]
    assert states == [
        (RolloutState.CANARY, 0),
        (RolloutState.CANARY, 1),
        (RolloutState.BAKING, 1),
        (RolloutState.LIVE, 1),
        (RolloutState.LIVE, 1),
    ]
    assert [entry.action for entry in run.decisions()] == [
        f"rollout.{event}" for event in ("advance", "advance", "bake", "promote", "settle")
    ]
    table = run.scene.registry.table()
    assert [(v.name, v.version) for v in table.routes[ROUTE].variants] == [("champion", "2")]
    assert (table.routes[ROUTE].shadows, table.champions[ROUTE]) == ((), "2")
    assert not run.rollout.is_watched
    found = recompute_decisions(past_of(run.scene))
    assert [(one.finding, one.differences) for one in found] == [(Finding.SAME, ())] * 5


def test_challenger_that_fails_in_the_shadow_never_meets_a_caller():
    """Hard faults of its copies convict it while it answers nobody."""
    run = Run()
    assert run.scene.registry.table().routes[ROUTE].shadows == (Shadow(CHALLENGER, "2", 1.0),)
    run.part(count=100, copies_fail=True)
    assert run.rollout.state is RolloutState.QUARANTINED
    assert run.scene.registry.table().routes[ROUTE].shadows == ()
    assert len(run.scene.registry.quarantines()) == 1


def test_promoted_version_that_fails_while_it_cools_down_goes_back(past_of):
    """While the version before answers copies and the promoted one fails, going back is known to help: table and alias return."""
    run = Run(replace(PLAN, cool_down_s=600.0))
    for _ in range(4):
        run.part()
    assert run.scene.registry.table().routes[ROUTE].shadows == (Shadow(PREVIOUS, "1", 0.1),)
    run.part(replace(FINE, errors={"1": 0.0, "2": 1.0}), 60)
    assert run.rollout.state is RolloutState.LIVE, "after its cool-down nobody compares"

    run = Run(replace(PLAN, cool_down_s=6_000.0))
    for _ in range(4):
        run.part()
    run.part(replace(FINE, errors={"1": 0.0, "2": 1.0}), 60, copies_fail=True)
    assert run.rollout.state is RolloutState.LIVE, "both fail: going back would not help"
    run.part(replace(FINE, errors={"1": 0.0, "2": 1.0}), 60)
    table = run.scene.registry.table()
    assert run.rollout.state is RolloutState.QUARANTINED
    found = recompute_decisions(past_of(run.scene))
    assert [(one.finding, one.differences) for one in found] == [(Finding.SAME, ())] * 5
    assert (table.routes[ROUTE].variants[0].version, table.champions[ROUTE]) == ("1", "1")


@pytest.mark.parametrize(
    ("outcome", "state"), [(HoldOutcome.ROLLBACK, RolloutState.ROLLED_BACK), (HoldOutcome.STAY, RolloutState.AWAITING_APPROVAL)]
)
def test_rollout_waits_for_approval_as_long_as_its_plan_says(outcome, state):
    """Where the route asks, the baked rollout asks a person, and ends as the plan says when nobody answers in time."""
    plan = Plan(steps=(Step(5_000, 2.0, 50),), bake_s=2.0, hold_timeout_s=1_500.0, hold_outcome=outcome)
    run = Run(plan, needs_approval=True)
    for _ in range(2):
        run.part()
        assert run.rollout.state is RolloutState.AWAITING_APPROVAL
    run.part()
    assert run.rollout.state is state
    assert run.scene.registry.quarantines() == []


def test_rollout_that_proves_nothing_is_held_and_then_given_up(past_of):
    """Without ground for a verdict it holds after the plan's patience and goes back, blamed for nothing, when nobody comes."""
    plan = Plan(steps=(Step(100, 2.0, 1_000_000), Step(200)), patience_s=500.0, hold_timeout_s=500.0)
    told = []
    for lives in (1, 6):
        run = Run(plan, lives=lives)
        states = []
        for _ in range(3):
            run.part(count=100)
            states.append(run.rollout.state)
        told.append([(entry.decision_id, entry.reason, entry.evidence) for entry in run.decisions()])
    assert told[0] == told[1]
    assert states == [RolloutState.CANARY, RolloutState.HELD, RolloutState.ROLLED_BACK]
    assert "inconclusive for 500 s" in run.decisions()[0].reason
    assert {one.finding for one in recompute_decisions(past_of(run.scene))} == {Finding.SAME}
    assert [entry.action for entry in run.decisions()] == ["rollout.hold", "rollout.rollback"]
    assert run.scene.registry.quarantines() == []


def test_rollout_that_a_person_promoted_is_watched_while_it_cools_down():
    """The monitor learns of the promotion from the next record, lets the version before go in time, and not after a rollback."""
    for is_rolled_back in (False, True):
        run = Run(replace(PLAN, shadow=None, advances_itself=False))
        run.part(count=100)
        route = run.scene.registry.table().routes[ROUTE]
        promoted, after = apply_event(run.rollout, route, Event.PROMOTE, reason="mine", now_s=START_S + 10.0)
        commit(run.scene.registry, PutRoute(after), PutRollout(promoted), route=ROUTE)
        if is_rolled_back:
            route = run.scene.registry.table().routes[ROUTE]
            back, after = apply_event(promoted, route, Event.ROLLBACK, reason="mine too", now_s=START_S + 11.0)
            commit(run.scene.registry, PutRoute(after), PutRollout(back), route=ROUTE)
        run.part(count=300)
        assert [entry.action for entry in run.decisions()] == ([] if is_rolled_back else ["rollout.settle"])
        assert run.scene.registry.table().routes[ROUTE].shadows == ()


def test_monitor_that_is_behind_passes_no_phase_on_data_of_the_one_before():
    """Read an hour late, a log of the first step advances once; the next step waits for records at its own weight."""
    run = Run(replace(PLAN, shadow=None, steps=(Step(2_000, 2.0, 50), Step(5_000, 2.0, 50)), bake_s=3.0))
    world = records(run.scene.registry, FINE, 1_500)
    run.scene.write(world)
    late = START_S + 3_600.0  # the route was never at rest: what came meanwhile is of the first step as well
    run.scene.write(records(run.scene.registry, FINE, 1_500, seed=2, start_s=late))
    run.scene.run()
    assert [entry.decision_id for entry in run.decisions()] == ["r1:advance:1"]
    shown = run.scene.readings.latest()["routes"]["delays"]["rollout"]
    assert "no record of this phase yet" in shown["reason"]


def test_monitor_that_is_behind_raises_nothing_before_it_has_caught_up(past_of):
    """Read an hour late, what would advance waits for the log of the last half minute; what convicts does not wait."""
    run = Run(replace(PLAN, shadow=None))
    scene = run.scene
    scene.clock.move(3_600.0)
    scene.write(records(scene.registry, FINE, 1_500))
    shown = scene.run()["rollout"]
    assert scene.decisions() == []
    assert "s behind; nothing is raised by itself" in shown["reason"]
    scene.write(records(scene.registry, FINE, 1_500, seed=2, start_s=START_S + 3_595.0))
    scene.run()
    assert [entry.decision_id for entry in scene.decisions()] == ["r1:advance:1"]
    scene.clock.move(3_600.0)
    scene.write(records(scene.registry, replace(FINE, errors={"1": 0.0, "2": 1.0}), 400, seed=3, start_s=START_S + 3_700.0))
    scene.run()
    assert run.rollout.state is RolloutState.QUARANTINED
    assert {(one.finding, one.differences) for one in recompute_decisions(past_of(scene))} == {(Finding.SAME, ())}


@pytest.mark.parametrize("is_lost", [False, True])
def test_increase_that_a_dead_monitor_forgot_still_counts(past_of, is_lost):
    """Killed after an increase, or come back without its state: the quarter of an hour holds, and the log tells the same."""
    run = Run(replace(PLAN, shadow=None, steps=tuple(Step(share, 2.0, 50) for share in (1_000, 2_000, 5_000))))
    scene = run.scene
    written = list(records(scene.registry, FINE, 1_500))
    scene.write(written[:200])
    scene.run()
    cursor, state = scene.checkpoints.load("monitor")
    scene.write(written[200:])
    scene.run()
    if is_lost:
        cursor, state = scene.checkpoints.load("monitor")[0], b"of another form"
    scene.checkpoints.save("monitor", cursor, state)
    scene.clock.move(60.0)
    scene.monitor = scene.begun()
    for seed, start_s, world, decided in (
        (2, 90.0, FINE, 1),
        (3, 1_000.0, FINE, 2),
        (4, 1_020.0, replace(FINE, errors={"1": 0.0, "2": 1.0}), 3),
    ):
        scene.write(records(scene.registry, world, 1_500, seed=seed, start_s=START_S + start_s))
        scene.run()
        assert len(scene.decisions()) == decided
    assert [entry.decision_id for entry in scene.decisions()] == ["r1:advance:1", "r1:advance:2", "r1:convict"]
    found = recompute_decisions(past_of(scene))
    assert {(one.finding, one.differences) for one in found} == {(Finding.SAME, ())}


def with_right_copies(written: Iterable[tuple[str, Record]], shadow: Shadow) -> Iterator[tuple[str, Record]]:
    """Yield what was written and, before the truth of each live answer, a copy's answer that it proves right."""
    live: dict[str, tuple[str, PredictionRecord]] = {}
    for stream, record in written:
        if isinstance(record, PredictionRecord):
            live[record.prediction_id] = (stream, record)
        if isinstance(record, GroundTruthRecord):
            its, answered = live.pop(record.prediction_id)
            [(_, _), (_, copy)] = with_copies([(its, answered)], shadow)
            probability = np.full((1, 1), 0.9 if record.value == "yes" else 0.1, np.float32)
            yield its, replace(copy, outputs=(Tensor("probability", Datatype.FP32, probability),))
        yield stream, record


@pytest.mark.parametrize("copies", [with_right_copies, with_copies])
def test_promoted_version_that_gets_worse_goes_back_only_where_that_helps(past_of, copies):
    """Where the version before stays right on the same requests the version is to blame; where it errs as well, the world is."""
    scene = Scene(replace(PLAN, shadow=None, advances_itself=False, cool_down_s=6_000.0))
    scene.write(records(scene.registry, FINE, 20))
    scene.run()
    route = scene.registry.table().routes[ROUTE]
    promoted, after = apply_event(scene.registry.rollout("r1"), route, Event.PROMOTE, reason="mine", now_s=START_S + 4.0)
    commit(scene.registry, PutRoute(after), PutRollout(promoted), route=ROUTE)
    [shadow] = after.shadows
    for at, (loss, count) in enumerate(((0.1, LEARN_OUTCOMES + 50), (0.5, 300), (0.5, 20)), start=1):
        world = replace(FINE, losses={"1": loss, "2": loss})
        scene.write(copies(records(scene.registry, world, count, seed=at + 1, start_s=START_S + at * 700.0), shadow))
        shown = scene.run()
    [entry] = scene.decisions()
    is_helped = copies is with_right_copies
    assert entry.action == ("rollout.rollback" if is_helped else ASK)
    assert entry.evidence["attribution"] == ("VERSION" if is_helped else "WORLD")
    assert ("version 1 in the shadow does better" if is_helped else "the version before does no better") in entry.reason
    rollout = scene.registry.rollout("r1")
    assert rollout.state is (RolloutState.QUARANTINED if is_helped else RolloutState.LIVE)
    if not is_helped:
        assert shown["rollout"]["attribution"] == "WORLD"
        assert "Would going back help? No" in " ".join(explained(rollout, shown["rollout"]))
    assert {(one.finding, one.differences) for one in recompute_decisions(past_of(scene))} == {(Finding.SAME, ())}
