"""Prediction ids: UUIDv7, so that they sort by time and need no coordination between workers.

The layout is RFC 9562, section 5.7: 48 bits of milliseconds, version, 12 random bits, variant, 62 random bits. Random bytes are
drawn for many ids at once, because a system call for each would cost more than the rest of the id.
"""

from __future__ import annotations

import os
from typing import Final

from gateway.ports import Clock

_IDS_PER_DRAW: Final = 512
_HEX_PER_ID: Final = 19  # 3 digits after the version, 1 for the variant's free bits, 15 more
_VARIANTS: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # the variant's two bits are 10


class PredictionIds:
    """A source of ids for one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._digits = ""
        self._at = 0

    def next(self) -> str:
        """Return a new id in canonical text."""
        if self._at >= len(self._digits):
            self._digits = os.urandom(_IDS_PER_DRAW * _HEX_PER_ID // 2).hex()
            self._at = 0
        at = self._at
        self._at = at + _HEX_PER_ID
        random = self._digits[at : self._at]
        time = f"{int(self._clock.now_s() * 1000):012x}"
        return f"{time[:8]}-{time[8:]}-7{random[:3]}-{_VARIANTS[random[3]]}{random[4:7]}-{random[7:]}"
