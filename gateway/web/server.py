"""One plane's HTTP server on a listening socket that somebody else made, and a drain that breaks no request."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Final

from gateway.ports.clock import Clock
from gateway.web.connection import Connection
from gateway.web.exchange import Handler
from gateway.web.groups import Groups
from gateway.web.limits import Limits

_BACKLOG: Final = 2_048  # connections that wait in the kernel; beyond it their callers try again after a whole second
_HANDSHAKE_S: Final = 0.1  # of `drain_s`, in which connections that began before are still accepted: their requests may be sent
_DRAIN_GRACE_S: Final = 0.5  # of `drain_s`, in which idle connections may still send one request and are told to close


class HttpServer:
    """The connections of one event loop."""

    def __init__(self, handler: Handler, limits: Limits, clock: Clock) -> None:
        self.handler = handler
        self.limits = limits
        self.clock = clock
        self.connections: set[Connection] = set()
        self.groups = Groups()
        self.is_draining = False  # then the plane is not ready, and every answer closes its connection
        self._emptied = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self, loop), sock=listener, backlog=_BACKLOG)

    async def drain(self, drain_s: float) -> None:
        """Stop accepting, finish what is in flight, close what is idle; return when no connection is left or time is over.

        What waits in the listener is accepted first: closing it would reset connections whose requests may have been sent.
        Whoever made the listener sees to it that none is added, or keeps it open for a successor.
        """
        assert self._server is not None, "drained before it was started"
        self.is_draining = True
        loop = asyncio.get_running_loop()
        end_s = loop.time() + drain_s
        for connection in list(self.connections):
            connection.close_after_answers()
        await self._accept_what_waits(end_s)
        self._server.close()
        await self._until_empty(min(end_s, loop.time() + _DRAIN_GRACE_S))
        for connection in list(self.connections):
            connection.close_if_idle()
        await self._until_empty(end_s)
        for connection in list(self.connections):
            connection.abort()

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self.connections.discard(connection)
        if not self.connections:
            self._emptied.set()

    async def _accept_what_waits(self, end_s: float) -> None:
        """Let the loop accept until handshakes under way are over and nothing waits, or time is over."""
        assert self._server is not None
        loop, waiting = asyncio.get_running_loop(), select.poll()
        for listener in self._server.sockets:
            waiting.register(listener.fileno(), select.POLLIN)
        await asyncio.sleep(min(_HANDSHAKE_S, end_s - loop.time()))
        while waiting.poll(0) and loop.time() < end_s:  # noqa: ASYNC110 - the loop's own accepting is what is waited for
            await asyncio.sleep(0)

    async def _until_empty(self, end_s: float) -> None:
        if self.connections:
            self._emptied.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end_s):
                    await self._emptied.wait()
