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
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final

import numpy as np
import uvloop

from gateway.core.errors import StoreFailed
from gateway.core.models import Runtime as RuntimeName
from gateway.core.privacy import Privacy
from gateway.metrics.metric import cell
from gateway.metrics.serving import LOOP_LAG, MODEL_MEMORY, WARM_BYTES, WARM_VERSIONS
from gateway.ports.clock import Clock
from gateway.ports.inflight import InFlight, SuspicionStore
from gateway.ports.loading import LoadLock, MemoryMeter
from gateway.ports.log import PredictionLogWriter
from gateway.ports.metrics import MetricsBank, MetricsSnapshots
from gateway.ports.runtimes import Runtime
from gateway.ports.stores import ArtifactStore, RegistryStore
from gateway.ports.traces import Traces
from gateway.serving.leftover import record_left_behind
from gateway.serving.parts import Parts, Ports, assembled
from gateway.serving.poison import Poison
from gateway.serving.recorder import Recorder
from gateway.serving.routing import Router
from gateway.serving.traced import Exemplars, TracedInference
from gateway.settings import Settings

_log = logging.getLogger(__name__)
_RUNTIME_THREADS: Final = ("pool ", "loader")
_GC_OBJECTS: Final = 20_000  # new containers between collections of the youngest: some 500 requests
_TURN_S: Final = 0.1  # between signs of life; the watchdog waits 10 s
_EXEMPLARS_S: Final = 1.0  # between two files of them; a scrape comes every few seconds
_ACCEPT_S: Final = 10.0  # then connections are accepted although not everything is warm, and health says so


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
    _zero_memory(worker, ports)
    parts = assembled(worker, workers=workers, settings=settings, ports=ports, privacy=privacy)
    async with asyncio.TaskGroup() as tasks:
        owned = [tasks.create_task(duty) for duty in _duties(worker, parts, settings=settings, ports=ports)]
        await _settled(parts.router, stop)
        await parts.server.start(listener)
        if parts.grpc_server is not None:
            await parts.grpc_server.start(listener.getsockname()[0], settings.serving.grpc_port)
        parts.loader.take_turns(ports.load_lock)
        await stop.wait()
        _log.info("draining", extra={"action": "drain"})
        servers = [server for server in (parts.server, parts.grpc_server) if server is not None]
        await asyncio.gather(*(server.drain(settings.serving.drain_s) for server in servers))
        for task in owned:
            task.cancel()
    await _close(parts, ports)


def _duties(worker: str, parts: Parts, *, settings: Settings, ports: Ports) -> list[Coroutine[Any, Any, None]]:
    """Return what a worker does beside answering, each until it is cancelled or done."""
    metrics, clock, in_flight = ports.metrics, ports.clock, ports.in_flight
    hung_s = settings.serving.run_hung_s
    duties = [
        parts.router.follow(),
        parts.router.report(),
        parts.loader.give_back(ports.memory),
        parts.loader.weigh(),
        _turn_regularly(in_flight, parts.recorder, parts.poison, metrics, clock, run_hung_s=hung_s),
        record_left_behind(in_flight, parts.router, parts.recorder, worker, metrics=metrics),
    ]
    if isinstance(parts.inference, TracedInference):
        duties.append(_show_exemplars(parts.inference.exemplars, metrics))
    return duties


async def _close(parts: Parts, ports: Ports) -> None:
    ports.registry.close()  # a waiting reader returns
    parts.router.close()
    parts.pinned.close()
    parts.repository.close()
    parts.statistics.close()
    await parts.recorder.close()
    if ports.traces is not None:
        await asyncio.get_running_loop().run_in_executor(None, ports.traces.close)
    ports.in_flight.close()  # what still runs in a thread was answered, or its connection was cut: no version is to blame


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
