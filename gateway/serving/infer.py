"""The path of a prediction, in five verbs: route, check, run, mirror, record.

A request that did not run, because it was refused or its time or its place in the queue was gone, leaves no record and no
evidence, only a metric. One that ran leaves exactly one record, written before its answer leaves, whatever the outcome. A hard
fault of the assigned variant is answered by the fallback within the deadline, and the record keeps both attempts. Nothing here
knows HTTP or gRPC beyond the headers it is given: what a request is read from and its answer written as is `answers.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from gateway.core.errors import Busy, DeadlineExceeded, NotReady, Overloaded, PoisonousInput, SignatureMismatch
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.routes import AssignmentSource
from gateway.core.split import hashed_id, hashed_key
from gateway.core.tensors import Tensor
from gateway.core.traces import context_of
from gateway.ports.clock import Clock
from gateway.serving.batch import Caller, Ran
from gateway.serving.ids import PredictionIds
from gateway.serving.limits import Allowance
from gateway.serving.pinned import PinnedPools
from gateway.serving.recorder import Recorder
from gateway.serving.routing import Router
from gateway.serving.shadow import ShadowQueue
from gateway.serving.table import ServedRoute, ServedVariant
from gateway.serving.wire import Request

_KEY_HEADER: Final = b"gateway-assignment-key"
_KEY_PARAMETER: Final = "assignment_key"
_FIRST_SHARE: Final = 0.75  # of the deadline for an attempt that has a fallback behind it; the rest is the fallback's
_PRIORITY: Final = (b"priority", b"\\u")  # a body with neither, which JSON may write for a letter, has no such parameter
_SHEDDING_S: Final = 1.0  # after a version refused a request
_OK: Final = Outcome.OK  # a name of the module is found faster than one of a class

Answered = tuple[PredictionRecord, ServedVariant, Ran]


@dataclass(slots=True)
class Call:
    """A prediction request as it came.

    Attributes:
        route: The route's or model's name.
        version: The version the caller named, or empty.
        is_rows: Whether the body holds plain rows rather than the protocol's tensors.
        headers: By lower-case name.
        received_s: When its last byte was in, on the clock's monotonic time.
        head_bytes: Of the body's JSON part; None when all of it is JSON.
        caller: Who waits for the answer, and may leave before.
        allowance: What its token allows, where tokens are looked at.
    """

    route: str
    version: str
    is_rows: bool
    headers: Mapping[bytes, bytes]
    body: bytes
    received_s: float
    head_bytes: int | None = None
    caller: Caller | None = None
    allowance: Allowance | None = None


@dataclass(slots=True)
class Routed:
    """Where a request goes.

    Attributes:
        assigned: The variant that the split chose, or the one a caller named.
        candidates: What may run, in order; never empty.
        key: The assignment key, or empty when the caller sent none.
        resting: Variants that could not have run it, whichever the split chose.
    """

    route: ServedRoute
    kind: Kind
    assigned: ServedVariant
    candidates: Sequence[ServedVariant]
    key: str
    deadline_s: float
    resting: tuple[str, ...] = ()


class Inference:
    """The path of one worker.

    Attributes:
        sheds_until_s: While a pool has just refused a request, others like it are to be refused before they are read; else 0.
    """

    def __init__(
        self,
        *,
        router: Router,
        pinned: PinnedPools,
        shadows: ShadowQueue,
        recorder: Recorder,
        ids: PredictionIds,
        clock: Clock,
    ) -> None:
        self._router = router
        self._pinned = pinned
        self._shadows = shadows
        self._recorder = recorder
        self._ids = ids
        self._clock = clock
        self.sheds_until_s = 0.0

    async def infer(self, call: Call, request: Request) -> Answered:
        """Run one prediction request; return its record, what answered and how that ended.

        Raises:
            Rejected, LimitExceeded, Busy: it did not run.
            ModelFault: it would not load.
            LogFailed: it ran, but its record could not be written.
        """
        prediction_id = self._ids.next()
        if call.version:
            routed = await self._routed_to_version(call, request)
        else:
            try:
                routed = self._routed(call, request, prediction_id)
            except NotReady:
                await self._warm_up(call, request)
                routed = self._routed(call, request, prediction_id)
        inputs, rows = routed.candidates[0].checker.checked(request)
        if rows > 1:
            _keep_within_bounds(routed, rows)
        if call.allowance is not None:
            call.allowance.take_rows(rows)
        variant, ran, attempts = await self._run(call, routed, prediction_id, inputs, rows, priority=_priority(request))
        record = self._record(call, routed, prediction_id, inputs, variant=variant, ran=ran, attempts=attempts)
        if routed.route.shadows and routed.kind is Kind.LIVE:
            self._shadows.mirror(routed.route, record, rows)
        await self._recorder.add(record)
        return record, variant, ran

    def refuse_early(self, call: Call) -> None:
        """Refuse a request that its version would refuse once it was read, which is most of what a refusal costs.

        One that may name a priority, be it in a value, is read, and refused or taken by what it says.

        Raises:
            PoolSaturated, Overloaded: as of `Pool.submit`, for one row without a priority.
        """
        now_s = self._clock.monotonic_s()
        if now_s > self.sheds_until_s:
            self.sheds_until_s = 0.0
        if call.version or any(text in call.body for text in _PRIORITY):
            return
        route = self._router.table.route(call.route)
        if (sole := route.sole) is not None and sole.pool is not None:
            sole.pool.refuse_late(1, 0, call.received_s + route.deadline_s - now_s)

    def _routed(self, call: Call, request: Request, prediction_id: str) -> Routed:
        """Return where the split sends a request."""
        route = self._router.table.route(call.route)
        key = _assignment_key(route, call, request)
        resting = route.resting(self._clock.monotonic_s())  # before a probe is admitted, which ends this
        assigned = route.assigned(key, prediction_id)
        candidates = self._candidates(assigned, route.fallback)
        return Routed(route, Kind.LIVE, assigned, candidates, key, _deadline_s(route, call, request), resting)

    async def _warm_up(self, call: Call, request: Request) -> None:
        """Load what answers for the route, within the request's deadline."""
        route = self._router.table.route(call.route)
        within_s = _deadline_s(route, call, request) - self._clock.monotonic_s()
        await self._pinned.warm_up(route.fallback.version, within_s=within_s)

    async def _routed_to_version(self, call: Call, request: Request) -> Routed:
        """Return the place of the version that the caller named, loading it if it is not warm."""
        route = self._router.table.route(call.route)
        deadline_s = _deadline_s(route, call, request)
        model = route.route.model
        pool = self._router.table.pools.use((model, call.version))
        if pool is None:
            within_s = deadline_s - self._clock.monotonic_s()
            pool = await self._pinned.pool(model, call.version, within_s=within_s)
        variant = self._router.table.pinned(route, pool)
        key = _assignment_key(route, call, request)
        return Routed(route, Kind.PINNED, variant, (variant,), key, deadline_s)

    def _candidates(self, assigned: ServedVariant, fallback: ServedVariant) -> Sequence[ServedVariant]:
        """Return what may run: the assigned variant unless it rests or is not warm, then the fallback.

        Raises:
            NotReady: neither is warm.
        """
        if assigned is fallback and assigned.pool is not None:
            return (assigned,)
        found: list[ServedVariant] = []
        if assigned.pool is not None and assigned.pool.faults.admits(self._clock.monotonic_s()):
            found.append(assigned)
        if fallback.pool is not None and fallback is not assigned:
            found.append(fallback)
        if not found:
            raise NotReady(
                f"version {assigned.version.version!r} of {assigned.version.model!r} is not loaded",
                retry_after_s=self._pinned.retry_in_s((assigned.version, fallback.version)),
            )
        return found

    async def _run(
        self, call: Call, routed: Routed, prediction_id: str, inputs: tuple[Tensor, ...], rows: int, *, priority: int
    ) -> tuple[ServedVariant, Ran, tuple[Attempt, ...]]:
        """Run on the first candidate and, when that fails hard, on the next; return the last that ran and all attempts.

        Raises:
            PoolSaturated, DeadlineExceeded: nothing began.
            SignatureMismatch: a request without rows failed, which is no fault of the version.
            PoisonousInput: processes died of it.
        """
        ended: tuple[ServedVariant, Ran, tuple[Attempt, ...]] | None = None
        attempts: tuple[Attempt, ...] = ()
        last = routed.candidates[-1]
        for variant in routed.candidates:
            pool = variant.pool
            assert pool is not None, "a candidate is warm"
            is_last = variant is last
            deadline_s = routed.deadline_s if is_last else self._first_deadline_s(routed.deadline_s)
            try:
                ran = await pool.submit(
                    prediction_id, variant.place, inputs, rows, deadline_s=deadline_s, priority=priority, caller=call.caller
                )
            except PoisonousInput:
                if ended is not None:
                    return ended
                if is_last:
                    raise
                attempts = (Attempt(variant.name, variant.version.version, Outcome.CRASHED, 0),)  # as it would again
                continue
            except Busy as busy:
                if isinstance(busy, Overloaded):
                    self.sheds_until_s = self._clock.monotonic_s() + _SHEDDING_S
                if ended is not None:
                    return ended  # the first attempt's failure stands, and has a record
                if is_last or not isinstance(busy, DeadlineExceeded):
                    raise
                continue
            if ended is not None:
                ran.before = ended[1]
            is_answered = ran.outcome is _OK
            if not is_answered:
                if not rows:
                    raise SignatureMismatch(f"version {variant.version.version!r} does not run without rows")
                if ran.outcome is Outcome.TIMED_OUT and routed.deadline_s < call.received_s + routed.route.deadline_s:
                    ran.outcome = Outcome.ABANDONED  # the caller's own timeout; else anybody could count faults against a version
            now_s = self._clock.monotonic_s()
            if routed.kind is Kind.LIVE and ran.outcome is not Outcome.ABANDONED:
                pool.faults.note(is_fault=not is_answered, now_s=now_s)
            attempts = (*attempts, Attempt(variant.name, variant.version.version, ran.outcome, ran.duration_us))
            ended = (variant, ran, attempts)
            if is_answered or now_s >= routed.deadline_s:
                return ended
        assert ended is not None, "the last candidate ran or raised"
        return ended

    def _first_deadline_s(self, deadline_s: float) -> float:
        now_s = self._clock.monotonic_s()
        return now_s + (deadline_s - now_s) * _FIRST_SHARE

    def _record(
        self,
        call: Call,
        routed: Routed,
        prediction_id: str,
        inputs: tuple[Tensor, ...],
        *,
        variant: ServedVariant,
        ran: Ran,
        attempts: tuple[Attempt, ...],
    ) -> PredictionRecord:
        """Return the record, counted."""
        route, version, pool = routed.route.route, variant.version, variant.pool
        latency_s = self._clock.monotonic_s() - call.received_s
        variant.count(routed.kind, ran.outcome)
        variant.duration.observe(latency_s)
        if variant is not routed.assigned:
            variant.failovers.add(1.0)
        traceparent = call.headers.get(b"traceparent")
        return PredictionRecord(
            prediction_id=prediction_id,
            time_s=self._recorder.time_s(),
            kind=routed.kind,
            model=route.model,
            route=route.name,
            revision=route.revision,
            assigned=routed.assigned.name,
            variant=variant.name,
            version=version.version,
            digest=version.digest,
            attempts=attempts,
            assignment_key=hashed_key(routed.key) if routed.key else hashed_id(prediction_id),
            is_keyed=bool(routed.key),
            inputs=inputs,
            outputs=ran.outputs,
            batch_rows=ran.batch_rows,
            batch_position=ran.batch_position,
            runtime_version=pool.runtime_version if pool is not None else "",
            outcome=ran.outcome,
            latency_us=int(latency_s * 1e6),
            trace_id=context.trace_id if traceparent is not None and (context := context_of(traceparent)) else "",
            resting=routed.resting,
        )


def _keep_within_bounds(routed: Routed, rows: int) -> None:
    """Keep a request from variants whose versions take no so many rows: they count as resting, and the fallback answers.

    So what a caller gets does not depend on the split, and a challenger with a lower bound refuses nobody.

    Raises:
        SignatureMismatch: no candidate takes as many.
    """
    candidates = [variant for variant in routed.candidates if variant.takes(rows)]
    if not candidates:
        most = max(variant.version.batching.rows_max for variant in routed.candidates)
        raise SignatureMismatch(f"a request of {rows:,} rows: {routed.route.route.name!r} takes at most {most:,}")
    routed.candidates = candidates
    if routed.kind is Kind.LIVE:
        routed.resting = tuple(dict.fromkeys((*routed.resting, *routed.route.too_small(rows))))


def _assignment_key(route: ServedRoute, call: Call, request: Request) -> str:
    """Return the caller's key: from where the route says, else from the header or parameter every route reads; or nothing."""
    source, name = route.assignment.source, route.assignment.name
    if source is AssignmentSource.HEADER:
        if header := call.headers.get(name.encode("latin-1", "replace")):
            return header.decode("latin-1")
    else:
        value = _first_value(route, request, name) if source is AssignmentSource.INPUT else request.parameters.get(name)
        if value is not None:
            return _key_text(value)
    if header := call.headers.get(_KEY_HEADER):
        return header.decode("latin-1")
    return _key_text(request.parameters.get(_KEY_PARAMETER, "")) if request.parameters else ""


def _key_text(value: object) -> str:
    """Return a value as a key: the same for 4 and 4.0, and for a number in FP32 and in JSON; nothing for NaN."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return ""
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return str(value)


def _first_value(route: ServedRoute, request: Request, name: str) -> object:
    """Return the first row's value of a named input or column, or None."""
    columns = route.fallback.checker.columns
    if request.rows is not None:
        row = request.rows[0]
        if isinstance(row, dict):
            return row.get(name)
        return row[columns.index(name)] if name in columns and len(row) == len(columns) else None
    tensors = request.tensors or route.fallback.checker.tensors_of(request)
    tensor = tensors.get(name)
    at = 0
    if tensor is None and len(tensors) == 1 and name in columns:
        tensor, at = next(iter(tensors.values())), columns.index(name)
    if tensor is None or tensor.data.size <= at:
        return None
    return cast("object", tensor.data.flat[at])


def _deadline_s(route: ServedRoute, call: Call, request: Request) -> float:
    """Return the deadline on the clock's monotonic time: the route's, or sooner by the request's parameter `timeout`, in µs."""
    timeout_us = cast("float", request.parameters.get("timeout", 0)) if request.parameters else 0
    return call.received_s + (min(route.deadline_s, timeout_us / 1e6) if timeout_us else route.deadline_s)


def _priority(request: Request) -> int:
    """Return a request's priority, checked when it was decoded: 1 goes first, 0 is none."""
    return cast("int", request.parameters.get("priority", 0)) if request.parameters else 0
