"""A monitor over its budget looks at a share of the log: it says so, favours nobody, and decides the same whenever it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from monitor_world import ROUTE, SETTINGS, SOUND, START_S, commit, records
from test_monitor import BAD_ERRORS, PLAN, Scene

from gateway.core.changes import Automation
from gateway.core.plans import Step
from gateway.core.records import GroundTruthRecord, PredictionRecord, Record
from gateway.core.rollouts import RolloutState
from gateway.core.sampling import RECORD_EVENTS
from gateway.core.troubles import Trouble, complaints
from gateway.monitor.truth import Uncounted
from gateway.replay.decisions import Finding, recompute_decisions

EVENTS_PER_S = SOUND.per_s * (RECORD_EVENTS + 5 + RECORD_EVENTS)  # of 200 predictions of 4 features, each with its ground truth


def _settings(share: float) -> object:
    return replace(SETTINGS, monitor=replace(SETTINGS.monitor, events_per_s_max=EVENTS_PER_S * share))


def test_sampled_monitor_convicts_and_says_what_it_rests_on(past_of):
    """A bad challenger is found in a third of the traffic; the evidence counts what was passed over, and recomputes."""
    scene = Scene(settings=_settings(1 / 3))
    scene.write(records(scene.registry, replace(SOUND, errors={"1": 0.05, "2": 0.2}), 8_000))
    scene.run()
    [entry] = scene.decisions()
    picture = scene.readings.latest()

    assert scene.registry.rollout("r1").state is RolloutState.QUARANTINED
    looked_at = sum(rail["keys"] for rail in entry.evidence["guardrails"] if rail["guardrail"] == "service errors")
    assert 0.3 < entry.evidence["passed_over"] / (looked_at + entry.evidence["passed_over"]) < 0.75
    assert [one.finding for one in recompute_decisions(past_of(scene))] == [Finding.SAME]
    assert picture["monitor"]["sampling"]["passed_over"] > 1_000


def test_sampled_monitor_says_so_and_looks_at_all_again():
    """While more comes than the budget it is a trouble; a second after there is less it is none."""
    scene = Scene(replace(PLAN, advances_itself=False), settings=_settings(1 / 2))
    busy = list(records(scene.registry, SOUND, 2_000))
    scene.write(one for one in busy if isinstance(one[1], PredictionRecord | GroundTruthRecord))
    shown = scene.run()
    rate = scene.readings.latest()["monitor"]["sampling"]["rate"]
    [complaint] = complaints(scene.readings.latest(), now_s=scene.clock.now_s())
    scene.write(records(scene.registry, replace(SOUND, per_s=50.0), 200, seed=2, start_s=START_S + 11.0))
    scene.run()

    assert complaint.trouble is Trouble.SAMPLED
    assert rate == pytest.approx(0.5, abs=0.05)
    assert f"{rate:.1%} of it" in complaint.reason
    assert all(one["coverage"] > 0.99 for one in shown["quality"]["versions"])  # but for what the merge still holds back
    assert scene.readings.latest()["monitor"]["sampling"]["rate"] == 1.0
    assert complaints(scene.readings.latest(), now_s=scene.clock.now_s()) == []


def _asking_again(written: Iterator[tuple[str, Record]]) -> Iterator[tuple[str, Record]]:
    """Let whoever met a failure of the challenger ask five times more."""
    for stream, record in written:
        yield stream, record
        if isinstance(record, PredictionRecord) and len(record.attempts) > 1:
            for again in range(5):
                yield stream, replace(record, prediction_id=f"{record.prediction_id}-{again}")


def test_sampled_evidence_favours_no_side():
    """Keys are looked at alike on both sides, however often a variant that fails makes its callers ask again."""
    scene = Scene(replace(PLAN, advances_itself=False), settings=_settings(1 / 4))
    commit(scene.registry, Automation(is_on=False))
    world = replace(SOUND, errors={"1": 0.5, "2": 0.5}, losses={"1": 0.3, "2": 0.3})
    scene.write(_asking_again(records(scene.registry, world, 12_000)))
    shown = scene.run()
    watch = scene.monitor.fold.routes[ROUTE].watch

    [errors] = [one for one in shown["rollout"]["findings"] if one["guardrail"] == "service errors"]
    assert errors["challenger_mean"] == pytest.approx(0.5, abs=4 * (0.25 / errors["challenger_count"]) ** 0.5)
    srm = watch.facts(now_s=0.0, frozen_by=None, is_automation_on=True, last_increase_s=None).srm
    assert srm.challenger_keys == pytest.approx(0.1 * srm.keys, abs=4 * (0.09 * srm.keys) ** 0.5)
    assert not srm.is_mismatch
    assert 2_000 < srm.keys < 5_000
    for one in shown["quality"]["versions"]:
        assert one["mean_loss"] == pytest.approx(0.3, abs=4 * (0.21 / one["truths"]) ** 0.5)
    assert scene.monitor.fold.truth.uncounted[Uncounted.NOT_SAMPLED] > 1_000
    assert scene.monitor.fold.truth.uncounted[Uncounted.UNKNOWN] == 0


@pytest.mark.parametrize(("share", "step"), [(1.0, 1), (0.1, 0)])
def test_sampled_monitor_advances_on_nothing_that_it_did_not_look_at(share, step):
    """Keys that were passed over are none of those a step asks for: what is enough for all is too little for a tenth of them."""
    scene = Scene(replace(PLAN, steps=(Step(2_000, 2.0, 100), Step(5_000))), settings=_settings(share))
    scene.write(records(scene.registry, replace(SOUND, errors={"1": 0.0, "2": 0.0}), 2_000))
    shown = scene.run()["rollout"]
    assert scene.registry.rollout("r1").step == step
    assert step or "keys of the challenger" in shown["reason"] or "inconclusive" in shown["reason"]


def test_sampled_monitor_begun_again_goes_on_exactly():
    """Killed in the middle of a sampled second, it shows and decides what an undisturbed monitor does."""
    shown = []
    for cut in (None, 1_111, 2_345):
        scene = Scene(settings=_settings(1 / 3))
        written = list(records(scene.registry, BAD_ERRORS, 3_000))
        scene.write(written[:cut])
        if cut is not None:
            scene.run()
            scene.monitor = scene.begun()
            scene.write(written[cut:])
        shown.append((scene.run(), [entry.evidence for entry in scene.decisions()]))

    assert shown[0][1]
    assert shown[1] == shown[0]
    assert shown[2] == shown[0]
