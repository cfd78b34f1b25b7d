"""The order, the bounds and the ends of one stream, over answers that come when the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine

import pytest

from gateway.core.errors import NotReady
from gateway.serving.grpc.stream import REQUESTS_MAX, Begun, Stream


class Caller:
    """Sends requests, and answers them as the worker would: each by its own event."""

    def __init__(self, requests: int, size: int = 1, *, is_open: bool = False) -> None:
        self.sent = 0
        self.written: list[bytes] = []
        self.given_up: list[int] = []
        self.may_answer = [asyncio.Event() for _ in range(requests)]
        self._size, self._is_open = size, is_open

    async def requests(self) -> AsyncIterator[bytes]:
        """Yield the requests, and stay open after them if told so."""
        for _ in self.may_answer:
            self.sent += 1
            yield bytes(self._size)
        if self._is_open:
            await asyncio.Event().wait()

    def begin(self, body: bytes) -> Begun:
        """Begin what was sent last."""
        at = self.sent - 1

        async def answer() -> bytes:
            await self.may_answer[at].wait()
            return b"%d" % at

        return Begun(len(body), asyncio.create_task(answer()), lambda: self.given_up.append(at))

    async def write(self, answer: bytes) -> None:
        """Take an answer."""
        self.written.append(answer)

    def stream(self, *, bytes_max: int = 1_000, idle_s: float = 60.0, age_s: float = 60.0) -> tuple[Stream, asyncio.Task[None]]:
        """Run a stream of these requests."""
        made = Stream(self.begin, bytes_max=bytes_max, idle_s=idle_s, age_s=age_s)
        return made, asyncio.create_task(made.run(self.requests(), self.write))


def _run(test: Callable[[], Coroutine[object, object, None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(within())


async def _turns() -> None:
    """Let everything run that can."""
    for _ in range(4 * REQUESTS_MAX):
        await asyncio.sleep(0)


def test_stream_answers_in_the_order_of_the_requests() -> None:
    """An answer that is there before an earlier one waits for it; the stream ends with the last."""

    async def test() -> None:
        caller = Caller(3)
        _, run = caller.stream()
        for at in (2, 1):
            caller.may_answer[at].set()
        await _turns()
        assert (caller.sent, caller.written) == (3, [])
        caller.may_answer[0].set()
        await run
        assert caller.written == [b"0", b"1", b"2"]

    _run(test)


@pytest.mark.parametrize(("size", "bytes_max", "read"), [(1, 1_000, REQUESTS_MAX), (300, 1_000, 4), (5_000, 1_000, 1)])
def test_stream_is_not_read_beyond_its_bounds(size: int, bytes_max: int, read: int) -> None:
    """So many requests, or so many bytes of them, wait for answers; each answer makes room for one more."""

    async def test() -> None:
        caller = Caller(2 * REQUESTS_MAX, size)
        _, run = caller.stream(bytes_max=bytes_max)
        await _turns()
        assert caller.sent == read
        caller.may_answer[0].set()
        await _turns()
        assert (caller.sent, caller.written) == (read + 1, [b"0"])
        for event in caller.may_answer:
            event.set()
        await run
        assert len(caller.written) == 2 * REQUESTS_MAX

    _run(test)


def test_stream_that_is_told_to_end_answers_what_it_read() -> None:
    """Nothing is read any more; what was read is answered; then the caller is told to begin another stream."""

    async def test() -> None:
        caller = Caller(2, is_open=True)
        made, run = caller.stream()
        await _turns()
        made.end("on a worker that stops")
        await _turns()
        assert not run.done()
        for event in caller.may_answer:
            event.set()
        with pytest.raises(NotReady, match="worker that stops; begin another"):
            await run
        assert (caller.written, caller.given_up) == ([b"0", b"1"], [])

    _run(test)


@pytest.mark.parametrize(("bounds", "told"), [({"idle_s": 0.01}, "idle"), ({"age_s": 0.01}, "open for")])
def test_stream_ends_when_it_is_idle_or_old(bounds: dict[str, float], told: str) -> None:
    """A stream without requests does not hold its place, and no stream stays for ever."""

    async def test() -> None:
        _, run = Caller(0, is_open=True).stream(**bounds)
        with pytest.raises(NotReady, match=told):
            await run

    _run(test)


def test_stream_that_is_cancelled_gives_up_what_waits() -> None:
    """What its caller left behind is withdrawn, oldest first."""

    async def test() -> None:
        caller = Caller(3, is_open=True)
        _, run = caller.stream()
        await _turns()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert caller.given_up == [0, 1, 2]

    _run(test)
