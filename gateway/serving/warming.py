"""Loading a version and exercising it, before it may take requests. Blocking; called from a thread that serves nobody.

Made-up rows fill the runtime's arenas and show what a run costs. They are no judgement: a version that was validated on real
rows may refuse them (an unknown category, a number out of its domain), and then the cost found at validation stands.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.core.errors import LoadFailed, OutputMismatch, PredictFailed
from gateway.core.models import Runtime as RuntimeName
from gateway.core.models import Version
from gateway.core.tensors import NUMPY_DTYPES, VARIABLE, Array, Datatype, TensorSpec
from gateway.ports import ArtifactStore, Clock, Instance, MemoryMeter, Runtime
from gateway.serving.checking import Checker

_COST_ROWS: Final = 32  # its cost, beside that of one row, separates what a call costs from what a row costs


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run takes, in µs: its first row, with the call itself, and each further row."""

    first_us: float
    further_us: float

    def of(self, rows: int) -> float:
        """Return the expected duration of a run, in µs."""
        return self.first_us + self.further_us * max(rows - 1, 0)

    def rows_within(self, budget_us: float) -> float:
        """Return how many rows a run may have to be expected within a budget; may be none, and without bound."""
        if budget_us < self.first_us:
            return 0.0
        return 1.0 + (budget_us - self.first_us) / self.further_us if self.further_us > 0.0 else math.inf


@dataclass(frozen=True, slots=True)
class Warm:
    """A loaded and exercised version, not yet taking jobs.

    Attributes:
        memory_bytes: What the process's heap grew by meanwhile, at least the artifact's size: what serving allocates in the
            same moments is small beside a version, and loads come one after the other.
    """

    version: Version
    instance: Instance
    cost: Cost
    memory_bytes: int = 0


def warmed(
    version: Version,
    artifacts: ArtifactStore,
    runtimes: Mapping[RuntimeName, Runtime],
    *,
    runs: int,
    memory: MemoryMeter,
    clock: Clock,
) -> Warm:
    """Return the version loaded and exercised.

    Raises:
        LoadFailed: there is no runtime for it, it does not load, or its answer does not fit its signature.
        ArtifactCorrupt: its bytes changed.
    """
    runtime = runtimes.get(version.runtime)
    if runtime is None:
        raise LoadFailed(f"version {version.version!r} needs the runtime {version.runtime.value!r}, which is not there")
    path = artifacts.path(version.digest)
    before = memory.heap_bytes()
    instance = runtime.load(path, version)
    try:
        cost = _measured(instance, version, runs, clock)
    except OutputMismatch as error:
        instance.close()
        raise LoadFailed(f"version {version.version!r} of {version.model!r}: {error}") from error
    except PredictFailed as error:
        if version.cost_us_per_row <= 0:
            instance.close()
            raise LoadFailed(f"version {version.version!r} of {version.model!r} runs no made-up row: {error}") from error
        cost = Cost(version.cost_us_per_row, version.cost_us_per_row)
    return Warm(version, instance, cost, max(memory.heap_bytes() - before, version.size_bytes))


def _measured(instance: Instance, version: Version, runs: int, clock: Clock) -> Cost:
    first_us = _run_us(instance, version, 1, runs, clock)
    if not version.signature.is_batched:
        return Cost(first_us, first_us)
    many_us = _run_us(instance, version, _COST_ROWS, max(runs // 2, 1), clock)
    return Cost(first_us, max(many_us - first_us, 0.0) / (_COST_ROWS - 1))


def _run_us(instance: Instance, version: Version, rows: int, runs: int, clock: Clock) -> float:
    inputs = {spec.name: _made_up(spec, rows, len(version.columns)) for spec in version.signature.inputs}
    found = []
    for _ in range(runs + 1):
        began_s = clock.monotonic_s()
        outputs = instance.predict(inputs)
        found.append((clock.monotonic_s() - began_s) * 1e6)
    Checker(version).checked_outputs(outputs, rows)
    return statistics.median(found[1:])  # the first run allocates


def _made_up(spec: TensorSpec, rows: int, columns: int) -> Array:
    sizes = [columns or 1 if size == VARIABLE else size for size in spec.shape]
    if spec.is_batched:
        sizes[0] = rows
    made_up: Array = np.zeros(sizes, NUMPY_DTYPES[spec.datatype])
    if spec.datatype is Datatype.BYTES:
        made_up.fill(b"")
    return made_up
