"""Late ground truth: the true outcome of earlier predictions, posted by who may, written to the log like any record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import orjson

from gateway.core.access import Key, Principal, Scope
from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields
from gateway.core.records import GroundTruthRecord
from gateway.metrics.metric import cell
from gateway.metrics.serving import GROUND_TRUTH
from gateway.ports.metrics import MetricsBank
from gateway.serving.limits import bearer_key
from gateway.serving.recorder import Recorder

_RECORDS_MAX: Final = 10_000  # of one request; about 1 MB
_ROW_MAX: Final = 1 << 31
_TEXT_MAX: Final = 1_000  # of a label
_AHEAD_S_MAX: Final = 86_400.0  # of an outcome's own time: a clock in another zone; beyond it the caller sent something else


async def record_truth(body: bytes, principal: Principal, recorder: Recorder, metrics: MetricsBank) -> bytes:
    """Write the outcomes of a request's body and return the answer, `{"accepted": n}`; all of them or none.

    Raises:
        NotPermitted: the principal lacks the scope.
        MalformedRequest: the body is not of the documented form.
        LogFailed: nothing was written.
    """
    principal.require(Scope.GROUND_TRUTH)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    fields = Fields(content)
    items = fields.items("records", _RECORDS_MAX)
    fields.done()
    time_s = recorder.time_s()
    records = [_record(item, at, time_s, principal) for at, item in enumerate(items)]
    if records:
        await recorder.add(*records)
    cell(metrics, GROUND_TRUTH).add(len(records))
    return orjson.dumps({"accepted": len(records)})


def authenticated(authorization: bytes | None, keys: Mapping[str, Key]) -> Principal:
    """Return whose token an `Authorization` header holds.

    Raises:
        NotAuthenticated: it holds none, or one that is not known.
    """
    key = bearer_key(authorization, keys)
    return Principal(key.name, key.scopes)


def _record(item: object, at: int, time_s: float, principal: Principal) -> GroundTruthRecord:
    fields = Fields(item, f"records[{at}]")
    record = GroundTruthRecord(
        prediction_id=_prediction_id(fields),
        time_s=time_s,
        row=fields.integer("row", 0, _ROW_MAX, 0),
        value=_value(fields),
        observed_at_s=fields.number("observed_at", 0.0, time_s + _AHEAD_S_MAX, time_s),
        principal=principal.name,
    )
    fields.done()
    return record


def _prediction_id(fields: Fields) -> str:
    text = fields.text("prediction_id", length_max=36)
    try:
        return str(UUID(text))
    except ValueError:
        raise fields.wrong("prediction_id", "a prediction's id") from None


def _value(fields: Fields) -> str | float | int | bool:
    value = fields.value("value")
    if isinstance(value, str) and len(value) <= _TEXT_MAX:
        return value
    if isinstance(value, bool) or (isinstance(value, int | float) and math.isfinite(value)):
        return value
    raise fields.wrong("value", f"a finite number, a boolean or a label of at most {_TEXT_MAX:,} characters")
