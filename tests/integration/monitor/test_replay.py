"""What was logged is decided again: by the same plan to the same numbers, by another plan as that would have it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from monitor_world import ROUTE, SOUND, START_S, make_registry, records
from test_monitor import BAD_ERRORS, PLAN, Scene, convicted_too_soon, promoted_too_soon

from adapters.logs.segments import SegmentDirectory, SegmentWriter
from adapters.memory import ManualClock
from gateway.core.plans import Inconclusive, Step
from gateway.core.policy import INCREASE_GAP_S
from gateway.core.records import GroundTruthRecord, PredictionRecord, Record
from gateway.core.rollouts import Event, RolloutState
from gateway.core.routes import DriftAction
from gateway.ports.archive import Filter
from gateway.replay.decisions import Finding, recompute_decisions
from gateway.replay.past import Past, unheard
from gateway.replay.plan import PlanReplay
from gateway.replay.refold import Refold, Routes


def test_decisions_are_found_again_with_the_same_evidence(past_of):
    """An advance and a rollback come out of the log with every number that stands in the audit log."""
    scene = Scene(replace(PLAN, steps=(Step(2_000, 3.0, 50), Step(5_000))))
    scene.write(records(scene.registry, SOUND, 12_000))
    scene.run()
    scene.write(records(scene.registry, BAD_ERRORS, 4_000, seed=2, start_s=1_700_000_100.0))
    scene.run()
    assert [entry.action for entry in scene.decisions()] == ["rollout.advance", "rollout.rollback"]
    found = recompute_decisions(past_of(scene))
    assert [(one.finding, one.differences) for one in found] == [(Finding.SAME, ())] * 2


def test_decisions_of_a_monitor_that_forgot_are_found_again(past_of):
    """A monitor whose state was lost says in the audit log where it began anew; what it decided then rests on that alone."""
    scene = Scene(replace(PLAN, steps=(Step(2_000, 3.0, 50), Step(5_000))))
    scene.write(records(scene.registry, SOUND, 12_000))
    scene.run()
    cursor, _ = scene.checkpoints.load("monitor")
    scene.checkpoints.save("monitor", cursor, b"of another form")
    for _ in range(2):  # it dies once more before its first checkpoint
        scene.monitor = scene.begun()
    scene.write(records(scene.registry, BAD_ERRORS, 4_000, seed=2, start_s=1_700_000_100.0))
    scene.run()
    actions = [entry.action for entry in scene.registry.audit() if entry.principal == "monitor"]
    assert actions == ["rollout.advance", "monitor.begin", "rollout.rollback"]
    found = recompute_decisions(past_of(scene))
    assert [(one.finding, one.differences) for one in found] == [(Finding.SAME, ())] * 2


@pytest.mark.parametrize("made", [promoted_too_soon, convicted_too_soon])
def test_reopened_verdicts_are_found_again(past_of, made):
    """What ground truth said after a rollout's end comes out of the log with the same numbers."""
    found = recompute_decisions(past_of(made()))
    assert [(one.finding, one.differences) for one in found] == [(Finding.SAME, ())]


def archive(past: Past, directory: Path, stream: str, written: Sequence[Record]) -> None:
    """Write each record in a segment of its own, and archive all but the last, which stays open."""
    writer = SegmentWriter(
        directory,
        stream,
        segment_bytes_max=1,
        segment_age_s=3_600,
        bytes_max=2**30,
        free_bytes_min=0,
        clock=ManualClock(START_S),
    )
    for record in written:
        writer.append([record])
    writer.close()
    for segment in SegmentDirectory(directory).closed(stream):
        past.archive.take(segment)


@pytest.fixture
def changed_past(past_of):
    """Return a past in which the monitor decided once, and a log of which some records were changed since."""
    scene, changed = Scene(), Scene()
    scene.write(records(scene.registry, BAD_ERRORS, 3_000))
    scene.run()
    for number, (stream, record) in enumerate(records(changed.registry, BAD_ERRORS, 3_000)):
        is_it = isinstance(record, PredictionRecord) and number < 200 and record.assigned == "challenger"
        changed.log.append(stream, [replace(record, assignment_key="f" * 16) if is_it else record])
    return replace(past_of(scene), log=changed.log)


def test_log_that_was_changed_gives_another_decision(changed_past):
    """When records of the log are changed, the decision's evidence does not come out, and what differs is named."""
    [found] = recompute_decisions(changed_past)
    assert found.finding is Finding.DIFFERS
    assert any("log_e" in one for one in found.differences)


def test_decision_on_a_dropped_part_of_the_log_is_told_from_a_false_one(changed_past, tmp_path):
    """What does not come out is no accusation when records of the rollout's time are past retention."""
    old = [record for _, record in records(changed_past.registry, SOUND, 2) if isinstance(record, PredictionRecord)]
    archive(changed_past, tmp_path / "log", "w7", [replace(record, time_s=START_S + 1.0) for record in old])
    changed_past.archive.drop(START_S + 2.0)
    [found] = recompute_decisions(changed_past)
    assert found.finding is Finding.GONE


def test_decision_on_a_drift_that_began_in_a_dropped_part_of_the_log_is_no_false_one(past_of, tmp_path):
    """Drift has no beginning: a hold for an incident that today's log does not show is no accusation after retention."""
    scene, later = (Scene(replace(PLAN, patience_s=5.0, inconclusive=Inconclusive.HOLD)) for _ in range(2))
    moved = replace(SOUND, shift=1.5)
    for one, world in ((scene, moved), (later, SOUND)):
        one.write(records(one.registry, SOUND, 500))
        one.write(records(one.registry, world, 1_000, seed=2, start_s=START_S + 5.0))
    scene.run()
    past = replace(past_of(scene), log=later.log)
    assert [entry.evidence["frozen_by"] for entry in scene.decisions()] == ["WORLD"]

    [found] = recompute_decisions(past)
    assert found.finding is Finding.DIFFERS

    old = [record for _, record in records(scene.registry, SOUND, 2) if isinstance(record, PredictionRecord)]
    archive(past, tmp_path / "log", "w7", [replace(record, time_s=START_S - 100.0) for record in old])
    past.archive.drop(START_S - 50.0)
    [found] = recompute_decisions(past)
    assert found.finding is Finding.GONE


def test_plan_is_replayed_with_what_it_would_have_done(past_of):
    """The plan that ran acts at the same moment on the same evidence; a stricter one later or never, and nothing is written."""
    scene = Scene()
    scene.write(records(scene.registry, BAD_ERRORS, 3_000))
    scene.run()
    [entry] = scene.decisions()
    again = PlanReplay(past_of(scene), ROUTE, PLAN)
    again.run()
    [tried] = again.tried.values()
    assert tried.rollout.state is RolloutState.QUARANTINED
    [act] = tried.acts
    assert (act.event, act.time_s, act.reason) == (Event.CONVICT.value, entry.evidence["log_time_s"], entry.reason)
    assert act.evidence["guardrails"][0]["log_e"] == entry.evidence["guardrails"][0]["log_e"]

    stricter = PlanReplay(past_of(scene), ROUTE, replace(PLAN, false_rollbacks_per_year=1e-6, rollouts_per_year=1))
    stricter.run()
    assert all(act.time_s > entry.evidence["log_time_s"] for act in stricter.tried["r1"].acts)
    assert len(scene.registry.audit()) == entry.seq


def test_ground_truth_of_another_route_is_left_alone(past_of, tmp_path):
    """A replayed route's numbers are its own, although ground truth of others comes with it whose predictions are archived."""
    scene, other = Scene(), "other"
    make_registry(scene.registry, plan=PLAN, rollout="r2", name=other)
    theirs = [one for _, one in records(scene.registry, SOUND, 5, name=other) if isinstance(one, PredictionRecord)]
    past = past_of(scene)
    archive(past, tmp_path / "log", "w0", theirs)
    del theirs[-1]  # in the segment that is still open
    for one in theirs:
        scene.log.append("w1", [GroundTruthRecord(one.prediction_id, START_S + 1.0, 0, "yes", START_S + 1.0)])
    scene.write(records(scene.registry, SOUND, 2_400, seed=2, start_s=START_S + 2.0))
    replay = PlanReplay(past, ROUTE, PLAN)
    replay.run()
    assert [tried.rollout.route for tried in replay.tried.values()] == [ROUTE]
    refold = Refold(past, Routes(past.registry).view, Routes(past.registry).ended, owns=ROUTE.__eq__)
    for timed in past.records(Filter(route=ROUTE), unheard):
        refold.take(timed)
    assert refold.fold.now_s > START_S + 10.0
    assert (list(refold.fold.routes), refold.fold.truth.recalled_count) == ([ROUTE], 0)
    assert all(refold.fold.truth.is_left(one.prediction_id) for one in theirs)


def test_drift_rollback_is_found_again(past_of):
    """A rollback that the route asked for on drift comes out with its incident and detectors."""
    scene = Scene(drift_action=DriftAction.ROLLBACK)
    scene.write(records(scene.registry, SOUND, 3_000))
    scene.run()
    scene.write(records(scene.registry, replace(SOUND, shift=3.0), 6_000, seed=2, start_s=START_S + 60.0))
    scene.run()
    assert [entry.evidence["attribution"] for entry in scene.decisions()][-1:] == ["NONE"]
    found = recompute_decisions(past_of(scene))
    assert {one.finding for one in found} == {Finding.SAME}, found


def test_plan_that_advances_sooner_is_seen_to(past_of):
    """A plan that advances by itself does so where the one that ran waited for a person, but once in a quarter of an hour."""
    scene = Scene(replace(PLAN, steps=(Step(2_000), Step(5_000)), advances_itself=False))
    scene.write(records(scene.registry, SOUND, 12_000))
    scene.run()
    assert scene.decisions() == []
    bolder = PlanReplay(
        past_of(scene), ROUTE, replace(PLAN, steps=tuple(Step(weight, 3.0, 50) for weight in (1_000, 2_000, 5_000)))
    )
    bolder.run()
    acts = bolder.tried["r1"].acts
    assert [act.event for act in acts] == [Event.ADVANCE.value]
    assert acts[0].time_s - bolder.tried["r1"].rollout.started_at_s < INCREASE_GAP_S
    assert "increase" in bolder.tried["r1"].reason
