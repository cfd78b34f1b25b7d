"""What a replay costs per million records: reading in order, another version, a plan, and the monitor's decisions anew.

`python -m loadtests.replay` makes a log of 200,000 predictions of 20 floats over two workers, half with ground truth, lets a
monitor decide on it, archives all but its end, and replays. Each replay runs in a process of its own. Figures per million
records are extrapolated from what was read, in proportion; `--predictions 1000000` measures them instead.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from adapters.archives.duck import DuckArchive
from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentDirectory, SegmentWriter
from adapters.memory import MemoryBank, MemoryReadings
from adapters.runtimes.onnx import OnnxRuntime
from adapters.stores.artifacts import DirectoryArtifacts
from adapters.stores.memory import MemoryCheckpoints
from adapters.stores.registry import SqliteRegistry
from gateway.compose.directory import DataDirectory
from gateway.compose.past import opened_past
from gateway.core.changes import Change, PutChampion, PutRollout, PutRoute, PutVersion, Write
from gateway.core.models import Version
from gateway.core.plans import Plan, Step
from gateway.core.records import Attempt, GroundTruthRecord, Kind, Outcome, PredictionRecord, Record, StreamEnd
from gateway.core.rollouts import begin
from gateway.core.routes import Route, champion_route
from gateway.core.split import hashed_key, slot_of
from gateway.core.tensors import Datatype, Tensor
from gateway.monitor.gauges import Gauges
from gateway.monitor.run import Monitor
from gateway.ports.archive import Filter
from gateway.replay.decisions import recompute_decisions
from gateway.replay.past import Progress
from gateway.replay.plan import PlanReplay
from gateway.replay.versions import replay_version
from gateway.settings import Settings
from loadtests import model
from loadtests.load import FEATURES
from loadtests.many import validated

ROUTE = "m0"
BEGIN_S = 1_700_000_000.0
RATE = 500.0  # predictions a second
BATCHES = (1, 1, 2, 4, 8)  # rows that ran together, one request each
KEYS = 50_000
PLAN = Plan(steps=(Step(1_000, 60.0), Step(5_000, 60.0)))


@dataclass(frozen=True, slots=True)
class Cost:
    """One replay: what it read, wall and processor time, peak memory of its process, and what it found."""

    records: int
    wall_s: float
    cpu_s: float
    peak_mib: float
    found: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; return 1 when a replay does not find what was logged."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictions", type=int, default=200_000)
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 110)
    with tempfile.TemporaryDirectory() as scratch:
        data = DataDirectory(Path(scratch))
        data.make()
        records = _fill(data, asked.predictions)
        _decide(data)
        console.print(f"{asked.predictions:,} predictions and {records - asked.predictions:,} pieces of ground truth")
        console.print(f"archived in {_archive(data):.1f} s, all but the end of each stream's log")
        table = Table("replay", "records", "wall s", "CPU s", "per million", "peak MiB", "found", box=None)
        costs = {what: _measured(run, data.root) for what, run in REPLAYS.items()}
        for what, cost in costs.items():
            per_million = f"{cost.cpu_s / max(cost.records, 1) * 1e6:.0f}"
            figures = (f"{cost.records:,}", f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", per_million, f"{cost.peak_mib:.0f}")
            table.add_row(what, *figures, cost.found)
        console.print(table)
    console.print("per million: CPU seconds per million records read, in proportion, the start included")
    return int("differs" in costs["decisions"].found or not costs["version that answered"].found.startswith("equal 1.0"))


def _read(root: Path, progress: Progress) -> str:
    with opened_past(root) as past:
        return f"{sum(1 for _ in past.records(Filter(), progress)):,} records"


def _version(root: Path, progress: Progress, name: str) -> str:
    with opened_past(root) as past:
        found = replay_version(
            past, past.registry.version(ROUTE, name), Filter(route=ROUTE), tolerance=1e-6, progress=progress
        ).body()
    return f"equal {found['equal_share']}, decisions changed {found['decisions_changed']:,}"


def _first_version(root: Path, progress: Progress) -> str:
    return _version(root, progress, "1")


def _other_version(root: Path, progress: Progress) -> str:
    return _version(root, progress, "2")


def _plan(root: Path, progress: Progress) -> str:
    with opened_past(root) as past:
        replay = PlanReplay(past, ROUTE, replace(PLAN, steps=(500, 1_000)))
        replay.run(progress=progress)
    return f"{sum(len(one.acts) for one in replay.tried.values())} acts"


def _decisions(root: Path, progress: Progress) -> str:
    with opened_past(root) as past:
        return ", ".join(one.finding.value for one in recompute_decisions(past, progress=progress)) or "none"


REPLAYS: dict[str, Callable[[Path, Progress], str]] = {
    "reading in order": _read,
    "version that answered": _first_version,
    "another version": _other_version,
    "plan": _plan,
    "decisions": _decisions,
}


def _measured(run: Callable[[Path, Progress], str], root: Path) -> Cost:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_timed, run, root).result()


def _timed(run: Callable[[Path, Progress], str], root: Path) -> Cost:
    read = 0

    def count(records: int, _time_s: float) -> None:
        nonlocal read
        read = records

    began_s, cpu_s = time.monotonic(), time.process_time()
    found = run(root, count)
    wall_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
    return Cost(read, wall_s, cpu_s, _peak_mib(), found)


def _peak_mib() -> float:
    """Return this process's own peak; what getrusage says includes the process that started it."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _fill(data: DataDirectory, predictions: int) -> int:
    """Register two versions, begin a rollout, and log what they would have answered; return the records written."""
    registry, artifacts = SqliteRegistry(data.registry, clock=SystemClock()), DirectoryArtifacts(data.artifacts)
    versions = [_registered(data, registry, artifacts, name) for name in ("1", "2")]
    bare = champion_route(ROUTE, "1")
    _commit(registry, PutRoute(bare))
    rollout, split = begin(registry.table().routes[ROUTE], id="r1", challenger="2", plan=PLAN, salt="salt", now_s=BEGIN_S)
    _commit(registry, PutRoute(split), PutRollout(rollout))
    route = registry.table().routes[ROUTE]
    writers = [_writer(data, f"w{number}") for number in range(2)]
    count = 0
    for number, batch in enumerate(_batches(route, versions[0], artifacts, predictions)):
        writers[number % 2].append(batch)
        count += len(batch)
    for writer in writers:
        writer.append([StreamEnd(BEGIN_S + predictions / RATE + 1.0)])
        writer.close()
    registry.close()
    return count


def _registered(data: DataDirectory, registry: SqliteRegistry, artifacts: DirectoryArtifacts, name: str) -> Version:
    artifact = model.write_model(Path(artifacts.staging()), seed=int(name))
    version = replace(validated(artifact, model.write_reference(data.root / "reference.csv")), model=ROUTE, version=name)
    artifacts.put(artifact, version.digest)
    writes: tuple[Write, ...] = (PutVersion(version), PutChampion(ROUTE, "1")) if name == "1" else (PutVersion(version),)
    _commit(registry, *writes)
    return version


def _commit(registry: SqliteRegistry, *writes: Write) -> None:
    registry.commit(Change("ada", "fill", f"route:{ROUTE}", "a benchmark", writes, route=ROUTE))


def _writer(data: DataDirectory, stream: str) -> SegmentWriter:
    return SegmentWriter(
        data.log,
        stream,
        segment_bytes_max=16 * 2**20,  # so that a short log has some
        segment_age_s=1e9,
        bytes_max=2**40,
        free_bytes_min=0,
        clock=SystemClock(),
    )


def _batches(route: Route, version: Version, artifacts: DirectoryArtifacts, predictions: int) -> Iterator[list[Record]]:
    """Yield what one run of requests that were joined leaves in the log; the first version answers for both variants."""
    instance = OnnxRuntime().load(artifacts.path(version.digest), version)
    random = np.random.default_rng(1)
    keys = [hashed_key(f"key-{number}") for number in range(KEYS)]
    sides = [route.owners[slot_of(route.salt, f"key-{number}")] for number in range(KEYS)]
    number = 0
    while number < predictions:
        rows = min(int(random.choice(BATCHES)), predictions - number)
        features = random.normal(size=(rows, FEATURES)).astype(np.float32)
        answers = instance.predict({"features": features})["probability"]
        records: list[Record] = []
        for at in range(rows):
            time_s, key = BEGIN_S + (number + at) / RATE, int(random.integers(KEYS))
            variant = route.variant(sides[key])
            assert variant is not None
            record = PredictionRecord(
                prediction_id=f"018bcfe5-6800-7000-8000-{number + at:012x}",
                time_s=time_s,
                kind=Kind.LIVE,
                model=route.model,
                route=route.name,
                revision=int(route.revision),
                assigned=variant.name,
                variant=variant.name,
                version=variant.version,
                digest=version.digest,
                attempts=(Attempt(variant.name, variant.version, Outcome.OK, 50),),
                assignment_key=keys[key],
                is_keyed=True,
                inputs=(Tensor("features", Datatype.FP32, features[at : at + 1]),),
                outputs=(Tensor("probability", Datatype.FP32, answers[at : at + 1]),),
                batch_rows=rows,
                batch_position=at,
                runtime_version="1",
                outcome=Outcome.OK,
                latency_us=500,
            )
            records.append(record)
            if (number + at) % 2:
                records.append(GroundTruthRecord(record.prediction_id, time_s, 0, int(answers[at, 0] >= 0.5), time_s))
        yield records
        number += rows


def _decide(data: DataDirectory) -> None:
    """Let the monitor read the whole log and act."""
    registry = SqliteRegistry(data.registry, clock=SystemClock())
    monitor = Monitor(
        settings=Settings(),
        log=SegmentReader(data.log),
        registry=registry,
        checkpoints=MemoryCheckpoints(),
        readings=MemoryReadings(),
        gauges=Gauges(MemoryBank()),
        detector=AdwinDetector,
        recall=lambda _ids: {},
        clock=SystemClock(),
    )
    while monitor.turn(threading.Event()):
        pass
    registry.close()


def _archive(data: DataDirectory) -> float:
    """Archive every closed segment but the last of each stream; return the seconds that took."""
    archive, segments = DuckArchive(data.archive, memory_bytes=2**29), SegmentDirectory(data.log)
    began_s = time.monotonic()
    for stream in SegmentReader(data.log).streams():
        for segment in segments.closed(stream)[:-1]:
            archive.take(segment)
    archive.close()
    return time.monotonic() - began_s


if __name__ == "__main__":
    sys.exit(main())
