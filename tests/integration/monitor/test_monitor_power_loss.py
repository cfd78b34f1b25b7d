"""A power loss takes the end of a log that the monitor had read and whose checkpoint was on the disk."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path

import pytest
from monitor_world import SETTINGS, SOUND, START_S, make_registry, records

from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentWriter
from adapters.memory import ManualClock, MemoryBank, MemoryReadings
from adapters.stores.memory import MemoryCheckpoints, MemoryRegistry
from gateway.core.plans import Plan
from gateway.core.records import Record
from gateway.metrics.monitor import MONITOR_POSITIONS_MOVED
from gateway.monitor.gauges import Gauges
from gateway.monitor.run import Monitor


class Disk:
    """A log on a disk, and a monitor that begins anew from its checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry = MemoryRegistry(clock=ManualClock(START_S))
        make_registry(self.registry, plan=Plan(advances_itself=False))
        self.checkpoints, self.bank = MemoryCheckpoints(), MemoryBank()

    def write(self, stream: str, written: list[Record]) -> None:
        """Append records, each on its own, through a new writer."""
        writer = SegmentWriter(
            self.directory, stream, segment_bytes_max=1 << 30, segment_age_s=1e9, bytes_max=1 << 40, free_bytes_min=0,
            clock=SystemClock(),
        )  # fmt: skip
        for record in written:
            writer.append([record])
        writer.close()

    def cut(self, stream: str, lines: int) -> None:
        """Lose the last lines of a stream's newest segment that has any."""
        path = max(path for path in (self.directory / stream).glob("*.jsonl") if path.stat().st_size)
        kept = path.read_bytes().splitlines(keepends=True)[:-lines]
        os.truncate(path, len(b"".join(kept)))

    def monitored(self) -> int:
        """Run one life of the monitor to the log's end and return the records folded in all lives."""
        monitor = Monitor(
            settings=SETTINGS,
            log=SegmentReader(self.directory),
            registry=self.registry,
            checkpoints=self.checkpoints,
            readings=MemoryReadings(),
            gauges=Gauges(self.bank),
            detector=AdwinDetector,
            recall=lambda _ids: {},
            clock=ManualClock(START_S),
        )
        while monitor.turn(threading.Event()):
            pass
        monitor.close()
        return monitor.fold.records


@pytest.mark.parametrize("newer", [0, 1, 300])
def test_monitor_goes_on_where_the_log_does(tmp_path, caplog, newer):
    """Whether the log ends before the position or has grown past it since, the monitor goes on at the next line, and says so."""
    disk = Disk(tmp_path)
    made = list(records(disk.registry, SOUND, 300))
    for stream in ("w0", "w1"):
        disk.write(stream, [record for name, record in made if name == stream])
    before = disk.monitored()
    disk.cut("w1", 40)
    again = [record for name, record in records(disk.registry, SOUND, 300, seed=2, start_s=START_S + 100.0) if name == "w1"]
    disk.write("w1", again[:newer])
    log = SegmentReader(tmp_path)
    lost = disk.checkpoints.load("monitor")[0]["w1"]
    unread = (
        0 if log.end("w1") <= lost else sum(offset >= lost for offset, _ in log.read_before("w1", log.end("w1"), 1_000).records)
    )
    with caplog.at_level(logging.WARNING, "gateway.monitor.merge"):
        after = disk.monitored()
    disk.write(
        "w0", [record for name, record in records(disk.registry, SOUND, 50, seed=3, start_s=START_S + 300.0) if name == "w0"]
    )
    disk.write(
        "w1", [record for name, record in records(disk.registry, SOUND, 50, seed=4, start_s=START_S + 300.0) if name == "w1"]
    )

    assert (unread > 0) is (newer == 300)
    assert disk.monitored() > after + 50
    assert after <= before + unread
    assert [sample.value for sample in disk.bank.samples() if sample.name == MONITOR_POSITIONS_MOVED.name] == [1.0]
    assert [entry.stream for entry in caplog.records] == ["w1"]
