"""A prediction's two ends over HTTP: the request read from a body, and the answer to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import orjson

from gateway.core.errors import DeadlineExceeded, GatewayError, PredictFailed
from gateway.core.records import Outcome, PredictionRecord
from gateway.serving.infer import Answered, Call
from gateway.serving.table import ServedVariant
from gateway.serving.wire import Request, decode_binary, decode_infer, decode_rows, encode_forms, encode_infer, encode_rows
from gateway.web import status_of

Header = tuple[bytes, bytes]
Headers = list[Header]
JSON: Final[Header] = (b"content-type", b"application/json")
_BINARY: Final[Header] = (b"content-type", b"application/octet-stream")


@dataclass(slots=True)
class Answer:
    """What goes back: a JSON body, unless `content_type` says that binary tensors follow."""

    status: int
    headers: Headers
    body: bytes
    content_type: Header = JSON


def decoded(call: Call) -> Request:
    """Return what a body asks for.

    Raises:
        Rejected: it cannot be read.
    """
    if call.head_bytes is not None:
        return decode_binary(call.body, call.head_bytes)
    return decode_rows(call.body) if call.is_rows else decode_infer(call.body)


def encoded(call: Call, request: Request, answered: Answered) -> Answer:
    """Return the answer to a request that ran.

    Raises:
        Rejected: it cannot be written as asked.
    """
    record, variant, ran = answered
    headers = [(b"gateway-prediction-id", record.prediction_id.encode()), *variant.headers]
    if ran.fault is not None:
        error = failure(record, variant, ran.fault)
        return Answer(status_of(error), headers, orjson.dumps({"error": error.message}))
    if request.forms is None:
        return Answer(200, headers, encode_rows(record) if call.is_rows else encode_infer(request, record))
    body, head_bytes = encode_forms(request, request.forms, record, variant.version)
    if not head_bytes:
        return Answer(200, headers, body)
    return Answer(200, [*headers, (b"inference-header-content-length", b"%d" % head_bytes)], body, _BINARY)


def failure(record: PredictionRecord, variant: ServedVariant, fault: GatewayError) -> GatewayError:
    """Return the error that answers a request whose last attempt failed, counted."""
    variant.failed_duration.add(record.latency_us / 1e6)  # here, where answers that succeed do not pass
    kind = DeadlineExceeded if record.outcome in (Outcome.TIMED_OUT, Outcome.ABANDONED) else PredictFailed
    return kind(f"version {record.version!r} failed: {fault}")
