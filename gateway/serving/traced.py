"""The path of a prediction with spans: request, and in it queue and run of each attempt, and record.

It is another `Inference`, put in the plain one's place where `tracing.endpoint` is set, so that without it nothing of this is on
the path. A caller's `traceparent` decides whether its trace is kept; of requests without one a share begins a trace of its own.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from gateway.core.errors import GatewayError
from gateway.core.records import FAULTS, Attempt, Outcome, PredictionRecord
from gateway.core.traces import Span, TraceContext, context_of, is_kept, traceparent_of
from gateway.metrics.metric import bucket_names
from gateway.metrics.serving import PREDICTION_DURATION
from gateway.ports.clock import Clock
from gateway.ports.metrics import Exemplar
from gateway.ports.traces import Traces
from gateway.serving.batch import Ran
from gateway.serving.ids import PredictionIds
from gateway.serving.infer import Answered, Call, Inference
from gateway.serving.pinned import PinnedPools
from gateway.serving.recorder import Recorder
from gateway.serving.routing import Router
from gateway.serving.shadow import ShadowQueue
from gateway.serving.wire import Request

EXEMPLARS_MAX: Final = 1_000  # places and buckets, those not seen for longest dropped first; 200 bytes each
_BUCKETS: Final = bucket_names(PREDICTION_DURATION)
_TRACEPARENT: Final = b"traceparent"
Facts = Mapping[str, str | int | float]
_NONE: Final[Facts] = {}


class Exemplars:
    """The last traced request of each bucket of the latency histogram.

    Attributes:
        has_news: Whether any came since it was last read.
    """

    def __init__(self) -> None:
        self.has_news = False
        self._last: dict[tuple[str, ...], Exemplar] = {}

    def note(self, record: PredictionRecord) -> None:
        """Take a traced request."""
        value_s = record.latency_us / 1e6
        le = _BUCKETS[bisect_left(PREDICTION_DURATION.bounds, value_s)]
        place = (record.route, record.variant, record.version)
        labels = tuple(zip(PREDICTION_DURATION.labels, place, strict=True))
        self._last.pop((*place, le), None)
        self._last[*place, le] = Exemplar(PREDICTION_DURATION.name, labels, le, record.trace_id, value_s, record.time_s)
        if len(self._last) > EXEMPLARS_MAX:
            del self._last[next(iter(self._last))]
        self.has_news = True

    def read(self) -> tuple[Exemplar, ...]:
        """Return all of them."""
        self.has_news = False
        return tuple(self._last.values())


class TracedInference(Inference):
    """The path of one worker, traced.

    Attributes:
        exemplars: Of the requests it traced.
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
        traces: Traces,
        share: float,
    ) -> None:
        """Take what a plain path takes, and:

        Args:
            traces: Where spans go.
            share: Of requests without a `traceparent` that begin a trace, in [0, 1].
        """
        super().__init__(router=router, pinned=pinned, shadows=shadows, recorder=recorder, ids=ids, clock=clock)
        self.exemplars = Exemplars()
        self._traces = traces
        self._share = share

    async def infer(self, call: Call, request: Request) -> Answered:
        """Do what the plain path does, and tell of it."""
        parent = _parent(call, self._share)
        if parent is None or not parent.is_sampled:
            return await super().infer(call, request)
        traced = _Request(parent, wall_s=self._clock.now_s() - self._clock.monotonic_s())
        call.headers = {**call.headers, _TRACEPARENT: traceparent_of(traced.context)}  # for the record
        try:
            answered = await super().infer(call, request)
        except GatewayError as error:
            facts: Facts = {"gateway.route": call.route, "error.type": type(error).__name__}
            self._traces.send([traced.span(call.received_s, self._clock.monotonic_s(), facts, failure=type(error).__name__)])
            raise
        record, _, ran = answered
        now_s = self._clock.monotonic_s()
        whole = traced.span(call.received_s, now_s, _facts(record), failure=_failure(record.outcome))
        recorded = traced.part("record", call.received_s + record.latency_us / 1e6, now_s)
        self._traces.send([*traced.tried(ran, record.attempts), recorded, whole])
        self.exemplars.note(record)
        return answered


class _Request:
    """One traced request.

    Attributes:
        context: Its own place in the trace.
    """

    def __init__(self, parent: TraceContext, *, wall_s: float) -> None:
        """Take the caller's place in the trace, and what wall time has above monotonic time."""
        self.context = replace(parent, span_id=_new_id())
        self._parent = parent
        self._wall_s = wall_s

    def span(self, begin_s: float, end_s: float, facts: Facts, *, failure: str) -> Span:
        """Return the whole request's span."""
        own = self.context
        return Span("request", own.trace_id, own.span_id, self._parent.span_id, *self._wall(begin_s, end_s), facts, failure)

    def part(self, name: str, begin_s: float, end_s: float, facts: Facts = _NONE, *, failure: str = "") -> Span:
        """Return the span of a part of it."""
        own = self.context
        return Span(name, own.trace_id, _new_id(), own.span_id, *self._wall(begin_s, end_s), facts, failure)

    def tried(self, last: Ran, attempts: Sequence[Attempt]) -> Iterator[Span]:
        """Yield queue and run of each attempt that ran, the last one first."""
        ran: Ran | None = last
        for attempt in reversed(attempts):
            if ran is None:
                return  # the first was not run: processes had died of its like
            if ran.began_s:
                facts: Facts = {"gateway.variant": attempt.variant, "gateway.version": attempt.version}
                yield self.part("queue", ran.queued_s, ran.began_s, facts)
                facts = {**facts, "gateway.batch_rows": ran.batch_rows, "gateway.outcome": attempt.outcome.value}
                ended_s = ran.began_s + ran.duration_us / 1e6
                yield self.part("run", ran.began_s, ended_s, facts, failure=_failure(attempt.outcome))
            ran = ran.before

    def _wall(self, begin_s: float, end_s: float) -> tuple[float, float]:
        return self._wall_s + begin_s, self._wall_s + max(begin_s, end_s)


def _failure(outcome: Outcome) -> str:
    return outcome.value if outcome in FAULTS else ""


def _facts(record: PredictionRecord) -> Facts:
    return {
        "gateway.prediction_id": record.prediction_id,
        "gateway.route": record.route,
        "gateway.revision": record.revision,
        "gateway.variant": record.variant,
        "gateway.version": record.version,
        "gateway.kind": record.kind.value,
        "gateway.outcome": record.outcome.value,
        "gateway.attempts": len(record.attempts),
    }


def _parent(call: Call, share: float) -> TraceContext | None:
    """Return the caller's context, or one of our own for a share of the requests that come without any."""
    header = call.headers.get(_TRACEPARENT)
    if header is not None:
        return context_of(header)
    trace_id = secrets.token_hex(16)
    return TraceContext(trace_id, "", is_sampled=True) if is_kept(trace_id, share) else None


def _new_id() -> str:
    return secrets.token_hex(8)
