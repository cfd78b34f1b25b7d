"""Which series a scrape shows: what is on the route table, and for an hour what left it or is still counted.

A version that a rollback took off its route is looked at just then, so its series stay for an hour; one that callers name
although no route does stays as long as they call. Afterwards it is gone, or thousands of versions would stay for ever.
After a restart of the control plane everything counts as just left.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from gateway.core.routes import RouteTable
from gateway.metrics.places import Place, place_of, places
from gateway.ports.metrics import Sample

LINGER_S: Final = 3_600.0  # the longest span of a rate on the boards
Snapshots = Mapping[str, Sequence[Sample]]


class Lingering:
    """Remembers when each place that is off the table was last counted at. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[Place, tuple[float, float]] = {}  # the sum of its numbers, and since when it stands

    def shown(self, snapshots: Snapshots, table: RouteTable, now_s: float) -> Snapshots:
        """Return the samples without those of places that left the table and were not counted at for an hour."""
        here = places(table)
        sums: defaultdict[Place, float] = defaultdict(float)
        for samples in snapshots.values():
            for sample in samples:
                if (place := place_of(sample)) is not None and place not in here and not math.isnan(sample.value):
                    sums[place] += sample.value
        gone = self._gone(sums, now_s)
        if not gone:
            return snapshots
        return {process: [sample for sample in samples if place_of(sample) not in gone] for process, samples in snapshots.items()}

    def _gone(self, sums: Mapping[Place, float], now_s: float) -> set[Place]:
        with self._lock:
            before, self._last = self._last, {}
            for place, total in sums.items():
                known = before.get(place)
                self._last[place] = known if known is not None and known[0] == total else (total, now_s)
            return {place for place, (_, since_s) in self._last.items() if now_s - since_s >= LINGER_S}
