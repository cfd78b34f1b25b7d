"""A made-up world for the monitor: a registry with two versions, a rollout, and logs of any length. Also a program of its own,
which runs the monitor over a log on disk until it is killed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from adapters.archives.duck import DuckArchive
from adapters.clock import SystemClock
from adapters.detectors.river import AdwinDetector
from adapters.logs.codec import decode
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentWriter
from adapters.memory import MemoryBank
from adapters.readings_file import ReadingsFile
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from gateway.core.changes import Change, PutChampion, PutRollout, PutRoute, PutVersion
from gateway.core.models import Column, Digest, Runtime, Target, Task, Version
from gateway.core.partitions import WHOLE, Partition
from gateway.core.plans import Plan
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.records import Attempt, GroundTruthRecord, Heartbeat, Outcome, PredictionRecord, Record
from gateway.core.rollouts import Rollout, begin
from gateway.core.routes import Route, Variant, with_weights
from gateway.core.split import SLOTS, hashed_key, slot_of
from gateway.core.tensors import Datatype, Signature, Tensor, TensorSpec
from gateway.history import recalled
from gateway.monitor.run import run_monitor
from gateway.ports.stores import RegistryStore
from gateway.settings import MonitorSettings, Settings
from tests.records import prediction as recorded

START_S = 1_700_000_000.0
ROUTE = "delays"
FEATURES = 4
SETTINGS = Settings(monitor=MonitorSettings(poll_s=0.002, checkpoint_s=0.02, publish_s=0.1, drill_s=0.0))


def version_of(number: str, model: str = ROUTE) -> Version:
    """Return a binary classifier with named columns and a profile of standard normal features."""
    columns = tuple(Column(f"x{at}") for at in range(FEATURES))
    random = np.random.default_rng(1)
    return Version(
        model=model,
        version=number,
        digest=Digest(number * 64),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature(
            (TensorSpec("features", Datatype.FP32, (-1, FEATURES)),), (TensorSpec("probability", Datatype.FP32, (-1, 1)),)
        ),
        target=Target(Task.BINARY, "probability", ("no", "yes"), "yes"),
        columns=columns,
        profile=profile_body(build_profile(columns, {column.name: random.normal(size=2_000) for column in columns})),
    )


def commit(registry: RegistryStore, *writes: object, route: str = "") -> None:
    """Commit as a person."""
    registry.commit(Change("ada", "route.put", "route:delays", "a test", tuple(writes), route=route))


def make_registry(registry: RegistryStore, *, plan: Plan, rollout: str = "r1", name: str = ROUTE, **changes: object) -> Rollout:
    """Register versions 1 and 2 of a model, route everything to 1, and begin a rollout of 2."""
    commit(registry, PutVersion(version_of("1", name)), PutChampion(name, "1"))
    commit(registry, PutVersion(version_of("2", name)))
    bare = Route(name=name, model=name, variants=(), fallback="champion")
    variants = (Variant("champion", "1", SLOTS),)
    commit(registry, PutRoute(replace(with_weights(bare, variants), last_good=variants, **changes)), route=name)
    return begin_rollout(registry, "2", plan=plan, id=rollout, name=name)


def begin_rollout(registry: RegistryStore, challenger: str, *, plan: Plan, id: str, name: str = ROUTE) -> Rollout:
    """Begin a rollout as control does."""
    route = registry.table().routes[name]
    rollout, split = begin(route, id=id, challenger=challenger, plan=plan, salt=f"salt-{id}", now_s=START_S)
    commit(registry, PutRoute(split), PutRollout(rollout), route=name)
    return registry.rollout(id)


class LogTime(SystemClock):
    """The time at which the made-up log is written; for all else the machine's."""

    now_s = staticmethod(lambda: START_S)


@dataclass(frozen=True)
class World:
    """How versions and callers behave.

    Attributes:
        errors, losses: Version → rate of failed attempts, of wrong answers.
        shift: Added to the first feature.
        keys: How many callers; 0 gives each request a key of its own.
    """

    errors: dict[str, float]
    losses: dict[str, float]
    shift: float = 0.0
    keys: int = 0
    truth: bool = True
    per_s: float = 200.0


SOUND = World({"1": 0.05, "2": 0.05}, {"1": 0.2, "2": 0.2})


def records(
    registry: RegistryStore, world: World, count: int, *, seed: int = 1, start_s: float = START_S, name: str = ROUTE
) -> Iterator[tuple[str, Record]]:
    """Yield (stream, record) of requests over two workers at the route's present revision, and heartbeats to the end."""
    random = np.random.default_rng(seed)
    route = registry.table().routes[name]
    for number in range(count):
        now_s = start_s + number / world.per_s
        key = f"key-{random.integers(world.keys)}" if world.keys else f"key-{seed}-{number}"
        assigned = route.owners[slot_of(route.salt, key)]
        variant = route.variant(assigned)
        assert variant is not None
        stream = f"w{number % 2}"
        record = prediction(route, variant, world, random, id=f"p-{seed}-{number}", key=key, time_s=now_s)
        yield stream, record
        if world.truth and record.outcome is Outcome.OK:
            answer = record.outputs[0].data[0, 0] >= 0.5
            is_wrong = random.random() < world.losses[record.version]
            value = "yes" if bool(answer) != is_wrong else "no"
            other = f"w{(number + 1) % 2}"
            yield other, GroundTruthRecord(record.prediction_id, now_s + 1e-4, 0, value, now_s + 1e-4)
    end_s = start_s + count / world.per_s
    for step in range(1, 13):
        for stream in ("w0", "w1"):
            yield stream, Heartbeat(end_s + step * 0.25)


def prediction(
    route: Route, variant: Variant, world: World, random: np.random.Generator, *, id: str, key: str, time_s: float
) -> PredictionRecord:
    """Return one live answer; a challenger that fails is answered by the champion, and both attempts stand in the record."""
    features = random.normal(size=(1, FEATURES)).astype(np.float32)
    features[0, 0] += world.shift
    champion = route.variants[0]
    has_failed = random.random() < world.errors[variant.version]
    attempts = (Attempt(variant.name, variant.version, Outcome.FAILED if has_failed else Outcome.OK, 900),)
    answered = variant
    if has_failed and variant is not champion:
        attempts, answered, has_failed = (*attempts, Attempt(champion.name, champion.version, Outcome.OK, 900)), champion, False
    output = Tensor("probability", Datatype.FP32, random.random((1, 1)).astype(np.float32))
    return recorded(
        prediction_id=id,
        time_s=time_s,
        model=route.model,
        route=route.name,
        revision=route.revision,
        assigned=variant.name,
        variant=answered.name,
        version=answered.version,
        digest=answered.version * 64,
        attempts=attempts,
        assignment_key=hashed_key(key),
        inputs=(Tensor("features", Datatype.FP32, features),),
        outputs=() if has_failed else (output,),
        outcome=Outcome.FAILED if has_failed else Outcome.OK,
        latency_us=1_000,
    )


def segment_writer(directory: Path, stream: str) -> SegmentWriter:
    """Return one worker's end of a log on disk."""
    return SegmentWriter(
        directory / "log",
        stream,
        segment_bytes_max=2**18,
        segment_age_s=3_600.0,
        bytes_max=2**30,
        free_bytes_min=0,
        clock=SystemClock(),
    )


def main(directory: Path, truth_wait_max: int = SETTINGS.monitor.truth_wait_max, partition: Partition = WHOLE) -> None:
    """Run the monitor over a directory, and the archive in it, until the process is killed."""
    archive = DuckArchive(directory / "archive", memory_bytes=2**28)
    run_monitor(
        settings=replace(SETTINGS, monitor=replace(SETTINGS.monitor, truth_wait_max=truth_wait_max)),
        log=SegmentReader(directory / "log", partition.has),
        registry=SqliteRegistry(directory / "registry.db", clock=SystemClock()),
        checkpoints=SqliteCheckpoints(directory / "checkpoints.db"),
        readings=ReadingsFile(directory / f"readings-{partition.process}.json"),
        metrics=MemoryBank(),
        detector=AdwinDetector,
        recall=partial(recalled, archive=archive, decode=decode),
        clock=LogTime(),
        stop=threading.Event(),
        partition=partition,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
