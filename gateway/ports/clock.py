"""Time, from outside the program."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The only time in the program."""

    def now_s(self) -> float:
        """Return wall time, seconds since the epoch. May step."""

    def monotonic_s(self) -> float:
        """Return seconds since an arbitrary moment. Never falls."""
