"""Bytes ↔ requests and answers: the forms of the Open Inference Protocol and of plain rows.

The elements of JSON tensors are read in `elements.py`, binary tensors in `binary.py`, parameters in `parameters.py`. None of them
knows a version; what a version expects is for `checking.py`. Features that are not offered are refused, never ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np
import orjson

from gateway.core.errors import MalformedRequest, NotOffered
from gateway.core.models import Version
from gateway.core.records import PredictionRecord
from gateway.core.tensors import Datatype, Shape, Tensor
from gateway.serving.binary import Blobs, Slot, blob
from gateway.serving.classes import classified
from gateway.serving.elements import ELEMENTS_BY_NAME, array_of, checked_shape, json_data
from gateway.serving.parameters import (
    BINARY,
    Form,
    Forms,
    Parameters,
    blob_bytes,
    default_forms,
    request_parameters,
    wanted_outputs,
)

_HEADS_MAX: Final = 4_096  # of the kept beginnings of answers and outputs; about 150 bytes each
_PLAN_BYTES_MAX: Final = 1_024  # of a JSON part that is kept; twenty named inputs are about as long
_PLANS_MAX: Final = 1_024  # kept ones; some 3 KiB each
_NOTHING: Final = np.empty(0, np.uint8)  # stands for a tensor that follows
_ANSWER: Final = b'%b%b"},%b"outputs":[%b]}'  # head, prediction id, the caller's id, outputs
DATATYPES: Final = {datatype.value: datatype for datatype in Datatype}


@dataclass(slots=True)
class Request:
    """A decoded request: `tensors`, `rows` or `raw`.

    Attributes:
        tensors: By name, in the order sent; else empty.
        rows: Rows by position or by column name, not yet checked.
        raw: The bytes of the version's only input.
        wanted: The outputs asked for, in that order; None for all.
        forms: How the outputs are written; None for plain JSON.
    """

    id: str | None = None
    parameters: Parameters = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    rows: list[Any] | None = None
    raw: bytes | None = None
    wanted: list[str] | None = None
    forms: Forms | None = None


def decode_infer(body: bytes, slots: list[Slot] | None = None) -> Request:
    """Read an inference request of the protocol.

    Args:
        slots: Gets what follows the body, in that order; their tensors are empty. None when nothing follows.

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
    has_booleans = _has_booleans(body)
    tensors: dict[str, Tensor] = {}
    for item in inputs:
        tensor = _tensor(item, slots, has_booleans)
        if tensor.name in tensors:
            raise MalformedRequest(f"inputs: {tensor.name!r} is given twice")
        tensors[tensor.name] = tensor
    parameters, outputs = content.get("parameters"), content.get("outputs")
    if parameters is None and outputs is None:
        return Request(id, {}, tensors)
    checked = {} if parameters is None else request_parameters(parameters)
    wanted, forms = wanted_outputs(outputs, checked) if outputs is not None else (None, default_forms(checked))
    return Request(id, checked, tensors, wanted=wanted, forms=forms)


def decode_binary(body: bytes, head_bytes: int) -> Request:
    """Read an inference request of the protocol whose tensors follow its JSON part.

    Args:
        head_bytes: Of the JSON part; without one the body is the only input.

    Raises:
        MalformedRequest, NotOffered: as `decode_infer`, or what follows is not what the JSON part says.
    """
    if not head_bytes:
        return Request(raw=body, forms=BINARY)
    planned, slots = (_kept_plan if head_bytes <= _PLAN_BYTES_MAX else _plan)(body[:head_bytes])
    tensors, blobs = planned.tensors.copy(), Blobs(body, head_bytes)
    for slot in slots:
        tensors[slot.name] = Tensor(slot.name, slot.datatype, blobs.take(slot))
    blobs.refuse_rest()
    return Request(planned.id, planned.parameters, tensors, wanted=planned.wanted, forms=planned.forms)


def decode_rows(body: bytes) -> Request:
    """Read `{"instances": [row, …]}`; a row is an array by position or an object by column name.

    Raises:
        MalformedRequest: it is not JSON or not of that form.
        NotOffered: it asks for a feature that is not there.
    """
    content = _object(body)
    rows = content.get("instances")
    if type(rows) is not list or not rows:
        raise MalformedRequest("instances: expected an array of at least one row")
    if not (set(map(type, rows)) <= {list} or set(map(type, rows)) <= {dict}):
        raise MalformedRequest("instances: expected every row to be an array, or every row an object of columns")
    parameters = content.get("parameters")
    checked = request_parameters(parameters) if parameters is not None else {}
    if checked.get("binary_data_output"):
        raise NotOffered("parameters.binary_data_output: rows have no binary form")
    return Request(rows=rows, parameters=checked)


def encode_infer(request: Request, record: PredictionRecord) -> bytes:
    """Return the protocol's answer to a request that ran.

    Raises:
        MalformedRequest: an output holds what JSON cannot: infinities, FP16 or BF16, text that is not UTF-8.
    """
    tensors = record.outputs if request.wanted is None else selected(record.outputs, request.wanted)
    id = b"" if request.id is None else b'"id":' + orjson.dumps(request.id) + b","
    outputs = b",".join([_output(tensor) for tensor in tensors])
    head = _head(record.route, record.version, record.variant)
    return _ANSWER % (head, record.prediction_id.encode(), id, outputs)


def encode_forms(request: Request, forms: Forms, record: PredictionRecord, version: Version) -> tuple[bytes, int]:
    """Return the protocol's answer with outputs in other forms than JSON, and the bytes of its JSON part, or 0 when none follow.

    Args:
        version: That ran; it names the classes of its target.

    Raises:
        MalformedRequest: an output holds what cannot be written as asked.
    """
    outputs: list[bytes] = []
    blobs: list[Any] = []
    for tensor in record.outputs if request.wanted is None else selected(record.outputs, request.wanted):
        form = forms.of(tensor.name)
        tensor = formed(tensor, form, version)  # noqa: PLW2901 - what is written in its place
        if not form.is_binary:
            outputs.append(_output(tensor))
            continue
        content = blob(tensor)
        size = len(content) if isinstance(content, bytes) else content.nbytes
        outputs.append(b"%b%d}}" % (_blob_head(tensor.name, tensor.datatype._value_, tensor.data.shape), size))
        if size:
            blobs.append(content)
    id = b"" if request.id is None else b'"id":' + orjson.dumps(request.id) + b","
    head = _head(record.route, record.version, record.variant)
    head = _ANSWER % (head, record.prediction_id.encode(), id, b",".join(outputs))
    return (b"".join((head, *blobs)), len(head)) if blobs else (head, 0)


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


def selected(outputs: Sequence[Tensor], wanted: Sequence[str]) -> Sequence[Tensor]:
    """Return the outputs that were asked for, in that order."""
    by_name = {tensor.name: tensor for tensor in outputs}
    return [by_name[name] for name in wanted]


def formed(tensor: Tensor, form: Form, version: Version) -> Tensor:
    """Return an output, or its classes where those were asked for.

    Raises:
        MalformedRequest: it has none.
    """
    if not form.classes:
        return tensor
    labels = version.target.labels if version.target.output == tensor.name else ()
    return classified(tensor, form.classes, labels, has_rows=version.signature.is_batched)


def _plan(head: bytes) -> tuple[Request, list[Slot]]:
    slots: list[Slot] = []
    return decode_infer(head, slots), slots


@functools.lru_cache(_PLANS_MAX)
def _kept_plan(head: bytes) -> tuple[Request, list[Slot]]:
    """Return what a JSON part says: callers send the same one with other numbers, again and again."""
    return _plan(head)


def _object(body: bytes) -> dict[str, Any]:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if type(content) is not dict:
        raise MalformedRequest("the body: expected an object")
    return content


def _has_booleans(body: bytes) -> bool:
    """Return whether `true` or `false` stands in a body, perhaps in a text.

    Looking for the words takes as long as reading all the numbers, looking for a letter a hundredth of it. The keys that follow
    data have neither the u of the one nor the l of the other, unless they are written with escapes.
    """
    start = 0 if body.find(b"\\") >= 0 else max(body.find(b'"data"'), 0)
    return (body.find(b"u", start) >= 0 and b"true" in body) or (body.find(b"l", start) >= 0 and b"false" in body)


def _tensor(item: object, slots: list[Slot] | None, has_booleans: bool) -> Tensor:
    if type(item) is not dict:
        raise MalformedRequest("inputs: expected each to be an object")
    name, datatype, data = item.get("name"), item.get("datatype"), item.get("data")
    if type(name) is not str:
        raise MalformedRequest("inputs: expected each to have a name")
    if (parameters := item.get("parameters")) is not None and (size := blob_bytes(parameters, name)) is not None:
        return _binary_tensor(item, name, size, slots)
    element = ELEMENTS_BY_NAME.get(datatype) if type(datatype) is str else None
    if element is None:
        raise MalformedRequest(_why_not_read(name, datatype))
    if type(data) is not list:
        raise MalformedRequest(f"input {name!r}: data: expected an array")
    shape = checked_shape(item.get("shape"), name)
    return Tensor(name, element.datatype, array_of(element, data, shape, name, has_booleans=has_booleans))


def _binary_tensor(item: dict[str, Any], name: str, size: int, slots: list[Slot] | None) -> Tensor:
    if item.get("data") is not None:
        raise MalformedRequest(f"input {name!r}: expected data or parameters.binary_data_size, not both")
    known = item.get("datatype")
    datatype = DATATYPES.get(known) if type(known) is str else None
    if datatype is None:
        raise MalformedRequest(_why_not_read(name, known))
    slot = Slot(name, datatype, checked_shape(item.get("shape"), name), size)
    if slots is None:
        return Tensor(name, datatype, Blobs(b"", 0).take(slot))
    slots.append(slot)
    return Tensor(name, datatype, _NOTHING)


def _why_not_read(name: str, datatype: object) -> str:
    if str(datatype) in DATATYPES:
        return f"input {name!r}: {datatype} has no JSON form; send it as a binary tensor"
    return f"input {name!r}: datatype {str(datatype)[:40]!r} is not one of the protocol's"


@functools.lru_cache(_HEADS_MAX)
def _head(model_name: str, version: str, variant: str) -> bytes:
    """Return the beginning of an answer, up to the prediction id: what changes only with the route table."""
    parameters = {"variant": variant, "prediction_id": ""}
    return orjson.dumps({"model_name": model_name, "model_version": version, "parameters": parameters})[: -len('"}}')]


@functools.lru_cache(_HEADS_MAX)
def _output_head(name: str, datatype: str, shape: Shape) -> bytes:
    """Return an output up to its data."""
    return orjson.dumps({"name": name, "shape": shape, "datatype": datatype})[:-1] + b',"data":'


@functools.lru_cache(_HEADS_MAX)
def _blob_head(name: str, datatype: str, shape: Shape) -> bytes:
    """Return a binary output up to its size."""
    parameters = {"binary_data_size": 0}
    return orjson.dumps({"name": name, "shape": shape, "datatype": datatype, "parameters": parameters})[: -len("0}}")]


def _output(tensor: Tensor) -> bytes:
    head = _output_head(tensor.name, tensor.datatype._value_, tensor.data.shape)  # as `value`, ten times as fast
    return head + json_data(tensor) + b"}"


def _row_values(tensor: Tensor) -> list[Any]:
    values = np.array(orjson.loads(json_data(tensor)), np.object_)  # through JSON, so that a FP32 keeps its short form
    shape = tensor.data.shape
    return cast("list[Any]", values.reshape(shape[:-1] if len(shape) > 1 and shape[-1] == 1 else shape).tolist())
