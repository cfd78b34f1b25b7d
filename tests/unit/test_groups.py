"""Requests begin in groups: what comes while one is on its way waits for it, and for nothing else."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable

import pytest

from adapters.clock import SystemClock
from gateway.web import Exchange, HttpServer, Limits
from gateway.web.groups import Groups

PASS, ALL = 5, 9  # turns of the loop until an answer, and until a group that others wait behind makes room


class Members:
    """What began, and in which turn of the loop since the first one came."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.began: dict[str, int] = {}
        self.turn = 0
        self._groups = Groups()

    def add(self, *names: str) -> None:
        """Add a member for each name."""
        for name in names:
            self._groups.add(_Member(self, name))

    async def turns(self, count: int) -> None:
        """Let the loop turn so many times."""
        for _ in range(count):
            await asyncio.sleep(0)
            self.turn += 1


class _Member:
    def __init__(self, members: Members, name: str) -> None:
        self.loop = members.loop
        self._members, self._name = members, name

    def begin(self) -> None:
        assert self._name not in self._members.began, "began twice"
        self._members.began[self._name] = self._members.turn


@pytest.fixture
def in_loop() -> Callable[[Callable[[Members], Awaitable[None]]], None]:
    """Return what runs a coroutine with members of a loop."""

    def run(body: Callable[[Members], Awaitable[None]]) -> None:
        async def main() -> None:
            await body(Members())

        asyncio.run(main())

    return run


def test_groups_let_what_came_in_one_turn_begin_at_once(in_loop) -> None:
    """Nothing waits while nothing is on its way, nor what the loop read together with the first."""

    async def body(members: Members) -> None:
        members.add("a", "b", "c")
        assert members.began == {"a": 0, "b": 0, "c": 0}

    in_loop(body)


def test_groups_hold_back_what_comes_meanwhile_and_let_it_begin_together(in_loop) -> None:
    """What comes in later turns begins in one, once the group before is through."""

    async def body(members: Members) -> None:
        members.add("a")
        for name in ("b", "c", "d"):
            await members.turns(2)
            members.add(name)
        assert members.began == {"a": 0}
        await members.turns(ALL)
        later = {members.began[name] for name in ("b", "c", "d")}
        assert len(later) == 1
        assert PASS <= later.pop() <= ALL

    in_loop(body)


def test_groups_admit_a_lone_caller_after_its_answer(in_loop) -> None:
    """Who waits for each answer before the next request is never held back."""

    async def body(members: Members) -> None:
        members.add("first")
        await members.turns(PASS)
        members.add("second")
        assert members.began["second"] == PASS
        await members.turns(PASS)
        members.add("third")
        assert members.began["third"] == 2 * PASS

    in_loop(body)


def test_groups_follow_one_another(in_loop) -> None:
    """A group that began from those that waited holds back the next as the first did."""

    async def body(members: Members) -> None:
        members.add("a")
        await members.turns(1)
        members.add("b")
        await members.turns(ALL)
        second = members.began["b"]
        members.add("c")
        assert "c" not in members.began
        await members.turns(ALL)
        assert second < members.began["c"] <= second + ALL + 1

    in_loop(body)


def test_request_that_waits_for_its_group_was_received_before() -> None:
    """Latency and deadline count from a request's last byte, not from when its turn came."""
    clock, sent, held = SystemClock(), threading.Event(), threading.Event()
    waited_s: list[float] = []

    async def handler(exchange: Exchange) -> None:
        if exchange.target.path == b"/first":
            held.set()
            assert sent.wait(30)
            for _ in range(PASS - 1):
                time.sleep(0.05)  # noqa: ASYNC251 - a slow turn of the loop
                await asyncio.sleep(0)
        else:
            waited_s.append(clock.monotonic_s() - exchange.received_s)
        await exchange.answer(200, [], b"")

    def ask(port: int) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), 30) as first,
            socket.create_connection(("127.0.0.1", port), 30) as second,
        ):
            first.sendall(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
            assert held.wait(30)
            second.sendall(b"GET /second HTTP/1.1\r\nHost: h\r\n\r\n")
            sent.set()
            assert first.recv(1000).startswith(b"HTTP/1.1 200")
            assert second.recv(1000).startswith(b"HTTP/1.1 200")

    async def main() -> None:
        server = HttpServer(handler, Limits(30.0, 30.0, 30.0, 10), clock)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.start(listener)
            await asyncio.to_thread(ask, listener.getsockname()[1])
            await server.drain(1.0)

    asyncio.run(main())
    assert waited_s[0] >= 0.05
