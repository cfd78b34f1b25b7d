"""How long rows will wait for a version: what its runs cost when it warmed, corrected by what they take now.

A pure estimate, kept on the event loop. It decides which requests are refused at once because they would only expire.
"""

from __future__ import annotations

from typing import Final

from gateway.serving.warming import Cost

_NEWS: Final = 0.1  # weight of the last run: a change of pace is known within some twenty runs, one slow run moves little
_SURPRISE_MAX: Final = 100.0  # of a run against what was expected of it: one that stood still is no pace, several that do are


class Pace:
    """One version's pace on this worker."""

    def __init__(self, cost: Cost, *, rows_at_once: int, threads: int) -> None:
        self._cost = cost
        self._rows_at_once = rows_at_once
        self._full_us = cost.of(rows_at_once)
        self._threads = threads
        self._factor = 1.0  # what runs take now against their cost

    def note(self, rows: int, duration_us: float) -> None:
        """Learn from a run."""
        now = min(duration_us / max(self._cost.of(rows), 1.0), self._factor * _SURPRISE_MAX)
        self._factor += (now - self._factor) * _NEWS

    def wait_s(self, rows: int) -> float:
        """Return how long it takes until so many rows have been run."""
        batches, rest = divmod(rows, self._rows_at_once)
        us = batches * self._full_us + (self._cost.of(rest) if rest else 0.0)
        return us * self._factor / self._threads / 1e6
