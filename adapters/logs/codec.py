"""A record ↔ one line of JSON, to the bit. The only place that knows the log's written form; `docs/log-format.md` describes it.

Speed matters here, because every answer waits for its record: what changes only with the route table is encoded once and kept,
and a tensor goes from NumPy to text without becoming Python objects.
"""

from __future__ import annotations

import functools
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import orjson

from gateway.core.errors import LogFailed
from gateway.core.fields import Json
from gateway.core.records import (
    FORMAT,
    Anchor,
    Attempt,
    Elsewhere,
    GroundTruthRecord,
    Heartbeat,
    Kind,
    Outcome,
    PredictionRecord,
    Record,
    StreamEnd,
)
from gateway.core.tensors import NUMPY_DTYPES, Array, Datatype, Shape, Tensor

END_OF_APPEND: Final = b"}\n"  # closes the last line of an append; inside a JSON text a line never ends
END_OF_LINE: Final = b"} \n"  # closes every other line, so that a reader sees an append whole or not at all
_NUMPY: Final = orjson.OPT_SERIALIZE_NUMPY
_PLACES_MAX: Final = 4_096  # of the kept beginnings: variants × outcomes of failover; about 400 bytes each
_HEADS_MAX: Final = 4_096  # of the kept beginnings of tensors: names × shapes; about 100 bytes each
_TEXT_ELEMENTS_MAX: Final = (
    128  # of a tensor of numbers written as text; beyond, raw takes a quarter of the time and half of the room
)
_LENGTH: Final = np.dtype("<u4")  # before each element of raw BYTES, as in the protocol's binary form
_PREDICTION: Final = "prediction"  # the type that has a route
Wants = Callable[[str], bool]
_KINDS: Final = {kind.value: kind for kind in Kind}
_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}
_DATATYPES: Final = {datatype.value: (datatype, dtype) for datatype, dtype in NUMPY_DTYPES.items()}


def encode(records: Sequence[Record]) -> bytes:
    """Return the lines of one append.

    Raises:
        LogFailed: a text is not Unicode or an integer has over 64 bits.
    """
    try:
        return END_OF_LINE.join([_line(record) for record in records]) + END_OF_APPEND
    except orjson.JSONEncodeError as error:
        raise LogFailed(f"a record cannot be written as JSON: {error}") from error


def decode(line: bytes | str, wants: Wants | None = None) -> Record:
    """Return the record of a line, with or without its end.

    Args:
        wants: Whether predictions on a route are read; `Elsewhere` stands for the others, which takes half the time.

    Raises:
        LogFailed: the line is damaged, or of a format or type this program does not know.
    """
    return record_from_body(line_body(line), wants)


def line_body(line: bytes | str) -> Json:
    """Return the JSON object of a line; raise `LogFailed` when it is none."""
    try:
        body = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise LogFailed(f"not a line of the log: {error}") from error
    if not isinstance(body, dict):
        raise LogFailed("not a line of the log: expected an object")
    return body


def record_from_body(body: Json, wants: Wants | None = None) -> Record:
    """Return the record of a line's object; arguments and errors are those of `decode`."""
    fields = cast("dict[str, Any]", body)
    if fields.get("v") != FORMAT:
        raise LogFailed(f"log format {fields.get('v')!r} is unknown", hint=f"this program reads format {FORMAT}")
    try:
        if wants is not None and fields["type"] == _PREDICTION and not wants(fields["route"]):
            return Elsewhere(fields["prediction_id"], fields["time"], fields["route"])
        return _READERS[fields["type"]](fields)
    except (KeyError, ValueError, TypeError) as error:
        raise LogFailed(f"not a record of log format {FORMAT}: {type(error).__name__}: {error}") from error


def tensor_from_body(body: Mapping[str, Any]) -> Tensor:
    """Return the tensor of its written form, to the bit."""
    datatype, dtype = _DATATYPES[body["datatype"]]
    if (raw := body.get("raw")) is not None:
        flat = _from_raw(datatype, b64decode(raw, validate=True))
    elif datatype is Datatype.BYTES:
        flat = np.array([text.encode() for text in body["data"]], np.object_)
    else:
        flat = np.array(body["data"], dtype)
    return Tensor(body["name"], datatype, flat.reshape(body["shape"]))


def _line(record: Record) -> bytes:
    """Return the line of a record without its closing brace."""
    match record:
        case PredictionRecord():
            return _prediction_line(record)
        case GroundTruthRecord():
            body = {
                "v": FORMAT,
                "type": "ground_truth",
                "prediction_id": record.prediction_id,
                "time": record.time_s,
                "row": record.row,
                "value": record.value,
                "observed_at": record.observed_at_s,
                "principal": record.principal,
            }
        case Heartbeat():
            body = {"v": FORMAT, "type": "heartbeat", "time": record.time_s}
        case StreamEnd():
            body = {"v": FORMAT, "type": "end", "time": record.time_s}
        case Anchor():
            body = {"v": FORMAT, "type": "anchor", "time": record.time_s, "seq": record.seq, "hash": record.hash}
        case Elsewhere():
            raise LogFailed("what a reader left out cannot be written")
    return orjson.dumps(body)[:-1]


def _prediction_line(record: PredictionRecord) -> bytes:
    changing = {
        "prediction_id": record.prediction_id,
        "time": record.time_s,
        "attempts": [
            {
                "variant": attempt.variant,
                "version": attempt.version,
                "outcome": attempt.outcome._value_,  # as `value`, ten times as fast
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
        "resting": record.resting,
    }
    place = _place_line(
        record.kind._value_,
        record.model,
        record.route,
        record.revision,
        record.assigned,
        record.variant,
        record.version,
        record.digest,
        record.runtime_version,
        record.outcome._value_,
        record.dropped,
        record.hashed,
    )
    inputs = b",".join(map(_tensor_text, record.inputs))
    outputs = b",".join(map(_tensor_text, record.outputs))
    return b"".join((place, orjson.dumps(changing)[1:-1], b',"inputs":[', inputs, b'],"outputs":[', outputs, b"]"))


@functools.lru_cache(_PLACES_MAX)
def _place_line(  # noqa: PLR0917 - keywords would double the cost of looking up
    kind: str,
    model: str,
    route: str,
    revision: int,
    assigned: str,
    variant: str,
    version: str,
    digest: str,
    runtime_version: str,
    outcome: str,
    dropped: tuple[str, ...],
    hashed: tuple[str, ...],
) -> bytes:
    """Return the beginning of a line: what changes only with the route table."""
    body = {
        "v": FORMAT,
        "type": "prediction",
        "kind": kind,
        "model": model,
        "route": route,
        "revision": revision,
        "assigned": assigned,
        "variant": variant,
        "version": version,
        "digest": digest,
        "runtime_version": runtime_version,
        "outcome": outcome,
        "dropped": dropped,
        "hashed": hashed,
    }
    return orjson.dumps(body)[:-1] + b","


def _tensor_text(tensor: Tensor) -> bytes:
    data = tensor.data
    text = _text(data)
    # Of numbers only `null` has an n, which NaN and infinities become.
    if text is None or (text.find(b"n") >= 0 and data.dtype.kind == "f"):
        return _tensor_head(tensor.name, tensor.datatype._value_, data.shape) + b',"raw":"' + b64encode(_raw(data)) + b'"}'
    return _tensor_head(tensor.name, tensor.datatype._value_, data.shape) + b',"data":' + text + b"}"


def _text(data: Array) -> bytes | None:
    """Return elements as an array of JSON, or None where they are better written raw."""
    if data.dtype.kind == "O":
        return _bytes_text(data)
    return orjson.dumps(data.ravel(), option=_NUMPY) if data.size <= _TEXT_ELEMENTS_MAX else None


@functools.lru_cache(_HEADS_MAX)
def _tensor_head(name: str, datatype: str, shape: Shape) -> bytes:
    return orjson.dumps({"name": name, "datatype": datatype, "shape": shape})[:-1]


def _bytes_text(data: Array) -> bytes | None:
    """Return BYTES as an array of strings, or None when one is not UTF-8."""
    elements: list[bytes] = data.ravel().tolist()
    try:
        return orjson.dumps([element.decode() for element in elements])
    except UnicodeDecodeError:
        return None


def _raw(data: Array) -> bytes:
    if data.dtype.kind != "O":
        return data.astype(data.dtype.newbyteorder("<"), copy=False).tobytes()
    return b"".join(len(element).to_bytes(4, "little") + element for element in data.ravel().tolist())


def _from_raw(datatype: Datatype, raw: bytes) -> Array:
    if datatype is not Datatype.BYTES:
        dtype = NUMPY_DTYPES[datatype]
        return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
    elements: list[bytes] = []
    at = 0
    while at < len(raw):
        start = at + _LENGTH.itemsize
        at = start + int.from_bytes(raw[at:start], "little")
        elements.append(raw[start:at])
    return np.array(elements, np.object_)


def _read_prediction(body: Mapping[str, Any]) -> PredictionRecord:
    return PredictionRecord(  # by position: keywords take half as long again
        body["prediction_id"],
        body["time"],
        _KINDS[body["kind"]],
        body["model"],
        body["route"],
        body["revision"],
        body["assigned"],
        body["variant"],
        body["version"],
        body["digest"],
        tuple(map(_read_attempt, body["attempts"])),
        body["assignment_key"],
        body["is_keyed"],
        tuple(map(tensor_from_body, body["inputs"])),
        tuple(map(tensor_from_body, body["outputs"])),
        body["batch_rows"],
        body["batch_position"],
        body["runtime_version"],
        _OUTCOMES[body["outcome"]],
        body["latency_us"],
        body["shadow_of"],
        body["trace_id"],
        tuple(body["resting"]),
        tuple(body.get("dropped", ())),  # these two came into the format later
        tuple(body.get("hashed", ())),
    )


def _read_attempt(body: Mapping[str, Any]) -> Attempt:
    return Attempt(body["variant"], body["version"], _OUTCOMES[body["outcome"]], body["duration_us"])


def _read_ground_truth(body: Mapping[str, Any]) -> GroundTruthRecord:
    return GroundTruthRecord(
        body["prediction_id"], body["time"], body["row"], body["value"], body["observed_at"], body["principal"]
    )


_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Record]]] = {
    _PREDICTION: _read_prediction,
    "ground_truth": _read_ground_truth,
    "heartbeat": lambda body: Heartbeat(body["time"]),
    "end": lambda body: StreamEnd(body["time"]),
    "anchor": lambda body: Anchor(body["time"], body["seq"], body["hash"]),
}
