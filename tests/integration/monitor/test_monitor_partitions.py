"""Several monitor processes share the routes: together they decide what one does, once, also when their number changes."""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from monitor_world import SETTINGS, SOUND, START_S, LogTime, World, main, make_registry, records, segment_writer

from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.reading import SegmentReader
from adapters.memory import MemoryBank, MemoryReadings
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from gateway.core.partitions import LAYOUT, WHOLE, Partition, partitions
from gateway.core.pictures import joined
from gateway.core.plans import Plan, Step
from gateway.core.records import Heartbeat, Record
from gateway.monitor.gauges import Gauges
from gateway.monitor.partitioning import repartition
from gateway.monitor.run import Monitor
from gateway.ports.stores import RegistryStore
from gateway.replay.decisions import Finding, recompute_decisions
from gateway.settings import Settings

PLAN = Plan(steps=(Step(1_000, 3.0, 50), Step(5_000)))
BAD = replace(SOUND, errors={"1": 0.05, "2": 0.4})
WORLDS: dict[str, World] = {"delays": BAD, "fares": SOUND, "crews": BAD, "loads": replace(SOUND, losses={"1": 0.1, "2": 0.6})}
_forked = multiprocessing.get_context("fork")


class House:
    """A log on disk with four routes, each with a rollout, and monitors that begin from their checkpoints."""

    def __init__(self, directory: Path, settings: Settings = SETTINGS) -> None:
        directory.mkdir()
        self.directory, self.settings = directory, settings
        self.log = SegmentReader(directory / "log")
        self.registry = SqliteRegistry(directory / "registry.db", clock=SystemClock())
        for name in WORLDS:
            make_registry(self.registry, plan=PLAN, name=name, rollout=f"r-{name}")
        self.writers = {stream: segment_writer(directory, stream) for stream in ("w0", "w1")}
        for writer in self.writers.values():
            writer.append([Heartbeat(START_S - 1.0)])
        self.checkpoints = SqliteCheckpoints(directory / "checkpoints.db")

    def monitor(self, partition: Partition, readings: MemoryReadings | None = None) -> Monitor:
        """Return one of so many processes' monitors, from its checkpoint on."""
        return Monitor(
            settings=self.settings,
            log=SegmentReader(self.directory / "log", partition.has),
            registry=self.registry,
            checkpoints=self.checkpoints,
            readings=readings or MemoryReadings(),
            gauges=Gauges(MemoryBank()),
            detector=AdwinDetector,
            recall=lambda _ids: {},
            clock=LogTime(),
            partition=partition,
        )

    def run(self, partition: Partition) -> dict[str, object]:
        """Let one of the processes read what there is, save and end; return its picture."""
        readings = MemoryReadings()
        monitor = self.monitor(partition, readings)
        while monitor.turn(threading.Event()):
            pass
        monitor.close()
        picture = readings.latest()
        assert picture is not None
        return picture

    def write(self, written: Iterable[tuple[str, Record]]) -> None:
        """Append records to their streams."""
        for stream, record in written:
            self.writers[stream].append([record])

    def decisions(self) -> dict[str, list[str]]:
        """Return what was decided on each rollout, evidence included to the last digit."""
        found: dict[str, list[str]] = {}
        for entry in self.registry.audit(0, 1_000):
            if entry.principal == "monitor":
                said = (entry.decision_id, entry.reason, json.dumps(entry.evidence, sort_keys=True))
                found.setdefault(entry.subject, []).append(repr(said))
        return found


def _written(registry: RegistryStore, count: int) -> list[tuple[str, Record]]:
    """Return the records of all routes in the order of their times."""
    every = [
        one
        for seed, (name, world) in enumerate(WORLDS.items())
        for one in records(registry, world, count, seed=seed, name=name, start_s=START_S + seed * 1e-5)
    ]
    return sorted(every, key=lambda one: one[1].time_s)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[list[tuple[str, Record]], dict[str, list[str]], dict[str, object]]:
    """Return the records, what one process decides on them, and its picture in the end."""
    house = House(tmp_path_factory.mktemp("alone") / "house")
    written = _written(house.registry, 900)
    house.write(written)
    picture = house.run(WHOLE)
    return written, house.decisions(), picture


def test_processes_share_the_routes_and_decide_what_one_does(tmp_path, alone):
    """Three processes decide as one does, to the last digit; each shows its own routes, and ground truth is counted once."""
    written, decisions, picture = alone
    house = House(tmp_path / "house")
    house.write(written)
    pictures = {one.process: house.run(one) for one in partitions(3)}
    whole = joined(pictures)

    assert [len(picture["routes"]) for picture in pictures.values()] == [1, 1, 2]
    assert len(decisions) >= 3
    assert house.decisions() == decisions
    assert {name: {**route, "process": None} for name, route in whole["routes"].items()} == {
        name: {**route, "process": None} for name, route in picture["routes"].items()
    }
    assert whole["monitor"]["truth"]["unmatched"] == 0
    assert not any(picture["monitor"]["fleet"]["is_suspended"] for picture in pictures.values())
    assert whole["monitor"]["fleet"] == picture["monitor"]["fleet"]
    assert whole["monitor"]["fleet"]["is_suspended"]


@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (2, 3)])
def test_routes_are_handed_over_exactly(tmp_path, alone, counts):
    """Processes that stopped at different places hand their routes over, and decide what an undisturbed one does."""
    written, decisions, picture = alone
    before, after = counts
    house = House(tmp_path / "house")
    for part, one in enumerate(partitions(before), start=1):  # each is stopped further on than the one before
        house.write(written[(part - 1) * 1_500 : part * 1_500])
        house.run(one)
    repartition(house.checkpoints, before, after)
    house.write(written[before * 1_500 :])
    whole = joined({one.process: house.run(one) for one in partitions(after)})

    assert house.decisions() == decisions
    assert {name: {**route, "process": None} for name, route in whole["routes"].items()} == {
        name: {**route, "process": None} for name, route in picture["routes"].items()
    }
    assert int(house.checkpoints.load(LAYOUT)[1]) == after
    assert all(house.checkpoints.load(one.consumer)[1] == b"" for one in partitions(before) if one not in partitions(after))


@pytest.mark.parametrize("events_per_s", [1e9, 6_000.0])
def test_what_several_processes_decided_is_found_again(tmp_path, alone, past_of, events_per_s):
    """Each with its place in the log and, over its budget, with its share: all recompute. Folded as one process's they do not."""
    written, decisions, _ = alone
    monitor = replace(SETTINGS.monitor, processes=3, events_per_s_max=events_per_s)
    house = House(tmp_path / "house", replace(SETTINGS, monitor=monitor))
    house.write(written)
    for one in partitions(3):  # one after the other, so that each has the whole log before it while others are at its end
        house.run(one)
    found = recompute_decisions(past_of(house))
    house.settings = replace(SETTINGS, monitor=replace(monitor, processes=1))
    as_one = recompute_decisions(past_of(house))

    assert {(one.finding, one.differences) for one in found} == {(Finding.SAME, ())}
    assert len({one.subject for one in found}) == len(decisions)
    assert [one.seq for one in found] == sorted(one.seq for one in found)
    assert {one.finding for one in as_one} != {Finding.SAME}
    is_sampled = any('"passed_over": 0' not in made for each in house.decisions().values() for made in each)
    assert is_sampled == (events_per_s < 1e9)


def test_handing_over_what_cannot_be_read_goes_on_from_the_cursor(tmp_path, alone):
    """State of another form is left aside as it is without a change of processes: nothing is known, and nothing is read twice."""
    written, _, _ = alone
    house = House(tmp_path / "house")
    house.write(written[:2_000])
    house.run(WHOLE)
    cursor, _ = house.checkpoints.load(WHOLE.consumer)
    house.checkpoints.save(WHOLE.consumer, cursor, b"of another form")
    repartition(house.checkpoints, 1, 2)

    assert [house.checkpoints.load(one.consumer) for one in partitions(2)] == [(cursor, b""), (cursor, b"")]


def test_processes_killed_at_random_decide_once(tmp_path, alone, until: Callable[..., object]):
    """Two processes, of which one is killed over and over, decide what one undisturbed does, each decision once."""
    written, decisions, _ = alone
    house = House(tmp_path / "house")
    first, second = partitions(2)
    steady = _begun(house.directory, first)
    killed, kills = _begun(house.directory, second), 0
    try:
        for at in range(0, len(written), 400):
            house.write(written[at : at + 400])
            killed.join(0.05)
            killed.kill()
            killed.join()
            kills += 1
            killed = _begun(house.directory, second)
        until(lambda: len(house.decisions()) == len(decisions) and _sizes(house.decisions()) == _sizes(decisions))
    finally:
        for process in (steady, killed):
            process.kill()
            process.join()

    assert kills > 10
    assert house.decisions() == decisions


def _sizes(decisions: dict[str, list[str]]) -> dict[str, int]:
    return {subject: len(made) for subject, made in decisions.items()}


def _begun(directory: Path, partition: Partition) -> multiprocessing.process.BaseProcess:
    process = _forked.Process(target=main, args=(directory,), kwargs={"partition": partition}, daemon=True)
    process.start()
    return process
