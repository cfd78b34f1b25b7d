"""One serving worker: its parts put together, its event loop, its regular turns and its stop.

The worker accepts connections once it has read the route table and warmed what that needs; until then they wait in the kernel.
SIGTERM drains: not ready at once, what is in flight finishes, connections close, the stream gets its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import uvloop

from gateway.core.errors import StoreFailed
from gateway.core.models import Runtime as RuntimeName
from gateway.core.models import Version
from gateway.core.privacy import Privacy
from gateway.core.records import Attempt, Kind, Outcome, PredictionRecord
from gateway.core.split import hashed_id
from gateway.metrics.metric import cell
from gateway.metrics.serving import LOOP_LAG, MODEL_MEMORY, WARM_BYTES, WARM_VERSIONS
from gateway.ports.clock import Clock
from gateway.ports.inflight import InFlight, Interrupted, Place, SuspicionStore
from gateway.ports.loading import LoadLock, MemoryMeter
from gateway.ports.log import PredictionLogWriter
from gateway.ports.metrics import MetricsBank, MetricsSnapshots
from gateway.ports.runtimes import Runtime
from gateway.ports.stores import ArtifactStore, RegistryStore
from gateway.ports.traces import Traces
from gateway.serving.app import ServingApp
from gateway.serving.describe import Description
from gateway.serving.discretion import Discretion
from gateway.serving.ids import PredictionIds
from gateway.serving.infer import Inference
from gateway.serving.limits import Callers
from gateway.serving.loader import Loader
from gateway.serving.pinned import PinnedPools
from gateway.serving.poison import Poison
from gateway.serving.pools import Pool
from gateway.serving.recorder import Recorder
from gateway.serving.refusals import Refusals
from gateway.serving.repository import Repository
from gateway.serving.routing import Keeping, Router
from gateway.serving.shadow import ShadowQueue
from gateway.serving.shared import Shared
from gateway.serving.shelf import Shelf
from gateway.serving.statistics import totals
from gateway.serving.table import PINNED, Bench
from gateway.serving.traced import Exemplars, TracedInference
from gateway.serving.turn import Turn
from gateway.serving.warming import Warm, warmed
from gateway.settings import PredictionTokens, Settings
from gateway.web import HttpServer, Limits

_log = logging.getLogger(__name__)
_RUNTIME_THREADS: Final = ("pool ", "loader")
_GC_OBJECTS: Final = 20_000  # new containers between collections of the youngest: some 500 requests
_TURN_S: Final = 0.1  # between signs of life; the watchdog waits 10 s
_EXEMPLARS_S: Final = 1.0  # between two files of them; a scrape comes every few seconds
_ACCEPT_S: Final = 10.0  # then connections are accepted although not everything is warm, and health says so
_STATISTICS_S: Final = 0.1  # between two readings of all workers' cells; 0.4 ms for 5 routes and 2 workers, 8 ms for 100
_TABLE_S: Final = 5.0  # for the table, which tells a shadow's run from a live one; then every run counts as live


@dataclass(frozen=True, slots=True)
class Ports:
    """What a worker meets outside itself."""

    registry: RegistryStore
    artifacts: ArtifactStore
    runtimes: Mapping[RuntimeName, Runtime]
    log: PredictionLogWriter
    metrics: MetricsBank
    snapshots: MetricsSnapshots
    in_flight: InFlight
    suspicions: SuspicionStore
    memory: MemoryMeter
    load_lock: LoadLock
    clock: Clock
    traces: Traces | None = None


def run_worker(
    *,
    worker: str,
    workers: Sequence[str],
    listener: socket.socket,
    settings: Settings,
    registry: RegistryStore,
    artifacts: ArtifactStore,
    runtimes: Mapping[RuntimeName, Runtime],
    log: PredictionLogWriter,
    metrics: MetricsBank,
    snapshots: MetricsSnapshots,
    in_flight: InFlight,
    suspicions: SuspicionStore,
    memory: MemoryMeter,
    load_lock: LoadLock,
    clock: Clock,
    privacy: Privacy | None = None,
    traces: Traces | None = None,
) -> None:
    """Serve until SIGTERM, then drain; blocks.

    Args:
        traces: Where spans go; None where nobody asked for any.
        workers: The names of all of the gateway's, `worker` among them.
        privacy: What the log may not hold; None when it may hold everything.
    """
    ports = Ports(registry, artifacts, runtimes, log, metrics, snapshots, in_flight, suspicions, memory, load_lock, clock, traces)
    gc.freeze()  # what was imported is never garbage; collections look only at what requests make,
    gc.set_threshold(_GC_OBJECTS, 10, 10)  # and seldom, because one of them takes 4 to 8 ms

    async def until_signal() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        await serve(worker, listener, workers=workers, settings=settings, ports=ports, stop=stop, privacy=privacy)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(until_signal())
    if any(thread.name.startswith(_RUNTIME_THREADS) for thread in threading.enumerate()):
        os._exit(0)  # a runtime may be at work there; the interpreter's own end would wait for it, or abort inside it


async def serve(
    worker: str,
    listener: socket.socket,
    *,
    workers: Sequence[str],
    settings: Settings,
    ports: Ports,
    stop: asyncio.Event,
    privacy: Privacy | None = None,
) -> None:
    """Serve until `stop` is set, then drain."""
    np.seterr(over="ignore")  # a number too large for FP32 is found by the infinity it becomes, and refused
    serving, loop = settings.serving, asyncio.get_running_loop()
    metrics, clock, in_flight = ports.metrics, ports.clock, ports.in_flight
    turn = Turn(loop, serving.inline_turn_us_max)
    bench = Bench(in_flight, metrics)
    poison = Poison(ports.suspicions, keep_s=serving.poison_s, metrics=metrics, clock=clock)
    poison.died(in_flight.runs_left())
    ids = PredictionIds(clock)

    def warm(version: Version) -> Warm:
        return warmed(version, ports.artifacts, ports.runtimes, runs=serving.warm_runs, memory=ports.memory, clock=clock)

    def pool(warm: Warm) -> Pool:
        return Pool(warm, turn=turn, settings=serving, in_flight=in_flight, poison=poison, metrics=metrics, clock=clock)

    _zero_memory(worker, ports)
    redacted = None if privacy is None else Discretion(privacy, ports.registry)
    recorder = Recorder(ports.log, settings=settings.log, metrics=metrics, clock=clock, loop=loop, redacted=redacted)
    shelf = Shelf(bytes_max=serving.model_memory_bytes_max, metrics=metrics)
    loader = Loader(warm=warm, pool=pool, shelf=shelf, metrics=metrics, clock=clock)
    router = Router(
        worker=worker,
        registry=ports.registry,
        loader=loader,
        shelf=shelf,
        keeping=Keeping(serving.kept_names_max, frozenset(name.strip() for name in serving.keep_warm.split(","))),
        bench=bench,
        anchor=recorder.anchor,
        metrics=metrics,
        clock=clock,
    )
    pinned = PinnedPools(ports.registry, loader, shelf)
    repository = Repository(
        registry=ports.registry, workers=workers, router=router, pinned=pinned, loader=loader, shelf=shelf, clock=clock
    )
    statistics = Shared("statistics", lambda: totals(ports.snapshots), fresh_s=_STATISTICS_S, clock=clock)
    shadows = ShadowQueue(
        ids=ids,
        recorder=recorder,
        turn=turn,
        copies_max=serving.shadow_queue_max,
        bytes_max=serving.shadow_queue_bytes_max,
        clock=clock,
    )
    inference = Inference(router=router, pinned=pinned, shadows=shadows, recorder=recorder, ids=ids, clock=clock)
    if ports.traces is not None:
        inference = TracedInference(
            router=router,
            pinned=pinned,
            shadows=shadows,
            recorder=recorder,
            ids=ids,
            clock=clock,
            traces=ports.traces,
            share=settings.tracing.share,
        )
    refusals = Refusals(clock)
    description = Description(
        router=router,
        pinned=pinned,
        repository=repository,
        statistics=statistics,
        recorder=recorder,
        metrics=metrics,
        batch_rows_max=serving.batch_rows_max,
        is_draining=lambda: server.is_draining,
        refused=refusals.answer,
    )
    callers = None
    if (tokens := serving.prediction_tokens) is not PredictionTokens.OFF:
        callers = Callers(lambda: router.keys, tokens=tokens, workers=serving.workers, clock=clock)
    app = ServingApp(
        inference=inference,
        router=router,
        recorder=recorder,
        metrics=metrics,
        clock=clock,
        body_bytes_max=serving.body_bytes_max,
        callers=callers,
        rest=description,
        refused=refusals.answer,
    )
    server = HttpServer(
        app,
        Limits(
            header_timeout_s=serving.header_timeout_s,
            body_timeout_s=serving.body_timeout_s,
            keep_alive_s=serving.keep_alive_s,
            connections_max=serving.connections_max,
        ),
    )
    grpc_server = None
    if serving.grpc_port >= 0:
        from gateway.serving.grpc.server import GrpcServer  # its packages come with an extra
        from gateway.serving.grpc.service import GrpcService

        service = GrpcService(
            inference=inference,
            description=description,
            callers=callers,
            refusals=refusals,
            metrics=metrics,
            clock=clock,
        )
        grpc_server = GrpcServer(service, serving)
    async with asyncio.TaskGroup() as tasks:
        owned = [
            tasks.create_task(router.follow()),
            tasks.create_task(router.report()),
            tasks.create_task(loader.give_back(ports.memory)),
            tasks.create_task(_turn_regularly(in_flight, recorder, poison, metrics, clock, run_hung_s=serving.run_hung_s)),
            tasks.create_task(_record_left_behind(in_flight, router, recorder, worker)),
        ]
        if isinstance(inference, TracedInference):
            owned.append(tasks.create_task(_show_exemplars(inference.exemplars, metrics)))
        await _settled(router, stop)
        await server.start(listener)
        if grpc_server is not None:
            await grpc_server.start(listener.getsockname()[0], serving.grpc_port)
        loader.take_turns(ports.load_lock)
        await stop.wait()
        _log.info("draining", extra={"action": "drain"})
        drains = [server.drain(serving.drain_s), *([] if grpc_server is None else [grpc_server.drain(serving.drain_s)])]
        await asyncio.gather(*drains)
        for task in owned:
            task.cancel()
    ports.registry.close()  # a waiting reader returns
    router.close()
    pinned.close()
    repository.close()
    statistics.close()
    await recorder.close()
    if ports.traces is not None:
        await loop.run_in_executor(None, ports.traces.close)
    in_flight.close()  # what still runs in a thread was answered, or its connection was cut: no version is to blame


def _zero_memory(worker: str, ports: Ports) -> None:
    """Have the metrics say that nothing is warm: what the worker before held went with it."""
    for sample in ports.snapshots.latest().get(worker, ()):
        if sample.name in (MODEL_MEMORY.name, WARM_VERSIONS.name, WARM_BYTES.name) and sample.value:
            ports.metrics.cell(sample.name, sample.labels).set(0.0)


async def _settled(router: Router, stop: asyncio.Event) -> None:
    """Wait until everything is warm: meanwhile connections wait in the kernel, which is better than an error after a restart."""
    waits = [asyncio.create_task(event.wait()) for event in (router.has_settled, stop)]
    await asyncio.wait(waits, timeout=_ACCEPT_S, return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


async def _turn_regularly(
    in_flight: InFlight, recorder: Recorder, poison: Poison, metrics: MetricsBank, clock: Clock, *, run_hung_s: float
) -> None:
    """Show the watchdog that the loop turns and no run hangs, measure how late the loop is, beat, and look for poison."""
    loop, lag = asyncio.get_running_loop(), cell(metrics, LOOP_LAG)
    is_well = True
    while True:
        due_s = loop.time() + _TURN_S
        await asyncio.sleep(_TURN_S)
        lag.set(max(loop.time() - due_s, 0.0))
        if clock.monotonic_s() - in_flight.oldest_s() <= run_hung_s:
            in_flight.turned()
        elif is_well:
            is_well = False
            _log.error("a run does not end; the watchdog will kill this worker", extra={"action": "hang"})
        recorder.beat()
        poison.look()


async def _show_exemplars(exemplars: Exemplars, metrics: MetricsBank) -> None:
    """Publish the newest traced requests."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_EXEMPLARS_S)
        if exemplars.has_news:
            with contextlib.suppress(StoreFailed):  # examples only; the next news are tried again
                await loop.run_in_executor(None, metrics.exemplify, exemplars.read())


async def _record_left_behind(in_flight: InFlight, router: Router, recorder: Recorder, worker: str) -> None:
    """Record what the worker before this one was running when it died, blamed on the version that ran.

    All of it shares one assignment key: requests that died together are one event, not so many failing callers.
    """
    left_behind = sorted(in_flight.left_behind(), key=lambda left: left.prediction_id)  # the first to come counts as evidence
    death = hashed_id(f"{worker}:{left_behind[0].prediction_id}") if left_behind else ""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_TABLE_S):
            await router.has_read.wait()
    for left in left_behind:
        recorder.add_unwaited(_record_of(left, _kind_of(left.place, router), recorder.time_s(), death))


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
