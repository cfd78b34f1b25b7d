"""One HTTP/1.1 connection: bytes → exchanges, in order, and their answers → bytes.

Parsing is llhttp's (through httptools). What is here is what an edge of its own must add: broken HTTP answered as JSON, bounds on
headers, framing, pipelining and the time that headers and bodies take, answers in one write. A request that arrives in one piece
sets no timer: each connection has one that looks, when it fires, whether what it waited for has come.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from http import HTTPStatus
from typing import Any, Final, Protocol, cast

import httptools

from gateway.ports.clock import Clock
from gateway.web.deadline import Deadline
from gateway.web.exchange import Exchange, Handler, Target, last_words
from gateway.web.groups import Groups
from gateway.web.head import HEADER_BYTES_MAX, HEADERS_TOO_LARGE, Refusal, head_without_upgrade, refuse_by_head, target_of
from gateway.web.limits import BYTES_PER_S_MIN, Limits
from gateway.web.unread import Unread

_FRAMING_BYTES_MAX: Final = HEADER_BYTES_MAX  # of chunk sizes, extensions and trailers, beyond a byte for each of the body
_READ_HERE: Final = frozenset({b"expect", b"host", b"transfer-encoding"})
_PIPELINE_MAX: Final = 32  # requests behind the one being answered; nobody needs more, and each costs memory
_LINGER_S: Final = 10.0  # for the rest of a body whose answer has left; closing earlier could lose the answer


class Owner(Protocol):
    """The server of a connection."""

    handler: Handler
    limits: Limits
    clock: Clock
    connections: set[Connection]
    groups: Groups
    is_draining: bool

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""


class _Phase(enum.Enum):
    """What of a request is arriving."""

    IDLE = enum.auto()
    HEADERS = enum.auto()
    BODY = enum.auto()


_IDLE, _HEADERS, _BODY = _Phase


class Connection(asyncio.Protocol):
    """See the module's paragraph. Requests behind the one being answered wait, and the connection is not read meanwhile."""

    def __init__(self, server: Owner, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_write_paused = False
        self._server = server
        self._limits = server.limits
        self._monotonic_s = server.clock.monotonic_s
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self.peer: dict[str, Any] = {}
        self._is_read_paused = False
        self._phase = _IDLE
        self._url = b""
        self._target_url = b""  # as sent; mostly the same for all requests of a connection
        self._target = Target(b"/", b"", "/")
        self._headers: list[tuple[bytes, bytes]] = []
        self._expects_continue = False
        self._coding = b""
        self._hosts = self._header_bytes = self._piece_bytes = 0
        self._wire_bytes = 0  # received since the piece that ended the headers
        self._body_bytes = 0  # the body's own among them, and among that piece
        self._refusal: tuple[HTTPStatus, str] | None = None  # to be answered after the requests before it
        self._receiving: Exchange | None = None
        self._answering: Exchange | None = None
        self._pipeline: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._deadline = Deadline(loop, self._on_late)
        self._unread = Unread(loop, server.limits)
        self._body_due_s: float | None = None  # for the whole body; grows with what has come and while reading is paused
        self._paused_s = 0.0

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or refuse one connection too many."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own class, with the same methods
        client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.peer = {"client": tuple(client[:2]) if client else None, "server": tuple(server[:2]) if server else None}
        self._server.connections.add(self)
        if len(self._server.connections) > self._limits.connections_max:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"over {self._limits.connections_max:,} connections")
        else:
            self._deadline.expect_within(self._limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """End every exchange."""
        self._deadline.close()
        for exchange in (self._answering, *self._pipeline):
            if exchange is not None:
                exchange.cut()
        self.resume_writing()
        self._unread.forgive()
        self._server.forget(self)

    def data_received(self, data: bytes) -> None:
        """Parse; requests that are complete begin to be answered meanwhile."""
        if self._refusal is not None:
            return
        self._piece_bytes = len(data)
        try:
            while True:
                try:
                    self._parser.feed_data(data)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    data = head_without_upgrade(self._parser, self._url, self._headers) + data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            status = cause.status if isinstance(cause, Refusal) else HTTPStatus.BAD_REQUEST
            self._on_broken(f"invalid HTTP: {cause or error}", status)
            return
        if self._phase is not _IDLE:
            self._watch()
        if self._pipeline:
            self._pause_reading()

    def eof_received(self) -> bool:
        """Answer what is complete before closing; what is not is broken.

        Who ends its side with the request only has no more of them. Who does it later, while the request waits its turn, gave up.
        """
        if self._answering is not None and self._answering.leave():
            return False
        if self._phase is not _IDLE:
            self._on_broken("the request ended before it was complete")
        if self._refusal is None:
            self.close_after_answers()
        return self._answering is not None

    def pause_writing(self) -> None:
        """Let senders wait, but not for a client that never reads."""
        self.is_write_paused = True
        if self._transport is not None:
            self._unread.expect(self._transport)

    def resume_writing(self) -> None:
        """Let senders go on."""
        self.is_write_paused = False
        self._unread.forgive()
        if self._transport is not None and self._transport.is_closing():
            self._unread.expect(self._transport)
        self._unread.release()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self._pipeline) >= _PIPELINE_MAX:
            raise Refusal(HTTPStatus.BAD_REQUEST, "too many pipelined requests")
        self._phase = _HEADERS
        self._url = b""
        self._headers = []
        self._header_bytes = self._hosts = 0
        self._body_due_s = None
        self._expects_continue = False
        self._coding = b""

    def on_url(self, url: bytes) -> None:
        """Take a part of the target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; trailers after a chunked body are dropped."""
        if self._phase is _HEADERS:
            name = name.lower()
            if name in _READ_HERE:
                self._read_header(name, value)
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Begin to answer, unless an earlier request is being answered."""
        if self._parser.should_upgrade():  # the parser skips the body, and `data_received` lets it parse the request again
            if self._parser.get_method() == b"CONNECT":
                raise Refusal(HTTPStatus.BAD_REQUEST, "no tunnel is offered here")
            self._receiving = None
            return
        version = self._parser.get_http_version()
        head_bytes = self._header_bytes + self._piece_bytes  # or a part of the piece is body
        if version != "1.1" or self._hosts != 1 or self._coding or head_bytes > HEADER_BYTES_MAX:  # few are worth a closer look
            refuse_by_head(version, self._url, self._headers, hosts=self._hosts, coding=self._coding)
        if self._url != self._target_url:
            self._target = target_of(self._url)
            self._target_url = self._url
        parser = self._parser
        exchange = Exchange(
            self,
            parser.get_method().decode("latin-1"),
            self._target,
            version,
            self._headers,
            version == "1.1" and not self._server.is_draining and parser.should_keep_alive(),
            self._expects_continue,
        )
        self._phase = _BODY
        self._wire_bytes, self._body_bytes = -self._piece_bytes, 0  # where in this piece the body begins is not known
        self._receiving = exchange
        if self._answering is None:
            self._answer(exchange)
        else:
            self._pipeline.append(exchange)

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        assert self._receiving is not None, "a body follows headers"
        self._body_bytes += len(part)
        if self._receiving.take(part):
            self._pause_reading()

    def on_message_complete(self) -> None:
        """End a request."""
        self._phase = _IDLE
        if self._receiving is None:  # it offers an upgrade, and is parsed again
            return
        self._receiving.complete(self._monotonic_s())
        self._deadline.due_s = None
        if self._answering is None:  # answered before it was complete
            self._rest()

    # What its group calls.

    def begin(self) -> None:
        """Let the handler answer, unless the request was refused meanwhile."""
        if self._answering is not None:
            self._task = self.loop.create_task(self._answering.run(self._server.handler))

    # What exchanges call.

    def write(self, content: bytes) -> None:
        """Write to the client, if it is still there."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(content)

    async def writable(self) -> None:
        """Wait until the client takes more."""
        await self._unread.taken()

    def resume_reading(self) -> None:
        """Read on, if reading was paused."""
        if self._is_read_paused and self._transport is not None and not self._transport.is_closing():
            self._is_read_paused = False
            self._transport.resume_reading()
            if self._body_due_s is not None:
                self._body_due_s += self.loop.time() - self._paused_s
            if self._phase is _BODY and self._receiving is self._answering:
                self._expect_body()

    def answered(self, exchange: Exchange) -> None:
        """Go on after an answer: the next request, the rest of this one's body, or waiting for another."""
        self._answering = None
        if not exchange.keep_alive:
            self._close()
        elif self._pipeline:
            following = self._pipeline.popleft()
            self._answer(following)
            if not following.is_received:
                self._expect_body()
        elif self._refusal is not None:
            self._refuse(*self._refusal)
        else:
            self.resume_reading()
            if exchange.is_received:
                self._rest()
            else:
                self._deadline.expect_within(_LINGER_S)

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
        if self._answering is None and self._phase is _IDLE:
            self._close()

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # Its own.

    def _read_header(self, name: bytes, value: bytes) -> None:
        """Note what decides on a request's framing, or whether it is one."""
        if name == b"expect":
            self._expects_continue = value.lower() == b"100-continue"
        elif name == b"host":
            self._hosts += 1
        else:
            self._coding += value.strip().lower() + b","

    def _answer(self, exchange: Exchange) -> None:
        self._answering = exchange
        self._server.groups.add(self)

    def _rest(self) -> None:
        """Wait for the next request."""
        if self._phase is _IDLE:
            self._deadline.expect_within(self._limits.keep_alive_s)

    def _watch(self) -> None:
        """Expect the rest of a request that came in part."""
        if self._phase is _HEADERS:
            self._header_bytes += self._piece_bytes
            if self._header_bytes > HEADER_BYTES_MAX:
                self._on_broken(HEADERS_TOO_LARGE, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif self._header_bytes == self._piece_bytes:  # the first piece
                self._deadline.expect_within(self._limits.header_timeout_s)
            return
        self._wire_bytes += self._piece_bytes
        if self._wire_bytes - 2 * self._body_bytes > _FRAMING_BYTES_MAX:
            reason = f"chunk extensions and trailers are over {_FRAMING_BYTES_MAX:,} bytes"
            self._on_broken(reason, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._receiving is self._answering:
            self._expect_body(self._piece_bytes)

    def _expect_body(self, taken_bytes: int = 0) -> None:
        """Expect the next piece of the body soon, and the whole of it at no less than the least pace."""
        now_s, timeout_s = self.loop.time(), self._limits.body_timeout_s
        due_s = now_s + timeout_s if self._body_due_s is None else self._body_due_s
        self._body_due_s = due_s + taken_bytes / BYTES_PER_S_MIN
        self._deadline.expect_within(min(timeout_s, self._body_due_s - now_s))

    def _on_late(self) -> None:
        if self._phase is not _IDLE and self._is_read_paused:  # the application is slow, not the client
            self._deadline.expect_within(self._limits.body_timeout_s)
        elif self._phase is _IDLE:
            self._close()
        elif self._phase is _BODY and self._answering is None:
            self.abort()  # answered long ago, and the body still comes
        else:
            part = "headers" if self._phase is _HEADERS else "body"
            self._on_broken(f"the request's {part} did not arrive in time", HTTPStatus.REQUEST_TIMEOUT)

    def _on_broken(self, reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        """Answer for a request that cannot be completed, after the earlier ones."""
        self._deadline.due_s = None
        is_body = self._phase is _BODY
        if self._answering is None and is_body:
            self.abort()  # it has its answer
        elif self._answering is None or (is_body and self._answering is self._receiving):
            self._refuse(status, reason)
        else:
            if is_body:
                self._pipeline.pop()
            self._refusal = (status, reason)
            self._pause_reading()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer in the application's place and close."""
        exchange, self._answering = self._answering, None
        if exchange is not None:
            exchange.cut()
            if exchange.has_started:
                self.abort()
                return
        self.write(last_words(status, message))
        self._close()

    def _pause_reading(self) -> None:
        if not self._is_read_paused and self._transport is not None and not self._transport.is_closing():
            self._is_read_paused = True
            self._paused_s = self.loop.time()
            self._transport.pause_reading()

    def _close(self) -> None:
        self._deadline.due_s = None
        if self._transport is not None:
            self._transport.close()
            self._unread.expect(self._transport)  # closing waits for what is not yet sent
