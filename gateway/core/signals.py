"""What features say row by row, as numbers in [0, 1] whose means the reference knows.

Of every feature its place among the training values and its spread about their middle; whether it is missing, out of range or
unseen; of a categorical one also which of the most frequent categories it is. So one test of means sees values, categories and
quality alike, and its shares say which of them moved. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.models import ColumnKind
from gateway.core.profiles import APART, Apart, FeatureProfile, cell_count, effective_rows, spread
from gateway.core.tensors import FloatArray, IntArray

CATEGORIES_MAX: Final = 15  # watched one by one, the most frequent; the rest together
PLACE: Final = "place"
SPREAD: Final = "spread"
_DATA: Final[Mapping[ColumnKind, Mapping[str, tuple[Apart, ...]]]] = {
    ColumnKind.NUMERIC: {"missing": (Apart.MISSING, Apart.INFINITE, Apart.UNSEEN), "out of range": (Apart.BELOW, Apart.ABOVE)},
    ColumnKind.CATEGORICAL: {"missing": (Apart.MISSING,), "unseen": (Apart.UNSEEN,)},
}


class Signals:
    """The signals of several features: first the place of each, then the spread of each, then what is counted.

    Attributes:
        names: What each says.
        owners: Shape (signals,). Index of its feature.
        is_data: Shape (signals,). Whether it speaks of the data's quality, not of the world; such a one matters when it rises.
        means, deviations: Shape (signals,). In the reference.
        rows: Shape (signals,). Independent ones in the reference.
        weights: Shape (signals,). Features weigh alike, and so do a feature's signals. Sum 1.
    """

    def __init__(self, features: Sequence[FeatureProfile], *, reference_rows: int) -> None:
        counted = [(at, *signal) for at, feature in enumerate(features) for signal in _counted(feature)]
        places = list(range(len(features)))
        self.names = (*(PLACE,) * len(places), *(SPREAD,) * len(places), *(name for _, name, _, _ in counted))
        self.owners: IntArray = np.asarray([*places, *places, *(at for at, _, _, _ in counted)], np.int64)
        self.is_data: NDArray[np.bool_] = np.asarray([False] * 2 * len(places) + [is_data for _, _, _, is_data in counted])
        widest = max((cell_count(feature) for feature in features), default=0)
        self._tables = np.zeros((len(counted), widest))
        for row, (_, _, cells, _) in enumerate(counted):
            self._tables[row, cells] = 1.0
        self._counted_owners = self.owners[2 * len(places) :]
        rates = np.zeros((len(features), widest))
        for at, feature in enumerate(features):
            rates[at, : cell_count(feature)] = feature.rates
        shares = np.add.reduce(self._tables * rates[self._counted_owners], axis=1).clip(0.0, 1.0)
        self.means: FloatArray = np.concatenate(
            ([feature.place[0] for feature in features], [feature.spread[0] for feature in features], shares)
        )
        self.deviations: FloatArray = np.concatenate(
            (
                [feature.place[1] for feature in features],
                [feature.spread[1] for feature in features],
                np.sqrt(shares * (1.0 - shares)),
            )
        )
        correlations = np.asarray([(max(one.correlation, one.swing), one.correlation) for one in features]).reshape(-1, 2)
        alike = np.where(self.is_data, correlations[self.owners, 1], correlations[self.owners, 0])
        self.rows: FloatArray = np.asarray([effective_rows(one, reference_rows) for one in alike.tolist()])
        each = np.bincount(self.owners, minlength=len(features))
        self.weights: FloatArray = 1.0 / (each[self.owners] * max(len(features), 1))

    def values(self, u: FloatArray, cells: IntArray) -> FloatArray:
        """Return the signals of rows, of shape (signals, rows); NaN where a value has no place.

        Args:
            u, cells: Shape (features, rows). As `FeatureMap.rows` returns them.
        """
        return np.concatenate((u, spread(u), self._tables[np.arange(len(self._tables))[:, None], cells[self._counted_owners]]))


def _counted(feature: FeatureProfile) -> Iterator[tuple[str, list[int], bool]]:
    """Yield what is counted of a feature: its name, its cells, and whether it speaks of the data's quality."""
    first = cell_count(feature) - len(APART)
    for name, reasons in _DATA[feature.kind].items():
        yield name, [first + APART.index(reason) for reason in reasons], True
    if feature.kind is ColumnKind.CATEGORICAL:
        for at, category in enumerate(feature.categories[:CATEGORIES_MAX]):
            yield category, [at], False
        if len(feature.categories) > CATEGORIES_MAX or feature.rates[first - 1] > 0.0:
            yield "other", list(range(min(CATEGORIES_MAX, len(feature.categories)), first)), False
