"""A small keep-alive HTTP/1.1 client: one request in flight a connection, answers with a content length only.

The load of the demonstration shares its cores with the gateway, so the client must be cheap: this one costs a tenth of a general
client's time a request. It knows nothing of redirects, encodings or chunks, which the gateway's answers do not use.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, cast

HEAD_END: Final = b"\r\n\r\n"
ANSWER_TIMEOUT_S: Final = 15.0  # three times a route's default deadline


class Broken(ConnectionError):
    """The connection ended before its answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body."""

    status: int
    body: bytes


class Connection(asyncio.Protocol):
    """One connection; `ask` opens it again when the gateway closed it between two requests."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiting: asyncio.Future[Answer] | None = None

    async def ask(self, request: bytes) -> Answer:
        """Send one whole request and return its answer.

        Raises:
            Broken: the connection ended first.
            TimeoutError: no answer came within `ANSWER_TIMEOUT_S`.
        """
        assert self._waiting is None, "one request at a time"
        loop = asyncio.get_running_loop()
        if self._transport is None:
            await loop.create_connection(lambda: self, *self._address)
        assert self._transport is not None
        self._waiting = loop.create_future()
        self._transport.write(request)
        try:
            return await asyncio.wait_for(self._waiting, ANSWER_TIMEOUT_S)
        finally:
            self._waiting = None

    def close(self) -> None:
        """Close the connection."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with an empty buffer."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._received.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that no answer comes."""
        self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(Broken(str(exc or "closed")))

    def data_received(self, data: bytes) -> None:
        """Hand over the answer once it is whole."""
        self._received += data
        head_end = self._received.find(HEAD_END)
        if head_end < 0:
            return
        head = bytes(self._received[:head_end]).lower()
        body_start = head_end + len(HEAD_END)
        body_end = body_start + _content_length(head)
        if len(self._received) < body_end:
            return
        answer = Answer(int(head[9:12]), bytes(self._received[body_start:body_end]))
        del self._received[:body_end]
        if b"connection: close" in head and self._transport is not None:
            self._transport.close()
            self._transport = None
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


def post(path: str, body: bytes, *, host: str, headers: str = "") -> bytes:
    """Return the bytes of a POST with a JSON body.

    Args:
        headers: More header lines, each ended by CRLF.
    """
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("latin-1") + body


def _content_length(head: bytes) -> int:
    at = head.find(b"content-length:")
    if at < 0:
        return 0
    end = head.find(b"\r\n", at)
    return int(head[at + 15 : end if end >= 0 else len(head)])
