"""The archive plane: closed segments become Parquet, and small files larger ones; what all have passed leaves the log.

Old Parquet goes. Goes on from the archive's manifest after a crash and keeps no state of its own. A failure is counted and tried
again at the next turn: the log keeps a segment until the archive has it.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import PortFault
from gateway.core.partitions import partitions
from gateway.metrics.archive import (
    ARCHIVE_DROPPED_FILES,
    ARCHIVE_FAILURES,
    ARCHIVE_LAG,
    ARCHIVE_MERGED_FILES,
    ARCHIVE_RECORDS,
    ARCHIVE_SHORTENED_RECORDS,
    LOG_FREE,
    LOG_SEGMENTS,
    LOG_SEGMENTS_REMOVED,
)
from gateway.metrics.metric import cell
from gateway.ports.archive import Archive
from gateway.ports.clock import Clock
from gateway.ports.log import PredictionLogReader, Segment, SegmentStore
from gateway.ports.metrics import MetricsBank
from gateway.ports.stores import CheckpointStore
from gateway.settings import ArchiveSettings, LogSettings, Settings

KEPT_SHARE: Final = 0.5  # of `log.bytes_max` for what everybody has passed; the rest is room while one of them is behind
FREE_SHARE: Final = 2  # times `log.free_bytes_min`: a file system with less gets back whatever was passed
DROP_S: Final = 600.0  # between two looks for old Parquet; retention is counted in days
_journal = logging.getLogger(__name__)


def run_keeper(
    *,
    settings: Settings,
    log: PredictionLogReader,
    segments: SegmentStore,
    archive: Archive,
    checkpoints: CheckpointStore,
    metrics: MetricsBank,
    clock: Clock,
    stop: threading.Event,
) -> None:
    """Keep the archive until `stop` is set; a segment that is being copied then is begun anew by the next keeper."""
    monitors = tuple(one.consumer for one in partitions(settings.monitor.processes))
    keeper = Keeper(settings.archive, settings.log, monitors, log, segments, archive, checkpoints, metrics, clock)
    while not stop.is_set():
        keeper.turn(stop)
        stop.wait(settings.archive.poll_s)


@dataclass(slots=True)
class Keeper:
    """One turn after another of the archive's work."""

    settings: ArchiveSettings
    bounds: LogSettings
    monitors: Sequence[str]  # the consumers whose checkpoints hold segments back
    log: PredictionLogReader
    segments: SegmentStore
    archive: Archive
    checkpoints: CheckpointStore
    metrics: MetricsBank
    clock: Clock
    dropped_s: float = float("-inf")

    def turn(self, stop: threading.Event) -> None:
        """Do once what there is to do for every stream."""
        kept: list[Segment] = []
        waiting: list[Segment] = []
        for stream in self._streams():
            closed = self._closed(stream)
            waiting += self._take(closed, stop)
            kept += self._remove(closed)
        self._drop()
        self._merge()
        oldest_s = min((segment.closed_at_s for segment in waiting), default=None)
        cell(self.metrics, ARCHIVE_LAG).set(0.0 if oldest_s is None else max(0.0, self.clock.now_s() - oldest_s))
        cell(self.metrics, LOG_SEGMENTS).set(len(kept))
        self._look()

    def _streams(self) -> Sequence[str]:
        try:
            return self.log.streams()
        except PortFault as fault:
            self._failed(fault)
            return ()

    def _closed(self, stream: str) -> Sequence[Segment]:
        try:
            return self.segments.closed(stream)
        except PortFault as fault:
            self._failed(fault)
            return ()

    def _take(self, closed: Sequence[Segment], stop: threading.Event) -> Sequence[Segment]:
        """Archive segments in order and return those that still wait; one that fails holds back its own stream only."""
        for at, segment in enumerate(closed):
            if stop.is_set():
                return closed[at:]
            try:
                taken = self.archive.take(segment, is_stopped=stop.is_set)
            except PortFault as fault:
                self._failed(fault)
                return closed[at:]
            cell(self.metrics, ARCHIVE_RECORDS).add(taken.predictions)
            cell(self.metrics, ARCHIVE_SHORTENED_RECORDS).add(taken.shortened)
        return ()

    def _remove(self, closed: Sequence[Segment]) -> Sequence[Segment]:
        """Remove segments that archive and monitor have passed and that are old or in the way; return what stays."""
        try:
            due = self._due(closed)
            if not due:
                return closed
            monitored = [self.checkpoints.load(monitor) for monitor in self.monitors]
            passed = min(saved[0].get(due[0].stream, 0) if saved else 0 for saved in monitored)
            gone = {segment.next for segment in due if segment.next <= min(passed, self.archive.taken(segment.stream))}
            for segment in closed:
                if segment.next in gone:
                    self.segments.remove(segment)
        except PortFault as fault:
            self._failed(fault)
            return closed
        cell(self.metrics, LOG_SEGMENTS_REMOVED).add(len(gone))
        return [segment for segment in closed if segment.next not in gone]

    def _due(self, closed: Sequence[Segment]) -> Sequence[Segment]:
        """Return what was kept for its time, and before it whatever a log or a file system that fills up needs back."""
        due_s = self.clock.now_s() - self.settings.keep_segments_s
        surplus: float = sum(segment.next - segment.first for segment in closed) - self.bounds.bytes_max * KEPT_SHARE
        if self.segments.free_bytes() < FREE_SHARE * self.bounds.free_bytes_min:
            surplus = math.inf
        due: list[Segment] = []
        for segment in closed:
            if segment.closed_at_s <= due_s or surplus > 0:
                due.append(segment)
            surplus -= segment.next - segment.first
        return due

    def _look(self) -> None:
        try:
            cell(self.metrics, LOG_FREE).set(self.segments.free_bytes())
        except PortFault as fault:
            self._failed(fault)

    def _drop(self) -> None:
        now_s = self.clock.monotonic_s()
        if now_s - self.dropped_s < DROP_S:
            return
        self.dropped_s = now_s
        try:
            dropped = self.archive.drop(self.clock.now_s() - self.settings.keep_s)
        except PortFault as fault:
            self._failed(fault)
            return
        cell(self.metrics, ARCHIVE_DROPPED_FILES).add(dropped)

    def _merge(self) -> None:
        """Join one run of small files; a turn is short, and the next one is soon."""
        try:
            merged = self.archive.merge(self.clock.now_s())
        except PortFault as fault:
            self._failed(fault)
            return
        cell(self.metrics, ARCHIVE_MERGED_FILES).add(merged)

    def _failed(self, fault: PortFault) -> None:
        cell(self.metrics, ARCHIVE_FAILURES).add(1)
        _journal.error("the archive could not go on", extra={"action": "archive", "reason": str(fault)})
