"""Prediction ids: UUIDv7, so that they sort by time and need no coordination between workers.

The layout is RFC 9562, section 5.7: 48 bits of milliseconds, version, 12 random bits, variant, 60 random bits. Random bytes are
drawn for many ids at once, because a system call for each would cost more than the rest of the id.
"""

from __future__ import annotations

import os
from typing import Final

from gateway.ports import Clock

_IDS_PER_DRAW: Final = 512
_DIGITS: Final = 18  # hexadecimal, of an id; the two free bits of the variant's digit stay zero


class PredictionIds:
    """A source of ids for one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._random = ""
        self._at = 0
        self._millisecond = -1
        self._time = ""

    def next(self) -> str:
        """Return a new id in canonical text."""
        at = self._at
        if at >= len(self._random):
            self._random = os.urandom(_IDS_PER_DRAW * _DIGITS // 2).hex()
            at = 0
        self._at = at + _DIGITS
        millisecond = int(self._clock.now_s() * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            time = f"{millisecond:012x}"
            self._time = f"{time[:8]}-{time[8:]}-7"
        random = self._random
        return f"{self._time}{random[at : at + 3]}-8{random[at + 3 : at + 6]}-{random[at + 6 : at + 18]}"
