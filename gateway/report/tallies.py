"""What a report counts of each version in each span: predictions, faults, latency, losses, and where features lie.

Everything is a count or a sum over records, so that anybody can find the same number in the log. Quality is charged to the span
in which the prediction was made, whenever its ground truth came; how the two are joined is the monitor's own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.core.losses import loss
from gateway.core.models import Task, Version
from gateway.core.records import FAULTS, GroundTruthRecord, Kind, Outcome, PredictionRecord
from gateway.monitor.rows import answer_tensor, row_count
from gateway.monitor.truth import Joined, Place, TruthJoin, Waiting, packed, unpacked
from gateway.report.features import FeatureCounts
from gateway.report.spans import Spans

VERSIONS_MAX: Final = 20  # told apart, in the order in which they come; a route has few, and a plot shows four
WAITING_ROWS_MAX: Final = 500_000  # of predictions that wait for ground truth, 300 bytes each, the oldest dropped first
OTHERS: Final = "others"
_WIDTH: Final = math.log(1.01)  # of a bucket of latency, so that a quantile is within half a percent


@dataclass(slots=True)
class Tally:
    """One version in one span, or in all of them.

    Attributes:
        predictions: Live ones that it answered, by whatever outcome.
        attempts, faults: Its own on live predictions, abandoned ones left out, and those of them that failed.
        latency: Live predictions by bucket of their latency.
        rows: Answered ones that ground truth can be compared with.
        truths, losses: Rows with ground truth that could be scored, and their summed loss.
    """

    predictions: int = 0
    attempts: int = 0
    faults: int = 0
    latency: Counter[int] = field(default_factory=Counter)
    rows: int = 0
    truths: int = 0
    losses: float = 0.0

    def add(self, other: Tally) -> None:
        """Take another's counts."""
        self.predictions += other.predictions
        self.attempts += other.attempts
        self.faults += other.faults
        self.latency.update(other.latency)
        self.rows += other.rows
        self.truths += other.truths
        self.losses += other.losses

    @property
    def fault_share(self) -> float | None:
        """Faults an attempt; None without attempts."""
        return self.faults / self.attempts if self.attempts else None

    @property
    def mean_loss(self) -> float | None:
        """In [0, 1]; None without ground truth."""
        return self.losses / self.truths if self.truths else None

    def latency_ms(self, level: float) -> float | None:
        """Return the latency that a share of the predictions stayed within; None without any."""
        rank, seen = math.ceil(level * self.predictions), 0
        for bucket in sorted(self.latency):
            seen += self.latency[bucket]
            if seen >= max(rank, 1):
                return math.exp((bucket + 0.5) * _WIDTH) / 1_000.0
        return None


class Tallies:
    """One route over spans.

    Attributes:
        kinds: Predictions of each kind.
        versions: By name, in the order in which they came; each has a tally for every span.
        features: By name of a version with a reference profile.
        unscored: Values of ground truth that fit no answer.
        truth: Predictions and their ground truth.
    """

    def __init__(self, spans: Spans, version_of: Callable[[str, str], Version | None]) -> None:
        self._spans = spans
        self._version_of = version_of
        self._known: dict[tuple[str, str], Version | None] = {}
        self.kinds: Counter[Kind] = Counter()
        self.versions: dict[str, list[Tally]] = {}
        self.features: dict[str, FeatureCounts] = {}
        self.unscored = 0
        self.truth = TruthJoin(WAITING_ROWS_MAX)

    def predict(self, record: PredictionRecord) -> None:
        """Count one prediction."""
        at = self._spans.at(record.time_s)
        if at is None:
            return
        self.kinds[record.kind] += 1
        if record.kind is not Kind.LIVE:
            return
        for attempt in record.attempts:
            if attempt.outcome is not Outcome.ABANDONED:
                tally = self._tally(attempt.version, at)
                tally.attempts += 1
                tally.faults += attempt.outcome in FAULTS
        tally = self._tally(record.version, at)
        tally.predictions += 1
        tally.latency[math.floor(math.log(max(record.latency_us, 1)) / _WIDTH)] += 1
        if record.outcome is Outcome.OK:
            self._answered(record, tally, at)

    def know(self, truth: GroundTruthRecord) -> None:
        """Take one value of ground truth."""
        joined = self.truth.learn(truth.prediction_id, truth.row, truth.value, truth.time_s)
        if joined is not None:
            self._score(joined)

    def whole(self, version: str) -> Tally:
        """Return a version's tally over all spans."""
        found = Tally()
        for tally in self.versions[version]:
            found.add(tally)
        return found

    def _answered(self, record: PredictionRecord, tally: Tally, at: int) -> None:
        version = self._version(record.model, record.version)
        if version is None:
            return
        counts = self.features.get(version.version)
        if counts is None and version.profile and len(self.features) < VERSIONS_MAX:
            counts = self.features[version.version] = FeatureCounts(version)
        if counts is not None:
            counts.take(record, at)
        answer = answer_tensor(version.target, record.outputs)
        if version.target.task is Task.OTHER or answer is None or answer.data.ndim not in (1, 2) or not answer.data.size:
            return
        rows, shape = row_count(record), answer.data.shape[1:]
        tally.rows += rows
        place = Place(
            route=record.route,
            model=record.model,
            version=record.version,
            variant=record.variant,
            rollout="",
            share=0.0,
            datatype=answer.datatype,
            row_shape=shape,
        )
        waiting = Waiting(place, "", rows, packed(answer.data), record.time_s)
        for joined in self.truth.expect(record.prediction_id, waiting):
            self._score(joined)

    def _score(self, joined: Joined) -> None:
        place, at = joined.waiting.place, self._spans.at(joined.waiting.time_s)
        version = self._version(place.model, place.version)
        assert version is not None, "whose answer waits"
        assert at is not None, "only what was made in a span waits"
        answer = unpacked(place, joined.waiting.answer, version.target.output)
        value = loss(version.target, (answer,), joined.row, joined.value)
        before = None if joined.corrects is None else loss(version.target, (answer,), joined.row, joined.corrects[0])
        self.unscored += value is None
        tally = self._tally(place.version, at)
        tally.truths += (value is not None) - (before is not None)
        tally.losses += (value or 0.0) - (before or 0.0)

    def _tally(self, version: str, at: int) -> Tally:
        if version not in self.versions and len(self.versions) >= VERSIONS_MAX:
            version = OTHERS
        if version not in self.versions:
            self.versions[version] = [Tally() for _ in range(self._spans.count)]
        return self.versions[version][at]

    def _version(self, model: str, name: str) -> Version | None:
        if (model, name) not in self._known:
            self._known[model, name] = self._version_of(model, name)
        return self._known[model, name]
