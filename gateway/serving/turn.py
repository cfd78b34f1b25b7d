"""What waits for the event loop's next turn: cheap versions collect their jobs for one turn and then run them all at once.

The turn has a budget, because nothing else happens on the loop meanwhile; what does not fit waits for the following turn.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Runnable(Protocol):
    """Something with jobs to run inline."""

    def run_inline(self, budget_us: float) -> tuple[float, bool]:
        """Run one batch; return its cost in µs and whether more is waiting."""


class Turn:
    """The next turn of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, budget_us: float) -> None:
        self.loop = loop
        self._budget_us = budget_us
        self._waiting: dict[Runnable, None] = {}  # in order, without repeats

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def add(self, runnable: Runnable) -> None:
        """Run it in the next turn."""
        if not self._waiting:
            self.loop.call_soon(self._run)
        self._waiting[runnable] = None

    def _run(self) -> None:
        left_us = self._budget_us
        while self._waiting and left_us > 0:  # a version that joins no requests has many runs in one turn
            runnable = next(iter(self._waiting))
            del self._waiting[runnable]
            cost_us, has_more = runnable.run_inline(left_us)
            if has_more:
                self._waiting[runnable] = None  # behind the others, so that none starves
            left_us -= cost_us
        if self._waiting:
            self.loop.call_soon(self._run)
