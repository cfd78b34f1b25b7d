"""The edge where the planes become HTTP: one table from error to status, one form of an error's body, one server.

Both HTTP planes use it, so that an error means the same wherever it is met. The server is Uvicorn's httptools protocol on the
plane's own event loop, with what an edge of its own must add: broken HTTP answered as JSON, a bound on connections, on headers
and on the time that headers and bodies take, and a drain that breaks no request. Nothing below the planes knows a status code.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import functools
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import httptools
import orjson
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from gateway.core import errors

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_STATUSES: Final[dict[type[errors.GatewayError], int]] = {  # the nearest class in an error's ancestry counts
    errors.GatewayError: 500,
    errors.Rejected: 400,
    errors.PayloadTooLarge: 413,
    errors.BodyStalled: 408,
    errors.UnsupportedEncoding: 415,
    errors.NotOffered: 501,
    errors.UnknownRoute: 404,
    errors.UnknownVersion: 404,
    errors.UnknownSubject: 404,
    errors.NotValid: 422,
    errors.NotAuthenticated: 401,
    errors.Denied: 403,
    errors.Conflict: 409,
    errors.Busy: 503,
    errors.DeadlineExceeded: 504,
    errors.ModelFault: 500,
    errors.PortFault: 503,
}
_HEADER_BYTES_MAX: Final = 64 * 1024  # of one request's line and headers; the parser itself has no bound
_DRAIN_GRACE_S: Final = 0.5  # of `drain_s`, in which idle connections may still send one request and are told to close
_LINGER_S: Final = 10.0  # for the rest of a body whose answer has left; closing earlier could lose the answer


def status_of(error: errors.GatewayError) -> int:
    """Return the HTTP status of an error."""
    return next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)


def error_body(error: errors.GatewayError) -> bytes:
    """Return the JSON body of an error: `error`, and `hint` where an operator can act."""
    body = {"error": error.message}
    if error.hint:
        body["hint"] = error.hint
    return orjson.dumps(body)


def error_headers(error: errors.GatewayError) -> list[tuple[bytes, bytes]]:
    """Return the headers that belong to an error besides the content's type and length."""
    match error:
        case errors.DeadlineExceeded():
            return []
        case errors.Busy() | errors.LogFull():
            return [(b"retry-after", b"1")]
        case errors.NotAuthenticated():
            return [(b"www-authenticate", b"Bearer")]
        case errors.UnsupportedEncoding():
            return [(b"accept-encoding", b"identity")]
        case _:
            return []


class ClientGone(Exception):
    """The client closed its connection, or was cut off, before its request was complete; there is nobody to answer."""


async def read_body(receive: Receive, *, bytes_max: int) -> bytes:
    """Return a request's whole body.

    Raises:
        PayloadTooLarge: it is over `bytes_max`; the rest is not read.
        ClientGone: the connection ended, or its body stalled and the server has answered 408.
    """
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGone
    body: bytes = message["body"]
    if message["more_body"]:
        pieces, count = [body], len(body)
        while message["more_body"] and count <= bytes_max:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            pieces.append(message["body"])
            count += len(message["body"])
        body = b"".join(pieces)
    if len(body) > bytes_max:
        raise errors.PayloadTooLarge(f"the body is over {bytes_max:,} bytes")
    return body


@dataclass(frozen=True, slots=True)
class Limits:
    """What a connection may take; see `ServingSettings` for the reasons."""

    header_timeout_s: float
    body_timeout_s: float
    keep_alive_s: float
    connections_max: int


class HttpServer:
    """One plane's server on a listening socket that somebody else made."""

    def __init__(self, app: Application, limits: Limits) -> None:
        self._config = Config(
            app=app,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            date_header=False,
            server_header=False,
            lifespan="off",
            ws="none",
            http=HttpToolsProtocol,
            timeout_keep_alive=int(limits.keep_alive_s),
        )
        self._config.load()
        self._limits = limits
        self._state = ServerState()
        self._is_draining = False
        self._emptied = asyncio.Event()
        self._server: asyncio.Server | None = None

    @property
    def is_draining(self) -> bool:
        """Whether the plane is stopping: not ready, and every answer closes its connection."""
        return self._is_draining

    async def start(self, listener: socket.socket) -> None:
        """Accept connections from now on."""
        loop = asyncio.get_running_loop()
        make = functools.partial(_Connection, self._config, self._state, {}, server=self, limits=self._limits)
        self._server = await loop.create_server(make, sock=listener)

    async def drain(self, drain_s: float) -> None:
        """Stop accepting, finish what is in flight, close what is idle; return when no connection is left or time is over."""
        assert self._server is not None, "drained before it was started"
        self._is_draining = True
        loop = asyncio.get_running_loop()
        end_s = loop.time() + drain_s
        self._server.close()
        for connection in list(self._state.connections):
            if isinstance(connection, _Connection):
                connection.close_after_answer()
        await self._until_empty(min(end_s, loop.time() + _DRAIN_GRACE_S))
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._until_empty(end_s)
        for connection in list(self._state.connections):
            connection.transport.abort()

    def connection_closed(self) -> None:
        """Note that a connection is gone."""
        if self._is_draining and not self._state.connections:
            self._emptied.set()

    async def _until_empty(self, end_s: float) -> None:
        if self._state.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(end_s):
                    await self._emptied.wait()


class _Phase(enum.Enum):
    """What of a request is arriving."""

    IDLE = enum.auto()
    HEADERS = enum.auto()
    BODY = enum.auto()


class _Connection(HttpToolsProtocol):
    """Uvicorn's protocol with bounds; see the module's paragraph.

    A request that arrives in one piece sets no timer: the phase is looked at after each piece, when it is over already.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        server: HttpServer,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._http = server
        self._limits = limits
        self._phase = _Phase.IDLE
        self._header_bytes = 0
        self._arrival_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as Uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections_max:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"this worker takes {self._limits.connections_max:,} connections")
        else:
            self._arrival_timer = self.loop.call_later(self._limits.header_timeout_s, self._on_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)
        self._http.connection_closed()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end_after_answer()  # answered as plain HTTP; what follows is in a protocol nobody agreed on
        except httptools.HttpParserError as error:
            self._on_broken(str(error) or type(error).__name__)
        else:
            self._watch(len(data))

    def on_message_begin(self) -> None:
        self._phase = _Phase.HEADERS
        self._header_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _Phase.HEADERS:  # trailers after a chunked body are dropped
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        super().on_headers_complete()
        if self._http.is_draining:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._phase = _Phase.IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._phase is _Phase.BODY and not self.pipeline:
            self._stop_timer()
            self._arrival_timer = self.loop.call_later(_LINGER_S, self.transport.abort)

    def close_after_answer(self) -> None:
        """Say `Connection: close` with the answer in progress."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False

    def _watch(self, count: int) -> None:
        if self._phase is _Phase.IDLE:
            if self._arrival_timer is not None:
                self._stop_timer()
            return
        if self._phase is _Phase.HEADERS:
            self._header_bytes += count
            if self._header_bytes > _HEADER_BYTES_MAX:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"headers are over {_HEADER_BYTES_MAX:,} bytes")
            elif self._arrival_timer is None:
                self._arrival_timer = self.loop.call_later(self._limits.header_timeout_s, self._on_late)
        elif not self.cycle.response_complete:
            self._stop_timer()
            self._arrival_timer = self.loop.call_later(self._limits.body_timeout_s, self._on_late)

    def _on_late(self) -> None:
        self._arrival_timer = None
        if self._phase is _Phase.BODY and self.flow.read_paused:  # the application is slow, not the client
            self._arrival_timer = self.loop.call_later(self._limits.body_timeout_s, self._on_late)
        elif self.pipeline or self._phase is _Phase.IDLE:
            self.transport.close()  # nothing was asked, or an earlier answer would be overtaken
        else:
            part = "headers" if self._phase is _Phase.HEADERS else "body"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, f"the request's {part} did not arrive in time")

    def _on_broken(self, reason: str) -> None:
        if self._phase is not _Phase.BODY and self.cycle is not None and not self.cycle.response_complete:
            self._end_after_answer()  # an earlier request's answer goes first; what broke was pipelined behind it
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, f"invalid HTTP: {reason}")

    def _end_after_answer(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            self.flow.pause_reading()
        else:
            self.transport.close()

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """Answer in the application's place and close."""
        self._stop_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            has_started = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if has_started:
                self.transport.close()
                return
        body = orjson.dumps({"error": message})
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._arrival_timer is not None:
            self._arrival_timer.cancel()
            self._arrival_timer = None
