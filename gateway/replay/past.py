"""What a replay reads: records in order, with a word of how far it is, and the ports behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.models import Runtime as RuntimeName
from gateway.core.records import Record
from gateway.history import in_order
from gateway.ports.archive import Archive, Filter, Timed
from gateway.ports.log import PredictionLogReader
from gateway.ports.readings import Detector
from gateway.ports.runtimes import Runtime
from gateway.ports.stores import ArtifactStore, RegistryStore
from gateway.settings import MonitorSettings

TOLD_EVERY: Final = 500  # records between two words of progress

Progress = Callable[[int, float], None]  # how many records are read, and the time of the last


def unheard(_records: int, _time_s: float) -> None:
    """Take progress that nobody watches."""


@dataclass(frozen=True, slots=True)
class Past:
    """A gateway's data, whether or not it runs; nothing of it is changed.

    Attributes:
        decode: Reads an archived prediction's line.
        monitor: The settings of the monitor that decided.
    """

    archive: Archive
    log: PredictionLogReader
    registry: RegistryStore
    artifacts: ArtifactStore
    runtimes: Mapping[RuntimeName, Runtime]
    detector: Callable[[int], Detector]
    decode: Callable[[str], Record]
    monitor: MonitorSettings

    def records(self, wanted: Filter, progress: Progress) -> Iterator[Timed]:
        """Yield what matches, the oldest first, and tell how far that is."""
        count, time_s = 0, 0.0
        for timed in in_order(wanted, archive=self.archive, log=self.log, decode=self.decode):
            count, time_s = count + 1, timed[0]
            if count % TOLD_EVERY == 0:
                progress(count, time_s)
            yield timed
        progress(count, time_s)
