"""Where the features of a version's answered predictions lie in its reference profile, by span."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.core.drift import PSI_ROWS_MIN, stability_indices
from gateway.core.models import Column, Version
from gateway.core.profile_bodies import profile_from_body
from gateway.core.profiles import APART, Apart, FeatureMap, FeatureProfile, cell_count
from gateway.core.records import PredictionRecord
from gateway.core.tensors import IntArray
from gateway.monitor.rows import Features, feature_values, hidden_names, joined_columns
from gateway.report.spans import SPANS_MAX

FEATURES_MAX: Final = 500  # in the order of the columns; with 96 spans 6 MB of counts of numbers, 40 MB of categories
_ROWS_GOOD: Final = 3 * PSI_ROWS_MIN  # so that a quieter span has enough as well
_ROWS_AT_ONCE: Final = 1_000  # mapped together, which costs a tenth of one by one


@dataclass(frozen=True, slots=True)
class Shape:
    """One feature over some rows.

    Attributes:
        psi: How far it lies from the reference, in nats; None with too few rows.
        apart: The share of values without a place in the reference, by reason.
        usual: The same share in the reference, of all reasons together.
    """

    name: str
    rows: int
    psi: float | None
    apart: dict[Apart, float]
    usual: float

    @property
    def apart_share(self) -> float:
        """Of all reasons together."""
        return sum(self.apart.values())


class FeatureCounts:
    """One version's features.

    Attributes:
        profiles: Of the features that are counted.
        unreadable: Predictions whose inputs do not have the version's columns, or are not all logged as they came.
    """

    def __init__(self, version: Version) -> None:
        profile = profile_from_body(version.profile)
        self._columns = tuple(Column(feature.name, feature.kind) for feature in profile.features)
        self._names = {column.name for column in self._columns}
        self.profiles = profile.features[:FEATURES_MAX]
        self._reference_rows = profile.rows
        self._map = FeatureMap(self.profiles)
        self._sizes: IntArray = np.asarray([cell_count(feature) for feature in self.profiles])
        self._starts: IntArray = np.cumsum(self._sizes) - self._sizes
        self._reference = np.concatenate([feature.rates for feature in self.profiles])
        self._counts: dict[int, IntArray] = {}
        self._waiting: list[Features] = []
        self._waiting_rows = 0
        self._at = 0
        self.unreadable = 0

    def take(self, record: PredictionRecord, at: int) -> None:
        """Count one record's rows in a span; records come in order of time."""
        is_hidden = any(name in self._names or name in {tensor.name for tensor in record.inputs} for name in hidden_names(record))
        values = None if is_hidden else feature_values(self._columns, record.inputs)
        if values is None:
            self.unreadable += 1
            return
        if at != self._at:
            self._flush()
            self._at = at
        self._waiting.append(values)
        self._waiting_rows += len(values[0]) if isinstance(values, list) else len(values)
        if self._waiting_rows >= _ROWS_AT_ONCE:
            self._flush()

    def shapes(self, first: int = 0, after: int = SPANS_MAX) -> list[Shape]:
        """Return where every feature lies in the spans from `first` on and before `after`; in all of them by default."""
        self._flush()
        none = np.zeros(int(self._sizes.sum()), np.int64)
        counts = sum((self._counts[at] for at in range(first, after) if at in self._counts), none)
        rows = int(counts[: self._sizes[0]].sum())
        indices = stability_indices(self._reference, counts, self._starts, reference_rows=self._reference_rows)
        return [
            _shape(feature, counts[start : start + size], rows, float(index))
            for feature, start, size, index in zip(self.profiles, self._starts, self._sizes, indices, strict=True)
        ]

    def spans_together(self, spans: int) -> int:
        """Return how many spans next to each other have rows enough for an index, as far as their rows are spread evenly."""
        rows = self.shapes()[0].rows
        return max(1, min(spans, math.ceil(_ROWS_GOOD * spans / max(rows, 1))))

    def _flush(self) -> None:
        if not self._waiting:
            return
        columns = joined_columns(self._waiting)[: len(self.profiles)]
        self._waiting, self._waiting_rows = [], 0
        _, cells = self._map.rows(columns)
        flat = (cells + self._starts[:, None]).ravel()
        counted = np.bincount(flat, minlength=int(self._sizes.sum()))
        self._counts[self._at] = self._counts.get(self._at, np.zeros_like(counted)) + counted


def _shape(feature: FeatureProfile, counts: IntArray, rows: int, index: float) -> Shape:
    first = cell_count(feature) - len(APART)
    apart = {reason: int(counts[first + at]) / rows if rows else 0.0 for at, reason in enumerate(APART)}
    usual = sum(feature.rates[first:])
    return Shape(feature.name, rows, index if rows >= PSI_ROWS_MIN else None, apart, usual)
