"""The monitor over made-up logs: who is convicted, who is not, and what the audit log and the readings say of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from monitor_world import (
    FEATURES,
    ROUTE,
    SETTINGS,
    SOUND,
    START_S,
    World,
    begin_rollout,
    commit,
    make_registry,
    prediction,
    records,
    segment_writer,
    version_of,
)

from adapters.archives.duck import DuckArchive
from adapters.detectors.river import AdwinDetector
from adapters.logs.codec import decode
from adapters.logs.memory import MemoryLog
from adapters.logs.segments import SegmentDirectory
from adapters.memory import ManualClock, MemoryBank, MemoryReadings
from adapters.stores.memory import MemoryCheckpoints, MemoryRegistry
from gateway.core.audit import AuditEntry
from gateway.core.changes import Automation, PutChampion, PutRollout, PutRoute, PutVersion, Quarantine
from gateway.core.errors import StoreFailed
from gateway.core.plans import Plan, Step
from gateway.core.records import Attempt, GroundTruthRecord, Heartbeat, Kind, Outcome, PredictionRecord, Record
from gateway.core.rollouts import Event, Rollout, RolloutState, apply_event
from gateway.core.routes import DriftAction, Variant, with_weights
from gateway.core.split import SLOTS
from gateway.history import recalled
from gateway.metrics.catalogue import METRICS
from gateway.monitor.act import BEGIN
from gateway.monitor.gauges import Gauges
from gateway.monitor.late import Recall
from gateway.monitor.run import Monitor
from gateway.replay.decisions import Finding, recompute_decisions
from gateway.settings import MonitorSettings, Settings

BAD_ERRORS = replace(SOUND, errors={"1": 0.05, "2": 0.4})
PLAN = Plan(steps=(Step(1_000, 3.0, 50), Step(5_000)))


class Scene:
    """A registry, a log and a monitor that can be thrown away and begun again."""

    def __init__(self, plan: Plan = PLAN, settings: Settings = SETTINGS, **route: object) -> None:
        self.clock = ManualClock(START_S)
        self.registry = MemoryRegistry(clock=self.clock)
        self.rollout = make_registry(self.registry, plan=plan, **route)
        self.log, self.bank = MemoryLog(), MemoryBank()
        self.checkpoints, self.readings = MemoryCheckpoints(), MemoryReadings()
        self.settings = settings
        self.recall: Recall = lambda _ids: {}
        self.monitor = self.begun()

    def begun(self) -> Monitor:
        """Begin a monitor from the last checkpoint."""
        return Monitor(
            settings=self.settings,
            log=self.log,
            registry=self.registry,
            checkpoints=self.checkpoints,
            readings=self.readings,
            gauges=Gauges(self.bank),
            detector=AdwinDetector,
            recall=self.recall,
            clock=self.clock,
        )

    def write(self, written: Iterable[tuple[str, Record]]) -> None:
        """Append records to their streams."""
        for stream, record in written:
            self.log.append(stream, [record])

    def run(self) -> dict[str, object]:
        """Let the monitor read everything, and return the route's picture."""
        while self.monitor.turn(threading.Event()):
            self.clock.move(1.0)
        self.monitor.close()
        picture = self.readings.latest()
        assert picture is not None
        return picture["routes"][ROUTE]

    def run_all(self) -> list[dict[str, object]]:
        """Let the monitor read everything, and return the quality of all routes' versions."""
        while self.monitor.turn(threading.Event()):
            self.clock.move(1.0)
        self.monitor.close()
        picture = self.readings.latest()
        assert picture is not None
        return [one for route in picture["routes"].values() for one in route["quality"]["versions"]]

    def decisions(self) -> list[AuditEntry]:
        """Return what the monitor decided."""
        own = [entry for entry in self.registry.audit() if entry.principal == "monitor"]
        return [entry for entry in own if entry.action != BEGIN]


def test_drills_touch_nothing_that_is_real():
    """Drills run beside a real rollout: its decisions, readings and registry are those of a monitor without them."""
    quiet, drilling = Scene(), Scene(settings=replace(SETTINGS, monitor=replace(SETTINGS.monitor, drill_s=3_600.0)))
    pictures = []
    for scene in (quiet, drilling):
        scene.write(records(scene.registry, BAD_ERRORS, 3_000))
        scene.run()
        for _ in range(100):  # turns with nothing else to do
            scene.monitor.turn(threading.Event())
            scene.clock.move(1.0)
        pictures.append(scene.readings.latest())
    assert pictures[1]["monitor"]["drills"]["harm"]["last"]["ending"] == "detected"
    assert pictures[0]["routes"] == pictures[1]["routes"]
    assert [replace(entry, time_s=0.0, hash="", previous="") for entry in quiet.registry.audit()] == [
        replace(entry, time_s=0.0, hash="", previous="") for entry in drilling.registry.audit()
    ]


@pytest.mark.parametrize(
    ("world", "guardrail"), [(BAD_ERRORS, "service errors"), (replace(SOUND, losses={"1": 0.1, "2": 0.6}), "loss")]
)
def test_bad_challenger_is_convicted_once(world, guardrail):
    """A challenger that fails or is wrong more often is rolled back and quarantined in one audited change with its evidence."""
    scene = Scene()
    scene.write(records(scene.registry, world, 3_000))

    shown = scene.run()

    rollout, route = scene.registry.rollout("r1"), scene.registry.table().routes[ROUTE]
    assert rollout.state is RolloutState.QUARANTINED
    assert [(v.name, v.version, v.weight) for v in route.variants] == [("champion", "1", 10_000)]
    [entry] = scene.decisions()
    assert (entry.action, entry.subject, entry.decision_id) == ("rollout.rollback", "rollout:r1", "r1:convict")
    assert entry.evidence["attribution"] == "VERSION"
    failed = [rail for rail in entry.evidence["guardrails"] if rail["verdict"] == "FAIL"]
    assert [rail["guardrail"] for rail in failed] == [guardrail]
    assert failed[0]["log_e_best"] >= failed[0]["bound"]
    assert set(entry.evidence["cursor"]) == {"w0", "w1"}
    [quarantine] = scene.registry.quarantines()
    assert (quarantine.version, quarantine.strikes) == ("2", 1)
    assert quarantine.until_s == pytest.approx(entry.evidence["log_time_s"] + 1_800.0)
    assert shown["rollout"]["rollout"]["state"] == "QUARANTINED"
    assert shown["rollout"]["reason"] == rollout.reason


def test_identical_challenger_is_not_convicted():
    """Two versions that behave alike stay where they are, and the picture says what the rollout waits for."""
    scene = Scene(replace(PLAN, advances_itself=False))
    scene.write(records(scene.registry, SOUND, 3_000))

    shown = scene.run()

    assert scene.registry.rollout("r1").state is RolloutState.CANARY
    assert scene.decisions() == []
    assert shown["rollout"]["decision"] == "Hold"
    assert shown["rollout"]["reason"]
    assert {finding["verdict"] for finding in shown["rollout"]["findings"]} <= {"PASS", "INCONCLUSIVE"}


def _known(written: Iterable[tuple[str, Record]], is_known: Callable[[PredictionRecord, bool], bool]):
    """Yield what was written but for the ground truth that never comes: by the prediction, and whether its answer is right."""
    made: dict[str, PredictionRecord] = {}
    for stream, record in written:
        if isinstance(record, PredictionRecord):
            made[record.prediction_id] = record
        elif isinstance(record, GroundTruthRecord):
            prediction = made[record.prediction_id]
            is_right = (record.value == "yes") == bool(prediction.outputs[0].data[0, 0] >= 0.5)
            if not is_known(prediction, is_right):
                continue
        yield stream, record


@pytest.mark.parametrize("is_chance", [True, False])
def test_unequal_coverage_convicts_nobody_and_is_shown(is_chance):
    """Where less ground truth comes for one variant, by chance or because wrong answers are kept back, the picture says so."""
    world = replace(SOUND, losses={"1": 0.2, "2": 0.2 if is_chance else 0.6}, errors={"1": 0.0, "2": 0.0})
    scene, random = Scene(Plan(steps=(Step(5_000),), advances_itself=False)), np.random.default_rng(3)

    def is_known(prediction: PredictionRecord, is_right: bool) -> bool:
        is_challenger = prediction.version == "2"
        return bool(random.random() < (0.4 if is_challenger else 0.9)) if is_chance else is_right or not is_challenger

    scene.write(_known(records(scene.registry, world, 3_000), is_known))
    shown = scene.run()

    assert scene.registry.rollout("r1").state is RolloutState.CANARY
    assert scene.decisions() == []
    assert shown["rollout"]["attribution"] == "ASSIGNMENT"
    assert shown["rollout"]["reason"].startswith("ground truth comes unequally")
    coverage = {one["variant"]: one["coverage"] for one in shown["quality"]["versions"]}
    expected = {"champion": 0.9 if is_chance else 1.0, "challenger": 0.4}
    assert coverage == {name: pytest.approx(share, abs=0.05) for name, share in expected.items()}


@pytest.mark.parametrize("kept_back", ["right", "wrong"])
def test_ground_truth_kept_back_neither_convicts_nor_passes(kept_back):
    """A challenger of which only the wrong answers become known is not convicted, and one that hides them gets no PASS."""
    world = replace(SOUND, losses={"1": 0.2, "2": 0.2 if kept_back == "right" else 0.6}, errors={"1": 0.0, "2": 0.0})
    scene, random = Scene(Plan(steps=(Step(5_000),), advances_itself=False)), np.random.default_rng(3)

    def is_known(prediction: PredictionRecord, is_right: bool) -> bool:
        is_kept = prediction.version == "2" and is_right is (kept_back == "right")
        return not is_kept or bool(random.random() < 0.2)

    scene.write(_known(records(scene.registry, world, 3_000), is_known))
    shown = scene.run()["rollout"]

    assert scene.registry.rollout("r1").state is RolloutState.CANARY
    assert scene.decisions() == []
    assert shown["attribution"] == "ASSIGNMENT"
    assert shown["truth"]["doubt"]
    [loss] = [finding for finding in shown["findings"] if finding["measure"] == "loss"]
    assert loss["verdict"] == "INCONCLUSIVE"
    assert shown["truth"]["held"] > 1_000


def _late(scene: Scene, world: World, count: int) -> list[tuple[str, Record]]:
    """Write answers without their ground truth, and return that, half an hour late and in another order."""
    written = list(records(scene.registry, world, count))
    scene.write((stream, record) for stream, record in written if not isinstance(record, GroundTruthRecord))
    late = [(stream, record) for stream, record in written if isinstance(record, GroundTruthRecord)]
    random = np.random.default_rng(5)
    return [
        (late[at][0], replace(late[at][1], time_s=START_S + 1_800.0 + number * 1e-3))
        for number, at in enumerate(random.permutation(len(late)))
    ]


def _ended(scene: Scene, event: Event, late: list[tuple[str, Record]], *writes: object) -> Scene:
    """End the rollout as a person would, let a few answers tell of it, then let the ground truth come; run all of it."""
    scene.run()
    route = scene.registry.table().routes[ROUTE]
    ended, split = apply_event(scene.registry.rollout("r1"), route, event, reason="too soon", now_s=START_S + 60.0)
    commit(scene.registry, PutRoute(split), PutRollout(ended), *writes, route=ROUTE)
    scene.write(records(scene.registry, replace(SOUND, truth=False), 10, seed=2, start_s=START_S + 100.0))
    scene.run()
    assert scene.decisions() == []
    scene.write(late)
    scene.write([(stream, Heartbeat(START_S + 1_810.0 + step)) for step in range(3) for stream in ("w0", "w1")])
    scene.monitor = scene.begun()  # the evidence is the checkpoint's
    scene.run()
    return scene


def promoted_too_soon() -> Scene:
    """Return a scene in which ground truth convicts a version after its promotion."""
    scene = Scene(Plan(steps=(Step(5_000),), advances_itself=False))
    late = _late(scene, replace(SOUND, losses={"1": 0.1, "2": 0.6}), 2_000)
    return _ended(scene, Event.PROMOTE, late, PutChampion(ROUTE, "2"))


def convicted_too_soon() -> Scene:
    """Return a scene in which ground truth speaks for a version after its conviction."""
    scene = Scene(Plan(steps=(Step(5_000),), advances_itself=False))
    late = _late(scene, replace(SOUND, losses={"1": 0.1, "2": 0.1}, errors={"1": 0.0, "2": 0.0}), 4_000)
    return _ended(scene, Event.CONVICT, late)


def test_promoted_version_is_convicted_by_late_ground_truth():
    """What becomes known after the promotion rolls the version back, with its alias, once and with its evidence."""
    scene = promoted_too_soon()

    [entry] = scene.decisions()
    assert (entry.decision_id, entry.evidence["attribution"]) == ("r1:convict", "VERSION")
    assert entry.reason.startswith("ground truth after the promotion: loss")
    table = scene.registry.table()
    assert [(v.version, v.weight) for v in table.routes[ROUTE].variants] == [("1", 10_000)]
    assert table.champions[ROUTE] == "1"
    assert scene.registry.rollout("r1").state is RolloutState.QUARANTINED
    assert [one.version for one in scene.registry.quarantines()] == ["2"]


def _turned_on(scene: Scene, at_s: float) -> list[str]:
    """Let the log go on with automation off, which changes nothing, and on; return what the monitor decided."""
    for is_on in (False, True):
        commit(scene.registry, Automation(is_on=is_on))
        scene.write([(stream, Heartbeat(at_s + 5.0 * is_on + step)) for step in range(3) for stream in ("w0", "w1")])
        scene.run()
        assert is_on or scene.decisions() == []
    return [f"{entry.action} {entry.evidence['attribution']}" for entry in scene.decisions()]


def test_late_ground_truth_is_acted_on_when_automation_is_on_again(past_of):
    """What convicts a promoted version while automation is off rolls it back once it is on, and is found again in the log."""
    scene = Scene(Plan(steps=(Step(5_000),), advances_itself=False))
    late = _late(scene, replace(SOUND, losses={"1": 0.1, "2": 0.6}), 2_000)
    _ended(scene, Event.PROMOTE, late, PutChampion(ROUTE, "2"), Automation(is_on=False))

    assert _turned_on(scene, START_S + 1_820.0) == ["rollout.rollback VERSION"]
    assert [(one.finding, one.differences) for one in recompute_decisions(past_of(scene))] == [(Finding.SAME, ())]


def test_promotion_by_a_person_that_ground_truth_spoke_against_is_looked_at_again(past_of):
    """A person's promotion that comes before the rollback does not end it: the ground truth known by then is enough."""
    scene = Scene(Plan(steps=(Step(5_000),), advances_itself=False))
    commit(scene.registry, Automation(is_on=False))
    scene.write(records(scene.registry, replace(SOUND, losses={"1": 0.1, "2": 0.6}), 2_000))
    _ended(scene, Event.PROMOTE, [], PutChampion(ROUTE, "2"))

    assert _turned_on(scene, START_S + 1_820.0) == ["rollout.rollback VERSION"]
    assert [(one.finding, one.differences) for one in recompute_decisions(past_of(scene))] == [(Finding.SAME, ())]


def test_version_convicted_too_soon_is_acquitted_on_record_only():
    """Ground truth that speaks for a version after its conviction stands in the audit log once; it stays quarantined."""
    scene = convicted_too_soon()

    [entry] = scene.decisions()
    assert (entry.action, entry.decision_id) == ("rollout.acquit", "r1:acquit")
    rollout = scene.registry.rollout("r1")
    assert rollout.state is RolloutState.QUARANTINED
    assert rollout.reason.startswith("ground truth after the rollback speaks for the version")


@pytest.fixture
def archived(tmp_path):
    """Return a scene whose monitor remembers 200 rows, an archive of what was written, and the ground truth to come."""
    scene = Scene(
        Plan(steps=(Step(5_000),), advances_itself=False),
        replace(SETTINGS, monitor=replace(SETTINGS.monitor, truth_wait_max=200)),
    )
    archive = DuckArchive(tmp_path / "archive", memory_bytes=2**28)
    scene.recall = partial(recalled, archive=archive, decode=decode)
    scene.monitor = scene.begun()

    def keep(written: Iterable[tuple[str, Record]]) -> None:
        for stream in ("w0", "w1"):
            writer = segment_writer(tmp_path, stream)
            writer.append([record for name, record in written if name == stream])
            writer.close()
        segments = SegmentDirectory(tmp_path / "log")
        segments.repair()
        for stream in ("w0", "w1"):
            for segment in segments.closed(stream):
                archive.take(segment)

    return scene, keep


@pytest.mark.parametrize("has_checkpoint", [True, False])
def test_ground_truth_older_than_memory_is_joined_through_the_archive(archived, has_checkpoint):
    """What memory dropped, or a lost checkpoint forgot, is found in the archive, counts once and convicts."""
    scene, keep = archived
    written = list(records(scene.registry, replace(SOUND, losses={"1": 0.1, "2": 0.6}, errors={"1": 0.0, "2": 0.0}), 1_500))
    truths = [record for _, record in written if isinstance(record, GroundTruthRecord)]
    keep([(stream, record) for stream, record in written if isinstance(record, PredictionRecord)])
    scene.write((stream, record) for stream, record in written if not isinstance(record, GroundTruthRecord))
    scene.run()
    if not has_checkpoint:
        scene.checkpoints.save("monitor", scene.checkpoints.load("monitor")[0], b"of another form")
    scene.monitor = scene.begun()
    late = [("w0", replace(one, time_s=START_S + 600.0 + number * 1e-3)) for number, one in enumerate(truths)]
    scene.write(late)
    scene.write((stream, replace(one, time_s=START_S + 605.0)) for stream, one in late[:100])  # once more
    scene.write([(stream, Heartbeat(START_S + 605.0 + step)) for step in range(30) for stream in ("w0", "w1")])

    shown = scene.run()

    assert [entry.decision_id for entry in scene.decisions()] == ["r1:convict"]
    assert sum(one["truths"] for one in shown["quality"]["versions"]) == 1_500
    assert sum(one["corrected"] for one in shown["quality"]["versions"]) == 0
    truth = scene.readings.latest()["monitor"]["truth"]
    assert truth["recalled"] >= 1_300
    assert truth["unmatched"] == 100


def test_correction_older_than_memory_is_told_from_a_first_value(archived):
    """The archive knows which values were counted before, so that another one for the same row is a correction."""
    scene, keep = archived
    written = list(records(scene.registry, SOUND, 50))
    truths = [record for _, record in written if isinstance(record, GroundTruthRecord)]
    keep(written)
    opposite = {"yes": "no", "no": "yes"}
    scene.write(("w0", replace(one, time_s=START_S + 600.0, value=opposite[str(one.value)])) for one in truths)
    scene.write([(stream, Heartbeat(START_S + 600.0 + step)) for step in range(30) for stream in ("w0", "w1")])

    shown = scene.run_all()

    assert sum(one["corrected"] for one in shown) == len(truths)


def test_ground_truth_of_no_prediction_is_given_up():
    """What the archive does not have is sought for two hours and then counted as unknown."""
    scene = Scene()
    asked: list[str] = []
    scene.recall = lambda ids: asked.extend(ids) or {}
    scene.monitor = scene.begun()
    scene.write([("w0", GroundTruthRecord("nobody", START_S, 0, "yes", START_S))])
    scene.write([(stream, Heartbeat(START_S + 300.0 * step)) for step in range(30) for stream in ("w0", "w1")])
    scene.monitor.turn(threading.Event())
    scene.run_all()

    assert 10 <= len(asked) <= 14
    assert scene.readings.latest()["monitor"]["truth"]["unmatched"] == 1


def test_corrected_ground_truth_stands_and_is_counted():
    """A value that comes again counts once; one that contradicts takes its place in the loss, however far apart they come."""
    scene = Scene(replace(PLAN, advances_itself=False))
    written = list(records(scene.registry, replace(SOUND, losses={"1": 0.0, "2": 0.0}), 400))
    truths = [(stream, record) for stream, record in written if isinstance(record, GroundTruthRecord)]
    scene.write(written)
    scene.write((stream, replace(record, time_s=START_S + 200.0)) for stream, record in truths)
    opposite = {"yes": "no", "no": "yes"}
    scene.write(
        (stream, replace(record, time_s=START_S + 300.0, value=opposite[str(record.value)])) for stream, record in truths[:100]
    )
    scene.write([(stream, Heartbeat(START_S + 301.0)) for stream in ("w0", "w1")])

    shown = scene.run()["quality"]["versions"]

    assert sum(one["corrected"] for one in shown) == 100
    assert sum(one["mean_loss"] * one["truths"] for one in shown) == pytest.approx(100.0)
    assert sum(one["rows_known"] for one in shown) == len(truths)
    assert all(one["delay_s_p90"] == pytest.approx(0.1) for one in shown)


def test_ground_truth_that_fits_no_answer_takes_nothings_place(archived):
    """What is no label is dropped: the value before it still stands, in memory and in the archive, and counts once."""
    scene, keep = archived
    written = list(records(scene.registry, replace(SOUND, losses={"1": 0.0, "2": 0.0}), 300))
    truths = [(stream, record) for stream, record in written if isinstance(record, GroundTruthRecord)]
    opposite = {"yes": "no", "no": "yes"}
    last = truths[-100:]  # the archive alone remembers the others
    unfit = [(stream, replace(one, time_s=START_S + 200.0, value="maybe")) for stream, one in truths]
    again = [(stream, replace(one, time_s=START_S + 300.0)) for stream, one in truths]
    wrong = [(stream, replace(one, time_s=START_S + 400.0, value=opposite[str(one.value)])) for stream, one in last]
    keep([*written, *unfit])
    scene.write([*written, *unfit, *again, *wrong])
    scene.write([(stream, Heartbeat(START_S + 400.0 + step)) for step in range(30) for stream in ("w0", "w1")])

    shown = scene.run()["quality"]["versions"]

    assert sum(one["rows_known"] for one in shown) == len(truths)
    assert sum(one["corrected"] for one in shown) == len(last)
    assert sum(one["mean_loss"] * one["truths"] for one in shown) == pytest.approx(len(last))


def test_world_that_gets_worse_convicts_nobody():
    """Errors and losses that double in both versions, with inputs that move, roll nothing back."""
    scene = Scene()
    scene.write(records(scene.registry, SOUND, 2_000))
    worse = World({"1": 0.3, "2": 0.3}, {"1": 0.5, "2": 0.5}, shift=1.5)
    scene.write(records(scene.registry, worse, 3_000, seed=2, start_s=START_S + 20.0))

    shown = scene.run()

    assert scene.registry.rollout("r1").state is RolloutState.CANARY
    assert [entry for entry in scene.decisions() if entry.action == "rollout.rollback"] == []
    assert shown["rollout"]["attribution"] == "WORLD"
    assert shown["drift"]["frozen_by"] == "WORLD"
    assert "x0" in {subject for incident in shown["drift"]["incidents"] for subject in incident["subjects"]}
    assert shown["drift"]["features"][0]["feature"] == "x0"


def test_good_challenger_advances_to_the_next_step():
    """A challenger that passes its guardrails gets the next weight after its dwell time, once, and no further by itself."""
    scene = Scene()
    scene.write(records(scene.registry, World({"1": 0.0, "2": 0.0}, {"1": 0.02, "2": 0.02}), 3_000))

    scene.run()

    rollout = scene.registry.rollout("r1")
    assert (rollout.state, rollout.step) == (RolloutState.CANARY, 1)
    assert [entry.decision_id for entry in scene.decisions()] == ["r1:advance:1"]
    assert rollout.changed_at_s >= START_S + PLAN.steps[0].dwell_s
    assert scene.registry.table().routes[ROUTE].variant("challenger").weight == 5_000


def test_challenger_that_another_route_quarantined_is_not_raised():
    """While its digest is in quarantine the monitor gives a challenger no more callers, as it lets no person do."""
    scene = Scene()
    until_s = START_S + 16.0
    commit(scene.registry, Quarantine(version_of("2").digest, ROUTE, "2", 1, until_s, "a rollout of another route"))
    scene.write(records(scene.registry, World({"1": 0.0, "2": 0.0}, {"1": 0.02, "2": 0.02}), 3_000))

    scene.run()

    [entry] = scene.decisions()
    assert entry.decision_id == "r1:advance:1"
    assert entry.evidence["log_time_s"] >= until_s


def test_monitor_changes_nothing_while_automation_is_off():
    """With the switch off even a convicting record leads to no change; when it is on again, the next second does."""
    scene = Scene()
    commit(scene.registry, Automation(is_on=False))
    scene.write(records(scene.registry, BAD_ERRORS, 1_000))
    scene.run()
    assert scene.decisions() == []

    commit(scene.registry, Automation(is_on=True))
    scene.write([(stream, Heartbeat(START_S + 20.0 + step)) for step in range(3) for stream in ("w0", "w1")])
    scene.run()

    assert [entry.decision_id for entry in scene.decisions()] == ["r1:convict"]


def test_person_who_holds_a_rollout_is_not_overruled():
    """A held rollout does not advance by itself, even when the hold brought no new revision that a record could tell of."""
    scene = Scene()
    held = replace(scene.rollout, state=RolloutState.HELD, held_in=RolloutState.CANARY, reason="let me look")
    commit(scene.registry, PutRollout(held))
    scene.write(records(scene.registry, World({"1": 0.0, "2": 0.0}, {"1": 0.02, "2": 0.02}), 3_000))

    scene.run()

    assert scene.registry.rollout("r1") == held


def test_rollout_that_a_person_ended_meets_no_decision():
    """Evidence against a rollout that is over changes nothing, whether a record of the new revision or the commit says so."""
    scene = Scene()
    written = list(records(scene.registry, BAD_ERRORS, 3_000))
    route = scene.registry.table().routes[ROUTE]
    ended, alone = apply_event(scene.rollout, route, Event.ROLLBACK, reason="enough", now_s=START_S)
    commit(scene.registry, PutRoute(alone), PutRollout(ended), route=ROUTE)
    scene.write(written)

    shown = scene.run()

    assert scene.decisions() == []
    assert scene.registry.rollout("r1") == ended
    assert shown["rollout"]["rollout"]["state"] == "ROLLED_BACK"


def test_conflicting_revision_is_decided_anew():
    """A person's change between evidence and commit does not stop the rollback: it happens on the route as it is then."""
    scene = Scene()
    scene.write(records(scene.registry, BAD_ERRORS, 3_000))
    route = scene.registry.table().routes[ROUTE]
    commit(scene.registry, PutRoute(replace(route, deadline_ms=777)), route=ROUTE)

    scene.run()

    assert [entry.decision_id for entry in scene.decisions()] == ["r1:convict"]
    assert scene.registry.table().routes[ROUTE].deadline_ms == 777


def test_log_read_late_gives_the_decisions_of_its_time():
    """A monitor that reads everything after the rollout went on and ended judges each record at its own revision."""
    fine = World({"1": 0.0, "2": 0.0}, {"1": 0.02, "2": 0.02})
    prompt = Scene()
    prompt.write(records(prompt.registry, fine, 2_000))
    prompt.run()
    prompt.write(records(prompt.registry, replace(fine, errors={"1": 0.0, "2": 0.3}), 1_000, seed=2, start_s=START_S + 20.0))
    prompt.run()
    assert [entry.decision_id for entry in prompt.decisions()] == ["r1:advance:1", "r1:convict"]
    before = prompt.decisions()

    prompt.checkpoints = MemoryCheckpoints()
    prompt.monitor = prompt.begun()
    prompt.run()

    assert prompt.decisions() == before
    assert prompt.monitor.fold.routes[ROUTE].changes == {"advance": 1, "convict": 1}


def test_retried_challenger_starts_with_no_evidence():
    """A second rollout of the same version is judged by its own records alone."""
    scene = Scene()
    scene.write(records(scene.registry, BAD_ERRORS, 2_000))
    scene.run()
    begin_rollout(scene.registry, "2", plan=replace(PLAN, advances_itself=False), id="r2")
    scene.write(records(scene.registry, SOUND, 2_000, seed=2, start_s=START_S + 20.0))

    shown = scene.run()

    assert scene.registry.rollout("r2").state is RolloutState.CANARY
    assert shown["rollout"]["rollout"]["id"] == "r2"
    assert shown["rollout"]["findings"][0]["keys"] == 2_000


def test_log_read_again_leaves_a_later_rollout_alone():
    """A monitor that comes to an old decision anew, while a person has begun another rollout, meets a conflict and goes on."""
    scene = Scene()
    scene.write(records(scene.registry, BAD_ERRORS, 2_000))
    scene.run()
    before = scene.decisions()
    later = begin_rollout(scene.registry, "2", plan=replace(PLAN, advances_itself=False), id="r2")
    scene.checkpoints = MemoryCheckpoints()
    scene.monitor = scene.begun()

    scene.run()

    assert scene.decisions() == before
    assert scene.registry.rollout("r2") == later
    assert scene.registry.rollout("r1").state is RolloutState.QUARANTINED


def test_only_the_assigned_variants_own_live_attempts_are_evidence():
    """Failing shadows, pinned requests, drills and fallbacks count for the tallies and never against the challenger."""
    scene = Scene()
    route = scene.registry.table().routes[ROUTE]
    challenger, random = route.variant("challenger"), np.random.default_rng(1)
    for number in range(500):
        kind = (Kind.SHADOW, Kind.PINNED, Kind.DRILL, Kind.LIVE)[number % 4]
        record = prediction(route, challenger, SOUND, random, id=f"p-{number}", key=f"k-{number}", time_s=START_S + number / 100)
        failed = Attempt("challenger", "2", Outcome.FAILED, 900)
        if kind is Kind.LIVE:  # its own version is out of rotation on this worker, and the fallback's attempt fails
            failed = Attempt("champion", "1", Outcome.FAILED, 900)
        scene.write([("w0", replace(record, kind=kind, attempts=(failed,), outcome=Outcome.FAILED, outputs=()))])
    scene.write([("w0", Heartbeat(START_S + 30.0))])

    shown = scene.run()

    assert scene.registry.rollout("r1").state is RolloutState.CANARY
    assert shown["rollout"]["findings"][0]["keys"] == 0
    assert {(v["variant"], v["kind"], v["error_rate"]) for v in shown["versions"]} == {
        ("challenger", "shadow", 1.0),
        ("challenger", "pinned", 1.0),
        ("challenger", "drill", 1.0),
        ("champion", "live", 1.0),
    }


def test_quality_is_realised_by_version():
    """Losses, accuracy and the coverage of ground truth stand by the version that answered."""
    scene = Scene(replace(PLAN, advances_itself=False))
    scene.write(records(scene.registry, replace(SOUND, losses={"1": 0.1, "2": 0.2}), 3_000))
    scene.write(records(scene.registry, replace(SOUND, truth=False), 1_000, seed=2, start_s=START_S + 20.0))

    quality = {entry["version"]: entry for entry in scene.run()["quality"]["versions"]}

    assert quality["1"]["accuracy"] == pytest.approx(0.9, abs=0.03)
    assert quality["2"]["accuracy"] == pytest.approx(0.8, abs=0.08)
    assert quality["1"]["coverage"] == pytest.approx(0.75, abs=0.02)


def test_loss_is_estimated_until_its_ground_truth_comes():
    """What was learned of earlier answers is expected of later ones, marked as an estimate and compared with what came true."""
    scene = Scene(replace(PLAN, advances_itself=False))
    scene.write(records(scene.registry, replace(SOUND, losses={"1": 0.4, "2": 0.4}), 3_000))
    scene.write(records(scene.registry, replace(SOUND, truth=False), 2_000, seed=2, start_s=START_S + 4_000.0))

    [champion] = [one for one in scene.run()["quality"]["versions"] if one["version"] == "1"]

    assert champion["mean_loss"] is None
    assert champion["estimated_loss"] == pytest.approx(0.4, abs=0.04)
    assert champion["estimates_checked"] == pytest.approx(2_550, abs=80)
    assert abs(champion["estimate_bias"]) < 0.06


def test_drift_rolls_back_only_where_the_route_asks_for_it():
    """With `drift_action: rollback` a drift of the promoted version brings back the one before, attributed to nothing."""
    for action, expected in ((DriftAction.ROLLBACK, "1"), (DriftAction.NOTIFY, "2")):
        scene = Scene(drift_action=action)
        promoted, route = apply_event(
            scene.rollout, scene.registry.table().routes[ROUTE], Event.PROMOTE, reason="fine", now_s=START_S
        )
        commit(scene.registry, PutRoute(route), PutRollout(promoted), route=ROUTE)
        scene.write(records(scene.registry, SOUND, 2_000))
        scene.write(records(scene.registry, replace(SOUND, shift=2.0), 1_000, seed=2, start_s=START_S + 20.0))

        scene.run()

        assert scene.registry.table().routes[ROUTE].variants[0].version == expected
        assert [(e.action, e.evidence["attribution"]) for e in scene.decisions()] == (
            [("rollout.rollback", "NONE")] if action is DriftAction.ROLLBACK else []
        )
        assert scene.registry.rollout("r1").state is (
            RolloutState.ROLLED_BACK if action is DriftAction.ROLLBACK else RolloutState.LIVE
        )


def _live(scene: Scene, rollout: Rollout) -> None:
    """Promote a rollout's challenger as a person would."""
    promoted, route = apply_event(rollout, scene.registry.table().routes[ROUTE], Event.PROMOTE, reason="fine", now_s=START_S)
    commit(scene.registry, PutRoute(route), PutRollout(promoted), route=ROUTE)


def _drifting(scene: Scene, seed: int, start_s: float) -> None:
    """Let sound traffic come, and then traffic that moved."""
    scene.write(records(scene.registry, SOUND, 2_000, seed=seed, start_s=start_s))
    scene.write(records(scene.registry, replace(SOUND, shift=2.0), 1_000, seed=seed + 1, start_s=start_s + 20.0))
    scene.run()


def test_drift_is_acted_on_when_automation_is_on_again(past_of):
    """An alarm that falls while automation is off is not thrown away where the route asks for a rollback."""
    scene = Scene(drift_action=DriftAction.ROLLBACK)
    _live(scene, scene.rollout)
    commit(scene.registry, Automation(is_on=False))
    _drifting(scene, 1, START_S)

    assert _turned_on(scene, START_S + 30.0) == ["rollout.rollback NONE"]
    assert [(one.finding, one.differences) for one in recompute_decisions(past_of(scene))] == [(Finding.SAME, ())]


def test_drift_after_a_lost_checkpoint_is_no_repeat_of_an_earlier_one():
    """A monitor that forgot what it rolled back before rolls the same version back anew, and both stand in the audit log."""
    scene = Scene(drift_action=DriftAction.ROLLBACK)
    _live(scene, scene.rollout)
    _drifting(scene, 1, START_S)
    cursor, _ = scene.checkpoints.load("monitor")
    scene.checkpoints.save("monitor", cursor, b"of another form")
    scene.monitor = scene.begun()
    _live(scene, begin_rollout(scene.registry, "2", plan=PLAN, id="r2"))
    _drifting(scene, 3, START_S + 100.0)

    assert [(entry.action, entry.subject) for entry in scene.decisions()] == [
        ("rollout.rollback", "rollout:r1"),
        ("rollout.rollback", "rollout:r2"),
    ]
    assert scene.registry.table().routes[ROUTE].variants[0].version == "1"


def test_drift_during_a_rollout_ends_it_without_blame():
    """Where the route asks for it, drift under an open rollout brings the champion back alone and quarantines nothing."""
    scene = Scene(replace(PLAN, advances_itself=False), drift_action=DriftAction.ROLLBACK)
    scene.write(records(scene.registry, SOUND, 2_000))
    scene.write(records(scene.registry, replace(SOUND, shift=2.0), 1_000, seed=2, start_s=START_S + 20.0))

    scene.run()

    assert scene.registry.rollout("r1").state is RolloutState.ROLLED_BACK
    assert scene.registry.quarantines() == []
    assert [entry.evidence["attribution"] for entry in scene.decisions()] == ["NONE"]


def test_drift_brings_back_the_last_good_variants_of_a_route_made_by_hand():
    """Without a rollout the last good table comes back once; where there is none, nothing happens."""
    for last_good, expected in (("1", "1"), ("2", "2")):
        scene = Scene(drift_action=DriftAction.ROLLBACK)
        ended, route = apply_event(
            scene.rollout, scene.registry.table().routes[ROUTE], Event.ROLLBACK, reason="by hand", now_s=START_S
        )
        live = with_weights(route, (Variant("main", "2", SLOTS),))
        by_hand = replace(live, fallback="main", last_good=(Variant("main", last_good, SLOTS),))
        commit(scene.registry, PutRoute(by_hand), PutRollout(ended), route=ROUTE)
        scene.write(records(scene.registry, SOUND, 2_000))
        scene.write(records(scene.registry, replace(SOUND, shift=2.0), 1_000, seed=2, start_s=START_S + 20.0))

        scene.run()

        assert [(v.name, v.version) for v in scene.registry.table().routes[ROUTE].variants] == [("main", expected)]
        assert [entry.action for entry in scene.decisions()] == (["route.rollback"] if expected == "1" else [])


def test_checkpoint_that_cannot_be_read_is_left_aside():
    """A damaged state costs what was known, not the place in the log: the monitor goes on from the cursor and still decides."""
    scene = Scene()
    scene.write(records(scene.registry, SOUND, 500))
    scene.run()
    cursor, state = scene.checkpoints.load("monitor")
    scene.checkpoints.save("monitor", cursor, state[: len(state) // 2])
    scene.monitor = scene.begun()
    assert scene.monitor.fold.records == 0

    scene.write(records(scene.registry, BAD_ERRORS, 2_000, seed=2, start_s=START_S + 20.0))
    shown = scene.run()

    assert [entry.decision_id for entry in scene.decisions()] == ["r1:convict"]
    assert sum(version["predictions"] for version in shown["versions"] if version["variant"] == "champion") < 2_500


def test_route_nobody_made_is_watched_too():
    """A model called by its own name has tallies, drift and quality, although it has no route in the registry."""
    scene = Scene()
    other = replace(version_of("1"), model="solo")
    commit(scene.registry, PutVersion(other))
    bare = replace(scene.registry.table().routes[ROUTE], name="solo", model="solo", revision=0)
    random = np.random.default_rng(1)
    scene.write(
        ("w0", prediction(bare, bare.variants[0], SOUND, random, id=f"p-{n}", key=f"k-{n}", time_s=START_S + n / 100))
        for n in range(500)
    )
    scene.write([("w0", Heartbeat(START_S + 30.0))])
    while scene.monitor.turn(threading.Event()):
        pass
    scene.monitor.close()

    shown = scene.readings.latest()["routes"]["solo"]

    assert shown["versions"][0]["predictions"] == 500
    assert [feature["rows"] > 300 for feature in shown["drift"]["features"]] == [True] * FEATURES


def test_registry_that_is_away_loses_nothing():
    """While the registry fails, nothing is folded past the decision; when it is back, the decision is the same as ever."""
    calm, troubled = Scene(), Scene()
    for scene in (calm, troubled):
        scene.write(records(scene.registry, BAD_ERRORS, 3_000))
    calm.run()

    real, calls = troubled.registry.commit, []

    def failing(*args: object, **keywords: object) -> object:
        calls.append(1)
        if len(calls) <= 3:
            raise StoreFailed("the disk is away")
        return real(*args, **keywords)

    troubled.registry.commit = failing
    for _ in range(3):
        with pytest.raises(StoreFailed):
            troubled.run()
    troubled.run()

    assert [(e.decision_id, e.reason, e.evidence) for e in troubled.decisions()] == [
        (e.decision_id, e.reason, e.evidence) for e in calm.decisions()
    ]


def test_monitor_thrown_away_at_any_turn_decides_the_same():
    """Beginning again from the last checkpoint, after every few turns and mostly without a last save, changes no decision."""
    fine = World({"1": 0.0, "2": 0.0}, {"1": 0.02, "2": 0.02})
    outcomes = []
    for lives in (1, 12):
        settings = Settings(monitor=MonitorSettings(checkpoint_s=2.0, page_records=100))
        scene, random = Scene(settings=settings), np.random.default_rng(3)
        scene.write(records(scene.registry, fine, 2_000))
        for _ in range(lives):
            for _ in range(int(random.integers(1, 12)) if lives > 1 else 0):
                scene.monitor.turn(threading.Event())
                scene.clock.move(1.0)
            scene.monitor = scene.begun()
        scene.run()
        bad = replace(fine, errors={"1": 0.0, "2": 0.3})
        scene.write(records(scene.registry, bad, 1_000, seed=2, start_s=START_S + 20.0))
        picture = scene.run()
        outcomes.append(([(e.decision_id, e.reason, e.evidence, e.after) for e in scene.decisions()], picture))

    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) == 2


def test_every_number_of_the_monitor_is_a_defined_metric():
    """What the monitor counts stands in the one table of metrics, with its labels."""
    scene = Scene()
    scene.write(records(scene.registry, BAD_ERRORS, 2_000))
    scene.run()
    defined = {metric.name: metric.labels for metric in METRICS}

    samples = scene.bank.samples()

    assert {sample.name: tuple(name for name, _ in sample.labels) for sample in samples}.items() <= defined.items()
    assert {"gateway_rollout_log_e", "gateway_drift_psi_max", "gateway_quality_loss_ratio"} <= {s.name for s in samples}
    assert next(s.value for s in samples if s.name == "gateway_monitor_changes_total") == 1.0


def test_record_that_cannot_be_folded_is_passed():
    """A record that breaks the fold is left out and counted by the caller; the ones after it are folded."""
    scene = Scene()
    written = list(records(scene.registry, BAD_ERRORS, 2_000))
    first = next(record for _, record in written if isinstance(record, PredictionRecord))
    scene.write([("w0", replace(first, prediction_id="odd", assignment_key=""))])
    scene.write(written)
    with pytest.raises(AssertionError):
        scene.run()

    scene.run()

    assert [entry.decision_id for entry in scene.decisions()] == ["r1:convict"]
