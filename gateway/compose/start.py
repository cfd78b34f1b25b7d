"""Before a start: the data directory made ready, and the watchdog's view of a worker."""

from __future__ import annotations

import logging
import math
import os
import shutil
from typing import Final

from adapters.clock import SystemClock
from adapters.inflight import InFlightWatch
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentDirectory
from adapters.metrics_file import MetricsDirectory, MetricsFile
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from gateway.compose.directory import DataDirectory
from gateway.compose.parts import channels_of, log_writer, privacy_of, worker_names
from gateway.compose.planes import ARCHIVE
from gateway.core.errors import LogFull
from gateway.core.partitions import LAYOUT, partitions
from gateway.core.records import StreamEnd
from gateway.metrics.catalogue import GAUGES
from gateway.metrics.serving import LAST_RUN
from gateway.ports.inflight import LoopWatch
from gateway.settings import Settings

_log = logging.getLogger(__name__)
_STATES: Final = GAUGES - {LAST_RUN.name}  # what is said of now; when a version last ran stays true


def prepare_data(settings: Settings) -> None:
    """Make the data directory ready for a start: migrate the registry, repair the log, end what has no process any more."""
    channels_of(settings, os.environ)  # what is wrong with them is said now, not by a process that dies again and again
    data = DataDirectory(settings.data_dir)
    data.make()
    privacy_of(settings)
    SqliteRegistry(data.registry, clock=SystemClock()).close()
    _hand_over(SqliteCheckpoints(data.checkpoints), settings.monitor.processes)
    _end_gauges(data, settings)
    shutil.rmtree(data.scratch, ignore_errors=True)  # whose processes are gone; each runtime makes its own again
    SegmentDirectory(data.log).repair()
    for stream in set(SegmentReader(data.log).streams()) - set(worker_names(settings)):
        writer = log_writer(settings, stream)
        try:
            writer.append([StreamEnd(SystemClock().now_s())])
        except LogFull as error:  # serving starts all the same; the monitor waits for this stream until there is room
            _log.error("a stream's end could not be written", extra={"action": "end", "stream": stream, "reason": str(error)})
        writer.close()


def _hand_over(checkpoints: SqliteCheckpoints, processes: int) -> None:
    """Let the monitor's processes go on with what those before them knew, also where they were more or fewer."""
    saved = checkpoints.load(LAYOUT)
    before = int(saved[1]) if saved is not None else 1
    if before != processes:
        from gateway.monitor.partitioning import repartition

        repartition(checkpoints, before, processes)
    checkpoints.close()


def _end_gauges(data: DataDirectory, settings: Settings) -> None:
    """Show no gauge of a process that will not run, which would stay as it is for good; its counters are parts of totals."""
    monitors = {one.process for one in partitions(settings.monitor.processes)}
    for process, samples in MetricsDirectory(data.metrics).latest().items():
        if samples and process not in {*worker_names(settings), *monitors, ARCHIVE}:
            bank = MetricsFile(data.metrics / f"{process}.bin")
            for sample in samples:
                if sample.name in _STATES:
                    bank.cell(sample.name, sample.labels).set(math.nan)  # in place, so that a full disk holds no start up


def watch(settings: Settings, worker: str) -> LoopWatch:
    """Return the watchdog's view of a worker."""
    return InFlightWatch(DataDirectory(settings.data_dir).in_flight(worker))
