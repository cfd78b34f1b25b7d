"""Hours of a route's life in a data directory: callers, rollouts one after the other, faults that come and go, and the monitor.

Registry, log, monitor and policy are the build's own; traffic follows the route as it stands. Whenever no rollout is open,
somebody starts one of a new version. As workers do, the log notes the newest audit entry after each change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentWriter
from adapters.memory import MemoryBank, MemoryReadings
from adapters.stores.memory import MemoryCheckpoints
from adapters.stores.registry import SqliteRegistry
from gateway.compose.directory import DataDirectory
from gateway.core.changes import Change, PutChampion, PutRollout, PutRoute, PutVersion, Write
from gateway.core.guardrail_bodies import guardrails_from_bodies
from gateway.core.models import Digest, Runtime, Target, Task, Version
from gateway.core.plans import HoldOutcome, Plan, Step
from gateway.core.records import Anchor, Attempt, GroundTruthRecord, Heartbeat, Kind, Outcome, PredictionRecord, Record, StreamEnd
from gateway.core.rollouts import begin
from gateway.core.routes import Route, Variant, champion_route
from gateway.core.split import hashed_key, slot_of
from gateway.core.tensors import Datatype, Signature, Tensor, TensorSpec
from gateway.monitor.gauges import Gauges
from gateway.monitor.run import Monitor
from gateway.settings import MonitorSettings, Settings

ROUTE = "delays"
STREAMS = ("w0", "w1")
BEGIN_S = 1_700_000_000.0
RATE = 4.0  # requests a second, a key each
TURN_S = 5.0  # the route may change between two turns of the monitor
CALM = 0.005  # of attempts and of answers that go wrong at all times
PLAN = Plan(  # quick to go on, so that what slows it down is the policy and not the plan
    steps=(Step(2_000, 30.0, 20), Step(4_000, 30.0, 20), Step(6_000, 30.0, 20), Step(8_000, 30.0, 20)),
    guardrails=guardrails_from_bodies([{"measure": "errors", "margin": 0.2}, {"measure": "loss", "margin": 0.3}], "plan"),
    bake_s=60.0,
    cool_down_s=0.0,
    patience_s=1_200.0,
    hold_timeout_s=600.0,
    hold_outcome=HoldOutcome.RESUME,
)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with every challenger, again and again.

    Attributes:
        period_s, span_s: It begins once in a period and lasts that long.
        errors, losses: Rates of failed attempts and of wrong answers meanwhile.
    """

    period_s: float
    span_s: float
    errors: float = 0.0
    losses: float = 0.0

    def is_on(self, since_s: float) -> bool:
        """Return whether it is on, so long after the beginning; it begins half a period after it."""
        return (since_s + self.period_s / 2.0) % self.period_s < self.span_s


class LogClock:
    """A clock that shows the log's time, so that the registry's entries have it too, and the monitor is not behind it."""

    def __init__(self) -> None:
        self.time_s = BEGIN_S

    def now_s(self) -> float:
        """Return the log's time."""
        return self.time_s

    monotonic_s = staticmethod(time.monotonic)


def live(root: Path, fault: Fault, hours: float, seed: int) -> None:
    """Fill a data directory with a route's life."""
    data = DataDirectory(root)
    data.make()
    clock = LogClock()
    registry = SqliteRegistry(data.registry, clock=clock)
    writers = {stream: _writer(data, stream) for stream in STREAMS}
    _commit(registry, PutVersion(_version(1)), PutChampion(ROUTE, "1"), PutRoute(champion_route(ROUTE, "1")))
    monitor = Monitor(
        settings=Settings(monitor=MonitorSettings(drill_s=0.0)),
        log=SegmentReader(data.log),
        registry=registry,
        checkpoints=MemoryCheckpoints(),
        readings=MemoryReadings(),
        gauges=Gauges(MemoryBank()),
        detector=AdwinDetector,
        recall=lambda _ids: {},
        clock=clock,
    )
    random, begun, anchored = np.random.default_rng([seed, int(fault.period_s)]), 1, 0
    while clock.time_s < BEGIN_S + hours * 3_600.0:
        if not registry.table().routes[ROUTE].rollout:
            begun += 1
            _begin(registry, str(begun), clock.time_s)
        made: dict[str, list[Record]] = {stream: [] for stream in STREAMS}
        for stream, record in _traffic(registry.table().routes[ROUTE], fault, clock.time_s, random):
            made[stream].append(record)
        clock.time_s += TURN_S
        newest = registry.audit(0, 1, newest_first=True)[0]
        if newest.seq != anchored:
            anchored = newest.seq
            made[STREAMS[0]].append(Anchor(clock.time_s, newest.seq, newest.hash))
        for stream, records in made.items():
            writers[stream].append([*records, Heartbeat(clock.time_s)])
        _turned(monitor)
    newest = registry.audit(0, 1, newest_first=True)[0]
    for writer in writers.values():
        writer.append([Anchor(clock.time_s, newest.seq, newest.hash), StreamEnd(clock.time_s)])
        writer.close()
    registry.close()


def _turned(monitor: Monitor) -> None:
    while monitor.turn(threading.Event()):
        pass


def _begin(registry: SqliteRegistry, version: str, now_s: float) -> None:
    """Register a version and begin its rollout, as a person would."""
    _commit(registry, PutVersion(_version(int(version))))
    route = registry.table().routes[ROUTE]
    rollout, split = begin(route, id=f"r{version}", challenger=version, plan=PLAN, salt=f"salt-{version}", now_s=now_s)
    _commit(registry, PutRoute(split), PutRollout(rollout))


def _commit(registry: SqliteRegistry, *writes: Write) -> None:
    registry.commit(Change("ada", "route.put", f"route:{ROUTE}", "a measurement", writes, route=ROUTE))


def _version(number: int) -> Version:
    return Version(
        model=ROUTE,
        version=str(number),
        digest=_digest(str(number)),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature(
            (TensorSpec("features", Datatype.FP32, (-1, 1)),), (TensorSpec("probability", Datatype.FP32, (-1, 1)),)
        ),
        target=Target(Task.BINARY, "probability", ("no", "yes"), "yes"),
    )


def _digest(version: str) -> Digest:
    return Digest(f"{int(version):064x}")


def _writer(data: DataDirectory, stream: str) -> SegmentWriter:
    return SegmentWriter(
        data.log,
        stream,
        segment_bytes_max=2**24,
        segment_age_s=1e9,
        bytes_max=2**32,
        free_bytes_min=0,
        clock=SystemClock(),
    )


def _traffic(route: Route, fault: Fault, since_s: float, random: np.random.Generator) -> Iterator[tuple[str, Record]]:
    """Yield a turn's records with their streams: each request, and what it should have been a millisecond later."""
    champion = route.variants[0]
    chances, answers = random.random((int(RATE * TURN_S), 2)), random.random(int(RATE * TURN_S)).astype(np.float32)
    for at, ((failing, wrong), answer) in enumerate(zip(chances.tolist(), answers.tolist(), strict=True)):
        now_s = since_s + at / RATE
        variant = route.variant(route.owners[slot_of(route.salt, _key(now_s))]) if route.owners else champion
        assert variant is not None, "a slot belongs to a variant"
        is_on = variant is not champion and fault.is_on(now_s - BEGIN_S)
        has_failed = failing < (max(CALM, fault.errors) if is_on else CALM)
        record = _answered(route, variant, now_s, answer, has_failed=has_failed)
        yield STREAMS[at % 2], record
        if record.outcome is Outcome.OK:
            is_wrong = wrong < (max(CALM, fault.losses) if is_on and not has_failed else CALM)
            value = "yes" if (answer >= 0.5) != is_wrong else "no"
            yield STREAMS[at % 2], GroundTruthRecord(record.prediction_id, now_s + 1e-3, 0, value, now_s + 1e-3)


def _key(now_s: float) -> str:
    return f"caller-{now_s}"  # each request has a caller of its own


def _answered(route: Route, variant: Variant, now_s: float, answer: float, *, has_failed: bool) -> PredictionRecord:
    """Return the record of a request; a challenger that fails is answered for by the champion."""
    champion = route.variants[0]
    attempts = (Attempt(variant.name, variant.version, Outcome.FAILED if has_failed else Outcome.OK, 400),)
    is_failed_over = has_failed and variant is not champion
    if is_failed_over:
        attempts += (Attempt(champion.name, champion.version, Outcome.OK, 400),)
    answering = champion if is_failed_over else variant
    is_lost = has_failed and not is_failed_over
    output = Tensor("probability", Datatype.FP32, np.array([[answer]], np.float32))
    return PredictionRecord(
        prediction_id=f"018bcfe5-6800-7000-8000-{round((now_s - BEGIN_S) * RATE):012x}",
        time_s=now_s,
        kind=Kind.LIVE,
        model=route.model,
        route=route.name,
        revision=int(route.revision),
        assigned=variant.name,
        variant=answering.name,
        version=answering.version,
        digest=_digest(answering.version),
        attempts=attempts,
        assignment_key=hashed_key(_key(now_s)),
        is_keyed=True,
        inputs=(),
        outputs=() if is_lost else (output,),
        batch_rows=1,
        batch_position=0,
        runtime_version="1",
        outcome=Outcome.FAILED if is_lost else Outcome.OK,
        latency_us=500,
    )
