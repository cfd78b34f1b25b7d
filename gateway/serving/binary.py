"""Bytes ↔ arrays: the binary form of tensors, whose bytes follow the JSON part of a body.

Little-endian and row-major, as the machines are that ONNX Runtime runs on; so numbers are looked at where they lie and copied
only when they are not aligned, or BF16. Sizes are checked before anything is made of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from gateway.core.errors import MalformedRequest
from gateway.core.tensors import NUMPY_DTYPES, Array, Datatype, Shape, Tensor, bf16_bits, element_bytes, from_bf16_bits

_LENGTH_BYTES: Final = 4  # before each element of BYTES
_BF16: Final = np.dtype(np.uint16)  # as it comes


@dataclass(frozen=True, slots=True)
class Slot:
    """What a JSON part says of a binary input; `size` is in bytes."""

    name: str
    datatype: Datatype
    shape: Shape
    size: int


class Blobs:
    """The bytes after the JSON part, taken in the order of the inputs."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes, at: int) -> None:
        self._body = body
        self._at = at

    def take(self, slot: Slot) -> Array:
        """Return the next tensor; numbers are a view of the body where they can be.

        Raises:
            MalformedRequest: the body ends before it, or it has another number of elements than its shape.
        """
        name, datatype, shape, size = slot.name, slot.datatype, slot.shape, slot.size
        start, body = self._at, self._body
        self._at = end = start + size
        if end > len(body):
            raise MalformedRequest(f"input {name!r}: expecting {end - len(body):,} additional bytes after the JSON part")
        if datatype is Datatype.BYTES:
            return _texts(body, start, end, shape, name)
        dtype, count = NUMPY_DTYPES[datatype], math.prod(shape)
        if size != (needed := count * element_bytes(datatype)):
            raise MalformedRequest(
                f"input {name!r}: input byte size mismatch: shape {list(shape)} needs {needed:,} bytes, got {size:,}"
            )
        if not count:
            return np.empty(shape, dtype)
        if datatype is Datatype.BF16:
            return from_bf16_bits(np.frombuffer(body, _BF16, count, start)).reshape(shape)
        array = np.frombuffer(body, dtype, count, start)
        if datatype is Datatype.BOOL and array.view(np.uint8).max() > 1:
            raise MalformedRequest(f"input {name!r}: BOOL takes bytes of 0 and 1")
        return (array if array.flags.aligned else array.copy()).reshape(shape)

    def refuse_rest(self) -> None:
        """Raise `MalformedRequest` when bytes are left that belong to no input."""
        if self._at != len(self._body):
            raise MalformedRequest(f"unexpected additional input data: {len(self._body) - self._at:,} bytes belong to no input")


def text_array(elements: list[bytes], shape: Shape, name: str) -> Array:
    """Return BYTES as an array.

    Raises:
        MalformedRequest: one is not UTF-8, which no model takes.
    """
    try:
        for element in elements:
            element.decode()
    except UnicodeDecodeError:
        raise MalformedRequest(f"input {name!r} holds BYTES that are not UTF-8, and models take text") from None
    array = np.empty(len(elements), np.object_)
    array[:] = elements
    return array.reshape(shape)


def blob(tensor: Tensor) -> bytes | Array:
    """Return a tensor's bytes; numbers as the array that they lie in."""
    if tensor.datatype is Datatype.BF16:
        return bf16_bits(tensor.data)
    if tensor.datatype is not Datatype.BYTES:
        return tensor.data
    elements = cast("list[bytes]", tensor.data.ravel().tolist())
    return b"".join([part for element in elements for part in (len(element).to_bytes(_LENGTH_BYTES, "little"), element)])


def _texts(body: bytes, start: int, end: int, shape: Shape, name: str) -> Array:
    count, at = math.prod(shape), start
    elements: list[bytes] = []
    while at + _LENGTH_BYTES <= end and len(elements) < count:
        first = at + _LENGTH_BYTES
        at = first + int.from_bytes(body[at:first], "little")
        elements.append(body[first:at])
    if len(elements) != count or at != end:
        raise MalformedRequest(f"input {name!r}: expected {count:,} string elements within {end - start:,} bytes")
    return text_array(elements, shape, name)
