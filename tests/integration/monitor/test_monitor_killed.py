"""The monitor's process is killed at random points over a growing log on disk, and decides what an undisturbed one does."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from monitor_world import ROUTE, START_S, World, main, make_registry, records, segment_writer

from adapters.archives.duck import DuckArchive
from adapters.clock import SystemClock
from adapters.logs.segments import SegmentDirectory, SegmentWriter
from adapters.stores.registry import SqliteRegistry
from gateway.core.plans import Plan, Step
from gateway.core.records import GroundTruthRecord, Heartbeat, Record
from gateway.core.rollouts import RolloutState

FINE = World({"1": 0.0, "2": 0.0}, {"1": 0.02, "2": 0.02})
BAD = replace(FINE, errors={"1": 0.0, "2": 0.25})
GROUP = 50  # records an append
KILLS_MIN = 8
_forked = multiprocessing.get_context("fork")


class MonitorProcess:
    """The monitor in a process of its own, which may be killed at any moment and begins again at once."""

    def __init__(self, directory: Path, *settings: int) -> None:
        self._arguments = (directory, *settings)
        self._process = self._begun()
        self.kills = 0

    def live_or_die(self, for_s: float) -> None:
        """Leave it alone for a moment, then kill it; at 0 it lives."""
        if for_s > 0:
            self._process.join(for_s)
            self.stop()
            self.kills += 1
            self._process = self._begun()

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.join()

    def _begun(self) -> multiprocessing.process.BaseProcess:
        process = _forked.Process(target=main, args=self._arguments, daemon=True)
        process.start()
        return process


def test_monitor_killed_at_random_points_decides_the_same(tmp_path, until):
    """One advance and one conviction, with the same evidence to the last digit, however often the monitor died on its way."""
    undisturbed = _decisions(tmp_path / "a", until, kill_share=0.0)
    killed = _decisions(tmp_path / "b", until, kill_share=0.15)

    assert [decision["decision_id"] for decision in undisturbed] == ["r1:advance:1", "r1:convict"]
    assert killed == undisturbed


def test_monitor_killed_while_it_asks_the_archive_decides_the_same(tmp_path, until):
    """Ground truth that memory is too small for convicts with the same evidence, however often the look-ups were cut short."""
    undisturbed = _late_decisions(tmp_path / "a", until, kill_share=0.0)
    killed = _late_decisions(tmp_path / "b", until, kill_share=0.6)

    assert [decision["decision_id"] for decision in undisturbed] == ["r1:convict"]
    assert killed == undisturbed


def _late_decisions(directory: Path, until: Callable[..., object], *, kill_share: float) -> list[dict[str, object]]:
    """Write predictions and archive them, then, minutes later, their ground truth; return what the monitor did."""
    directory.mkdir()
    registry = SqliteRegistry(directory / "registry.db", clock=SystemClock())
    make_registry(registry, plan=Plan(steps=(Step(5_000),), advances_itself=False))
    world = replace(FINE, losses={"1": 0.2, "2": 0.35})  # found after some hundreds, so that much is asked for before
    written = list(records(registry, world, 1_000))
    writers = {stream: segment_writer(directory, stream) for stream in ("w0", "w1")}
    for stream, writer in writers.items():
        writer.append([record for name, record in written if name == stream and not isinstance(record, GroundTruthRecord)])
        writer.close()
    archive, segments = DuckArchive(directory / "archive", memory_bytes=2**28), SegmentDirectory(directory / "log")
    segments.repair()
    for stream in writers:
        for segment in segments.closed(stream):
            archive.take(segment)
    archive.close()
    truths = [record for _, record in written if isinstance(record, GroundTruthRecord)]
    late = [
        (f"w{at % 2}", replace(one, time_s=START_S + 600.0 + at * 0.05, observed_at_s=START_S + 600.0))
        for at, one in enumerate(truths)
    ]
    late += [(stream, Heartbeat(START_S + 660.0 + step)) for step in range(20) for stream in writers]
    writers = {stream: segment_writer(directory, stream) for stream in writers}
    monitor, random = MonitorProcess(directory, 50), np.random.default_rng(5)
    try:
        _write(writers, late, monitor, random, kill_share)
        until(lambda: registry.rollout("r1").state is RolloutState.QUARANTINED)
        assert (monitor.kills >= KILLS_MIN) is (kill_share > 0), monitor.kills
    finally:
        monitor.stop()
    return _told(registry)


def _decisions(directory: Path, until: Callable[..., object], *, kill_share: float) -> list[dict[str, object]]:
    """Write a good phase and, once the rollout advanced, a bad one; return what the monitor did."""
    directory.mkdir()
    registry = SqliteRegistry(directory / "registry.db", clock=SystemClock())
    make_registry(registry, plan=Plan(steps=(Step(1_000, 3.0, 50), Step(5_000))))
    writers = {stream: segment_writer(directory, stream) for stream in ("w0", "w1")}
    for writer in writers.values():  # both are there before either is read; the groups below span more than the merge waits for
        writer.append([Heartbeat(START_S - 1.0)])
    monitor, random = MonitorProcess(directory), np.random.default_rng(5)
    try:
        _write(writers, list(records(registry, FINE, 1_500)), monitor, random, kill_share)
        until(lambda: registry.table().routes[ROUTE].variant("challenger").weight == 5_000)
        _write(writers, list(records(registry, BAD, 1_000, seed=2, start_s=START_S + 20.0)), monitor, random, kill_share)
        until(lambda: registry.rollout("r1").state is RolloutState.QUARANTINED)
        assert (monitor.kills >= KILLS_MIN) is (kill_share > 0), monitor.kills
    finally:
        monitor.stop()
    return _told(registry)


def _told(registry: SqliteRegistry) -> list[dict[str, object]]:
    """Close the registry and return what the monitor did."""
    entries = [entry for entry in registry.audit() if entry.principal == "monitor"]
    registry.close()
    return [
        {
            "decision_id": entry.decision_id,
            "reason": entry.reason,
            "evidence": json.dumps(entry.evidence, sort_keys=True),
            "after": json.dumps(entry.after, sort_keys=True),
        }
        for entry in entries
    ]


def _write(
    writers: dict[str, SegmentWriter],
    written: list[tuple[str, Record]],
    monitor: MonitorProcess,
    random: np.random.Generator,
    kill_share: float,
) -> None:
    for at in range(0, len(written), GROUP):
        for stream, writer in writers.items():
            writer.append([record for name, record in written[at : at + GROUP] if name == stream])
        dies = random.random() < kill_share
        monitor.live_or_die(float(random.exponential(0.1)) if dies else 0.0)
