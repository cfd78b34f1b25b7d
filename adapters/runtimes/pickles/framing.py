"""Tensors and small JSON over a blocking stream socket: the same code on both ends, whatever their versions of Python and NumPy.

A message is its length, its kind, and a body. Tensors follow one another: a head of four bytes and a length, the dimensions,
then the raw elements, each tensor at a multiple of 16 bytes so that arrays can be used where they lie. BYTES are the lengths
of all items, then the items. The reader takes nothing on trust: lengths are bounded before memory is, and must agree.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

TENSORS, JSON, BLOB = 0, 1, 2
DIMENSIONS_MAX = 32  # as of any tensor (`gateway/core/models.py`, which is not there in the other process)
_HEAD = struct.Struct("<QB")  # of a message: length of the body, kind
_TENSOR = struct.Struct("<BBHIQ")  # datatype, dimensions, nothing, nothing, bytes of the elements
_ALIGNED = 16
_DTYPES = [np.dtype(name) for name in ("?", "u1", "<u2", "<u4", "<u8", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8")]
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}
_BYTES = len(_DTYPES)  # the code of items of any length
_LENGTH = np.dtype("<u4")
_AT_ONCE = 65_536  # bytes of a message that are copied together: one copy costs less than one more call


class Broken(Exception):
    """The other end is gone, or what came is no message; the connection is of no more use."""


class Late(Exception):
    """The deadline passed."""


class TooLarge(Exception):
    """The message is over the bound; nothing of it was sent."""


class Channel:
    """One end of the connection."""

    def __init__(self, connection: socket.socket, bytes_max: int) -> None:
        self._connection = connection
        self._bytes_max = bytes_max
        self._early = bytearray()  # came before it was asked for
        self._room = bytearray(_AT_ONCE)  # what comes is read into this first
        room = connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._taken_max = min(_AT_ONCE, room // 4)  # of a message that an empty connection takes, with what the kernel adds to it

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._connection.fileno()

    def send_at_once(self, kind: int, parts: Iterable[Any]) -> bool:
        """Send a message on a connection on which nothing is under way; return whether it is small enough for that.

        Never blocks.

        Raises:
            Broken: the other end is gone.
        """
        views = [memoryview(part).cast("B") for part in parts]
        length = sum(map(len, views))
        if length > min(self._taken_max, self._bytes_max):
            return False
        message = b"".join([_HEAD.pack(length, kind), *views])
        if self._connection.gettimeout() != 0.0:
            self._connection.setblocking(False)
        try:
            if self._connection.send(message) == len(message):
                return True
        except OSError as error:
            raise Broken(str(error)) from error
        raise Broken("the connection is full")

    def receive_at_once(self, wanted: int) -> bytearray | None:
        """Return the body of a message that has come, of the wanted kind and small; else None, and `receive` takes it up.

        Only after `send_at_once`. Never blocks.
        """
        try:
            count = self._connection.recv_into(self._room)
        except OSError:  # nothing there, or the other end gone: `receive` says which
            return None
        self._early += memoryview(self._room)[:count]
        return self._small(wanted)

    def send(self, kind: int, parts: Iterable[Any], deadline_s: float | None = None) -> None:
        """Send a message whose body are the parts, one after the other.

        Raises:
            Broken: the other end is gone.
            TooLarge: the message is over the bound.
            Late: it was not taken by the deadline, on the monotonic clock.
        """
        views = [memoryview(part).cast("B") for part in parts]
        length = sum(map(len, views))
        if length > self._bytes_max:
            raise TooLarge(f"a message of {length:,} bytes is over the bound of {self._bytes_max:,}")
        head = _HEAD.pack(length, kind)
        try:
            if length <= _AT_ONCE:
                self._arm(deadline_s)
                self._connection.sendall(b"".join([head, *views]))
                return
            for view in [memoryview(head), *views]:
                self._arm(deadline_s)
                self._connection.sendall(view)
        except socket.timeout as error:  # noqa: UP041 - its name in older versions of Python too
            raise Late from error
        except OSError as error:
            raise Broken(str(error)) from error

    def receive(self, deadline_s: float | None = None) -> tuple[int, bytearray]:
        """Return a message's kind and body.

        Raises:
            Broken: the other end is gone, or announces more than the bound.
            Late: the deadline passed first.
        """
        while len(self._early) < _HEAD.size:
            self._early += self._some(deadline_s)
        length, kind = _HEAD.unpack_from(self._early)
        if length > self._bytes_max:
            raise Broken(f"a message of {length:,} bytes is over the bound of {self._bytes_max:,}")
        if (body := self._small(kind)) is not None:
            return kind, body
        del self._early[: _HEAD.size]
        return kind, self._exactly(length, deadline_s)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _small(self, wanted: int) -> bytearray | None:
        """Return the body of a message of the wanted kind that has come with its head, as most do, and nothing after it."""
        early = self._early
        if len(early) < _HEAD.size:
            return None
        length, kind = _HEAD.unpack_from(early)
        if kind != wanted or len(early) != _HEAD.size + length or length > self._bytes_max:
            return None
        self._early = bytearray()
        return early[_HEAD.size :]  # a copy, so that tensors lie aligned

    def _exactly(self, length: int, deadline_s: float | None) -> bytearray:
        body = bytearray(length)
        have = min(length, len(self._early))
        body[:have] = self._early[:have]
        del self._early[:have]
        view = memoryview(body)
        while have < length:
            have += self._into(view[have:], deadline_s)
        return body

    def _some(self, deadline_s: float | None) -> memoryview:
        """Wait for something to come and return it, until something else comes."""
        return memoryview(self._room)[: self._into(self._room, deadline_s)]

    def _into(self, room: Any, deadline_s: float | None) -> int:
        try:
            self._arm(deadline_s)
            count = self._connection.recv_into(room)
        except socket.timeout as error:  # noqa: UP041 - its name in older versions of Python too
            raise Late from error
        except OSError as error:
            raise Broken(str(error)) from error
        if not count:
            raise Broken("the other end is gone")
        return count

    def _arm(self, deadline_s: float | None) -> None:
        if deadline_s is None:
            return
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            raise Late
        self._connection.settimeout(left_s)


def json_parts(value: object) -> list[bytes]:
    """Return a JSON message's body."""
    return [json.dumps(value).encode()]


def read_json(body: bytearray) -> Any:
    """Return what `json_parts` was given.

    Raises:
        Broken: it is no JSON.
    """
    try:
        return json.loads(bytes(body))
    except ValueError as error:
        raise Broken(f"not JSON: {error}") from error


def tensor_parts(arrays: Sequence[Any]) -> list[Any]:
    """Return a message's body for arrays of numbers, booleans, or objects that are all `bytes`.

    Raises:
        TypeError: an array holds something else.
    """
    parts: list[Any] = []
    for array in arrays:
        code = _CODES.get(array.dtype)
        if code is not None:
            elements: list[Any] = [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]
        elif array.dtype.kind == "O":
            code, items = _BYTES, array.reshape(-1).tolist()
            elements = [np.fromiter(map(len, items), _LENGTH, len(items)).tobytes(), b"".join(items)]
        else:
            raise TypeError(f"an array of {array.dtype} has no form here")
        size = sum(map(len, elements))
        head = _TENSOR.pack(code, array.ndim, 0, 0, size) + struct.pack(f"<{array.ndim}q", *array.shape)
        parts += [head + bytes(-len(head) % _ALIGNED), *elements, bytes(-size % _ALIGNED)]
    return parts


def read_tensors(body: bytearray) -> list[Any]:
    """Return the arrays of a message; those of numbers lie in `body` and may be changed.

    Raises:
        Broken: what it says of itself does not agree.
    """
    arrays: list[Any] = []
    at = 0
    try:
        while at < len(body):
            code, dimensions, _, _, size = _TENSOR.unpack_from(body, at)
            if dimensions > DIMENSIONS_MAX:
                raise Broken("a tensor of too many dimensions")
            shape = struct.unpack_from(f"<{dimensions}q", body, at + _TENSOR.size)
            if any(length < 0 for length in shape):
                raise Broken("a tensor of negative size")
            head = _TENSOR.size + 8 * dimensions
            at += head + -head % _ALIGNED
            arrays.append(_array(body, at, code, math.prod(shape), size).reshape(shape))
            at += size + -size % _ALIGNED
    except (struct.error, ValueError, IndexError) as error:
        raise Broken(f"not tensors: {error}") from error
    if at != len(body):
        raise Broken("a tensor is cut short")
    return arrays


def _array(body: bytearray, at: int, code: int, count: int, size: int) -> Any:
    if code != _BYTES:
        if count * _DTYPES[code].itemsize != size:
            raise Broken("a tensor's bytes do not fit its shape")
        return np.frombuffer(body, _DTYPES[code], count, at)
    lengths = np.frombuffer(body, _LENGTH, count, at)
    ends = np.cumsum(lengths, dtype=np.int64) + at + 4 * count
    if count * 4 + int(lengths.sum(dtype=np.int64)) != size or at + size > len(body):
        raise Broken("a tensor's bytes do not fit its items")
    items = np.empty(count, np.object_)
    for place, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist())):  # noqa: B905 - the same length, as made above
        items[place] = bytes(body[end - length : end])
    return items
