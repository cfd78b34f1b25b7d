"""Watches one version's features and answers for drift, in two views that are both kept.

Detectors say "it changed lately" and forget; the stability index over the last rows says "it is not like training" and does not.
Values are mapped through the training quantiles a batch at a time; what has no place there is counted apart and never fed.
A batch ends by rows or by the log's time, so that the same log gives the same alarms. Folds rows; no I/O of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.drift import (
    PSI_ROWS_MIN,
    Alarm,
    BlockAverage,
    Incident,
    population_stability_index,
    psi_bound,
    spread,
    with_alarm,
)
from gateway.core.fields import Json
from gateway.core.models import Column, ColumnKind, Version
from gateway.core.profiles import (
    APART,
    FeatureMap,
    FeatureProfile,
    FloatArray,
    IntArray,
    Placed,
    ReferenceProfile,
    apart_counts,
    build_profile,
    cell_count,
    profile_body,
    profile_from_body,
)
from gateway.core.records import PredictionRecord
from gateway.core.tensors import Array
from gateway.monitor.rows import ANSWER, Features, answer_column, feature_values, joined_columns
from gateway.ports import Detector

BATCH_ROWS: Final = 128  # mapping a batch costs 0.3 µs a value, a single row 30
BATCH_S: Final = 1.0  # of the log's time; a quiet route is not kept waiting for 128 rows
WINDOW_BATCHES_MAX: Final = 4_000  # of batches cut by time, on a quiet route: over an hour
WINDOW_ROWS: Final = 2_000  # what the stability index looks at; chance alone moves it by 0.01
LEARN_ROWS: Final = 1_000  # a version's own first answers are what the later ones are compared with
EVENTS_PER_S_MAX: Final = 100_000.0  # feature-events; at 2 µs each 20 % of a core. Above it rows are sampled


@dataclass(slots=True)
class Signal:
    """One number a row that a detector watches."""

    blocks: BlockAverage
    detector: Detector
    value: float | None = None
    alarms: int = 0

    def feed(self, values: FloatArray) -> bool:
        """Take values in [0, 1] and return whether the detector raised an alarm among them."""
        means = self.blocks.push_all(values).tolist()
        if not means:
            return False
        reading = self.detector.update(means)
        self.value = reading.value
        self.alarms += reading.alarm_count
        return reading.alarm_count > 0


class FeatureWatch:
    """One feature: two signals, and the cells of the last rows.

    Attributes:
        rows: In the window.
    """

    def __init__(
        self, profile: FeatureProfile, reference_rows: int, detector: Callable[[], Detector], *, psi_alpha: float
    ) -> None:
        self.profile = profile
        self.reference_rows = reference_rows
        self.place = Signal(BlockAverage(), detector())
        self.spread = Signal(BlockAverage(), detector())
        self._psi_alpha = psi_alpha
        self._rates = np.asarray(profile.rates)
        self._window: deque[tuple[int, IntArray]] = deque()  # a batch's rows and their cells' counts
        self._counts = np.zeros(cell_count(profile), dtype=np.int64)
        self.rows = 0
        self.is_breached = False

    def feed(self, placed: Placed) -> tuple[Attribution, ...]:
        """Take a batch of values and return what it raised alarms of, without repeats."""
        alarms = []
        if self.place.feed(placed.u) | self.spread.feed(spread(placed.u)):
            alarms.append(Attribution.WORLD)
        self._slide(len(placed.cells), np.bincount(placed.cells, minlength=len(self._counts)))
        was_breached, self.is_breached = self.is_breached, self.psi > self.psi_bound
        if self.is_breached and not was_breached:
            alarms.append(self._breach_of())
        return tuple(dict.fromkeys(alarms))

    @property
    def psi(self) -> float:
        """The stability index of the window; 0 while it says nothing."""
        if self.rows < PSI_ROWS_MIN:
            return 0.0
        return population_stability_index(self._rates, self._counts, reference_rows=self.reference_rows)

    @property
    def psi_bound(self) -> float:
        """What the index must exceed."""
        rows = max(self.rows, PSI_ROWS_MIN)
        return psi_bound(cell_count(self.profile), rows=rows, reference_rows=self.reference_rows, alpha=self._psi_alpha)

    def apart(self) -> FloatArray:
        """Return the shares of the window's rows that have no place in training, in the order of `APART`."""
        shares: FloatArray = self._counts[-len(APART) :] / max(self.rows, 1)
        return shares

    def body(self) -> Json:
        """Return the feature as readings show it; `apart` are shares of the window's rows."""
        rows = max(self.rows, 1)
        counts = np.repeat(np.arange(cell_count(self.profile)), self._counts)
        return {
            "feature": self.profile.name,
            "rows": self.rows,
            "psi": self.psi,
            "psi_bound": self.psi_bound,
            "is_breached": self.is_breached,
            "value": self.place.value,
            "spread": self.spread.value,
            "alarms": self.place.alarms + self.spread.alarms,
            "correlation": self.place.blocks.correlation,
            "apart": {reason.value: count / rows for reason, count in apart_counts(self.profile, counts).items()},
            "current": [int(count) for count in self._counts],
            "reference": list(self.profile.rates),
        }

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly, but for the profile."""
        return {
            "signals": [
                (signal.blocks.state(), signal.detector.state(), signal.value, signal.alarms)
                for signal in (self.place, self.spread)
            ],
            "window": np.array(
                [counts for _, counts in self._window], dtype=np.int32
            ),  # one array is a quarter of many small ones
            "is_breached": self.is_breached,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        for signal, (blocks, detector, value, alarms) in zip((self.place, self.spread), state["signals"], strict=True):
            signal.blocks = BlockAverage.restored(blocks)
            signal.detector.restore(detector)
            signal.value, signal.alarms = value, alarms
        for counts in state["window"]:
            self._slide(int(counts.sum()), counts.astype(np.int64))
        self.is_breached = state["is_breached"]

    def _slide(self, rows: int, counts: IntArray) -> None:
        self._window.append((rows, counts))
        self._counts += counts
        self.rows += rows
        while self.rows - self._window[0][0] >= WINDOW_ROWS or len(self._window) > WINDOW_BATCHES_MAX:
            gone, their_counts = self._window.popleft()
            self._counts -= their_counts
            self.rows -= gone

    def _breach_of(self) -> Attribution:
        """Return DATA when the values that have a place lie as they did in training, so that those without one are the breach."""
        reference, counts = np.asarray(self.profile.rates[: -len(APART)]), self._counts[: -len(APART)]
        if len(counts) < 2 or not counts.any() or not reference.any():
            return Attribution.DATA
        share = float(reference.sum())
        index = population_stability_index(
            (reference / share).tolist(), counts.tolist(), reference_rows=max(1, round(self.reference_rows * share))
        )
        return Attribution.WORLD if index > self.psi_bound else Attribution.DATA


@dataclass(slots=True)
class Sampling:
    """Which rows are watched: all of them, or a share chosen by hash of the prediction id when there are too many.

    Attributes:
        rate: In (0, 1], for the log's running second; set by how many came in the one before.
    """

    rate: float = 1.0
    second: int = 0
    events: float = 0.0

    def takes(self, record: PredictionRecord, time_s: float, events: int) -> bool:
        """Return whether a record's rows are watched."""
        if (second := int(time_s)) != self.second:
            per_s = self.events / max(1, second - self.second)
            self.rate, self.second, self.events = min(1.0, EVENTS_PER_S_MAX / max(per_s, 1.0)), second, 0.0
        self.events += events
        return self.rate >= 1.0 or crc32(record.prediction_id.encode()) < self.rate * (1 << 32)


@dataclass(slots=True)
class _Batch:
    """Rows that wait to be mapped together."""

    since_s: float = 0.0
    rows: int = 0
    features: list[Features] = field(default_factory=list)  # of each record
    answers: list[Array] = field(default_factory=list)


class DriftWatch:
    """One version on one route.

    Attributes:
        version: Its name.
        incidents: Alarms, merged; the newest last.
        incident_count: How many incidents there ever were.
        unreadable: Records whose inputs do not have the version's columns.
    """

    def __init__(self, version: Version, detector: Callable[[], Detector], *, false_alarm_events: float) -> None:
        profile = profile_from_body(version.profile) if version.profile else None
        features = profile.features if profile else ()
        self.version = version.version
        self._known = version
        self._detector = detector
        self._psi_alpha = WINDOW_ROWS / false_alarm_events / (1 + len(features))
        self._columns = tuple(Column(feature.name, feature.kind) for feature in features)
        self.features = [self._watch(feature, profile.rows) for feature in features] if profile else []
        self._map = FeatureMap(features)
        self.answer: FeatureWatch | None = None
        self._answer_map = FeatureMap(())
        self._answer_column = Column(ANSWER)
        self._first_answers: list[Array] = []
        self._batch = _Batch()
        self._sampling = Sampling()
        self.incidents: tuple[Incident, ...] = ()
        self.incident_count = 0
        self.unreadable = 0

    @property
    def rate(self) -> float:
        """The share of rows watched."""
        return self._sampling.rate

    def observe(self, record: PredictionRecord, time_s: float) -> bool:
        """Take a live answer of the version, and return whether an alarm was raised."""
        answer = answer_column(self._known, record.outputs)
        rows = len(answer[1]) if answer else 1
        if not self._sampling.takes(record, time_s, rows * (len(self._columns) + 1)):
            return False
        batch = self._batch
        if not batch.rows:
            batch.since_s = time_s
        batch.rows += rows
        if answer is not None:
            self._answer_column = answer[0]
            batch.answers.append(answer[1])
        if self._columns:
            values = feature_values(self._columns, record.inputs)
            if values is None:
                self.unreadable += 1
            else:
                batch.features.append(values)
        if batch.rows >= BATCH_ROWS or time_s - batch.since_s >= BATCH_S:
            return self._fold(time_s)
        return False

    def watches(self) -> Sequence[FeatureWatch]:
        """Return all features, and the answer once enough were seen."""
        return [*self.features, *([self.answer] if self.answer else [])]

    def bodies(self) -> list[Json]:
        """Return every feature as readings show it, the furthest over its bound first."""
        return [watch.body() for watch in sorted(self.watches(), key=lambda watch: watch.psi / watch.psi_bound, reverse=True)]

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly, but for the version itself."""
        answer = self.answer
        return {
            "version": self.version,
            "features": [watch.state() for watch in self.features],
            "answer": None if answer is None else (_alone(answer), answer.state()),
            "answer_kind": self._answer_column.kind.value,
            "first_answers": self._first_answers,
            "batch": (self._batch.since_s, self._batch.rows, self._batch.features, self._batch.answers),
            "sampling": (self._sampling.rate, self._sampling.second, self._sampling.events),
            "incidents": [incident.body() for incident in self.incidents],
            "incident_count": self.incident_count,
            "unreadable": self.unreadable,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned for the same version."""
        for watch, saved in zip(self.features, state["features"], strict=True):
            watch.restore(saved)
        if state["answer"] is not None:
            body, saved = state["answer"]
            self._compare_answers(profile_from_body(body)).restore(saved)
        self._answer_column = Column(ANSWER, ColumnKind(state["answer_kind"]))
        self._first_answers = state["first_answers"]
        self._batch = _Batch(*state["batch"])
        self._sampling = Sampling(*state["sampling"])
        self.incidents = tuple(Incident.from_body(body) for body in state["incidents"])
        self.incident_count, self.unreadable = state["incident_count"], state["unreadable"]

    def _watch(self, profile: FeatureProfile, rows: int) -> FeatureWatch:
        return FeatureWatch(profile, rows, self._detector, psi_alpha=self._psi_alpha)

    def _fold(self, time_s: float) -> bool:
        batch, self._batch = self._batch, _Batch()
        alarms: list[Alarm] = []
        placed = self._map.place(joined_columns(batch.features)) if batch.features else ()
        for watch, values in zip(self.features if placed else (), placed, strict=True):
            alarms += [Alarm(watch.profile.name, attribution, time_s) for attribution in watch.feed(values)]
        if batch.answers:
            alarms += [Alarm(ANSWER, found, time_s) for found in self._feed_answers(np.concatenate(batch.answers))]
        for alarm in alarms:
            self.incidents = with_alarm(self.incidents, alarm)
            self.incident_count += self.incidents[-1].alarms == 1 and self.incidents[-1].subjects == (alarm.subject,)
        return bool(alarms)

    def _feed_answers(self, values: Array) -> tuple[Attribution, ...]:
        if self.answer is not None:
            return self.answer.feed(self._answer_map.place((values,))[0])
        self._first_answers.append(values)
        if sum(map(len, self._first_answers)) >= LEARN_ROWS:
            reference = np.concatenate(self._first_answers)
            self._first_answers = []
            self._compare_answers(build_profile([self._answer_column], {ANSWER: reference}))
        return ()

    def _compare_answers(self, reference: ReferenceProfile) -> FeatureWatch:
        """Watch the answers against those of a reference from now on."""
        self._answer_map = FeatureMap(reference.features)
        self.answer = self._watch(reference.features[0], reference.rows)
        return self.answer


def _alone(watch: FeatureWatch) -> Json:
    return profile_body(ReferenceProfile(watch.reference_rows, (watch.profile,)))
