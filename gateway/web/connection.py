"""One HTTP/1.1 connection: bytes → ASGI requests, in order, and their answers → bytes.

Parsing is llhttp's (through httptools). What is here is what an edge of its own must add: broken HTTP answered as JSON, bounds on
headers, pipelining and the time that headers and bodies take, answers in one write. A request that arrives in one piece sets no
timer: each connection has one that looks, when it fires, whether what it waited for has come.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Protocol, cast
from urllib.parse import unquote

import httptools
import orjson

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger(__name__)
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
_HEADER_BYTES_MAX: Final = 64 * 1024  # of one request's line and headers; the parser itself has no bound
_HEADERS_TOO_LARGE: Final = f"headers are over {_HEADER_BYTES_MAX:,} bytes"
_BODY_BUFFER_BYTES: Final = 64 * 1024  # of a body that nobody has read yet; beyond it the connection is not read
_PIPELINE_MAX: Final = 32  # requests behind the one being answered; nobody needs more, and each costs memory
_LINGER_S: Final = 10.0  # for the rest of a body whose answer has left; closing earlier could lose the answer
_STATUS_LINES: Final = {status.value: f"HTTP/1.1 {status.value} {status.phrase}".encode() for status in HTTPStatus}
_LENGTHS: Final = frozenset({b"content-length", b"transfer-encoding"})
_WITHOUT_BODY: Final = frozenset({204, 304})


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may take; see `ServingSettings` for the reasons."""

    header_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    connections_max: int


class Owner(Protocol):
    """The server of a connection."""

    app: Application
    limits: Limits
    connections: set[Connection]
    is_draining: bool

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""


class _Refusal(Exception):
    """A request that is refused while it is parsed."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Phase(enum.Enum):
    """What of a request is arriving."""

    IDLE = enum.auto()
    HEADERS = enum.auto()
    BODY = enum.auto()


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

    def __init__(self, connection: Connection, scope: Scope, *, keep_alive: bool, expects_continue: bool) -> None:
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
        lines = [_STATUS_LINES[status]]
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


class Connection(asyncio.Protocol):
    """See the module's paragraph. Requests behind the one being answered wait, and the connection is not read meanwhile."""

    def __init__(self, server: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_write_paused = False
        self._server = server
        self._limits = server.limits
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._peer: dict[str, Any] = {}
        self._is_read_paused = False
        self._writers: list[asyncio.Future[None]] = []
        self._phase = _Phase.IDLE
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._header_bytes = 0
        self._piece_bytes = 0
        self._receiving: Exchange | None = None
        self._answering: Exchange | None = None
        self._pipeline: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due_s: float | None = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse one connection too many."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._peer = {"client": tuple(client[:2]) if client else None, "server": tuple(server[:2]) if server else None}
        self._server.connections.add(self)
        if len(self._server.connections) > self._limits.connections_max:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"over {self._limits.connections_max:,} connections")
        else:
            self._expect_within(self._limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End every exchange."""
        self._due_s = None
        if self._timer is not None:
            self._timer.cancel()
        for exchange in (self._answering, *self._pipeline):
            if exchange is not None:
                exchange.cut()
        self.resume_writing()
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        """Parse; requests that are complete begin to be answered meanwhile."""
        self._piece_bytes = len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close_after_answers()  # answered as plain HTTP; what follows is in a protocol nobody agreed on
        except httptools.HttpParserError as error:
            cause = error.__context__
            status = cause.status if isinstance(cause, _Refusal) else HTTPStatus.BAD_REQUEST
            self._on_broken(f"invalid HTTP: {cause or error}", status)
            return
        if self._phase is not _Phase.IDLE:
            self._watch()
        if self._pipeline:
            self._pause_reading()

    def eof_received(self) -> bool:
        """Answer what is complete before closing; what is not is broken."""
        if self._phase is not _Phase.IDLE:
            self._on_broken("the request ended before it was complete")
        self.close_after_answers()
        return self._answering is not None

    def pause_writing(self) -> None:
        """Let senders wait."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """Let senders go on."""
        self.is_write_paused = False
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self._pipeline) >= _PIPELINE_MAX:
            raise _Refusal(HTTPStatus.BAD_REQUEST, "too many pipelined requests")
        self._phase = _Phase.HEADERS
        self._url = b""
        self._headers = []
        self._header_bytes = 0
        self._expects_continue = False

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers after a chunked body are dropped."""
        if self._phase is _Phase.HEADERS:
            name = name.lower()
            if name == b"expect":
                self._expects_continue = value.lower() == b"100-continue"
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin to answer, unless an earlier request is being answered."""
        self._phase = _Phase.BODY
        version = self._parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise _Refusal(HTTPStatus.BAD_REQUEST, f"HTTP/{version} is not spoken here")
        if self._header_bytes + self._piece_bytes > _HEADER_BYTES_MAX:  # a part of the piece may be body
            self._refuse_long_headers()
        path, _, query = _target(self._url)
        scope: Scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": version,
            "method": self._parser.get_method().decode("latin-1"),
            "scheme": "http",
            "path": unquote(path.decode("latin-1")) if b"%" in path else path.decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": self._headers,
            **self._peer,
        }
        keep_alive = version == "1.1" and not self._server.is_draining and self._parser.should_keep_alive()
        exchange = Exchange(self, scope, keep_alive=keep_alive, expects_continue=self._expects_continue)
        self._receiving = exchange
        if self._answering is None:
            self._answer(exchange)
        else:
            self._pipeline.append(exchange)

    def _refuse_long_headers(self) -> None:
        if len(self._url) + sum(len(name) + len(value) for name, value in self._headers) > _HEADER_BYTES_MAX:
            raise _Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, _HEADERS_TOO_LARGE)

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        assert self._receiving is not None, "a body follows headers"
        if self._receiving.take(part):
            self._pause_reading()

    def on_message_complete(self) -> None:
        """End a request."""
        self._phase = _Phase.IDLE
        assert self._receiving is not None, "a message ends after its headers"
        self._receiving.complete()
        self._due_s = None
        if self._answering is None:  # answered before it was complete
            self._rest()

    # What exchanges call.

    def write(self, content: bytes) -> None:
        """Write to the client, if it is still there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(content)

    async def writable(self) -> None:
        """Wait until the client takes more."""
        writer = self.loop.create_future()
        self._writers.append(writer)
        await writer

    def resume_reading(self) -> None:
        """Read on, if reading was paused."""
        if self._is_read_paused and self._transport is not None and not self._transport.is_closing():
            self._is_read_paused = False
            self._transport.resume_reading()

    def answered(self, exchange: Exchange) -> None:
        """Go on after an answer: the next request, the rest of this one's body, or waiting for another."""
        self._answering = None
        if not exchange.keep_alive:
            self._close()
        elif self._pipeline:
            self._answer(self._pipeline.popleft())
        else:
            self.resume_reading()
            if exchange.is_received:
                self._rest()
            else:
                self._expect_within(_LINGER_S)

    def fail(self, exchange: Exchange) -> None:
        """Answer for an application that did not."""
        if exchange.has_started:
            exchange.cut()
            self.abort()
        else:
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")

    # What the server calls.

    def close_after_answers(self) -> None:
        """Say `Connection: close` with the last answer in progress."""
        last = self._pipeline[-1] if self._pipeline else self._answering
        if last is not None:
            last.keep_alive = False

    def close_if_idle(self) -> None:
        """Close, unless a request is being received or answered."""
        if self._answering is None and self._phase is _Phase.IDLE:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Its own.

    def _answer(self, exchange: Exchange) -> None:
        self._answering = exchange
        self._task = self.loop.create_task(exchange.run(self._server.app))

    def _rest(self) -> None:
        """Wait for the next request."""
        if self._phase is _Phase.IDLE:
            self._expect_within(self._limits.keep_alive_s)

    def _watch(self) -> None:
        """Expect the rest of a request that came in part."""
        if self._phase is _Phase.HEADERS:
            self._header_bytes += self._piece_bytes
            if self._header_bytes > _HEADER_BYTES_MAX:
                self._on_broken(_HEADERS_TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif self._header_bytes == self._piece_bytes:  # the first piece
                self._expect_within(self._limits.header_timeout_s)
        elif self._receiving is self._answering:
            self._expect_within(self._limits.body_timeout_s)

    def _expect_within(self, within_s: float) -> None:
        """Call `_on_late` after so long, unless something else is expected by then, or nothing."""
        due_s = self._due_s = self.loop.time() + within_s
        if self._timer is not None:
            if self._timer.when() <= due_s:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(due_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due_s is None:
            return
        if self.loop.time() < self._due_s:
            self._timer = self.loop.call_at(self._due_s, self._look)
        else:
            self._on_late()

    def _on_late(self) -> None:
        if self._phase is _Phase.BODY and self._is_read_paused:  # the application is slow, not the client
            self._expect_within(self._limits.body_timeout_s)
        elif self._phase is _Phase.IDLE:
            self._close()
        elif self._phase is _Phase.BODY and self._answering is None:
            self.abort()  # answered long ago, and the body still comes
        else:
            part = "headers" if self._phase is _Phase.HEADERS else "body"
            self._on_broken(f"the request's {part} did not arrive in time", HTTPStatus.REQUEST_TIMEOUT)

    def _on_broken(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        """Answer for a request that cannot be completed, after the earlier ones."""
        self._due_s = None
        if self._answering is None or (self._answering is self._receiving and self._phase is _Phase.BODY):
            self._refuse(status, reason)
        else:
            self.close_after_answers()
            self._pause_reading()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer in the application's place and close."""
        exchange, self._answering = self._answering, None
        if exchange is not None:
            has_started = exchange.has_started
            exchange.cut()
            if has_started:
                self.abort()
                return
        body = orjson.dumps({"error": message})
        head = b"\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self.write(_STATUS_LINES[status.value] + head + body)
        self._close()

    def _pause_reading(self) -> None:
        if not self._is_read_paused and self._transport is not None and not self._transport.is_closing():
            self._is_read_paused = True
            self._transport.pause_reading()

    def _close(self) -> None:
        self._due_s = None
        if self._transport is not None:
            self._transport.close()


def _target(url: bytes) -> tuple[bytes, bytes, bytes]:
    """Return path, separator and query of a request's target; the origin of an absolute one is dropped."""
    if not url.startswith(b"/"):
        parsed = httptools.parse_url(url)
        return parsed.path or b"/", b"?", parsed.query or b""
    return url.partition(b"?")
