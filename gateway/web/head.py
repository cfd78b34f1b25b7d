"""A request's line and headers: what they name, and what is refused by them although it is well formed.

What HTTP/1.1 offers and this server does not speak is refused or, where it may be, ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import httptools

from gateway.web.exchange import Target

HEADER_BYTES_MAX: Final = 64 * 1024  # of one request's line and headers; the parser itself has no bound
HEADERS_TOO_LARGE: Final = f"headers are over {HEADER_BYTES_MAX:,} bytes"
_KEPT_MAX: Final = 1_024  # targets, of callers who name one model after the other
_KEPT_BYTES_MAX: Final = 512  # of one that is kept
Fields = Sequence[tuple[bytes, bytes]]


class Refusal(Exception):
    """A request that is refused while it is parsed."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def refuse_by_head(version: str, url: bytes, headers: Fields, *, hosts: int, coding: bytes) -> None:
    """Refuse a request whose line and headers are well formed and not answered all the same.

    Args:
        version: Of HTTP.
        hosts: How many Host headers there are.
        coding: The transfer codings, each followed by a comma.

    Raises:
        Refusal: it is.
    """
    if version not in ("1.1", "1.0"):
        raise Refusal(HTTPStatus.BAD_REQUEST, f"HTTP/{version} is not spoken here")
    if hosts != 1 and (hosts or version == "1.1"):
        raise Refusal(HTTPStatus.BAD_REQUEST, "expected one Host header")
    if coding and version == "1.0":
        raise Refusal(HTTPStatus.BAD_REQUEST, "HTTP/1.0 has no transfer coding")
    if coding not in (b"", b"chunked,"):
        raise Refusal(HTTPStatus.NOT_IMPLEMENTED, "the only transfer coding read here is chunked")
    if len(url) + sum(len(name) + len(value) for name, value in headers) > HEADER_BYTES_MAX:
        raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, HEADERS_TOO_LARGE)


def head_without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Fields) -> bytes:
    """Return the head just parsed as sent but for its offer of another protocol, which a server may ignore (RFC 9110, 7.8)."""
    lines = [name + b": " + value for name, value in headers if name != b"upgrade"]
    return b"\r\n".join([parser.get_method() + b" " + url + b" HTTP/" + parser.get_http_version().encode(), *lines]) + b"\r\n\r\n"


def target_of(url: bytes) -> Target:
    """Return what a request line names; the origin of an absolute one is dropped.

    Raises:
        Refusal: its path is no text.
    """
    return _kept_target(url) if len(url) <= _KEPT_BYTES_MAX else _target(url)


def _target(url: bytes) -> Target:
    if url.startswith(b"/"):
        path, _, query = url.partition(b"?")
    else:
        parsed = httptools.parse_url(url)
        path, query = parsed.path or b"/", parsed.query or b""
    return Target(path, query, _unquoted(path))


_kept_target = lru_cache(_KEPT_MAX)(_target)


def _unquoted(path: bytes) -> str:
    """Return a path as text; two that are not the same bytes never become the same text, as replacing would make them."""
    try:
        text = path.decode("ascii")
        return unquote(text, errors="strict") if "%" in text else text
    except UnicodeDecodeError:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the path is not percent-encoded UTF-8") from None
