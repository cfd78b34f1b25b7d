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
_DEFLATE: Final = b"deflate"
_PLAIN: Final = frozenset({b"", b"identity"})
_MEMBERS_MAX: Final = 10_000  # of gzip; those of 64 KiB, as some write it, hold 640 MB. An empty one takes 20 bytes, and 4 µs
_PIECE_BYTES: Final = 16 * 1024  # read at first of a member
_ON_LOOP_BYTES: Final = 64 * 1024  # of either form; 0.3 ms to expand, 0.6 ms to compress
WORTH_BYTES: Final = 1024  # of an answer; a smaller one travels in one packet anyway
VARY: Final = (b"vary", b"accept-encoding")  # of every answer that somebody gets compressed
_LEVEL: Final = 1  # JSON of numbers halves in 10 ms a MB; level 6 takes seven times as long for another twelfth
_ACCEPTED_LENGTH_MAX: Final = 200  # of `Accept-Encoding`; longer ones are not read
_ACCEPTED_MAX: Final = 256  # kept choices


def refuse_other_encoding(encoding: bytes) -> None:
    """Raise `UnsupportedEncoding` for a value of `Content-Encoding` that is not read here."""
    if _named(encoding) not in _WRAPPERS and _named(encoding) not in _PLAIN:
        raise UnsupportedEncoding(f"content encoding {encoding.decode('latin-1')[:40]!r} is not read here")


async def decompressed(body: bytes, encoding: bytes, bytes_max: int) -> bytes:
    """Return what a body expands to, of all its members where there are several, as gzip may have.

    Args:
        encoding: The value of `Content-Encoding`, one that is read here.

    Raises:
        MalformedRequest: the body is not of that encoding, cut off, followed by something, or of too many members.
        PayloadTooLarge: it expands to more than `bytes_max`.
    """
    encoding = _named(encoding)
    if encoding in _PLAIN:
        return body
    expansion = _Expansion(body, encoding)
    try:
        is_large = len(body) > _ON_LOOP_BYTES
        if is_large or not expansion.is_done(min(_ON_LOOP_BYTES, bytes_max + 1), members_max=1):
            await asyncio.to_thread(expansion.is_done, bytes_max + 1, members_max=_MEMBERS_MAX)
    except zlib.error as error:
        raise MalformedRequest(f"the body is not {encoding.decode()}: {error}") from None
    if expansion.count > bytes_max:
        raise PayloadTooLarge(f"the body expands to over {bytes_max:,} bytes")
    return b"".join(expansion.parts)


async def compressed(body: bytes, accepted: bytes) -> tuple[bytes, bytes]:
    """Return a body of at least `WORTH_BYTES` as a caller would rather have it, and the encoding, which is empty for none.

    Args:
        accepted: The value of `Accept-Encoding`.
    """
    if len(accepted) > _ACCEPTED_LENGTH_MAX or not (encoding := chosen_encoding(accepted)):
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


class _Expansion:
    """A body on its way to what it expands to.

    Attributes:
        parts, count: What it expanded to so far, and the bytes of that.
    """

    def __init__(self, body: bytes, encoding: bytes) -> None:
        self.parts: list[bytes] = []
        self.count = 0
        self._rest = memoryview(body)
        self._encoding = encoding
        self._members = 0
        self._begin_member()

    def is_done(self, count_max: int, *, members_max: int) -> bool:
        """Expand up to so many bytes and members in all; return whether that was everything.

        Raises:
            MalformedRequest, zlib.error: it is not well formed, or has more members than any that is asked for here.
        """
        while self.count < count_max:
            if self._stream.eof:
                if not self._rest:
                    return True
                if self._encoding == _DEFLATE:
                    raise MalformedRequest("bytes follow the end of the body's deflate")
                if self._members == _MEMBERS_MAX:
                    raise MalformedRequest(f"the body has over {_MEMBERS_MAX:,} members of gzip")
                if self._members == members_max:
                    return False
                self._begin_member()
            self._expand(count_max)
        return False

    def _begin_member(self) -> None:
        self._members += 1
        self._stream = zlib.decompressobj(_WRAPPERS[self._encoding])
        self._piece_bytes = _PIECE_BYTES

    def _expand(self, count_max: int) -> None:
        """Expand one piece: zlib copies what it did not use, so a piece is no larger than what the member had before."""
        stream, piece = self._stream, self._rest[: self._piece_bytes]
        part = stream.decompress(piece, count_max - self.count)
        if not part and not piece:
            raise MalformedRequest(f"the body's {self._encoding.decode()} is cut off")
        self._rest = self._rest[len(piece) - len(stream.unconsumed_tail) - len(stream.unused_data) :]
        self._piece_bytes *= 2
        self.parts.append(part)
        self.count += len(part)


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
