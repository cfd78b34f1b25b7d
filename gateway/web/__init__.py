"""The edge where the planes become HTTP: one table from error to status, one form of an error's body, one server.

Both HTTP planes use it, so that an error means the same wherever it is met, and gRPC has its own column beside. Nothing below the
planes knows a status code.
"""

from __future__ import annotations

import math
from typing import Final

import orjson

from gateway.core import errors
from gateway.web.asgi import Application, Message, Receive, Scope, Send, asgi, read_body
from gateway.web.certificates import Certificate, CertificateFiles, read_certificate
from gateway.web.exchange import ClientGone, Exchange, Handler
from gateway.web.limits import Limits
from gateway.web.server import HttpServer

__all__ = [
    "Application",
    "Certificate",
    "CertificateFiles",
    "ClientGone",
    "Exchange",
    "Handler",
    "HttpServer",
    "Limits",
    "Message",
    "Receive",
    "Scope",
    "Send",
    "asgi",
    "code_of",
    "error_body",
    "error_headers",
    "read_body",
    "read_certificate",
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
    errors.PoisonousInput: 422,
    errors.NotAuthenticated: 401,
    errors.Denied: 403,
    errors.LimitExceeded: 429,
    errors.Conflict: 409,
    errors.Busy: 503,
    errors.DeadlineExceeded: 504,
    errors.ModelFault: 500,
    errors.PortFault: 503,
}

_CODES: Final[dict[type[errors.GatewayError], str]] = {  # gRPC's names, found in the same way
    errors.GatewayError: "INTERNAL",
    errors.Rejected: "INVALID_ARGUMENT",
    errors.PayloadTooLarge: "RESOURCE_EXHAUSTED",
    errors.NotOffered: "UNIMPLEMENTED",
    errors.UnknownRoute: "NOT_FOUND",
    errors.UnknownVersion: "NOT_FOUND",
    errors.UnknownSubject: "NOT_FOUND",
    errors.NotAuthenticated: "UNAUTHENTICATED",
    errors.Denied: "PERMISSION_DENIED",
    errors.LimitExceeded: "RESOURCE_EXHAUSTED",
    errors.Conflict: "FAILED_PRECONDITION",
    errors.Busy: "UNAVAILABLE",
    errors.PoolSaturated: "RESOURCE_EXHAUSTED",  # and not UNAVAILABLE, at which clients ask again at once by themselves
    errors.Overloaded: "RESOURCE_EXHAUSTED",
    errors.DeadlineExceeded: "DEADLINE_EXCEEDED",
    errors.ModelFault: "INTERNAL",
    errors.PortFault: "UNAVAILABLE",
}


def status_of(error: errors.GatewayError) -> int:
    """Return the HTTP status of an error."""
    return next(_STATUSES[kind] for kind in type(error).__mro__ if kind in _STATUSES)


def code_of(error: errors.GatewayError) -> str:
    """Return the name of an error's gRPC status code."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


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
        case errors.Busy() | errors.LimitExceeded():
            return [(b"retry-after", b"%d" % max(math.ceil(error.retry_after_s), 1))]
        case errors.LogFull():
            return [(b"retry-after", b"1")]
        case errors.NotAuthenticated():
            return [(b"www-authenticate", b"Bearer")]
        case errors.UnsupportedEncoding():
            return [(b"accept-encoding", b"gzip, deflate")]
        case _:
            return []
