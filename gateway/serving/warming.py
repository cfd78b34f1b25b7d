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
from gateway.core.providers import CPU
from gateway.core.tensors import NUMPY_DTYPES, VARIABLE, Array, Datatype, TensorSpec
from gateway.ports.clock import Clock
from gateway.ports.loading import MemoryMeter
from gateway.ports.runtimes import HoldsElsewhere, Instance, Runtime
from gateway.ports.stores import ArtifactStore
from gateway.serving.checking import Checker

_CURVE_ROWS: Final = (4, 16, 64)  # of the runs measured beside one row; between them the cost is taken as linear
_CURVE_RUNS: Final = 2  # of each; the faster counts, since whatever else runs only adds to it
_CURVE_US: Final = 500_000.0  # of one run; a larger one is not tried, so that slow versions warm in seconds
_NEARLY: Final = 0.9  # of the best throughput measured: a smaller batch that has as much answers sooner


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run takes, in µs.

    Attributes:
        first_us: Of one row, with the call itself.
        further_us: Of each further row, beyond what was measured.
        curve: Rows and duration of larger runs, both ascending.
    """

    first_us: float
    further_us: float
    curve: tuple[tuple[int, float], ...] = ()

    def of(self, rows: int) -> float:
        """Return the expected duration of a run, in µs."""
        low, low_us = 1, self.first_us
        if rows <= 1:
            return low_us
        for high, high_us in self.curve:
            if rows <= high:
                return low_us + (high_us - low_us) * (rows - low) / (high - low)
            low, low_us = high, high_us
        return low_us + self.further_us * (rows - low)

    def rows_within(self, budget_us: float) -> float:
        """Return how many rows a run may have to be expected within a budget; may be none, and without bound."""
        low, low_us = 1, self.first_us
        if budget_us < low_us:
            return 0.0
        for high, high_us in self.curve:
            if budget_us < high_us:
                return low + (budget_us - low_us) * (high - low) / (high_us - low_us)
            low, low_us = high, high_us
        return low + (budget_us - low_us) / self.further_us if self.further_us > 0.0 else math.inf

    def best_rows(self, rows_max: int) -> int:
        """Return the least rows of a run, at most `rows_max`, with nearly the best throughput; `rows_max` when unmeasured."""
        if not self.curve:
            return rows_max
        sizes = [1, *(rows for rows, _ in self.curve if rows < rows_max), rows_max]
        best = max(rows / self.of(rows) for rows in sizes)
        return next(rows for rows in sizes if rows / self.of(rows) >= best * _NEARLY)


@dataclass(frozen=True, slots=True)
class Warm:
    """A loaded and exercised version, not yet taking jobs.

    Attributes:
        memory_bytes: What the process's heap grew by meanwhile, at least the artifact's size: what serving allocates in the
            same moments is small beside a version, and loads come one after the other.
        outside_bytes: What it held in processes of its own then.
        provider: What the instance computes on; another than the version's own where that is not there.
    """

    version: Version
    instance: Instance
    cost: Cost
    memory_bytes: int = 0
    outside_bytes: int = 0
    provider: str = CPU


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
    memory_bytes = max(memory.heap_bytes() - before, version.size_bytes)
    outside_bytes = instance.outside_bytes if isinstance(instance, HoldsElsewhere) else 0
    return Warm(version, instance, cost, memory_bytes, outside_bytes, instance.provider)


def _measured(instance: Instance, version: Version, runs: int, clock: Clock) -> Cost:
    first_us = statistics.median(_runs_us(instance, version, 1, runs, clock))
    if not version.signature.is_batched:
        return Cost(first_us, first_us)
    curve: list[tuple[int, float]] = []
    rows, us, further_us = 1, first_us, first_us
    for more in _CURVE_ROWS:
        if us * more / rows > _CURVE_US or more > (version.batching.rows_max or more):
            break
        more_us = max(us, min(_runs_us(instance, version, more, _CURVE_RUNS, clock)))
        further_us = (more_us - us) / (more - rows)
        rows, us = more, more_us
        curve.append((rows, us))
    return Cost(first_us, further_us, tuple(curve))


def _runs_us(instance: Instance, version: Version, rows: int, runs: int, clock: Clock) -> list[float]:
    inputs = {spec.name: _made_up(spec, rows, len(version.columns)) for spec in version.signature.inputs}
    found = []
    for _ in range(runs + 1):
        began_s = clock.monotonic_s()
        outputs = instance.predict(inputs)
        found.append((clock.monotonic_s() - began_s) * 1e6)
    Checker(version).checked_outputs(outputs, rows)
    return found[1:]  # the first run allocates


def _made_up(spec: TensorSpec, rows: int, columns: int) -> Array:
    sizes = [columns or 1 if size == VARIABLE else size for size in spec.shape]
    if spec.is_batched:
        sizes[0] = rows
    made_up: Array = np.zeros(sizes, NUMPY_DTYPES[spec.datatype])
    if spec.datatype is Datatype.BYTES:
        made_up.fill(b"")
    return made_up
