"""One moment by which something must have come, that mostly moves on before it is there.

Moving it is cheap: its one timer is left alone and looks, when it fires, whether what it was set for still matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Deadline:
    """The next moment at which `on_late` is called, if any.

    Attributes:
        due_s: When, on the loop's clock; None while nothing is expected. May be set to None.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_late: Callable[[], None]) -> None:
        self._loop = loop
        self._on_late = on_late
        self.due_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect_within(self, within_s: float) -> None:
        """Move it to so long from now, in s."""
        due_s = self.due_s = self._loop.time() + within_s
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._look)

    def close(self) -> None:
        """Expect nothing any more."""
        self.due_s = None
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self.due_s is None:
            return
        if self._loop.time() < self.due_s:
            self._timer = self._loop.call_at(self.due_s, self._look)
        else:
            self._on_late()
