"""The edge where the planes become HTTP: one table from error to status, one form of an error's body, one server.

Both HTTP planes use it, so that an error means the same wherever it is met. Nothing below the planes knows a status code.
"""

from __future__ import annotations

from typing import Final

import orjson

from gateway.core import errors
from gateway.web.connection import Limits
from gateway.web.exchange import Application, Message, Receive, Scope, Send
from gateway.web.server import HttpServer

__all__ = [
    "Application",
    "ClientGone",
    "HttpServer",
    "Limits",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "error_body",
    "error_headers",
    "read_body",
    "status_of",
]

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
