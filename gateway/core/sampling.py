"""What a monitor over its budget looks at: a share of what comes, chosen by hash, the same one whenever the log is read.

The share of a second of the log follows from how much came in the one before, and falls within it as soon as more than the budget
came; never from how fast the monitor is or how far behind. What is compared row by row is chosen by prediction id. Evidence is
over assignment keys, so there the key is chosen: with all its predictions or none, whatever its variant does; a caller who asks
again after a failure would otherwise be seen more often on the side that fails. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final
from zlib import crc32

RECORD_EVENTS: Final = 20  # a prediction costs as much as 20 of its features, whatever it holds; a ground truth as well
FORGET_S: Final = 7_200.0  # for so long ground truth may still come for what was passed over
_HASHES: Final = 1 << 32


@dataclass(slots=True)
class Sampling:
    """The share of one process.

    Attributes:
        events_per_s_max: The budget, in feature-events.
        rate: In (0, 1], now.
        second, events: The log's running second, and what came in it so far.
        least, least_s: The least rate of late, and when there was one below 1 last.
        passed_over: Predictions that were chosen neither by id nor by key, ever.
    """

    events_per_s_max: float = math.inf
    rate: float = 1.0
    second: int = 0
    events: float = 0.0
    least: float = 1.0
    least_s: float = -math.inf
    passed_over: int = 0

    def count(self, events: float, time_s: float) -> None:
        """Count what came; with a new second of the log's time the share is set anew."""
        if (second := int(time_s)) != self.second:
            per_s = self.events / max(1, second - self.second)
            self.rate, self.second, self.events = min(1.0, self.events_per_s_max / max(per_s, 1.0)), second, 0.0
            self._remember(time_s)
        self.events += events
        if self.events > self.events_per_s_max:  # of a burst after a quiet second not all is looked at either
            self.rate = min(self.rate, self.events_per_s_max / self.events)
            self._remember(time_s)

    def takes(self, name: str) -> bool:
        """Return whether a prediction id, or a key, is in the share now."""
        return self.rate >= 1.0 or _place(name) < self.rate

    def has_taken(self, name: str) -> bool:
        """Return whether one was in the share whenever it came of late; otherwise it may have been passed over."""
        return self.least >= 1.0 or _place(name) < self.least

    def _remember(self, now_s: float) -> None:
        if self.rate < 1.0:
            self.least, self.least_s = min(self.rate, self.least), now_s
        elif now_s - self.least_s > FORGET_S:
            self.least = 1.0


def share_shown(rate: float) -> str:
    """Return a share for people; one below the whole is never shown as the whole."""
    return f"{rate:.1%}" if rate >= 1.0 else f"{min(rate, 0.999):.1%}"


def _place(name: str) -> float:
    """Return where a name falls in [0, 1). Shares are nested: what a lesser one has, a greater one has too."""
    return crc32(name.encode()) / _HASHES
