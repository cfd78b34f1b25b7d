"""Prediction ids: UUIDv7, so that they sort by time and need no coordination between workers.

The layout is RFC 9562, section 5.7: 48 bits of milliseconds, version, 12 random bits, variant, 60 random bits. Random bytes are
drawn for many ids at once, because a system call for each would cost more than the rest of the id.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np

from gateway.ports.clock import Clock

_IDS_PER_DRAW: Final = 512
_DIGITS: Final = 18  # hexadecimal, of an id; the two free bits of the variant's digit stay zero
_MARKS_AT: Final = (3, 3, 6)  # of those digits: before the fourth and before the seventh…
_MARKS: Final = tuple(b"-8-")  # …begin the last groups; 8 is the variant
_TAIL: Final = _DIGITS + len(_MARKS)


class PredictionIds:
    """A source of ids for one worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tails: list[str] = []
        self._millisecond = -1
        self._time = ""

    def next(self) -> str:
        """Return a new id in canonical text."""
        millisecond = int(self._clock.now_s() * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            time = f"{millisecond:012x}"
            self._time = f"{time[:8]}-{time[8:]}-7"
        if not self._tails:
            self._tails = _drawn()
        return self._time + self._tails.pop()


def _drawn() -> list[str]:
    """Return what follows the time and the version in many ids."""
    digits = np.frombuffer(os.urandom(_IDS_PER_DRAW * _DIGITS // 2).hex().encode(), np.uint8)
    text = np.insert(digits.reshape(-1, _DIGITS), _MARKS_AT, _MARKS, axis=1).tobytes().decode()
    return [text[at : at + _TAIL] for at in range(0, len(text), _TAIL)]
