"""What the worker before this one was running when it died, recorded by its successor."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.split import hashed_id
from gateway.metrics.metric import cell
from gateway.metrics.serving import PREDICTIONS
from gateway.ports.inflight import InFlight, Interrupted, Place
from gateway.ports.metrics import MetricsBank
from gateway.serving.recorder import Recorder
from gateway.serving.routing import Router
from gateway.serving.table import PINNED

_TABLE_S: Final = 5.0  # for the table, which tells a shadow's run from a live one; then every run counts as live


async def record_left_behind(
    in_flight: InFlight, router: Router, recorder: Recorder, worker: str, *, metrics: MetricsBank
) -> None:
    """Record, and count, what the worker before this one was running when it died, blamed on the version that ran.

    All of it shares one assignment key: requests that died together are one event, not so many failing callers.
    """
    left_behind = sorted(in_flight.left_behind(), key=lambda left: left.prediction_id)  # the first to come counts as evidence
    death = hashed_id(f"{worker}:{left_behind[0].prediction_id}") if left_behind else ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TABLE_S):
            await router.has_read.wait()
    for left in left_behind:
        record = _record_of(left, _kind_of(left.place, router), recorder.time_s(), death)
        recorder.add_unwaited(record)
        ended = (record.kind.value, record.outcome.value)
        cell(metrics, PREDICTIONS, record.route, record.variant, record.version, *ended).add(1.0)


def _kind_of(place: Place, router: Router) -> Kind:
    route = router.table.table.routes.get(place.route)
    if route is not None and any(shadow.name == place.variant for shadow in route.shadows):
        return Kind.SHADOW
    return Kind.PINNED if place.variant == PINNED else Kind.LIVE


def _record_of(left: Interrupted, kind: Kind, time_s: float, death: str) -> PredictionRecord:
    place = left.place
    outcome = Outcome.HUNG if left.was_hung else Outcome.CRASHED
    return PredictionRecord(
        prediction_id=left.prediction_id,
        time_s=time_s,
        kind=kind,
        model=place.model,
        route=place.route,
        revision=place.revision,
        assigned=place.variant,
        variant=place.variant,
        version=place.version,
        digest=place.digest,
        attempts=(Attempt(place.variant, place.version, outcome, 0),),
        assignment_key=death,
        is_keyed=False,
        inputs=(),
        outputs=(),
        batch_rows=0,
        batch_position=0,
        runtime_version=place.runtime_version,
        outcome=outcome,
        latency_us=0,
    )
