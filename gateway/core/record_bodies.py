"""A record as the JSON object that its line in the log holds; for those who show records rather than store them. Pure."""

from __future__ import annotations

from base64 import b64encode

import numpy as np

from gateway.core.fields import Json
from gateway.core.records import FORMAT, GroundTruthRecord, PredictionRecord
from gateway.core.tensors import FLOATS, Array, Datatype, Tensor


def prediction_body(record: PredictionRecord) -> Json:
    """Return a prediction's object, field by field as `docs/log-format.md` has them."""
    return {
        "v": FORMAT,
        "type": "prediction",
        "kind": record.kind.value,
        "model": record.model,
        "route": record.route,
        "revision": record.revision,
        "assigned": record.assigned,
        "variant": record.variant,
        "version": record.version,
        "digest": record.digest,
        "runtime_version": record.runtime_version,
        "outcome": record.outcome.value,
        "dropped": list(record.dropped),
        "hashed": list(record.hashed),
        "prediction_id": record.prediction_id,
        "time": record.time_s,
        "attempts": [
            {
                "variant": attempt.variant,
                "version": attempt.version,
                "outcome": attempt.outcome.value,
                "duration_us": attempt.duration_us,
            }
            for attempt in record.attempts
        ],
        "assignment_key": record.assignment_key,
        "is_keyed": record.is_keyed,
        "batch_rows": record.batch_rows,
        "batch_position": record.batch_position,
        "latency_us": record.latency_us,
        "shadow_of": record.shadow_of,
        "trace_id": record.trace_id,
        "resting": list(record.resting),
        "inputs": [tensor_body(tensor) for tensor in record.inputs],
        "outputs": [tensor_body(tensor) for tensor in record.outputs],
    }


def ground_truth_body(record: GroundTruthRecord) -> Json:
    """Return the object of a piece of ground truth."""
    return {
        "v": FORMAT,
        "type": "ground_truth",
        "prediction_id": record.prediction_id,
        "time": record.time_s,
        "row": record.row,
        "value": record.value,
        "observed_at": record.observed_at_s,
        "principal": record.principal,
    }


def tensor_body(tensor: Tensor) -> Json:
    """Return a tensor's object; what JSON cannot hold stands as the base64 of its little-endian bytes under `raw`."""
    body: Json = {"name": tensor.name, "datatype": tensor.datatype.value, "shape": list(tensor.shape)}
    flat = tensor.data.ravel()
    values = _texts(flat) if tensor.datatype is Datatype.BYTES else _numbers(tensor.datatype, flat)
    if values is None:
        return {**body, "raw": b64encode(_raw(flat)).decode()}
    return {**body, "data": values}


def _texts(flat: Array) -> list[str] | None:
    try:
        return [element.decode() for element in flat.tolist()]
    except UnicodeDecodeError:
        return None


def _numbers(datatype: Datatype, flat: Array) -> list[object] | None:
    """Return numbers that print as the log prints them: a float as the shortest that reads back the same."""
    if datatype not in FLOATS:
        return list(flat.tolist())
    if not bool(np.isfinite(flat).all()):
        return None
    numbers = flat.astype(np.float32) if datatype is Datatype.FP16 else flat  # half floats print as the FP32 that they equal
    return [float(str(value)) for value in numbers]


def _raw(flat: Array) -> bytes:
    if flat.dtype.kind != "O":
        return flat.astype(flat.dtype.newbyteorder("<")).tobytes()
    return b"".join(len(element).to_bytes(4, "little") + element for element in flat.tolist())
