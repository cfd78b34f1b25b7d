"""One caller's stream: requests read while earlier ones run, answers in the order of their requests.

Several run at once, so that one caller's requests share batches as many callers' do. How many and how large they are is bounded;
beyond that the stream is not read, which holds its caller up. A request that fails is an answer like any other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from gateway.core.errors import NotReady

REQUESTS_MAX: Final = 64  # read and not yet answered; as many as one run joins


@dataclass(frozen=True, slots=True)
class Begun:
    """A request under way.

    Attributes:
        size: Of the request, in bytes.
        answer: The whole message that goes back; never fails.
        give_up: Withdraws it where it still waits.
    """

    size: int
    answer: asyncio.Task[bytes]
    give_up: Callable[[], object]


class Stream:
    """One stream from its first request to its end."""

    def __init__(self, begin: Callable[[bytes], Begun], *, bytes_max: int, idle_s: float, age_s: float) -> None:
        """Take what begins a request.

        Args:
            bytes_max: Of the requests read and not yet answered, beyond which none is read; the last may go beyond it.
            idle_s: Without anything to answer, after which the stream ends.
            age_s: After which it ends, with the answers it owes.
        """
        self._begin = begin
        self._bytes_max = bytes_max
        self._idle_s = idle_s
        self._age_s = age_s
        self._unanswered: deque[Begun] = deque()
        self._bytes = 0  # of the unanswered
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._reason = ""  # why it ends before its caller wants

    async def run(self, requests: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]]) -> None:
        """Answer until the caller has no more requests.

        Raises:
            NotReady: it ended sooner, in order: what was read is answered, what was not did not run.
        """
        self._reader = asyncio.create_task(self._read(requests))
        self._reader.add_done_callback(lambda _: self._news.set())
        timer = asyncio.get_running_loop().call_later(self._age_s, self.end, f"open for {self._age_s:g} s")
        try:
            while (begun := await self._next(self._reader)) is not None:
                answer = await asyncio.shield(begun.answer)
                self._unanswered.popleft()
                self._bytes -= begun.size
                self._room.set()
                await write(answer)
        finally:
            timer.cancel()
            self._reader.cancel()
            for begun in self._unanswered:
                begun.give_up()
        if self._reason:
            raise NotReady(f"the stream was {self._reason}; begin another")

    def end(self, reason: str) -> None:
        """Read no more, answer what was read and end."""
        self._reason = self._reason or reason
        if self._reader is not None:
            self._reader.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        async for body in requests:
            begun = self._begin(body)
            self._unanswered.append(begun)
            self._bytes += begun.size
            self._news.set()
            while len(self._unanswered) >= REQUESTS_MAX or self._bytes >= self._bytes_max:
                self._room.clear()
                await self._room.wait()

    async def _next(self, reader: asyncio.Task[None]) -> Begun | None:
        """Return the oldest request that has no answer, waiting for one; None at the end."""
        while not self._unanswered and not reader.done():
            self._news.clear()
            try:
                async with asyncio.timeout(self._idle_s):
                    await self._news.wait()
            except TimeoutError:
                self.end(f"idle for {self._idle_s:g} s")
        return self._unanswered[0] if self._unanswered else None
