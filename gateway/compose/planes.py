"""The planes: each made of its adapters, and run in this process until SIGTERM."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from adapters.clock import SystemClock
from adapters.heap import Heap
from adapters.inflight import MappedInFlight
from adapters.load_lock import FileLoadLock
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentDirectory
from adapters.metrics_file import MetricsDirectory, MetricsFile
from adapters.readings_file import ReadingsFile, ReadingsFiles
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from adapters.suspicions_file import SuspicionsFile
from gateway.compose.directory import DataDirectory
from gateway.compose.parts import channels_of, interpreters_of, limits_of, log_writer, privacy_of, runtimes_of, worker_names
from gateway.core.partitions import FIRST, partitions
from gateway.journal import open_journal
from gateway.metrics.metric import cell
from gateway.metrics.process import UNEXPECTED_ERRORS
from gateway.ports.archive import Archive
from gateway.ports.traces import Traces
from gateway.settings import Settings, settings_from_body

SERVING, CONTROL, MONITOR, ARCHIVE = "serving", "control", "monitor", "archive"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def run_plane(argv: Sequence[str]) -> int:
    """Run one plane in this process until SIGTERM.

    Args:
        argv: `NAME --settings FILE --supervisor PID [--worker W] [--listener FD]`, as the supervisor passes them.
    """
    parser = argparse.ArgumentParser(prog="headgate plane")
    parser.add_argument("name", choices=[SERVING, CONTROL, MONITOR, ARCHIVE])
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    parser.add_argument("--worker", default="")
    parser.add_argument("--listener", type=int, default=-1)
    asked = parser.parse_args(argv)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # a plane does not outlive its supervisor
    if os.getppid() != asked.supervisor:
        return 0  # it died before the line above, and nobody else will end this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the supervisor passes it on in order
    open_journal(asked.worker or asked.name)
    settings = settings_from_body(json.loads(asked.settings.read_text()))
    match asked.name:
        case "serving":
            _run_serving(settings, asked.worker, socket.socket(fileno=asked.listener))
        case "control":
            _run_control(settings, socket.socket(fileno=asked.listener))
        case "monitor":
            os.nice(settings.monitor.niceness)
            _run_monitor(settings, asked.worker or FIRST, _stopped_by_signal())
        case _:
            os.nice(settings.archive.niceness)
            _run_archive(settings, _stopped_by_signal())
    if asked.name != SERVING:
        os._exit(0)  # at the interpreter's own end DuckDB's binding writes of what it left, between the lines of the journal
    return 0


@contextlib.contextmanager
def _archive(settings: Settings) -> Iterator[Archive]:
    """Open the archive meanwhile."""
    from adapters.archives.duck import DuckArchive

    archive = DuckArchive(DataDirectory(settings.data_dir).archive, memory_bytes=settings.archive.memory_bytes)
    with contextlib.closing(archive):
        yield archive


def _run_serving(settings: Settings, worker: str, listener: socket.socket) -> None:
    from gateway.serving.run import run_worker

    data, clock = DataDirectory(settings.data_dir), SystemClock()
    artifacts, metrics = DirectoryArtifacts(data.artifacts), MetricsFile(data.metrics / f"{worker}.bin")
    unexpected = cell(metrics, UNEXPECTED_ERRORS, "pickled")
    run_worker(
        worker=worker,
        workers=worker_names(settings),
        listener=listener,
        settings=settings,
        registry=SqliteRegistry(data.registry, clock=clock),
        artifacts=artifacts,
        runtimes=runtimes_of(settings, artifacts, data.scratch / worker, unexpected),
        log=log_writer(settings, worker),
        metrics=metrics,
        snapshots=MetricsDirectory(data.metrics),
        in_flight=MappedInFlight(data.in_flight(worker)),
        suspicions=SuspicionsFile(data.run / "poison.json"),
        memory=Heap(),
        load_lock=FileLoadLock(data.run / "loading"),
        clock=clock,
        privacy=privacy_of(settings),
        traces=_traces(settings, worker),
    )


def _traces(settings: Settings, worker: str) -> Traces | None:
    if not settings.tracing.endpoint:
        return None
    from adapters.otlp import OtlpTraces  # its packages come with an extra

    return OtlpTraces(settings.tracing.endpoint, worker=worker)


def _run_control(settings: Settings, listener: socket.socket) -> None:
    from adapters.validation.process import ProcessValidator
    from gateway.control.run import run_control

    data, clock, control = DataDirectory(settings.data_dir), SystemClock(), settings.control
    with _archive(settings) as archive:
        run_control(
            listener=listener,
            settings=settings,
            registry=SqliteRegistry(data.registry, clock=clock),
            artifacts=DirectoryArtifacts(data.artifacts),
            validator=ProcessValidator(
                timeout_s=control.validation_timeout_s,
                memory_bytes=control.validation_memory_bytes,
                limits=limits_of(settings, data.scratch / "validation"),
                interpreters=interpreters_of(settings),
            ),
            archive=archive,
            log=SegmentReader(data.log),
            readings=ReadingsFiles({one.process: data.readings(one.process) for one in partitions(settings.monitor.processes)}),
            snapshots=MetricsDirectory(data.metrics),
            workers=worker_names(settings),
            checkpoints=SqliteCheckpoints(data.checkpoints),
            channels=channels_of(settings, os.environ),
            clock=clock,
        )


def _run_monitor(settings: Settings, process: str, stop: threading.Event) -> None:
    from adapters.detectors.river import AdwinDetector
    from adapters.logs.codec import decode
    from gateway.history import recalled
    from gateway.monitor.run import run_monitor

    data, clock = DataDirectory(settings.data_dir), SystemClock()
    partition = next(one for one in partitions(settings.monitor.processes) if one.process == process)
    with _archive(settings) as archive:
        run_monitor(
            settings=settings,
            log=SegmentReader(data.log, partition.has if partition.count > 1 else None),
            registry=SqliteRegistry(data.registry, clock=clock),
            checkpoints=SqliteCheckpoints(data.checkpoints),
            readings=ReadingsFile(data.readings(process)),
            metrics=MetricsFile(data.metrics / f"{process}.bin"),
            detector=AdwinDetector,
            recall=partial(recalled, archive=archive, decode=decode),
            clock=clock,
            stop=stop,
            partition=partition,
        )


def _run_archive(settings: Settings, stop: threading.Event) -> None:
    from gateway.archive.keeper import run_keeper

    data, clock = DataDirectory(settings.data_dir), SystemClock()
    with _archive(settings) as archive:
        run_keeper(
            settings=settings,
            log=SegmentReader(data.log),
            segments=SegmentDirectory(data.log),
            archive=archive,
            checkpoints=SqliteCheckpoints(data.checkpoints),
            metrics=MetricsFile(data.metrics / "archive.bin"),
            clock=clock,
            stop=stop,
        )


def _stopped_by_signal() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop
