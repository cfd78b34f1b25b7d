"""One request and its answer: what the application receives, and the bytes of what it sends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final, Protocol

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_BODY_BUFFER_BYTES: Final = 64 * 1024  # of a body that nobody has read yet; beyond it the connection is not read
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
_WITHOUT_BODY: Final = frozenset({204, 304})


class Line(Protocol):
    """What an exchange asks of its connection."""

    loop: asyncio.AbstractEventLoop
    is_write_paused: bool

    def write(self, content: bytes) -> None:
        """Write to the client, if it is still there."""

    async def writable(self) -> None:
        """Wait until the client takes more."""

    def resume_reading(self) -> None:
        """Read on, if reading was paused."""

    def answered(self, exchange: Exchange) -> None:
        """Go on after an answer."""

    def fail(self, exchange: Exchange) -> None:
        """Answer for an application that did not."""


class Exchange:
    """One request and its answer: the `receive` and `send` of ASGI.

    Attributes:
        scope: As ASGI defines it.
        is_received: Whether the whole request is in.
        keep_alive: Whether the connection stays open after the answer.
    """

    __slots__ = (
        "_buffered",
        "_connection",
        "_expects_continue",
        "_is_chunked",
        "_is_delivered",
        "_is_over",
        "_parts",
        "_start",
        "_waiter",
        "is_received",
        "keep_alive",
        "scope",
    )

    def __init__(self, connection: Line, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.is_received = False
        self._connection = connection
        self._expects_continue = expects_continue
        self._parts: list[bytes] = []
        self._buffered = 0
        self._is_delivered = False
        self._is_over = False  # answered, or cut off
        self._is_chunked = False
        self._start: Message | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def has_started(self) -> bool:
        """Whether a part of the answer was written."""
        return self._start is not None

    async def run(self, app: Application) -> None:
        """Let the application answer."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:  # noqa: BLE001 - the request loop's last stand; an application answers its own errors
            _log.exception("an application failed unexpectedly", extra={"action": "close"})
        if not self._is_over:
            self._connection.fail(self)

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client is gone or answered."""
        if self._expects_continue:
            self._expects_continue = False
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._is_over and not self._parts and (self._is_delivered or not self.is_received):
            self._connection.resume_reading()
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        if self._is_over:
            return {"type": "http.disconnect"}
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        self._is_delivered = self.is_received
        return {"type": "http.request", "body": body, "more_body": not self.is_received}

    async def send(self, message: Message) -> None:
        """Write a part of the answer; its head goes with the first part of its body."""
        if self._connection.is_write_paused:
            await self._connection.writable()
        if self._is_over:
            return
        body: bytes = message.get("body", b"")
        more_body: bool = message.get("more_body", False)
        if message["type"] == "http.response.start":
            self._start = message
            return
        assert self._start is not None, "an answer starts with its status"
        head = b""
        if self._start:
            head = self._head(self._start, is_whole=not more_body, body_bytes=len(body))
            self._start = {}
        if self.scope["method"] == "HEAD":
            body = b""
        elif self._is_chunked:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more_body else b"0\r\n\r\n")
        self._connection.write(head + body)
        if not more_body:
            self._is_over = True
            self._wake()
            self._connection.answered(self)

    def take(self, part: bytes) -> bool:
        """Take a part of the body; return whether more is buffered than should be."""
        if self._is_over:
            return False
        self._parts.append(part)
        self._buffered += len(part)
        if self._waiter is not None:
            self._wake()
        return self._buffered > _BODY_BUFFER_BYTES

    def complete(self) -> None:
        """Note that the whole request is in."""
        self.is_received = True
        if not self._parts:
            self._parts.append(b"")
        if self._waiter is not None:
            self._wake()

    def cut(self) -> None:
        """Tell the application that there is nobody to answer any more."""
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _head(self, start: Message, *, is_whole: bool, body_bytes: int) -> bytes:
        status: int = start["status"]
        lines = [STATUS_LINES[status]]
        has_length = status in _WITHOUT_BODY
        has_connection = False
        for name, value in start["headers"]:
            lines.append(name + b": " + value)
            if name in _LENGTHS:
                has_length = True
            elif name == b"connection":
                has_connection = True
                self.keep_alive = self.keep_alive and value != b"close"
        if not has_length and is_whole:
            lines.append(b"content-length: %d" % body_bytes)
        elif not has_length:
            self._is_chunked = self.scope["method"] != "HEAD"
            lines.append(b"transfer-encoding: chunked")
        if not self.keep_alive and not has_connection:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        assert head.count(b"\n") == len(lines) - 1, "a header holds no line break"
        return head + b"\r\n\r\n"
