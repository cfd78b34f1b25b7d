"""The machine's clock."""

from __future__ import annotations

import time


class SystemClock:
    """The `Clock` of a running gateway; the two functions themselves, because a prediction asks for the time several times."""

    now_s = staticmethod(time.time)
    monotonic_s = staticmethod(time.monotonic)
