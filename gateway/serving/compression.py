"""Compressed bodies, both ways: gzip, and deflate in its zlib wrapper.

What a body expands to is bounded before it is in memory. Little is done on the event loop, the rest in a thread, which zlib lets
run beside it. Answers are compressed for those who ask, when it is worth it.
"""

from __future__ import annotations

import asyncio
import functools
import zlib
from collections.abc import Mapping
from typing import Final

from gateway.core.errors import MalformedRequest, PayloadTooLarge, UnsupportedEncoding

_WRAPPERS: Final[Mapping[bytes, int]] = {b"gzip": 31, b"x-gzip": 31, b"deflate": 15}  # as zlib's `wbits` names them
_PLAIN: Final = frozenset({b"", b"identity"})
_ON_LOOP_BYTES: Final = 64 * 1024  # uncompressed; 0.3 ms to expand, 0.6 ms to compress
_WORTH_BYTES: Final = 1024  # of an answer; a smaller one travels in one packet anyway
_LEVEL: Final = 1  # JSON of numbers halves in 10 ms a MB; level 6 takes seven times as long for another twelfth
_ACCEPTED_LENGTH_MAX: Final = 200  # of `Accept-Encoding`; longer ones are not read
_ACCEPTED_MAX: Final = 256  # kept choices


def refuse_other_encoding(encoding: bytes) -> None:
    """Raise `UnsupportedEncoding` for a value of `Content-Encoding` that is not read here."""
    if _named(encoding) not in _WRAPPERS and _named(encoding) not in _PLAIN:
        raise UnsupportedEncoding(f"content encoding {encoding.decode('latin-1')[:40]!r} is not read here")


async def decompressed(body: bytes, encoding: bytes, bytes_max: int) -> bytes:
    """Return what a body expands to.

    Args:
        encoding: The value of `Content-Encoding`, one that is read here.

    Raises:
        MalformedRequest: the body is not of that encoding, cut off, or followed by something.
        PayloadTooLarge: it expands to more than `bytes_max`.
    """
    encoding = _named(encoding)
    if encoding in _PLAIN:
        return body
    stream = zlib.decompressobj(_WRAPPERS[encoding])
    try:
        expanded = stream.decompress(body, min(_ON_LOOP_BYTES, bytes_max + 1))
        if not stream.eof and _ON_LOOP_BYTES == len(expanded) <= bytes_max:
            more = bytes_max + 1 - len(expanded)
            expanded += await asyncio.to_thread(stream.decompress, stream.unconsumed_tail, more)
    except zlib.error as error:
        raise MalformedRequest(f"the body is not {encoding.decode()}: {error}") from None
    if len(expanded) > bytes_max:
        raise PayloadTooLarge(f"the body expands to over {bytes_max:,} bytes")
    if not stream.eof:
        raise MalformedRequest(f"the body's {encoding.decode()} is cut off")
    if stream.unused_data:
        raise MalformedRequest(f"bytes follow the end of the body's {encoding.decode()}")
    return expanded


async def compressed(body: bytes, accepted: bytes) -> tuple[bytes, bytes]:
    """Return a body as a caller would rather have it, and the encoding, which is empty for the body as it is.

    Args:
        accepted: The value of `Accept-Encoding`.
    """
    if len(body) < _WORTH_BYTES or len(accepted) > _ACCEPTED_LENGTH_MAX or not (encoding := chosen_encoding(accepted)):
        return body, b""
    if len(body) <= _ON_LOOP_BYTES:
        return _compressed(body, encoding), encoding
    return await asyncio.to_thread(_compressed, body, encoding), encoding


@functools.lru_cache(_ACCEPTED_MAX)
def chosen_encoding(accepted: bytes) -> bytes:
    """Return the encoding with the highest weight, gzip before deflate; empty for none, which counts only where it is named."""
    weights = {b"gzip": 0.0, b"deflate": 0.0, b"identity": 0.0}
    named = {}
    for item in accepted.lower().split(b","):
        name, _, parameter = item.partition(b";")
        named[name.strip()] = _weight(parameter)
    if (rest := named.get(b"*")) is not None:
        weights = dict.fromkeys(weights, rest)
    weights |= {name: weight for name, weight in named.items() if name in weights}
    best = max(weights, key=lambda name: weights[name])
    return b"" if best == b"identity" or not weights[best] else best


def _named(encoding: bytes) -> bytes:
    return encoding.strip().lower()


def _weight(parameter: bytes) -> float:
    name, _, value = parameter.partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def _compressed(body: bytes, encoding: bytes) -> bytes:
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WRAPPERS[encoding])
    return stream.compress(body) + stream.flush()
