"""What the monitor costs: CPU a record, memory of a thousand routes, and the way back from a checkpoint.

`python -m loadtests.monitoring` writes logs of made-up answers with 20 features to disk, lets the monitor read them in this
process, everything on, and prints. `--routes` says how many routes the memory is for.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentWriter
from adapters.memory import MemoryBank
from adapters.readings_file import ReadingsFile
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.memory import MemoryRegistry
from gateway.core.changes import Change, PutChampion, PutRollout, PutRoute, PutVersion, Write
from gateway.core.models import Column, Digest, Runtime, Target, Task, Version
from gateway.core.partitions import WHOLE
from gateway.core.plans import Plan, Step
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.records import Attempt, GroundTruthRecord, Heartbeat, Kind, Outcome, PredictionRecord, Record
from gateway.core.rollouts import begin
from gateway.core.routes import Route, Variant, champion_route, with_weights
from gateway.core.split import SLOTS, hashed_key, slot_of
from gateway.core.tensors import Datatype, Signature, Tensor, TensorSpec
from gateway.monitor.gauges import Gauges
from gateway.monitor.merge import Merge
from gateway.monitor.picture import picture
from gateway.monitor.run import GC_OBJECTS, Monitor
from gateway.ports.stores import RegistryStore
from gateway.settings import Settings

FEATURES = 20
FILLING = 24  # requests of 100 rows that fill a route's window of 2,000
RESTART_S_MAX = 5.0
PER_S = 5_000.0  # records a second in the log's time
STREAMS = ("w0", "w1")
START_S = 1_700_000_000.0


@dataclass(frozen=True, slots=True)
class Case:
    """What the log holds.

    Attributes:
        routes: That the predictions go to in turn.
        rows: Of each.
    """

    name: str
    has_rollout: bool = False
    has_truth: bool = False
    routes: int = 1
    rows: int = 1


CASES = (
    Case("no rollout, no ground truth"),
    Case("open rollout", has_rollout=True),
    Case("ground truth for every answer", has_truth=True),
    Case("open rollout, ground truth for every answer", has_rollout=True, has_truth=True),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=30_000, help="of each log")
    parser.add_argument("--routes", type=int, default=1_000)
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("log", "records", "µs CPU a record", "µs a feature-event", "records/s on one core")
    slowest = 0.0
    for case in CASES:
        with tempfile.TemporaryDirectory() as directory:
            cost = read_cost(Path(directory), case, asked.predictions)
        slowest = max(slowest, cost.feature_us)
        table.add_row(
            case.name, str(cost.records), f"{cost.record_us:.1f}", f"{cost.feature_us:.2f}", f"{1e6 / cost.record_us:,.0f}"
        )
    console.print(table)
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process of its own, so that its memory is the monitor's
        used = pool.apply(many_routes, (asked.routes,))
    console.print(
        f"{asked.routes} routes × {FEATURES} features, a rollout each: {used.resident_bytes / 2**20:.0f} MiB (PSS), "
        f"{used.peak_bytes / 2**20:.0f} at most, {used.bare_bytes / 2**20:.0f} of them before the first record; "
        f"a checkpoint of {used.state_bytes / 2**20:.0f} MiB saved in {used.save_s:.2f} s, "
        f"begun again in {used.restart_s:.2f} s ({used.restart_cpu_s:.2f} s CPU), "
        f"decisions and readings afterwards {'identical' if used.is_same else 'DIFFER'}"
    )
    is_missed = used.resident_bytes > 2**30 or used.restart_s > RESTART_S_MAX or not used.is_same
    return int(slowest > 2.0 or is_missed)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of reading one log; a feature-event is one feature of one answer."""

    records: int
    record_us: float
    feature_us: float


def read_cost(directory: Path, case: Case, predictions: int) -> Cost:
    """Write a log, and return what the monitor takes to have read it all, checkpoints and pictures included."""
    registry = registry_of(case)
    write_log(directory, registry, case, predictions)
    monitor = monitor_over(directory, registry)
    before_s = time.process_time()
    _read_all(monitor)
    used_s = time.process_time() - before_s
    assert monitor.fold.records >= predictions, "the whole log was read"
    return Cost(monitor.fold.records, used_s / monitor.fold.records * 1e6, used_s / predictions / FEATURES * 1e6)


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a monitor's process, and its way back.

    Attributes:
        resident_bytes: Its part of memory (PSS) once every window is full; `bare_bytes` before the first record.
        restart_s, restart_cpu_s: From the process's start of the monitor to the end of its first turn.
        is_same: Whether it then shows and decides on further records what the one that went on does.
    """

    bare_bytes: int
    resident_bytes: int
    peak_bytes: int
    state_bytes: int
    save_s: float
    restart_s: float
    restart_cpu_s: float
    is_same: bool


def many_routes(routes: int) -> Memory:
    """Fill every route's windows, each with a rollout, then begin again from the checkpoint; meant for a process of its own."""
    case = Case("many routes", has_rollout=True, routes=routes, rows=100)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        registry = registry_of(case)
        write_log(directory, registry, case, routes * FILLING)
        bare_bytes = _resident_bytes()
        monitor = monitor_over(directory, registry)
        _read_all(monitor)
        resident_bytes, peak_bytes = _resident_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        begin_s = time.perf_counter()
        monitor.close()
        save_s = time.perf_counter() - begin_s
        saved = SqliteCheckpoints(directory / "checkpoints.db").load(WHOLE.consumer)
        assert saved is not None, "it was just saved"
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        again = monitor_over(directory, registry)
        again.turn(threading.Event())
        restart_s, restart_cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
        assert again.fold.records == monitor.fold.records, "nothing is read a second time"
        write_log(directory, registry, case, routes * 2, start_s=again.fold.now_s + 1.0)
        return Memory(
            bare_bytes=bare_bytes,
            resident_bytes=resident_bytes,
            peak_bytes=peak_bytes,
            state_bytes=len(saved[1]),
            save_s=save_s,
            restart_s=restart_s,
            restart_cpu_s=restart_cpu_s,
            is_same=_shown(monitor) == _shown(again),
        )


def _shown(monitor: Monitor) -> object:
    """Let a monitor read what is new, and return all that it shows of the routes, decisions with their evidence included."""
    _read_all(monitor)
    return picture(monitor.fold, Merge(), lag_s=0.0, drills={}, published_at_s=0.0)["routes"]


def _read_all(monitor: Monitor) -> None:
    while monitor.turn(threading.Event()):
        pass


def _resident_bytes() -> int:
    """Return this process's part of memory: what it shares counts by as many as share it."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def monitor_over(directory: Path, registry: RegistryStore) -> Monitor:
    """Return a monitor with the default settings over a log on disk, from its last checkpoint."""
    gc.set_threshold(GC_OBJECTS, 10, 10)  # as a monitor's process has it
    return Monitor(
        settings=Settings(),
        log=SegmentReader(directory / "log"),
        registry=registry,
        checkpoints=SqliteCheckpoints(directory / "checkpoints.db"),
        readings=ReadingsFile(directory / "readings.json"),
        gauges=Gauges(MemoryBank()),
        detector=AdwinDetector,
        recall=lambda _ids: {},
        clock=SystemClock(),
    )


def registry_of(case: Case) -> RegistryStore:
    """Return a registry with the case's routes, each with a model of its own, and a rollout where the case has one."""
    registry = MemoryRegistry(clock=SystemClock())
    profile = _profile()
    for number in range(case.routes):
        model = f"m{number}"
        champion, challenger = (_version(model, name, profile) for name in ("1", "2"))
        route = replace(with_weights(champion_route(model, "1"), (Variant("champion", "1", SLOTS),)), revision=0)
        _commit(registry, model, PutVersion(champion), PutVersion(challenger), PutChampion(model, "1"), PutRoute(route))
        if case.has_rollout:
            plan = Plan(steps=(Step(1_000),), advances_itself=False)
            present = registry.table().routes[model]
            rollout, split = begin(present, id=f"r-{model}", challenger="2", plan=plan, salt=model, now_s=START_S)
            _commit(registry, model, PutRoute(split), PutRollout(rollout))
    return registry


def _commit(registry: RegistryStore, route: str, *writes: Write) -> None:
    registry.commit(Change("bench", "route.put", f"route:{route}", "a measurement", writes, route=route))


def _profile() -> object:
    random = np.random.default_rng(1)
    columns = _columns()
    return profile_body(build_profile(columns, {column.name: random.normal(size=5_000) for column in columns}))


def _columns() -> tuple[Column, ...]:
    return tuple(Column(f"x{at}") for at in range(FEATURES))


def _version(model: str, name: str, profile: object) -> Version:
    assert isinstance(profile, dict)
    return Version(
        model=model,
        version=name,
        digest=Digest(name * 64),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature(
            (TensorSpec("features", Datatype.FP32, (-1, FEATURES)),), (TensorSpec("probability", Datatype.FP32, (-1, 1)),)
        ),
        target=Target(Task.BINARY, "probability", ("no", "yes"), "yes"),
        columns=_columns(),
        profile=profile,
    )


def write_log(directory: Path, registry: RegistryStore, case: Case, predictions: int, *, start_s: float = START_S) -> None:
    """Write what two workers would have."""
    writers = {stream: _writer(directory, stream) for stream in STREAMS}
    waiting: dict[str, list[Record]] = {stream: [] for stream in STREAMS}
    for stream, record in _records(registry, case, predictions, start_s=start_s):
        waiting[stream].append(record)
        if len(waiting[stream]) >= 100:
            writers[stream].append(waiting[stream])
            waiting[stream].clear()
    end_s = start_s + predictions / PER_S
    for stream, writer in writers.items():
        writer.append([*waiting[stream], Heartbeat(end_s + 1.0), Heartbeat(end_s + 2.0)])
        writer.close()


def _writer(directory: Path, stream: str) -> SegmentWriter:
    log = Settings().log
    return SegmentWriter(
        directory / "log",
        stream,
        segment_bytes_max=log.segment_bytes_max,
        segment_age_s=log.segment_age_s,
        bytes_max=log.bytes_max,
        free_bytes_min=log.free_bytes_min,
        clock=SystemClock(),
    )


def _records(registry: RegistryStore, case: Case, predictions: int, *, start_s: float) -> Iterator[tuple[str, Record]]:
    """Yield (stream, record): each request with a key of its own, its ground truth 10 ms later in the other stream."""
    random = np.random.default_rng(1)
    routes = list(registry.table().routes.values())
    for number in range(predictions):
        now_s = start_s + number / PER_S
        record = _prediction(routes[number % len(routes)], number, now_s, random, rows=case.rows)
        yield STREAMS[number % 2], record
        if case.has_truth:
            value = "yes" if random.random() < record.outputs[0].data[0, 0] else "no"
            yield STREAMS[(number + 1) % 2], GroundTruthRecord(record.prediction_id, now_s + 1e-5, 0, value, now_s + 1e-5)


def _prediction(route: Route, number: int, now_s: float, random: np.random.Generator, *, rows: int) -> PredictionRecord:
    key = f"key-{number}"
    variant = route.variant(route.owners[slot_of(route.salt, key)]) if route.owners else route.variants[0]
    assert variant is not None
    features = random.normal(size=(rows, FEATURES)).astype(np.float32)
    return PredictionRecord(
        prediction_id=f"0197a9b0-1c2d-7e3f-{int(now_s) % 65_536:04x}-{number:012x}",
        time_s=now_s,
        kind=Kind.LIVE,
        model=route.model,
        route=route.name,
        revision=route.revision,
        assigned=variant.name,
        variant=variant.name,
        version=variant.version,
        digest=variant.version * 64,
        attempts=(Attempt(variant.name, variant.version, Outcome.OK, 900),),
        assignment_key=hashed_key(key),
        is_keyed=True,
        inputs=(Tensor("features", Datatype.FP32, features),),
        outputs=(Tensor("probability", Datatype.FP32, random.random((rows, 1)).astype(np.float32)),),
        batch_rows=rows,
        batch_position=0,
        runtime_version="1",
        outcome=Outcome.OK,
        latency_us=1_000,
    )


if __name__ == "__main__":
    sys.exit(main())
