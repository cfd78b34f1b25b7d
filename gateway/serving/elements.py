"""JSON values ↔ arrays: how the elements of each datatype are read and written, and how large a tensor may be.

Strict: no silent casts, nothing out of range, nesting and rank bounded, element counts without wrap-around.
"""

from __future__ import annotations

import functools
import math
import struct
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.core.errors import MalformedRequest
from gateway.core.models import DIMENSIONS_MAX
from gateway.core.tensors import HALVES, INTEGERS, NUMPY_DTYPES, Array, Datatype, Shape, Tensor

_ASK: Final = "ask for binary output"  # in the message: the protocol's clients show no more of an error
_NESTING_MAX: Final = 100  # of `data`; Triton's limit
_ELEMENTS_MAX: Final = 1 << 31  # of one tensor, empty dimensions left out; more than any body holds
_FLAT_PASSES: Final = 4  # levels that are flattened by rows before the general way takes over
_PACKED_MAX: Final = 16_384  # numbers packed as one call's arguments; of more, those take the memory of another list
_PACKERS_MAX: Final = 256  # kept, by number of elements; some 200 bytes each


@dataclass(frozen=True, slots=True)
class Element:
    """How the values of one datatype are read.

    Attributes:
        kinds: The JSON types it takes.
        low, high: The range of an integer type.
        takes: For messages.
    """

    datatype: Datatype
    dtype: np.dtype[np.generic]
    kinds: frozenset[type]
    takes: str
    low: int = 0
    high: int = 0


def array_of(element: Element, data: list[Any], shape: Shape, name: str, *, has_booleans: bool = True) -> Array:
    """Return the array of a list of JSON values, nested in whatever way; only their order and number count.

    Args:
        data: Row-major; `null` stands for NaN in a float tensor.
        has_booleans: Whether the values may hold booleans, which are no numbers.

    Raises:
        MalformedRequest: a value is of another type or out of the datatype's range, there are too few or too many, or they are
            nested deeper than 100.
    """
    if not has_booleans and (packed := _packed(element, data)) is not None and len(packed) == math.prod(shape):
        return packed.reshape(shape)
    kinds = set(map(type, data))
    if list in kinds:
        data, kinds = _flattened(data, kinds, name)
    if len(data) != math.prod(shape):
        raise MalformedRequest(f"input {name!r}: shape {list(shape)} needs {math.prod(shape):,} values, got {len(data):,}")
    if not kinds <= element.kinds:
        raise MalformedRequest(f"input {name!r}: {element.datatype.value} takes {element.takes}")
    match element.dtype.kind:
        case "f":
            if (packed := _packed(element, data)) is not None:
                return packed.reshape(shape)
            array = np.array(data, element.dtype)
            if _has_infinity(array):
                raise MalformedRequest(f"input {name!r}: a number does not fit {element.datatype.value}")
        case "O":
            array = np.empty(len(data), element.dtype)
            array[:] = [text.encode() for text in data]
        case "b":
            array = np.array(data, element.dtype)
        case _:
            if data and not element.low <= min(data) <= max(data) <= element.high:
                raise MalformedRequest(f"input {name!r}: {element.datatype.value} takes {element.takes}")
            array = np.array(data, element.dtype)
    return array.reshape(shape)


def flattened(data: list[Any], name: str) -> list[Any]:
    """Return the values of a nested list in row-major order, whatever the nesting.

    Raises:
        MalformedRequest: it is nested deeper than 100.
    """
    return _flattened(data, set(map(type, data)), name)[0]


def checked_shape(sizes: object, name: str) -> Shape:
    """Return an input's shape.

    Raises:
        MalformedRequest: it is no array of integers from 0, has too many dimensions, or more elements than any body holds.
    """
    if type(sizes) is not list or len(sizes) > DIMENSIONS_MAX:
        raise MalformedRequest(f"input {name!r}: shape: expected an array of at most {DIMENSIONS_MAX} sizes")
    elements = 1
    for size in sizes:
        if type(size) is not int or size < 0:
            raise MalformedRequest(f"input {name!r}: shape: expected integers from 0")
        elements *= size or 1
    if elements > _ELEMENTS_MAX:
        raise MalformedRequest(f"input {name!r}: shape: over {_ELEMENTS_MAX:,} elements")
    return tuple(sizes)


def json_data(tensor: Tensor) -> bytes:
    """Return the flat `data` of an output as JSON; NaN becomes null.

    Raises:
        MalformedRequest: it holds what JSON cannot: infinities, FP16 or BF16, text that is not UTF-8.
    """
    flat = tensor.data.ravel()
    if flat.dtype.kind == "O":
        return orjson.dumps(_texts(tensor))
    if tensor.datatype in HALVES:
        raise MalformedRequest(f"output {tensor.name!r}: {tensor.datatype.value} has no JSON form; {_ASK}")
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    if text.find(b"null") >= 0 and np.isinf(cast("NDArray[np.floating[Any]]", flat)).any():
        raise MalformedRequest(f"output {tensor.name!r} holds infinities, which JSON cannot carry; {_ASK}")
    return text


def _texts(tensor: Tensor) -> list[str]:
    elements = cast("list[bytes]", tensor.data.ravel().tolist())
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise MalformedRequest(f"output {tensor.name!r} holds text that is not UTF-8; {_ASK}") from None


def _packed(element: Element, data: list[Any]) -> Array | None:
    """Return the flat array of flat finite numbers, in a third of NumPy's time; None where they are something else.

    Booleans count as numbers.
    """
    if element.dtype.kind != "f" or len(data) > _PACKED_MAX:
        return None
    try:
        packed = np.frombuffer(_packer(element.dtype.char, len(data)).pack(*data), element.dtype)
    except (struct.error, OverflowError):
        return None
    return None if _has_infinity(packed) else packed


@functools.lru_cache(_PACKERS_MAX)
def _packer(kind: str, count: int) -> struct.Struct:
    return struct.Struct(f"{count}{kind}")


def _flattened(data: list[Any], kinds: set[type], name: str) -> tuple[list[Any], set[type]]:
    """Return the flat values and their types."""
    for _ in range(_FLAT_PASSES):
        if list not in kinds:
            return data, kinds
        if len(kinds) > 1:
            break
        data = list(chain.from_iterable(data))
        kinds = set(map(type, data))
    flat = _flattened_unevenly(data, name) if list in kinds else data
    return flat, set(map(type, flat))


def _flattened_unevenly(data: list[Any], name: str) -> list[Any]:
    flat: list[Any] = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if type(item) is not list:
                flat.append(item)
            elif len(stack) + _FLAT_PASSES >= _NESTING_MAX:
                raise MalformedRequest(f"input {name!r}: data is nested deeper than {_NESTING_MAX}")
            else:
                stack.append(iter(item))
                break
        else:
            stack.pop()
    return flat


def _has_infinity(array: Array) -> bool:
    """Return whether an array holds one, which only a number too large for its type can have become.

    The dot product is finite for all but extreme values, and a quarter of the cost of looking at each.
    """
    flat = cast("NDArray[np.floating[Any]]", array)
    return not math.isfinite(flat.dot(flat)) and bool(np.isinf(flat).any())


def _integers(datatype: Datatype) -> Element:
    bounds = np.iinfo(NUMPY_DTYPES[datatype])  # type: ignore[type-var]  # an integer type, which the mapping's type cannot say
    low, high = int(bounds.min), int(bounds.max)
    return Element(datatype, NUMPY_DTYPES[datatype], frozenset({int}), f"integers from {low} to {high}", low, high)


def _element(datatype: Datatype) -> Element:
    dtype = NUMPY_DTYPES[datatype]
    match datatype:
        case Datatype.FP32 | Datatype.FP64:
            return Element(datatype, dtype, frozenset({float, int, type(None)}), "numbers, or null for NaN")
        case Datatype.BOOL:
            return Element(datatype, dtype, frozenset({bool}), "true and false")
        case Datatype.BYTES:
            return Element(datatype, dtype, frozenset({str}), "strings")
        case _:
            return _integers(datatype)


ELEMENTS: Final = {
    d: _element(d) for d in (Datatype.BOOL, Datatype.BYTES, Datatype.FP32, Datatype.FP64, *sorted(INTEGERS, key=str))
}
ELEMENTS_BY_NAME: Final = {datatype.value: element for datatype, element in ELEMENTS.items()}
