"""An ASGI application as a handler of exchanges, for whatever is not worth the gateway's own speed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from gateway.core.errors import PayloadTooLarge
from gateway.web.exchange import ClientGone, Exchange, Handler

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def asgi(app: Application) -> Handler:
    """Return a handler that lets an ASGI application answer."""

    async def handle(exchange: Exchange) -> None:
        adapted = _Adapted(exchange)
        await app(_scope(exchange), adapted.receive, adapted.send)

    return handle


def _scope(exchange: Exchange) -> Scope:
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": exchange.version,
        "method": exchange.method,
        "scheme": "http",
        "path": exchange.target.text,
        "raw_path": exchange.target.path,
        "query_string": exchange.target.query,
        "root_path": "",
        "headers": exchange.headers,
        **exchange.connection.peer,
    }


class _Adapted:
    """The `receive` and `send` of one exchange."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._start: Message | None = None
        self._is_delivered = False

    async def receive(self) -> Message:
        """Return the next part of the body, or that the client is gone or answered."""
        if self._is_delivered:
            await self._exchange.over()
            return {"type": "http.disconnect"}
        try:
            body = await self._exchange.read()
        except ClientGone:
            return {"type": "http.disconnect"}
        self._is_delivered = self._exchange.is_read
        return {"type": "http.request", "body": body or b"", "more_body": not self._is_delivered}

    async def send(self, message: Message) -> None:
        """Write a part of the answer; one that comes whole leaves with its head in one write."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, more_body = message.get("body", b""), message.get("more_body", False)
        start, self._start = self._start, None
        if start is not None and not more_body:
            await self._exchange.answer(start["status"], start["headers"], body)
            return
        if start is not None:
            await self._exchange.begin(start["status"], start["headers"])
        assert self._exchange.has_started, "an answer starts with its status"
        await self._exchange.write(body, is_last=not more_body)


async def read_body(receive: Receive, *, bytes_max: int) -> bytes:
    """Return a request's whole body; raises as `Exchange.body` does."""
    pieces: list[bytes] = []
    count = 0
    more_body = True
    while more_body and count <= bytes_max:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        pieces.append(message["body"])
        count += len(message["body"])
        more_body = message["more_body"]
    if count > bytes_max:
        raise PayloadTooLarge(f"the body is over {bytes_max:,} bytes")
    return b"".join(pieces)
