"""One request and its answer: what a handler reads, and the bytes of what it writes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol

import orjson

from gateway.core.errors import PayloadTooLarge

Headers = Sequence[tuple[bytes, bytes]]

_log = logging.getLogger(__name__)
STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_BODY_BUFFER_BYTES: Final = 64 * 1024  # of a body that nobody has read yet; beyond it the connection is not read
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
_WITHOUT_BODY: Final = frozenset({204, 304})


class ClientGone(Exception):
    """The client closed its connection, or was cut off, before its request was complete; there is nobody to answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a request line names.

    Attributes:
        path: As sent, without the query.
        text: The path decoded.
    """

    path: bytes
    query: bytes
    text: str


class Line(Protocol):
    """What an exchange asks of its connection."""

    loop: asyncio.AbstractEventLoop
    peer: dict[str, Any]
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
        """Answer for a handler that did not."""


class Exchange:
    """One request and its answer.

    Attributes:
        version: Of HTTP, `1.0` or `1.1`.
        headers: In the order sent, with lower-case names.
        is_received: Whether the whole request is in.
        received_s: When its last byte came, on the clock's monotonic time; a handler may begin later.
        keep_alive: Whether the connection stays open after the answer.
        has_started: Whether an answer has begun.
        on_gone: What the handler wants called when the client leaves, once; returns whether that ended the exchange.
    """

    __slots__ = (
        "_buffered",
        "_expects_continue",
        "_head",
        "_is_chunked",
        "_is_over",
        "_parts",
        "_waiter",
        "connection",
        "has_started",
        "headers",
        "is_received",
        "keep_alive",
        "method",
        "on_gone",
        "received_s",
        "target",
        "version",
    )

    def __init__(  # noqa: PLR0917 - one place makes them, for every request
        self,
        connection: Line,
        method: str,
        target: Target,
        version: str,
        headers: list[tuple[bytes, bytes]],
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        self.connection = connection
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.keep_alive = keep_alive
        self.is_received = self.has_started = False
        self.received_s = 0.0
        self._expects_continue = expects_continue
        self._parts: list[bytes] = []
        self._buffered = 0
        self._is_over = self._is_chunked = False  # over: answered, or cut off
        self._head = b""  # of an answer in parts, until the first of them leaves
        self._waiter: asyncio.Future[None] | None = None
        self.on_gone: Callable[[], bool] | None = None

    @property
    def is_read(self) -> bool:
        """Whether the whole body was read."""
        return self.is_received and not self._parts

    async def run(self, handler: Handler) -> None:
        """Let a handler answer."""
        try:
            await handler(self)
        except Exception:  # noqa: BLE001 - the request loop's last stand; a handler answers its own errors
            _log.exception("a handler failed unexpectedly", extra={"action": "close"})
        if not self._is_over:
            self.connection.fail(self)

    async def body(self, bytes_max: int) -> bytes:
        """Return the whole body.

        Raises:
            PayloadTooLarge: it is over `bytes_max`; the rest is not read.
            ClientGone: the connection ended, or the body stalled and the connection has answered 408.
        """
        if self.is_received and not self._is_over and len(self._parts) == 1 and not self._expects_continue:
            body = self._parts.pop()  # all of it came at once, as a small one does
        else:
            pieces, count = [], 0
            while count <= bytes_max and (piece := await self.read()) is not None:
                pieces.append(piece)
                count += len(piece)
            body = b"".join(pieces)
        if len(body) > bytes_max:
            raise PayloadTooLarge(f"the body is over {bytes_max:,} bytes")
        return body

    async def read(self) -> bytes | None:
        """Return what has come of the body since the last call, waiting for some; None after its end.

        Raises:
            ClientGone: see `body`.
        """
        if self._expects_continue:
            self._expects_continue = False
            self.connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._is_over and not self._parts and not self.is_received:
            self.connection.resume_reading()
            await self._woken()
        if self._is_over:
            raise ClientGone
        if not self._parts:
            return None
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._buffered = 0
        return body

    async def over(self) -> None:
        """Wait until the answer has left or the client is gone."""
        while not self._is_over:
            self.connection.resume_reading()
            await self._woken()

    async def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Write a whole answer; its length is added, unless `headers` has one."""
        if self.connection.is_write_paused:
            await self.connection.writable()
        if self._is_over:
            return
        head = self._headed(status, headers, len(body))
        self.has_started = True
        self.connection.write(head if self.method == "HEAD" else head + body)
        self._finish()

    async def begin(self, status: int, headers: Headers) -> None:
        """Begin an answer in parts; nothing leaves before the first of them."""
        self._head = self._headed(status, headers, None)
        self.has_started = True

    async def write(self, part: bytes, *, is_last: bool) -> None:
        """Write a part of an answer that has begun."""
        if self.connection.is_write_paused:
            await self.connection.writable()
        if self._is_over:
            return
        head, self._head = self._head, b""
        if self.method == "HEAD":
            part = b""
        elif self._is_chunked:
            part = (b"%x\r\n%b\r\n" % (len(part), part) if part else b"") + (b"0\r\n\r\n" if is_last else b"")
        self.connection.write(head + part)
        if is_last:
            self._finish()

    def take(self, part: bytes) -> bool:
        """Take a part of the body; return whether more is buffered than should be."""
        if self._is_over:
            return False
        self._parts.append(part)
        self._buffered += len(part)
        if self._waiter is not None:
            self._wake()
        return self._buffered > _BODY_BUFFER_BYTES

    def complete(self, received_s: float) -> None:
        """Note that the whole request is in, and since when."""
        self.is_received, self.received_s = True, received_s
        if self._waiter is not None:
            self._wake()

    def cut(self) -> None:
        """Tell the handler that there is nobody to answer any more."""
        self._is_over = True
        self.leave()
        self._wake()

    def leave(self) -> bool:
        """Say that the client left; return whether the handler gave up its work."""
        on_gone, self.on_gone = self.on_gone, None
        return on_gone is not None and on_gone()

    def _finish(self) -> None:
        self._is_over = True
        if self._waiter is not None:
            self._wake()
        self.connection.answered(self)

    async def _woken(self) -> None:
        self._waiter = self.connection.loop.create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _headed(self, status: int, headers: Headers, body_bytes: int | None) -> bytes:
        """Return the head of an answer, of unknown length where `body_bytes` is None."""
        lines = [STATUS_LINES[status]]
        lines += [name + b": " + value for name, value in headers]
        fields = dict(headers)
        if _LENGTHS.isdisjoint(fields) and status not in _WITHOUT_BODY:
            if body_bytes is not None:
                lines.append(b"content-length: %d" % body_bytes)
            else:
                self._is_chunked = self.method != "HEAD"
                lines.append(b"transfer-encoding: chunked")
        if (connection := fields.get(b"connection")) is not None:
            self.keep_alive = self.keep_alive and connection != b"close"
        elif not self.keep_alive:
            lines.append(b"connection: close")
        head = b"\r\n".join(lines)
        assert head.count(b"\n") == len(lines) - 1, "a header holds no line break"
        return head + b"\r\n\r\n"


Handler = Callable[[Exchange], Awaitable[None]]


def last_words(status: HTTPStatus, message: str) -> bytes:
    """Return the answer in a handler's place, after which the connection closes."""
    body = orjson.dumps({"error": message})
    head = b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
    return STATUS_LINES[status.value] + head + body
