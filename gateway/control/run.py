"""The control plane's process: one event loop, one HTTP server, until SIGTERM."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

import uvloop

from gateway.control.app import Edge
from gateway.control.auth import ensure_admin_token
from gateway.control.calls import Control
from gateway.control.conditions import conditions
from gateway.control.notifier import Notifier, run_notifier
from gateway.control.refusals import STEP_S
from gateway.control.repeating import repeat
from gateway.control.status.visits import SECRET_NAME, ensure_secret
from gateway.core.access import ADMIN_KEY_NAME
from gateway.core.notices import Channel
from gateway.ports.archive import Archive
from gateway.ports.clock import Clock
from gateway.ports.log import PredictionLogReader
from gateway.ports.metrics import MetricsSnapshots
from gateway.ports.notices import Sender
from gateway.ports.readings import ReadingsView
from gateway.ports.runtimes import Validator
from gateway.ports.stores import ArtifactStore, CheckpointStore, RegistryStore
from gateway.settings import Settings
from gateway.web import HttpServer, Limits, asgi

DRAIN_S: Final = 5.0  # after SIGTERM; what is longer in flight, an upload, is sent again
CONNECTIONS_MAX: Final = 200  # people, scrapers and programs that operate; each holds little


def run_control(
    *,
    listener: socket.socket,
    settings: Settings,
    registry: RegistryStore,
    artifacts: ArtifactStore,
    validator: Validator,
    archive: Archive,
    log: PredictionLogReader,
    readings: ReadingsView,
    snapshots: MetricsSnapshots,
    workers: Sequence[str],
    checkpoints: CheckpointStore,
    channels: Mapping[str, tuple[Channel, Sender]],
    clock: Clock,
    stop: threading.Event | None = None,
) -> None:
    """Answer the admin API on `listener` and deliver notices until SIGTERM, or `stop` where no signal can reach.

    Args:
        channels: Who is told, by name; this process is the only one that tells.

    Raises:
        StoreFailed: the registry, the admin token's file or the visits' secret cannot be written.
    """
    ensure_admin_token(registry, settings.data_dir / ADMIN_KEY_NAME, clock=clock)
    visit_secret = ensure_secret(settings.data_dir / SECRET_NAME)
    control = Control(
        settings=settings.control,
        registry=registry,
        artifacts=artifacts,
        validator=validator,
        archive=archive,
        log=log,
        readings=readings,
        snapshots=snapshots,
        workers=tuple(workers),
        clock=clock,
        validations=threading.BoundedSemaphore(max(1, settings.control.validations_max)),
        questions=threading.BoundedSemaphore(max(1, settings.control.questions_max)),
    )
    with (
        _reading_ahead(control, checkpoints),
        _telling(control, channels, checkpoints),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(control, visit_secret, settings, listener, stop))
    registry.close()


@contextlib.contextmanager
def _reading_ahead(control: Control, checkpoints: CheckpointStore) -> Iterator[None]:
    """Take in what the workers refuse and what was changed, in a thread, meanwhile: whoever asks finds it."""
    stop = threading.Event()
    control.refusals.recall(checkpoints, control.clock)

    def turn() -> None:
        control.refusals.take(control.snapshots.latest(), control.clock.monotonic_s())
        control.trail.read(control.registry)
        control.refusals.keep(checkpoints, control.clock)

    again = partial(repeat, what="Counts or changes could not be read", every_s=STEP_S, stop=stop, failed=control.failures.note)
    thread = threading.Thread(target=again, args=(turn,), name="reading ahead", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DRAIN_S)


@contextlib.contextmanager
def _telling(control: Control, channels: Mapping[str, tuple[Channel, Sender]], checkpoints: CheckpointStore) -> Iterator[None]:
    """Deliver notices in a thread meanwhile, where there is anybody to tell."""
    if not channels:
        yield
        return
    began_s = control.clock.monotonic_s()
    notifier = Notifier(
        channels,
        registry=control.registry,
        checkpoints=checkpoints,
        conditions=lambda: conditions(control, listened_s=control.clock.monotonic_s() - began_s),
        clock=control.clock,
    )
    control.notifiers.append(notifier)
    stop = threading.Event()
    thread = threading.Thread(target=run_notifier, args=(notifier, stop, control.failures.note), name="notices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DRAIN_S)  # what is being sent then is sent again after the next start


async def _serve(
    control: Control, visit_secret: bytes, settings: Settings, listener: socket.socket, stop: threading.Event | None
) -> None:
    serving = settings.serving
    limits = Limits(serving.header_timeout_s, settings.control.body_timeout_s, serving.keep_alive_s, CONNECTIONS_MAX)
    server = HttpServer(asgi(Edge(control, visit_secret=visit_secret).application()), limits, control.clock)
    await server.start(listener)
    await _stopped(stop)
    await server.drain(DRAIN_S)


async def _stopped(stop: threading.Event | None) -> None:
    if stop is not None:
        await asyncio.to_thread(stop.wait)
        return
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    await asked.wait()
