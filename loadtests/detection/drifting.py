"""Made-up rows without drift and with it, through the watch of a version's columns and outcomes, with the default budget.

Batches are as large as the monitor's, and an alarm counts when its batch is over.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from adapters.detectors.river import AdwinDetector
from gateway.core.drift import psi_bounds, stability_indices
from gateway.core.models import Column
from gateway.core.outcomes import LEARN_OUTCOMES, OutcomeWatch
from gateway.core.profiles import FeatureMap, build_profile, cell_count
from gateway.core.tensors import FloatArray
from gateway.monitor.columns import ColumnsWatch
from gateway.monitor.drifting import BATCH_ROWS, INPUTS_SHARE, budget_of
from gateway.settings import MonitorSettings

ALARM_ROWS = MonitorSettings().false_alarm_events
OUTCOMES_MAX = 20_000  # after which harm counts as missed
DRIFT_ROWS_MAX = 20_000
BEFORE_ROWS = 1_000  # without drift before it begins
KNOWN = 1_000_000  # first outcomes, when their rate is as good as known
SHIFTS: tuple[tuple[str, float, float, float], ...] = (  # added, multiplied, and the median that is wanted
    ("+.25 σ", 0.25, 1.0, 700.0),
    ("+.5 σ", 0.5, 1.0, 170.0),
    ("+1 σ", 1.0, 1.0, 75.0),
    ("variance ×4", 0.0, 2.0, 500.0),
)


@dataclass(frozen=True)
class Stream:
    """Made-up rows.

    Attributes:
        phi: Of a first-order autoregression of each feature on its own; 0 for independent rows.
        sigma: The features' unit.
        missing: Share of the first feature's values that are NaN, in the reference too.
    """

    features: int
    reference_rows: int
    phi: float = 0.0
    sigma: float = 1.0
    missing: float = 0.0


def watch_of(stream: Stream, rng: np.random.Generator) -> ColumnsWatch:
    """Return a watch of the stream's features against a reference of their own, drawn in the order of the stream's rows."""
    columns = [Column(f"f{at}") for at in range(stream.features)]
    reference = next(batches(stream, rng, stream.reference_rows))
    profile = build_profile(columns, {column.name: values for column, values in zip(columns, reference, strict=True)})
    return ColumnsWatch(profile, AdwinDetector, budget_of(ALARM_ROWS, INPUTS_SHARE, stream.features))


def batches(stream: Stream, rng: np.random.Generator, rows: int = BATCH_ROWS) -> Iterator[FloatArray]:
    """Yield arrays of shape (features, rows) without end."""
    last = rng.normal(size=stream.features)
    while True:
        values = rng.normal(size=(stream.features, rows))
        if stream.phi:
            values *= math.sqrt(1.0 - stream.phi**2)
            for at in range(rows):
                last = values[:, at] = stream.phi * last + values[:, at]
        values[0, rng.random(rows) < stream.missing] = np.nan
        yield values * stream.sigma


def false_alarms(stream: Stream, rows: int, seed: int) -> int:
    """Return how many alarms are raised in rows without drift."""
    rng = np.random.default_rng([seed, stream.features, stream.reference_rows, round(stream.phi * 100)])
    watch, alarms = watch_of(stream, rng), 0
    for _, values in zip(range(rows // BATCH_ROWS), batches(stream, rng), strict=False):
        alarms += len(watch.feed(list(values)))
    return alarms


def delays(stream: Stream, seed: int) -> list[float]:
    """Return, for each shift, the rows from its onset in the first feature to the end of the batch that raises an alarm.

    Infinite where none does. The shifts share a reference and the rows before the onset.
    """
    rng = np.random.default_rng([seed, stream.features, stream.reference_rows])
    watch = watch_of(stream, rng)
    onset = BEFORE_ROWS + int(rng.integers(BATCH_ROWS))
    before_rows = BEFORE_ROWS // BATCH_ROWS * BATCH_ROWS
    for values, _ in zip(batches(stream, rng), range(before_rows // BATCH_ROWS), strict=False):
        watch.feed(list(values))
    before = pickle.dumps(watch.state())
    found = []
    for _, shift, scale, _ in SHIFTS:
        watch.restore(pickle.loads(before))
        found.append(_delay(watch, batches(stream, rng), onset - before_rows, shift * stream.sigma, scale))
    return found


def _delay(watch: ColumnsWatch, rows: Iterator[FloatArray], onset: int, shift: float, scale: float) -> float:
    for at, values in enumerate(rows):
        first, last = at * BATCH_ROWS, (at + 1) * BATCH_ROWS
        drifts = np.arange(first, last) >= onset
        values[0] = np.where(drifts, values[0] * scale + shift, values[0])
        is_raised = bool(watch.feed(list(values)))
        if is_raised and last > onset:
            return last - onset
        if first > onset + DRIFT_ROWS_MAX:
            return math.inf
    raise AssertionError("batches have no end")


def outcome_delays(rate: float, learned: int, runs: int, seed: int) -> list[float]:
    """Return how many outcomes after errors rose from .1 to a rate the alarm is raised, in each run; infinite if never.

    Runs with a reference as good as known share one; the others learn their own.
    """
    rng = np.random.default_rng([seed, round(rate * 100), learned])
    found, known = [], None
    for _ in range(runs):
        watch = OutcomeWatch(alarm_rows=ALARM_ROWS, learn=learned)
        if known is not None:
            watch.restore(known)
        else:
            for is_error in (rng.random(learned) < 0.1).tolist():
                watch.observe(float(is_error))
            known = watch.state() if learned > LEARN_OUTCOMES else None
        later = enumerate((rng.random(OUTCOMES_MAX) < rate).tolist())
        found.append(next((float(at + 1) for at, is_error in later if watch.observe(float(is_error))), math.inf))
    return found


def false_breaches(rows: int, reference_rows: int, windows: int, seed: int) -> tuple[int, int]:
    """Return how many windows without drift the stability index breaches its bound in, and a bare .1."""
    rng = np.random.default_rng([seed, rows, reference_rows])
    breaches = bare = 0
    for _ in range(windows):
        profile = build_profile([Column("x")], {"x": rng.normal(size=reference_rows)})
        cells = FeatureMap(profile.features).rows([rng.normal(size=rows)])[1][0]
        size = cell_count(profile.features[0])
        rates, counts = np.asarray(profile.features[0].rates), np.bincount(cells, minlength=size)
        index = stability_indices(rates, counts, np.zeros(1, np.int64), reference_rows=reference_rows)
        breaches += bool((index > psi_bounds(np.asarray([size]), rows=rows, reference_rows=reference_rows)).any())
        bare += bool((index > 0.1).any())
    return breaches, bare


def cost(features: int, seed: int) -> tuple[float, float]:
    """Return the microseconds of CPU that a feature of a row takes, and the kilobytes that a checkpoint keeps of it."""
    rng = np.random.default_rng([seed, features])
    stream = Stream(features, 5_000)
    watch, rows = watch_of(stream, rng), 40_000 // features + 4_000
    made = [list(values) for _, values in zip(range(rows // BATCH_ROWS), batches(stream, rng), strict=False)]
    began_s = time.process_time()
    for values in made:
        watch.feed(values)
    cost_us = (time.process_time() - began_s) / (len(made) * BATCH_ROWS * features) * 1e6
    return cost_us, len(pickle.dumps(watch.state())) / features / 1_000


def adwin_cost(seed: int) -> tuple[float, float]:
    """Return the same of ADWIN alone, which takes each value as it comes and says nothing of training."""
    values, detector = np.random.default_rng(seed).random(40_000).tolist(), AdwinDetector()
    began_s = time.process_time()
    for value in values:
        detector.update([value])
    return (time.process_time() - began_s) / len(values) * 1e6, len(pickle.dumps(detector.state())) / 1_000
