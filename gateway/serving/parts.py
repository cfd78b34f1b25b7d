"""The parts of one serving worker, put together: what runs versions, what routes, what answers, and what writes it down.

Nothing runs yet: the worker (`run.py`) starts what is here and stops it in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway.core.models import Runtime as RuntimeName
from gateway.core.models import Version
from gateway.core.privacy import Privacy
from gateway.ports.clock import Clock
from gateway.ports.inflight import InFlight, SuspicionStore
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
from gateway.serving.statistics import Totals, totals
from gateway.serving.table import Bench
from gateway.serving.traced import TracedInference
from gateway.serving.turn import Turn
from gateway.serving.warming import Warm, warmed
from gateway.settings import PredictionTokens, ServingSettings, Settings
from gateway.web import HttpServer, Limits

if TYPE_CHECKING:
    from gateway.serving.grpc.server import GrpcServer

_STATISTICS_S: Final = 0.1  # between two readings of all workers' cells; 0.4 ms for 5 routes and 2 workers, 8 ms for 100


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


@dataclass(frozen=True, slots=True)
class Parts:
    """What a worker is made of, as far as it is started and stopped."""

    poison: Poison
    recorder: Recorder
    loader: Loader
    router: Router
    pinned: PinnedPools
    repository: Repository
    statistics: Shared[Totals]
    inference: Inference
    server: HttpServer
    grpc_server: GrpcServer | None


def assembled(worker: str, *, workers: Sequence[str], settings: Settings, ports: Ports, privacy: Privacy | None) -> Parts:
    """Put a worker together, within its event loop.

    Args:
        workers: The names of all of the gateway's, `worker` among them.
        privacy: What the log may not hold; None when it may hold everything.
    """
    serving, loop, metrics, clock = settings.serving, asyncio.get_running_loop(), ports.metrics, ports.clock
    turn = Turn(loop, serving.inline_turn_us_max)
    poison = Poison(ports.suspicions, keep_s=serving.poison_s, metrics=metrics, clock=clock)
    poison.died(ports.in_flight.runs_left())
    redacted = None if privacy is None else Discretion(privacy, ports.registry)
    recorder = Recorder(ports.log, settings=settings.log, metrics=metrics, clock=clock, loop=loop, redacted=redacted)
    shelf = Shelf(bytes_max=serving.model_memory_bytes_max, metrics=metrics)
    loader = _loader(serving, ports, turn=turn, poison=poison, shelf=shelf)
    router = _router(worker, serving, ports, loader=loader, shelf=shelf, recorder=recorder)
    pinned = PinnedPools(ports.registry, loader, shelf)
    repository = Repository(
        registry=ports.registry, workers=workers, router=router, pinned=pinned, loader=loader, shelf=shelf, clock=clock
    )
    statistics = Shared("statistics", lambda: totals(ports.snapshots), fresh_s=_STATISTICS_S, clock=clock)
    inference = _inference(settings, ports, turn=turn, recorder=recorder, router=router, pinned=pinned)
    refusals = Refusals(router=router, metrics=metrics, clock=clock)
    description = Description(
        router=router,
        pinned=pinned,
        repository=repository,
        statistics=statistics,
        recorder=recorder,
        metrics=metrics,
        batch_rows_max=serving.batch_rows_max,
        body_bytes_max=serving.body_bytes_max,
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
        body_bytes_max=serving.body_bytes_max,
        callers=callers,
        rest=description,
        refusals=refusals,
    )
    server = HttpServer(app, _limits(serving), clock)
    grpc_server = None
    if serving.grpc_port >= 0:
        from gateway.serving.grpc.server import GrpcServer  # its packages come with an extra
        from gateway.serving.grpc.service import GrpcService

        service = GrpcService(
            inference=inference, description=description, callers=callers, refusals=refusals, metrics=metrics, clock=clock
        )
        grpc_server = GrpcServer(service, serving)
    return Parts(poison, recorder, loader, router, pinned, repository, statistics, inference, server, grpc_server)


def _loader(serving: ServingSettings, ports: Ports, *, turn: Turn, poison: Poison, shelf: Shelf) -> Loader:
    metrics, clock, in_flight = ports.metrics, ports.clock, ports.in_flight

    def warm(version: Version) -> Warm:
        return warmed(version, ports.artifacts, ports.runtimes, runs=serving.warm_runs, memory=ports.memory, clock=clock)

    def pool(warm: Warm) -> Pool:
        return Pool(warm, turn=turn, settings=serving, in_flight=in_flight, poison=poison, metrics=metrics, clock=clock)

    return Loader(warm=warm, pool=pool, shelf=shelf, metrics=metrics, clock=clock)


def _router(worker: str, serving: ServingSettings, ports: Ports, *, loader: Loader, shelf: Shelf, recorder: Recorder) -> Router:
    return Router(
        worker=worker,
        registry=ports.registry,
        loader=loader,
        shelf=shelf,
        keeping=Keeping(serving.kept_names_max, frozenset(name.strip() for name in serving.keep_warm.split(","))),
        bench=Bench(ports.in_flight, ports.metrics),
        anchor=recorder.anchor,
        metrics=ports.metrics,
        clock=ports.clock,
    )


def _inference(
    settings: Settings, ports: Ports, *, turn: Turn, recorder: Recorder, router: Router, pinned: PinnedPools
) -> Inference:
    serving, clock, ids = settings.serving, ports.clock, PredictionIds(ports.clock)
    shadows = ShadowQueue(
        ids=ids,
        recorder=recorder,
        turn=turn,
        copies_max=serving.shadow_queue_max,
        bytes_max=serving.shadow_queue_bytes_max,
        clock=clock,
    )
    if ports.traces is None:
        return Inference(router=router, pinned=pinned, shadows=shadows, recorder=recorder, ids=ids, clock=clock)
    return TracedInference(
        router=router,
        pinned=pinned,
        shadows=shadows,
        recorder=recorder,
        ids=ids,
        clock=clock,
        traces=ports.traces,
        share=settings.tracing.share,
    )


def _limits(serving: ServingSettings) -> Limits:
    return Limits(
        header_timeout_s=serving.header_timeout_s,
        body_timeout_s=serving.body_timeout_s,
        keep_alive_s=serving.keep_alive_s,
        connections_max=serving.connections_max,
    )
