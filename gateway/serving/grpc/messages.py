"""Messages ↔ requests and answers: the protocol's tensors as gRPC carries them.

Either every tensor of a message is raw, in the order of the inputs or outputs and in the binary form of `binary.py`, or every one
is typed; FP16 and BF16 only raw. An answer is written as its request was, unless the request's parameters ask otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

import numpy as np

from gateway.core.errors import MalformedRequest
from gateway.core.models import Version
from gateway.core.records import PredictionRecord
from gateway.core.tensors import NUMPY_DTYPES, Array, Datatype, Shape, Tensor
from gateway.serving.binary import Blobs, Slot, blob, text_array
from gateway.serving.elements import ELEMENTS, array_of, checked_shape
from gateway.serving.grpc.inference_pb2 import InferParameter, ModelInferRequest, ModelInferResponse
from gateway.serving.parameters import Form, Forms, Parameters, blob_bytes, default_forms, request_parameters, wanted_outputs
from gateway.serving.wire import DATATYPES, Request, formed, selected

_FIELDS: Final = {  # of typed contents
    Datatype.BOOL: "bool_contents",
    Datatype.INT8: "int_contents",
    Datatype.INT16: "int_contents",
    Datatype.INT32: "int_contents",
    Datatype.INT64: "int64_contents",
    Datatype.UINT8: "uint_contents",
    Datatype.UINT16: "uint_contents",
    Datatype.UINT32: "uint_contents",
    Datatype.UINT64: "uint64_contents",
    Datatype.FP32: "fp32_contents",
    Datatype.FP64: "fp64_contents",
    Datatype.BYTES: "bytes_contents",
}
_TIMEOUT_US_MAX: Final = 1e12  # twelve days; clients without a deadline may send one far off
_TYPED: Final = Forms(Form())
Input = ModelInferRequest.InferInputTensor


def request_of(message: ModelInferRequest, left_s: float | None) -> Request:
    """Return what a message asks for.

    Args:
        left_s: Until the caller's deadline, which counts as the parameter `timeout`; None without one.

    Raises:
        MalformedRequest: it is not of the protocol's form.
        NotOffered: it asks for a feature that is not there.
    """
    raws = message.raw_input_contents
    if not message.inputs:
        raise MalformedRequest("inputs: expected tensors")
    if raws and len(raws) != len(message.inputs):
        raise MalformedRequest(f"raw_input_contents: expected one for each of {len(message.inputs)} inputs, got {len(raws)}")
    tensors: dict[str, Tensor] = {}
    for at, item in enumerate(message.inputs):
        if item.name in tensors:
            raise MalformedRequest(f"inputs: {item.name!r} is given twice")
        tensors[item.name] = _tensor(item, raws[at] if raws else None)
    parameters = request_parameters(_values(message.parameters))
    asked_for = {"binary_data_output": bool(raws), **parameters}
    wanted, forms = None, default_forms(asked_for)
    if message.outputs:
        outputs = [{"name": item.name, "parameters": _values(item.parameters)} for item in message.outputs]
        wanted, forms = wanted_outputs(outputs, asked_for)
    return Request(message.id or None, _within(parameters, left_s), tensors, wanted=wanted, forms=forms)


def response_of(request: Request, record: PredictionRecord, version: Version) -> bytes:
    """Return the answer to a request that ran.

    Args:
        version: That ran; it names the classes of its target.

    Raises:
        MalformedRequest: an output has no classes.
    """
    found = ModelInferResponse(model_name=record.route, model_version=record.version, id=request.id or "")
    found.parameters["prediction_id"].string_param = record.prediction_id
    found.parameters["variant"].string_param = record.variant
    outputs = record.outputs if request.wanted is None else selected(record.outputs, request.wanted)
    forms = request.forms or _TYPED
    tensors = [formed(tensor, forms.of(tensor.name), version) for tensor in outputs]
    is_raw = any(forms.of(tensor.name).is_binary or tensor.datatype not in _FIELDS for tensor in tensors)  # mixing is an error
    for tensor in tensors:
        item = found.outputs.add(name=tensor.name, datatype=tensor.datatype.value, shape=tensor.data.shape)
        if is_raw:
            content = blob(tensor)
            found.raw_output_contents.append(content if isinstance(content, bytes) else content.tobytes())
        else:
            getattr(item.contents, _FIELDS[tensor.datatype]).extend(tensor.data.ravel().tolist())
    return bytes(found.SerializeToString())


def _tensor(item: Input, raw: bytes | None) -> Tensor:
    name, datatype = item.name, DATATYPES.get(item.datatype)
    if datatype is None:
        raise MalformedRequest(f"input {name!r}: datatype {item.datatype[:40]!r} is not one of the protocol's")
    size = blob_bytes(_values(item.parameters), name) if item.parameters else None
    if size is not None and (raw is None or size != len(raw)):  # some clients say over gRPC too what HTTP needs
        raise MalformedRequest(f"input {name!r}: parameters.binary_data_size: expected so many bytes in raw_input_contents")
    shape = checked_shape(list(item.shape), name)
    if raw is None:
        return Tensor(name, datatype, _typed(item, datatype, shape))
    if item.HasField("contents"):
        raise MalformedRequest(f"input {name!r}: expected raw_input_contents or contents, not both")
    blobs = Blobs(raw, 0)
    return Tensor(name, datatype, blobs.take(Slot(name, datatype, shape, len(raw))))


def _typed(item: Input, datatype: Datatype, shape: Shape) -> Array:
    name, field = item.name, _FIELDS.get(datatype)
    if field is None:
        raise MalformedRequest(f"input {name!r}: {datatype.value} has no typed contents; send it in raw_input_contents")
    for given, _ in item.contents.ListFields():
        if given.name != field:
            raise MalformedRequest(f"input {name!r}: {datatype.value} is in {field}, not in {given.name}")
    values: list[Any] = list(getattr(item.contents, field))
    if datatype in (Datatype.FP32, Datatype.FP64, Datatype.BYTES):  # what follows would refuse infinities, and wants text
        count = int(np.prod(shape, dtype=np.int64))
        if len(values) != count:
            raise MalformedRequest(f"input {name!r}: shape {list(shape)} needs {count:,} values, got {len(values):,}")
        if datatype is Datatype.BYTES:
            return text_array(values, shape, name)
        return np.array(values, NUMPY_DTYPES[datatype]).reshape(shape)
    return array_of(ELEMENTS[datatype], values, shape, name)


def _values(parameters: Mapping[str, InferParameter]) -> dict[str, Any]:
    """Return parameters as plain values; one without a value is None, which is refused where it is read."""
    choices: Iterable[tuple[str, str | None]] = ((key, each.WhichOneof("parameter_choice")) for key, each in parameters.items())
    return {key: None if choice is None else getattr(parameters[key], choice) for key, choice in choices}


def _within(parameters: Parameters, left_s: float | None) -> Parameters:
    """Return the parameters with the nearer of the caller's deadline and their own `timeout`."""
    if left_s is None:
        return parameters
    own_us = cast("float", parameters.get("timeout", 0))
    left_us = min(max(left_s * 1e6, 1.0), _TIMEOUT_US_MAX)
    return {**parameters, "timeout": min(own_us, left_us) if own_us else left_us}
