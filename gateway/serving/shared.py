"""A blocking reading that many callers share: one at a time, in a thread, and fresh enough for all who ask within a moment.

So what anybody may ask for costs the same however many ask, and never more than a tenth of a core.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from gateway.ports.clock import Clock

T = TypeVar("T")
_REST: Final = 9.0  # times what a reading took, until the next one begins


class Shared(Generic[T]):
    """The newest result of `read`."""

    def __init__(self, name: str, read: Callable[[], T], *, fresh_s: float, clock: Clock) -> None:
        self._read = read
        self._fresh_s = fresh_s
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, name)
        self._reading: asyncio.Future[T] | None = None
        self._begun_s = 0.0
        self._stale_s = 0.0

    async def latest(self) -> T:
        """Return what was read at most `fresh_s` ago, or longer where reading takes long; an error is shared like a result."""
        reading, now_s = self._reading, self._clock.monotonic_s()
        if reading is None or (reading.done() and now_s >= self._stale_s):
            self._begun_s = now_s
            reading = self._reading = asyncio.get_running_loop().run_in_executor(self._thread, self._read)
            reading.add_done_callback(self._over)
        return await asyncio.shield(reading)

    def close(self) -> None:
        """Read nothing any more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _over(self, _: asyncio.Future[T]) -> None:
        now_s = self._clock.monotonic_s()
        self._stale_s = now_s + max(self._fresh_s, _REST * (now_s - self._begun_s))
