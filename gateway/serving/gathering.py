"""How long a free thread should wait for the callers that it has just answered.

Callers who wait for each answer come back together, all of a batch. A thread that took what is there in that moment would split
them for ever: half of them run while the other half wait. Where joining the rows that come back saves more of a run than waiting
for them takes, they are waited for. Whether they do come back is learned: traffic that knows no answers is not held up.
"""

from __future__ import annotations

from typing import Final

from gateway.serving.threads import Wait
from gateway.serving.warming import Cost

_LIKELY: Final = 0.5  # of the rows answered last, and as many must have come back on the average
_NEWS: Final = 0.25  # weight of what the last wait showed
_PROBE: Final = 32  # batches between two waits while waiting does not pay


class Gathering:
    """One pool's. Used by the pool's threads under their queue's lock."""

    def __init__(self, cost: Cost, *, rows_max: int) -> None:
        self._cost = cost
        self._rows_max = rows_max
        self._came_back = 1.0  # share of the rows answered that were back in time, on the average
        self._unprobed = 0
        self._waiting = 0  # rows, when a batch ended
        self._wanted = 0  # rows worth waiting for; 0 for none
        self._until_s = 0.0

    def ended(self, rows: int, *, waiting: int, now_s: float) -> None:
        """Note that a batch ended then while others waited: decide how many rows to wait for, and until when."""
        wanted = min(waiting + rows, self._rows_max)
        ahead = max(waiting, 1)
        self._wanted = 0
        if wanted <= ahead:
            return
        self._unprobed += 1
        if self._came_back < _LIKELY and self._unprobed < _PROBE:
            return
        saved_us = self._cost.of(ahead) + self._cost.of(wanted - ahead) - self._cost.of(wanted)
        self._unprobed, self._waiting, self._wanted, self._until_s = 0, waiting, wanted, now_s + saved_us / 1e6

    def wait(self, rows: int, now_s: float) -> Wait:
        """Return how long to go on waiting while so many rows wait; not at all when that is what was wanted."""
        return Wait(self._until_s - now_s if rows < self._wanted else 0.0, self._wanted)

    def began(self, rows: int) -> None:
        """Learn from how many rows wait now that a batch begins."""
        if self._wanted:
            share = (rows - self._waiting) / (self._wanted - self._waiting)
            self._came_back += (min(max(share, 0.0), 1.0) - self._came_back) * _NEWS
            self._wanted = 0
