"""Settings → adapters → running planes: the only module that imports adapters.

A plane runs in a process of its own; the supervisor starts it as `headgate plane NAME …` with its listening socket inherited.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import socket
import string
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from adapters.clock import SystemClock
from adapters.heap import Heap
from adapters.inflight import InFlightWatch, MappedInFlight
from adapters.load_lock import FileLoadLock
from adapters.logs.segments import SegmentDirectory, SegmentReader, SegmentWriter
from adapters.metrics_file import MetricsDirectory, MetricsFile
from adapters.readings_file import ReadingsFile, ReadingsFiles
from adapters.runtimes.pickles.limits import Limits
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from adapters.suspicions_file import SuspicionsFile
from gateway.core.access import ADMIN_KEY_NAME
from gateway.core.errors import LogFull, MalformedRequest, StoreFailed
from gateway.core.models import Runtime as RuntimeName
from gateway.core.notices import Channel, channels_from_body
from gateway.core.partitions import FIRST, LAYOUT, partitions
from gateway.core.privacy import Privacy
from gateway.core.records import StreamEnd
from gateway.journal import open_journal
from gateway.ports.inflight import LoopWatch
from gateway.ports.notices import Sender
from gateway.ports.runtimes import Runtime
from gateway.ports.traces import Traces
from gateway.settings import Settings, settings_from_body

if TYPE_CHECKING:
    from gateway.replay.past import Past

_log = logging.getLogger(__name__)
SERVING, CONTROL, MONITOR, ARCHIVE = "serving", "control", "monitor", "archive"
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class DataDirectory:
    """Where everything lies (see docs/operations.md)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.registry = root / "registry.db"
        self.checkpoints = root / "checkpoints.db"
        self.artifacts = root / "artifacts"
        self.log = root / "log"
        self.archive = root / "archive"
        self.admin_token = root / ADMIN_KEY_NAME
        self.secret = root / "log.secret"
        self.lock = root / "lock"
        self.run = root / "run"
        self.metrics = self.run / "metrics"
        self.settings = self.run / "settings.json"
        self.addresses = self.run / "addresses.json"

    def make(self) -> None:
        """Create the directories, for the owner alone."""
        for directory in (self.root, self.artifacts, self.log, self.archive, self.run, self.metrics):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def readings(self, process: str = FIRST) -> Path:
        """Return what a monitor process shows."""
        return self.run / ("readings.json" if process == FIRST else f"readings-{process}.json")

    def in_flight(self, worker: str) -> Path:
        """Return the mapped file of a worker."""
        return self.run / "in-flight" / worker


def worker_names(settings: Settings) -> tuple[str, ...]:
    """Return the serving workers' names, which are also their streams' in the log."""
    return tuple(f"w{number}" for number in range(settings.serving.workers))


def channels_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, tuple[Channel, Sender]]:
    """Return the channels of the notices' file with what sends to them; `${NAME}` in an address comes from the environment.

    Raises:
        MalformedRequest: the file cannot be read, a channel is wrong, or a variable is not set.
    """
    if not settings.notices.file:
        return {}
    from adapters.senders.opened import opened_sender

    try:
        channels = channels_from_body(tomllib.loads(Path(settings.notices.file).read_text()))
        filled = [replace(one, url=string.Template(one.url).substitute(environment)) for one in channels]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        raise MalformedRequest(f"notices.file {settings.notices.file}: {error}") from error
    except KeyError as error:
        raise MalformedRequest(f"notices.file {settings.notices.file}: the environment has no {error.args[0]}") from error
    return {one.name: (one, opened_sender(one)) for one in filled}


def privacy_of(settings: Settings) -> Privacy | None:
    """Return what the log may not hold, or None when it may hold everything; the first start makes a secret if there is none.

    Raises:
        MalformedRequest: a rule is wrong, or the secret cannot be read.
    """
    log = settings.log
    if not log.dropped and not log.hashed:
        return None
    data = DataDirectory(settings.data_dir)
    path = Path(log.secret_file) if log.secret_file else data.secret
    try:
        if not log.secret_file and not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_hex(32).encode())
        return Privacy(dropped=log.dropped, hashed=log.hashed, secret=path.read_bytes().strip())
    except OSError as error:
        raise MalformedRequest(f"log.secret_file {path}: {error}") from error


def prepare_data(settings: Settings) -> None:
    """Make the data directory ready for a start: migrate the registry, repair the log, end streams without a worker."""
    channels_of(settings, os.environ)  # what is wrong with them is said now, not by a process that dies again and again
    data = DataDirectory(settings.data_dir)
    data.make()
    privacy_of(settings)
    SqliteRegistry(data.registry, clock=SystemClock()).close()
    _hand_over(SqliteCheckpoints(data.checkpoints), settings.monitor.processes)
    SegmentDirectory(data.log).repair()
    for stream in set(SegmentReader(data.log).streams()) - set(worker_names(settings)):
        writer = _log_writer(settings, stream)
        try:
            writer.append([StreamEnd(SystemClock().now_s())])
        except LogFull as error:  # serving starts all the same; the monitor waits for this stream until there is room
            _log.error("a stream's end could not be written", extra={"action": "end", "stream": stream, "reason": str(error)})
        writer.close()


def _hand_over(checkpoints: SqliteCheckpoints, processes: int) -> None:
    """Let the monitor's processes go on with what those before them knew, also where they were more or fewer."""
    saved = checkpoints.load(LAYOUT)
    before = int(saved[1]) if saved is not None else 1
    if before != processes:
        from gateway.monitor.partitioning import repartition

        repartition(checkpoints, before, processes)
    checkpoints.close()


def watch(settings: Settings, worker: str) -> LoopWatch:
    """Return the watchdog's view of a worker."""
    return InFlightWatch(DataDirectory(settings.data_dir).in_flight(worker))


def run_plane(argv: Sequence[str]) -> int:
    """Run one plane in this process until SIGTERM.

    Args:
        argv: `NAME --settings FILE [--worker W] [--listener FD]`, as the supervisor passes them.
    """
    parser = argparse.ArgumentParser(prog="headgate plane")
    parser.add_argument("name", choices=[SERVING, CONTROL, MONITOR, ARCHIVE])
    parser.add_argument("--settings", type=Path, required=True)
    parser.add_argument("--worker", default="")
    parser.add_argument("--listener", type=int, default=-1)
    asked = parser.parse_args(argv)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # a plane does not outlive its supervisor
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
    return 0


def _run_serving(settings: Settings, worker: str, listener: socket.socket) -> None:
    from gateway.serving.run import run_worker

    data, clock = DataDirectory(settings.data_dir), SystemClock()
    artifacts = DirectoryArtifacts(data.artifacts)
    run_worker(
        worker=worker,
        workers=worker_names(settings),
        listener=listener,
        settings=settings,
        registry=SqliteRegistry(data.registry, clock=clock),
        artifacts=artifacts,
        runtimes=_runtimes(settings, artifacts, data.run / "pickled" / worker),
        log=_log_writer(settings, worker),
        metrics=MetricsFile(data.metrics / f"{worker}.bin"),
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
    from adapters.archives.duck import DuckArchive
    from adapters.validation.process import ProcessValidator
    from gateway.control.run import run_control

    data, clock, control = DataDirectory(settings.data_dir), SystemClock(), settings.control
    run_control(
        listener=listener,
        settings=settings,
        registry=SqliteRegistry(data.registry, clock=clock),
        artifacts=DirectoryArtifacts(data.artifacts),
        validator=ProcessValidator(
            timeout_s=control.validation_timeout_s,
            memory_bytes=control.validation_memory_bytes,
            limits=_limits(settings, data.run / "pickled" / "validation"),
            interpreters=_interpreters(settings),
        ),
        archive=DuckArchive(data.archive, memory_bytes=settings.archive.memory_bytes),
        log=SegmentReader(data.log),
        readings=ReadingsFiles({one.process: data.readings(one.process) for one in partitions(settings.monitor.processes)}),
        snapshots=MetricsDirectory(data.metrics),
        workers=worker_names(settings),
        checkpoints=SqliteCheckpoints(data.checkpoints),
        channels=channels_of(settings, os.environ),
        clock=clock,
    )


def _run_monitor(settings: Settings, process: str, stop: threading.Event) -> None:
    from adapters.archives.duck import DuckArchive
    from adapters.detectors.river import AdwinDetector
    from adapters.logs.codec import decode
    from gateway.history import recalled
    from gateway.monitor.run import run_monitor

    data, clock = DataDirectory(settings.data_dir), SystemClock()
    partition = next(one for one in partitions(settings.monitor.processes) if one.process == process)
    run_monitor(
        settings=settings,
        log=SegmentReader(data.log, partition.has if partition.count > 1 else None),
        registry=SqliteRegistry(data.registry, clock=clock),
        checkpoints=SqliteCheckpoints(data.checkpoints),
        readings=ReadingsFile(data.readings(process)),
        metrics=MetricsFile(data.metrics / f"{process}.bin"),
        detector=AdwinDetector,
        recall=partial(recalled, archive=DuckArchive(data.archive, memory_bytes=settings.archive.memory_bytes), decode=decode),
        clock=clock,
        stop=stop,
        partition=partition,
    )


def _run_archive(settings: Settings, stop: threading.Event) -> None:
    from adapters.archives.duck import DuckArchive
    from gateway.archive.keeper import run_keeper

    data, clock = DataDirectory(settings.data_dir), SystemClock()
    run_keeper(
        settings=settings,
        log=SegmentReader(data.log),
        segments=SegmentDirectory(data.log),
        archive=DuckArchive(data.archive, memory_bytes=settings.archive.memory_bytes),
        checkpoints=SqliteCheckpoints(data.checkpoints),
        metrics=MetricsFile(data.metrics / "archive.bin"),
        clock=clock,
        stop=stop,
    )


@contextlib.contextmanager
def opened_past(root: Path) -> Iterator[Past]:
    """Yield what a replay reads of a data directory, whether or not a gateway runs on it; nothing of it is changed.

    Raises:
        StoreFailed: there is no registry, or it cannot be read.
    """
    from adapters.archives.duck import DuckArchive
    from adapters.detectors.river import AdwinDetector
    from adapters.logs.codec import decode
    from gateway.replay.past import Past

    data, settings = DataDirectory(root), Settings()
    if not data.registry.is_file():
        raise StoreFailed(f"there is no registry in {root}", hint="name the gateway's --data-dir")
    if data.settings.is_file():
        settings = settings_from_body(json.loads(data.settings.read_text()))
    registry = SqliteRegistry(data.registry, clock=SystemClock())
    archive = DuckArchive(data.archive, memory_bytes=settings.archive.memory_bytes)
    artifacts = DirectoryArtifacts(data.artifacts)
    with tempfile.TemporaryDirectory(prefix="headgate-replay-") as scratch:
        try:
            yield Past(
                archive=archive,
                log=SegmentReader(data.log),
                registry=registry,
                artifacts=artifacts,
                runtimes=_runtimes(settings, artifacts, Path(scratch)),
                detector=AdwinDetector,
                decode=decode,
                monitor=settings.monitor,
            )
        finally:
            archive.close()
            registry.close()


def back_up(root: Path, to: Path) -> int:
    """Write a consistent copy of a data directory, whether or not a gateway runs on it; return its bytes.

    Raises:
        StoreFailed: there is no registry, or the copy cannot be written.
    """
    from adapters.archives.duck import DuckArchive
    from adapters.backups import BackupDirectory
    from gateway.backup import back_up as backed_up

    data = DataDirectory(root)
    if not data.registry.is_file():
        raise StoreFailed(f"there is no registry in {root}", hint="name the gateway's --data-dir")
    registry, checkpoints = SqliteRegistry(data.registry, clock=SystemClock()), SqliteCheckpoints(data.checkpoints)
    archive = DuckArchive(data.archive, memory_bytes=Settings().archive.memory_bytes)
    try:
        return backed_up(
            BackupDirectory(to, also=[path for path in (data.secret,) if path.exists()]),
            registry=registry,
            checkpoints=checkpoints,
            artifacts=DirectoryArtifacts(data.artifacts),
            segments=SegmentDirectory(data.log),
            archive=archive,
            clock=SystemClock(),
        )
    finally:
        archive.close()
        checkpoints.close()
        registry.close()


def restore(backup: Path, root: Path) -> int:
    """Make a data directory of a backup; return its files.

    Raises:
        StoreFailed: it is no whole backup, or the directory is not empty.
    """
    from adapters.backups import BackupDirectory

    return BackupDirectory(backup).restore(root)


def _runtimes(settings: Settings, artifacts: DirectoryArtifacts, scratch: Path) -> dict[RuntimeName, Runtime]:
    """Return what runs versions in this process; pickled ones have theirs, with room of their own in `scratch`."""
    from adapters.runtimes.chained import ChainedRuntime
    from adapters.runtimes.onnx import OnnxRuntime
    from adapters.runtimes.pickled import PickledRuntime

    runtimes: dict[RuntimeName, Runtime] = {
        RuntimeName.ONNX: OnnxRuntime(),
        RuntimeName.PICKLED: PickledRuntime(
            limits=_limits(settings, scratch), interpreter=sys.executable, interpreters=_interpreters(settings)
        ),
    }
    return {**runtimes, RuntimeName.CHAINED: ChainedRuntime(runtimes, artifacts)}


def _limits(settings: Settings, scratch: Path) -> Limits:
    pickled = settings.pickled
    return Limits(
        confinement=pickled.confinement.value,
        scratch=scratch.absolute(),
        memory_bytes=pickled.memory_bytes,
        cores=pickled.cores,
        niceness=pickled.niceness,
        scratch_file_bytes_max=pickled.scratch_file_bytes_max,
        message_bytes_max=pickled.message_bytes_max,
        load_timeout_s=pickled.load_timeout_s,
        predict_timeout_s=pickled.predict_timeout_s,
    )


def _interpreters(settings: Settings) -> tuple[str, ...]:
    return tuple(path for path in settings.pickled.interpreters.split(":") if path)


def _log_writer(settings: Settings, stream: str) -> SegmentWriter:
    log = settings.log
    return SegmentWriter(
        DataDirectory(settings.data_dir).log,
        stream,
        segment_bytes_max=log.segment_bytes_max,
        segment_age_s=log.segment_age_s,
        bytes_max=log.bytes_max,
        free_bytes_min=log.free_bytes_min,
        clock=SystemClock(),
    )


def _stopped_by_signal() -> threading.Event:
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return stop
