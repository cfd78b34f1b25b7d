"""Bytes ↔ tensors: the JSON forms of the Open Inference Protocol and of plain rows.

Decoding is strict (no silent casts, nothing out of range, nesting and rank bounded, element counts without wrap-around) and
knows no version; what a version expects is for `checking.py`. Features that are not offered yet are refused, never ignored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.core.errors import MalformedRequest, NotOffered
from gateway.core.records import PredictionRecord
from gateway.core.tensors import INTEGERS, NUMPY_DTYPES, Array, Datatype, Shape, Tensor

Parameters = Mapping[str, str | int | float | bool]

_NESTING_MAX: Final = 100  # of `data`; Triton's limit
_RANK_MAX: Final = 32  # numpy stops at 64
_ELEMENTS_MAX: Final = 1 << 31  # of one tensor, empty dimensions left out; more than any body holds
_FLAT_PASSES: Final = 4  # levels that are flattened by rows before the general way takes over
_BINARY_HINT: Final = "ask for binary output"
_HEADS_MAX: Final = 4_096  # of the kept beginnings of answers and outputs; about 150 bytes each
_SEQUENCE_KEYS: Final = ("sequence_id", "sequence_start", "sequence_end", "priority", "binary_data_output")


@dataclass(slots=True)
class Request:
    """A decoded request.

    Attributes:
        tensors: By name, in the order sent; empty when `rows` is given.
        rows: Rows by position or by column name, not yet checked; None for the protocol's form.
        wanted: The outputs asked for, in that order; None for all.
    """

    id: str | None = None
    parameters: Parameters = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Any] | None = None
    wanted: list[str] | None = None


def decode_infer(body: bytes) -> Request:
    """Read an inference request of the protocol.

    Raises:
        MalformedRequest: it is not JSON or not of the protocol's form.
        NotOffered: it asks for a feature that is not there.
    """
    content = _object(body)
    id = content.get("id")
    if id is not None and not isinstance(id, str):
        raise MalformedRequest("id: expected a string")
    inputs = content.get("inputs")
    if type(inputs) is not list or not inputs:
        raise MalformedRequest("inputs: expected an array of tensors")
    tensors: dict[str, Tensor] = {}
    for item in inputs:
        tensor = _tensor(item)
        if tensor.name in tensors:
            raise MalformedRequest(f"inputs: {tensor.name!r} is given twice")
        tensors[tensor.name] = tensor
    parameters = content.get("parameters")
    outputs = content.get("outputs")
    return Request(
        id=id,
        parameters=_request_parameters(parameters) if parameters is not None else {},
        tensors=tensors,
        wanted=_wanted(outputs) if outputs else None,
    )


def decode_rows(body: bytes) -> Request:
    """Read `{"instances": [row, …]}`; a row is an array by position or an object by column name.

    Raises:
        MalformedRequest: it is not JSON or not of that form.
    """
    content = _object(body)
    rows = content.get("instances")
    if type(rows) is not list or not rows:
        raise MalformedRequest("instances: expected an array of at least one row")
    if not (set(map(type, rows)) <= {list} or set(map(type, rows)) <= {dict}):
        raise MalformedRequest("instances: expected every row to be an array, or every row an object of columns")
    parameters = content.get("parameters")
    return Request(rows=rows, parameters=_request_parameters(parameters) if parameters is not None else {})


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


def array_of(element: Element, data: list[Any], shape: Shape, name: str) -> Array:
    """Return the array of a list of JSON values, nested in whatever way; only their order and number count.

    Args:
        data: Row-major; `null` stands for NaN in a float tensor.

    Raises:
        MalformedRequest: a value is of another type or out of the datatype's range, there are too few or too many, or they are
            nested deeper than 100.
    """
    kinds = set(map(type, data))
    if list in kinds:
        data, kinds = _flattened(data, kinds, name)
    if len(data) != math.prod(shape):
        raise MalformedRequest(f"input {name!r}: shape {list(shape)} needs {math.prod(shape):,} values, got {len(data):,}")
    if not kinds <= element.kinds:
        raise MalformedRequest(f"input {name!r}: {element.datatype.value} takes {element.takes}")
    match element.dtype.kind:
        case "f":
            array = np.array(data, element.dtype)
            if element.datatype is Datatype.FP32:
                _refuse_overflow(array, name)
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


def encode_infer(request: Request, record: PredictionRecord) -> bytes:
    """Return the protocol's answer to a request that ran.

    Raises:
        MalformedRequest: an output holds what JSON cannot: infinities, FP16, text that is not UTF-8.
    """
    tensors = record.outputs if request.wanted is None else _selected(record.outputs, request.wanted)
    id = b"" if request.id is None else b'"id":' + orjson.dumps(request.id) + b","
    outputs = b",".join([_output(tensor) for tensor in tensors])
    head = _head(record.route, record.version, record.variant)
    return b'%b%b"},%b"outputs":[%b]}' % (head, record.prediction_id.encode(), id, outputs)


def encode_rows(record: PredictionRecord) -> bytes:
    """Return `{"predictions": […]}`: a value a row, or an object by output name where there are several outputs.

    A trailing dimension of one is left out: [n, 1] answers n numbers.

    Raises:
        MalformedRequest: an output holds what JSON cannot.
    """
    columns = {tensor.name: _row_values(tensor) for tensor in record.outputs}
    if len(columns) == 1:
        return orjson.dumps({"predictions": next(iter(columns.values()))})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return orjson.dumps({"predictions": rows})


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if type(content) is not dict:
        raise MalformedRequest("the body: expected an object")
    return content


def _tensor(item: object) -> Tensor:
    if type(item) is not dict:
        raise MalformedRequest("inputs: expected each to be an object")
    name, datatype, data = item.get("name"), item.get("datatype"), item.get("data")
    if type(name) is not str:
        raise MalformedRequest("inputs: expected each to have a name")
    element = _ELEMENTS_BY_NAME.get(datatype) if type(datatype) is str else None
    if element is None:
        raise MalformedRequest(_why_not_read(name, datatype))
    if (parameters := item.get("parameters")) is not None:
        _refuse_input_parameters(parameters, name)
    if type(data) is not list:
        raise MalformedRequest(f"input {name!r}: data: expected an array")
    return Tensor(name, element.datatype, array_of(element, data, _shape(item.get("shape"), name), name))


def _why_not_read(name: str, datatype: object) -> str:
    if str(datatype) in {known.value for known in Datatype}:
        return f"input {name!r}: {datatype} has no JSON form"
    return f"input {name!r}: datatype {str(datatype)[:40]!r} is not one of the protocol's"


def _shape(sizes: object, name: str) -> Shape:
    if type(sizes) is not list or len(sizes) > _RANK_MAX:
        raise MalformedRequest(f"input {name!r}: shape: expected an array of at most {_RANK_MAX} sizes")
    elements = 1
    for size in sizes:
        if type(size) is not int or size < 0:
            raise MalformedRequest(f"input {name!r}: shape: expected integers from 0")
        elements *= size or 1
    if elements > _ELEMENTS_MAX:
        raise MalformedRequest(f"input {name!r}: shape: over {_ELEMENTS_MAX:,} elements")
    return tuple(sizes)


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


def _refuse_overflow(array: Array, name: str) -> None:
    """Refuse infinities, which only a number too large for FP32 can have become.

    The dot product is finite for all but extreme values, and a quarter of the cost of looking at each.
    """
    flat = cast("NDArray[np.floating[Any]]", array)
    if not math.isfinite(flat.dot(flat)) and np.isinf(flat).any():
        raise MalformedRequest(f"input {name!r}: a number does not fit FP32")


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
_ELEMENTS_BY_NAME: Final = {datatype.value: element for datatype, element in ELEMENTS.items()}


def _request_parameters(parameters: object) -> Parameters:
    checked = _parameters(parameters, "parameters")
    for key in _SEQUENCE_KEYS:
        if checked.get(key):
            raise NotOffered(f"parameters.{key}: this gateway does not offer it")
    return checked


def _refuse_input_parameters(parameters: object, name: str) -> None:
    for key in _parameters(parameters, f"input {name!r}: parameters"):
        if key.startswith(("binary_data", "shared_memory")):
            raise NotOffered(f"input {name!r}: parameters.{key}: this gateway does not offer it")


def _parameters(parameters: object, where: str) -> Parameters:
    if type(parameters) is not dict:
        raise MalformedRequest(f"{where}: expected an object")
    for key, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise MalformedRequest(f"{where}.{key[:80]}: expected a string, a number or a boolean")
        if key.startswith("triton_"):
            raise MalformedRequest(f"{where}.{key[:80]}: names that begin with triton_ are reserved")
    return cast("Parameters", parameters)


def _wanted(outputs: object) -> list[str]:
    if type(outputs) is not list:
        raise MalformedRequest("outputs: expected an array")
    names: list[str] = []
    for item in outputs:
        if type(item) is not dict or type(item.get("name")) is not str:
            raise MalformedRequest("outputs: expected each to be an object with a name")
        if item["name"] in names:
            raise MalformedRequest(f"outputs: {item['name']!r} is asked for twice")
        for key, value in _parameters(item.get("parameters") or {}, "outputs.parameters").items():
            if value and key.startswith(("binary_data", "classification", "shared_memory")):
                raise NotOffered(f"output {item['name']!r}: parameters.{key}: this gateway does not offer it")
        names.append(item["name"])
    return names


def _selected(outputs: Sequence[Tensor], wanted: Sequence[str]) -> Sequence[Tensor]:
    by_name = {tensor.name: tensor for tensor in outputs}
    return [by_name[name] for name in wanted]


@functools.lru_cache(_HEADS_MAX)
def _head(model_name: str, version: str, variant: str) -> bytes:
    """Return the beginning of an answer, up to the prediction id: what changes only with the route table."""
    parameters = {"variant": variant, "prediction_id": ""}
    return orjson.dumps({"model_name": model_name, "model_version": version, "parameters": parameters})[: -len('"}}')]


@functools.lru_cache(_HEADS_MAX)
def _output_head(name: str, datatype: str, shape: Shape) -> bytes:
    """Return an output up to its data."""
    return orjson.dumps({"name": name, "shape": shape, "datatype": datatype})[:-1] + b',"data":'


def _output(tensor: Tensor) -> bytes:
    head = _output_head(tensor.name, tensor.datatype._value_, tensor.data.shape)  # as `value`, ten times as fast
    return head + _json_data(tensor) + b"}"


def _json_data(tensor: Tensor) -> bytes:
    """Return the flat `data` of an output as JSON; NaN becomes null."""
    flat = tensor.data.ravel()
    if flat.dtype.kind == "O":
        return orjson.dumps(_decoded(tensor))
    if tensor.datatype is Datatype.FP16:
        raise MalformedRequest(f"output {tensor.name!r}: FP16 has no JSON form", hint=_BINARY_HINT)
    text = orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)
    if b"null" in text and np.isinf(cast("NDArray[np.floating[Any]]", flat)).any():
        raise MalformedRequest(f"output {tensor.name!r} holds infinities, which JSON cannot carry", hint=_BINARY_HINT)
    return text


def _decoded(tensor: Tensor) -> list[str]:
    elements = cast("list[bytes]", tensor.data.ravel().tolist())
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise MalformedRequest(f"output {tensor.name!r} holds text that is not UTF-8", hint=_BINARY_HINT) from None


def _row_values(tensor: Tensor) -> list[Any]:
    values = np.array(orjson.loads(_json_data(tensor)), np.object_)  # through JSON, so that a FP32 keeps its short form
    shape = tensor.data.shape
    return cast("list[Any]", values.reshape(shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape).tolist())
