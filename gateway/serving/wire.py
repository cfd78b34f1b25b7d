"""Bytes ↔ tensors: the JSON forms of the Open Inference Protocol and of plain rows.

Decoding is strict (no silent casts, nothing out of range, nesting and rank bounded, element counts without wrap-around) and
knows no version; what a version expects is for `checking.py`. Features that are not offered yet are refused, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from gateway.core.errors import MalformedRequest, NotOffered
from gateway.core.tensors import INTEGERS, NUMPY_DTYPES, Array, Datatype, Shape, Tensor

Parameters = Mapping[str, str | int | float | bool]

_NESTING_MAX: Final = 100  # of `data`; Triton's limit
_RANK_MAX: Final = 32  # numpy stops at 64
_ELEMENTS_MAX: Final = 1 << 31  # of one tensor, empty dimensions left out; more than any body holds
_FLAT_PASSES: Final = 4  # levels that are flattened by rows before the general way takes over
_FP32_MAX: Final = float(np.finfo(np.float32).max)
_BOUNDS: Final = {d: (int(np.iinfo(NUMPY_DTYPES[d]).min), int(np.iinfo(NUMPY_DTYPES[d]).max)) for d in INTEGERS}  # type: ignore[type-var]
_DATATYPES: Final = {datatype.value: datatype for datatype in Datatype}
_NONE: Final = type(None)
_FLOATS: Final = frozenset({float, int})
_FLOATS_OR_MISSING: Final = frozenset({float, int, _NONE})
_BINARY_HINT: Final = "ask for binary output"
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


def array_of(datatype: Datatype, flat: list[Any], shape: Shape, name: str) -> Array:
    """Return the array of a flat list of JSON values.

    Args:
        flat: Row-major, without nesting; `null` stands for NaN in a float tensor.

    Raises:
        MalformedRequest: a value is of another type or out of the datatype's range, or there are too few or too many.
    """
    if len(flat) != math.prod(shape):
        raise MalformedRequest(f"input {name!r}: shape {list(shape)} needs {math.prod(shape):,} values, got {len(flat):,}")
    try:
        return _READERS[datatype](datatype, flat, name).reshape(shape)
    except KeyError:
        raise MalformedRequest(f"input {name!r}: {datatype.value} has no JSON form") from None


def flattened(data: list[Any], name: str) -> list[Any]:
    """Return the values of a nested list in row-major order, whatever the nesting.

    Raises:
        MalformedRequest: it is nested deeper than 100.
    """
    for _ in range(_FLAT_PASSES):
        if list not in (kinds := set(map(type, data))):
            return data
        if len(kinds) > 1:
            break
        data = list(chain.from_iterable(data))
    return _flattened_unevenly(data, name)


def encode_infer(request: Request, answer: Answered) -> bytes:
    """Return the protocol's answer.

    Raises:
        MalformedRequest: an output holds what JSON cannot: infinities, FP16, text that is not UTF-8.
    """
    tensors = answer.outputs if request.wanted is None else _selected(answer.outputs, request.wanted)
    body: dict[str, object] = {
        "model_name": answer.model_name,
        "model_version": answer.version,
        "parameters": {"prediction_id": answer.prediction_id, "variant": answer.variant},
        "outputs": [
            {"name": tensor.name, "shape": tensor.data.shape, "datatype": tensor.datatype._value_, "data": _json_data(tensor)}
            for tensor in tensors
        ],
    }
    if request.id is not None:
        body["id"] = request.id
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)


def encode_rows(answer: Answered) -> bytes:
    """Return `{"predictions": […]}`: a value a row, or an object by output name where there are several outputs.

    A trailing dimension of one is left out: [n, 1] answers n numbers.

    Raises:
        MalformedRequest: an output holds what JSON cannot.
    """
    columns = {tensor.name: _row_values(tensor) for tensor in answer.outputs}
    if len(columns) == 1:
        return orjson.dumps({"predictions": next(iter(columns.values()))})
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return orjson.dumps({"predictions": rows})


@dataclass(frozen=True, slots=True)
class Answered:
    """What an answer says of a prediction."""

    model_name: str
    version: str
    variant: str
    prediction_id: str
    outputs: tuple[Tensor, ...]


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
    name = item.get("name")
    if type(name) is not str:
        raise MalformedRequest("inputs: expected each to have a name")
    datatype = _DATATYPES.get(item.get("datatype"))  # type: ignore[arg-type]  # a JSON value; what is not a name is not found
    if datatype is None:
        raise MalformedRequest(f"input {name!r}: datatype {str(item.get('datatype'))[:40]!r} is not one of the protocol's")
    if (parameters := item.get("parameters")) is not None:
        _refuse_input_parameters(parameters, name)
    data = item.get("data")
    if type(data) is not list:
        raise MalformedRequest(f"input {name!r}: data: expected an array")
    shape = _shape(item.get("shape"), name)
    return Tensor(name, datatype, array_of(datatype, flattened(data, name), shape, name))


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


def _floats(datatype: Datatype, flat: list[Any], name: str) -> Array:
    kinds = set(map(type, flat))
    if not kinds <= _FLOATS_OR_MISSING:
        raise MalformedRequest(f"input {name!r}: {datatype.value} takes numbers, or null for NaN")
    if datatype is Datatype.FP32 and flat:
        numbers = [value for value in flat if value is not None] or [0.0] if _NONE in kinds else flat
        if max(numbers) > _FP32_MAX or min(numbers) < -_FP32_MAX:
            raise MalformedRequest(f"input {name!r}: a number does not fit FP32")
    return np.array(flat, NUMPY_DTYPES[datatype])


def _integers(datatype: Datatype, flat: list[Any], name: str) -> Array:
    low, high = _BOUNDS[datatype]
    if not set(map(type, flat)) <= {int} or (flat and not low <= min(flat) <= max(flat) <= high):
        raise MalformedRequest(f"input {name!r}: {datatype.value} takes integers from {low} to {high}")
    return np.array(flat, NUMPY_DTYPES[datatype])


def _booleans(datatype: Datatype, flat: list[Any], name: str) -> Array:
    if not set(map(type, flat)) <= {bool}:
        raise MalformedRequest(f"input {name!r}: BOOL takes true and false")
    return np.array(flat, NUMPY_DTYPES[datatype])


def _texts(datatype: Datatype, flat: list[Any], name: str) -> Array:
    if not set(map(type, flat)) <= {str}:
        raise MalformedRequest(f"input {name!r}: BYTES takes strings")
    array = np.empty(len(flat), NUMPY_DTYPES[datatype])
    array[:] = [text.encode() for text in flat]
    return array


_READERS: Final[Mapping[Datatype, Callable[[Datatype, list[Any], str], Array]]] = {
    Datatype.BOOL: _booleans,
    Datatype.BYTES: _texts,
    Datatype.FP32: _floats,
    Datatype.FP64: _floats,
    **dict.fromkeys(INTEGERS, _integers),
}


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


def _json_data(tensor: Tensor) -> Array | list[str]:
    """Return what orjson writes as the flat `data` of an output; NaN becomes null."""
    flat = tensor.data.ravel()
    match flat.dtype.kind:
        case "f":
            numbers = cast("NDArray[np.floating[Any]]", flat)
            if tensor.datatype is Datatype.FP16:
                raise MalformedRequest(f"output {tensor.name!r}: FP16 has no JSON form", hint=_BINARY_HINT)
            if not math.isfinite(numbers.dot(numbers)) and np.isinf(numbers).any():
                raise MalformedRequest(f"output {tensor.name!r} holds infinities, which JSON cannot carry", hint=_BINARY_HINT)
            return flat
        case "O":
            return _decoded(tensor)
        case _:
            return flat


def _decoded(tensor: Tensor) -> list[str]:
    elements = cast("list[bytes]", tensor.data.ravel().tolist())
    try:
        return [element.decode() for element in elements]
    except UnicodeDecodeError:
        raise MalformedRequest(f"output {tensor.name!r} holds text that is not UTF-8", hint=_BINARY_HINT) from None


def _row_values(tensor: Tensor) -> list[Any]:
    checked = _json_data(tensor)
    shape = tensor.data.shape[:-1] if len(tensor.data.shape) > 1 and tensor.data.shape[-1] == 1 else tensor.data.shape
    values: object
    if isinstance(checked, list):
        values = np.array(checked, np.object_).reshape(shape).tolist()
    else:  # through JSON, so that a FP32 keeps its short form
        values = (
            np.array(orjson.loads(orjson.dumps(checked, option=orjson.OPT_SERIALIZE_NUMPY)), np.object_).reshape(shape).tolist()
        )
    return values if isinstance(values, list) else [values]
