"""The machine's clock."""

from __future__ import annotations

import time


class SystemClock:
    """The `Clock` of a running gateway."""

    def now_s(self) -> float:
        """Return `time.time()`."""
        return time.time()

    def monotonic_s(self) -> float:
        """Return `time.monotonic()`."""
        return time.monotonic()
