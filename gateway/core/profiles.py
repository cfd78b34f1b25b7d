"""Reference profiles: what each feature looked like in training, in a few hundred numbers, and where a value lies in it.

Built once from the reference sample when a version is registered; the monitor then maps every live value to u in [0, 1] through
the training quantiles, which makes scale and shape irrelevant to a detector. A value that has no place there (missing, infinite,
out of range, an unseen category) is counted apart and never mapped. Cells are fixed here, from the reference alone.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.blocks import Blocks
from gateway.core.errors import MalformedRequest
from gateway.core.models import Column, ColumnKind
from gateway.core.swings import levels, slowest_swing, swing
from gateway.core.tensors import Array, FloatArray, IntArray

QUANTILES: Final = 101  # one a percent
CELLS: Final = 10  # deciles, as is usual for the population stability index
CATEGORIES_MAX: Final = 100  # kept by name; the rest is one category
ALIKE_MAX: Final = 0.999  # of neighbours; two thousand of them are then one independent row
FLOAT_MAX: Final = float(np.finfo(np.float64).max)
LEVELS: Final[FloatArray] = np.linspace(0.0, 1.0, QUANTILES)


class Apart(enum.Enum):
    """Why a value has no place in the profile; each has a cell of its own, after the feature's other cells, in this order."""

    MISSING = "missing"  # NaN, or nothing
    INFINITE = "infinite"
    BELOW = "below"  # the reference's least value
    ABOVE = "above"  # its greatest
    UNSEEN = "unseen"  # a category, or any value of a feature that the reference never had


APART: Final = tuple(Apart)


@dataclass(frozen=True, slots=True)
class FeatureProfile:
    """One feature of the reference.

    Attributes:
        quantiles: Numeric: at 0, 1, … 100 %, of the finite values; empty when there were none.
        edges: Numeric: the inner borders of the cells, rising; a value on a border belongs above it.
        categories: Categorical: the most frequent values as text, the most frequent first.
        rates: Of each cell (numeric) or category, then, for a categorical feature, of all other values together; then of each
            member of `Apart`. They sum to 1.
        place, spread: Mean and standard deviation, over the reference, of u and of `spread(u)`; 0.29 and 0.30 for a continuous
            feature, 0 for a constant.
        place_levels, spread_levels: The least and the greatest level of u and of spread (`swings.levels`).
        correlation: Of neighbouring rows' u, in [0, 1), or what its swings come to if that is more: a sample taken in a row knows
            less than its rows promise.
        swing: The same of the slowest swings of its place, at least `correlation`. What is missing or out of range does not swing
            with the values, so only place, spread and cells are known the less for it.
    """

    name: str
    kind: ColumnKind
    rates: tuple[float, ...]
    quantiles: tuple[float, ...] = ()
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    place: tuple[float, float] = (0.5, 0.0)
    spread: tuple[float, float] = (0.0, 0.0)
    place_levels: tuple[float, float] = (0.5, 0.5)
    spread_levels: tuple[float, float] = (0.0, 0.0)
    correlation: float = 0.0
    swing: float = 0.0


@dataclass(frozen=True, slots=True)
class ReferenceProfile:
    """All features of the reference, in the order of the version's columns, and its number of rows."""

    rows: int
    features: tuple[FeatureProfile, ...]

    def feature(self, name: str) -> FeatureProfile | None:
        """Return the profile of one feature."""
        return next((feature for feature in self.features if feature.name == name), None)


@dataclass(frozen=True, slots=True)
class Placed:
    """Where values lie in a profile.

    Attributes:
        u: Shape (n,). In [0, 1], of the values that have a place, in their order; never NaN.
        cells: Shape (rows,). The cell of every value, those apart included.
        is_apart: Shape (rows,). Whether the value has no place.
    """

    u: FloatArray
    cells: IntArray
    is_apart: NDArray[np.bool_]


def build_profile(columns: Sequence[Column], reference: Mapping[str, Array]) -> ReferenceProfile:
    """Return the profile of a reference sample.

    Args:
        columns: Those to profile; columns of the sample that are not named are left out.
        reference: Column name → values of shape (rows,): numbers, booleans, bytes, text or None.

    Raises:
        MalformedRequest: a column is missing, has another length, is not numeric where it should be, or there are no rows.
    """
    for column in columns:
        if column.name not in reference:
            raise MalformedRequest(f"reference: column {column.name!r} is missing")
    lengths = {len(reference[column.name]) for column in columns}
    if len(lengths) != 1 or 0 in lengths:
        raise MalformedRequest("reference: expected at least one row, and equally many in every column")
    return ReferenceProfile(rows=lengths.pop(), features=tuple(_feature(column, reference[column.name]) for column in columns))


def spread(u: FloatArray) -> FloatArray:
    """Return 4·(u − ½)², in [0, 1]: its mean moves when the values spread or shrink about an unmoved centre."""
    squared: FloatArray = 4.0 * (u - 0.5) ** 2
    return squared


def effective_rows(correlation: float, rows: int) -> float:
    """Return how many independent rows would know a mean as well as rows do whose neighbours are so much alike; at least 1."""
    return max(1.0, rows * (1.0 - correlation) / (1.0 + correlation))


class FeatureMap:
    """Values mapped through the training distributions, of several features at once: of twenty at a fifth of one by one's cost.

    This is the probability integral transform: u is uniform over [0, 1] while values come from where training's came. A value
    that many training rows share (an atom, a category) gets the middle of the span it fills, so that the mean of u stays ½;
    between two quantiles u is interpolated.
    """

    def __init__(self, features: Sequence[FeatureProfile]) -> None:
        self._features = tuple(features)
        self._categories = {
            at: _Categories(feature) for at, feature in enumerate(features) if feature.kind is ColumnKind.CATEGORICAL
        }
        self._numeric = [at for at, feature in enumerate(features) if feature.kind is ColumnKind.NUMERIC]
        self._numbers = _Numbers([features[at] for at in self._numeric]) if self._numeric else None

    def rows(self, columns: Sequence[Array]) -> tuple[FloatArray, IntArray]:
        """Map one array of shape (rows,) for each feature, in their order.

        Returns:
            u and cells, each of shape (features, rows): u is 0 below and 1 above the reference's range, NaN for what is missing,
            infinite or unseen.
        """
        count = len(columns[0]) if columns else 0
        u, cells = np.empty((len(columns), count)), np.empty((len(columns), count), np.int64)
        if self._numbers is not None:
            u[self._numeric], cells[self._numeric] = self._numbers.rows(
                np.stack([_as_floats(columns[at]) for at in self._numeric])
            )
        for at, categories in self._categories.items():
            u[at], cells[at] = categories.rows(columns[at])
        return u, cells

    def place(self, columns: Sequence[Array]) -> list[Placed]:
        """Map as `rows` does, and leave out of u what has no place."""
        u, cells = self.rows(columns)
        is_apart = cells >= np.asarray([[cell_count(feature) - len(APART)] for feature in self._features])
        return [Placed(u=u[at, ~is_apart[at]], cells=cells[at], is_apart=is_apart[at]) for at in range(len(self._features))]


def cell_count(feature: FeatureProfile) -> int:
    """Return how many cells the feature has, those apart included."""
    return len(feature.rates)


def cell_names(feature: FeatureProfile) -> tuple[str, ...]:
    """Return what each cell holds, in the order of `rates`, for people: ranges, or categories of at most 64 characters."""
    apart = tuple(reason.value for reason in APART)
    if feature.kind is ColumnKind.CATEGORICAL:
        return (*(category[:64] for category in feature.categories), "other", *apart)
    borders = [f"{edge:.4g}" for edge in feature.edges]
    if not borders:
        return ("any", *apart)
    between = (f"{low} to {high}" for low, high in pairwise(borders))
    return (f"under {borders[0]}", *between, f"{borders[-1]} and more", *apart)


def _feature(column: Column, values: Array) -> FeatureProfile:
    if column.kind is ColumnKind.CATEGORICAL:
        return _with_signals(_categorical(column.name, values), values)
    try:
        return _with_signals(_numeric(column.name, _as_floats(values)), values)
    except (TypeError, ValueError) as error:
        raise MalformedRequest(f"reference: column {column.name!r} is not numeric; declare it categorical") from error


def _with_signals(feature: FeatureProfile, values: Array) -> FeatureProfile:
    """Return the feature with what the reference's own rows say of its place and spread, mapped as live rows will be."""
    u = FeatureMap((feature,)).rows((values,))[0]
    blocks = Blocks(1)
    blocks.push(u)
    known = u[np.isfinite(u)]
    if not known.size:
        return feature
    spreads = spread(known)
    correlation = min(max(float(blocks.correlations[0]), swing(known)), ALIKE_MAX)
    return replace(
        feature,
        place=(float(known.mean()), float(known.std())),
        spread=(float(spreads.mean()), float(spreads.std())),
        place_levels=levels(known),
        spread_levels=levels(spreads),
        correlation=correlation,
        swing=min(max(correlation, slowest_swing(known)), ALIKE_MAX),
    )


def _numeric(name: str, values: FloatArray) -> FeatureProfile:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        bare = FeatureProfile(name, ColumnKind.NUMERIC, rates=(0.0,) * (1 + len(APART)))
        return FeatureProfile(name, ColumnKind.NUMERIC, rates=_rates(bare, values))
    tame = np.clip(finite, -FLOAT_MAX / 4, FLOAT_MAX / 4)  # so that the difference of two is finite
    quantiles = np.sort(np.quantile(tame, LEVELS))  # interpolation may break the order by a last bit
    quantiles[0], quantiles[-1] = finite.min(), finite.max()
    borders = np.unique(quantiles[CELLS:-1:CELLS])
    edges = borders[borders > quantiles[0]]
    bare = FeatureProfile(
        name,
        ColumnKind.NUMERIC,
        rates=(0.0,) * (len(edges) + 1 + len(APART)),
        quantiles=tuple(quantiles.tolist()),
        edges=tuple(edges.tolist()),
    )
    return FeatureProfile(name, ColumnKind.NUMERIC, _rates(bare, values), bare.quantiles, bare.edges)


def _rates(bare: FeatureProfile, values: FloatArray) -> tuple[float, ...]:
    counts = np.bincount(_Numbers((bare,)).rows(values[None])[1][0], minlength=cell_count(bare))
    return tuple((counts / len(values)).tolist())


def _categorical(name: str, values: Array) -> FeatureProfile:
    counts = Counter(text for value in values if (text := _category(value)) is not None)
    kept = sorted(counts, key=lambda text: (-counts[text], text))[:CATEGORIES_MAX]
    present, total = sum(counts.values()), len(values)
    rates = [counts[text] / total for text in kept]
    rest = (present - sum(counts[text] for text in kept)) / total
    apart = [(total - present) / total if reason is Apart.MISSING else 0.0 for reason in APART]
    return FeatureProfile(name, ColumnKind.CATEGORICAL, (*rates, rest, *apart), categories=tuple(kept))


class _Numbers:
    """Numeric features side by side, so that a batch of them all is mapped at once.

    What the mapping needs of a value hangs on how many quantiles are at or below it: a table a feature, joined end to end.
    """

    def __init__(self, features: Sequence[FeatureProfile]) -> None:
        self._quantiles = [np.asarray(feature.quantiles) for feature in features]
        self._unknown = np.asarray([not feature.quantiles for feature in features])
        self._starts = np.arange(len(features))[:, None] * (QUANTILES + 1)
        self._apart = np.asarray([cell_count(feature) - len(APART) for feature in features])[:, None]
        self._low, self._half_span, self._level, self._level_on, self._cell, self._cell_on = map(np.ravel, _tables(features))

    def rows(self, values: FloatArray) -> tuple[FloatArray, IntArray]:
        """Map values of shape (features, rows) as `FeatureMap.rows` says."""
        passed = self._starts + [own.searchsorted(row, "right") for own, row in zip(self._quantiles, values, strict=True)]
        low = self._low[passed]
        with np.errstate(invalid="ignore"):  # of what is not finite
            part = (values / 2 - low / 2) / self._half_span[passed]  # halves, because a span may exceed the largest float
        is_on = values == low
        u = np.where(is_on, self._level_on[passed], self._level[passed] + part / (QUANTILES - 1)).clip(0.0, 1.0)
        u[passed == self._starts] = 0.0  # below every quantile
        cells = np.where(is_on, self._cell_on[passed], self._cell[passed])
        if not (is_finite := np.isfinite(values)).all():
            odd = np.where(np.isnan(values), APART.index(Apart.MISSING), APART.index(Apart.INFINITE)) + self._apart
            cells = np.where(is_finite, cells, odd)
            u = np.where(is_finite, u, np.nan)
        if self._unknown.any():
            u[self._unknown] = np.nan
        return u, cells


def _tables(features: Sequence[FeatureProfile]) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, IntArray, IntArray]:
    """Return, each by feature and by the number of quantiles at or below a value: the last such quantile, half the span to the
    next, the level there, the level of a value that equals it, and the cells of a value above it and of one that equals it.

    All features at once, because a monitor that begins again makes those of a thousand routes.
    """
    shape = (len(features), QUANTILES + 1)
    low, half_span, level, level_on = np.full(shape, np.nan), np.ones(shape), np.zeros(shape), np.zeros(shape)
    firsts = np.asarray([cell_count(feature) - len(APART) for feature in features])
    cell = np.repeat(firsts[:, None] + APART.index(Apart.UNSEEN), shape[1], axis=1)
    known = [at for at, feature in enumerate(features) if feature.quantiles]
    if not known:
        return low, half_span, level, level_on, cell, cell
    quantiles = np.asarray([features[at].quantiles for at in known])
    low[known, 1:], level[known, 1:] = quantiles, LEVELS
    half_span[known, 1:-1] = np.maximum(np.diff(quantiles / 2, axis=1), np.finfo(np.float64).tiny)
    is_new = np.diff(quantiles, axis=1, prepend=-np.inf) > 0.0
    alike = np.maximum.accumulate(np.where(is_new, np.arange(QUANTILES), 0), axis=1)  # the first of those that are equal
    level_on[known, 1:] = (LEVELS[alike] + LEVELS) / 2.0
    cell[known, 1:] = [np.searchsorted(features[at].edges, own, side="right") for at, own in zip(known, quantiles, strict=True)]
    cell_on = cell.copy()
    cell[known, 0], cell[known, -1] = (firsts[known] + APART.index(reason) for reason in (Apart.BELOW, Apart.ABOVE))
    return low, half_span, level, level_on, cell, cell_on


class _Categories:
    """A categorical feature's cells by text."""

    def __init__(self, feature: FeatureProfile) -> None:
        rest = len(feature.categories)
        self._index: dict[str | None, int] = {text: at for at, text in enumerate(feature.categories)}
        self._index[None] = rest + 1 + APART.index(Apart.MISSING)
        self._stranger = rest if feature.rates[rest] > 0.0 else rest + 1 + APART.index(Apart.UNSEEN)
        rates = np.asarray(feature.rates[: rest + 1])
        middles = (np.cumsum(rates) - rates / 2.0) / max(float(rates.sum()), 1e-300)
        self._middles = np.concatenate((middles.clip(0.0, 1.0), np.full(len(APART), np.nan)))

    def rows(self, values: Array) -> tuple[FloatArray, IntArray]:
        """Map values of shape (rows,) as `FeatureMap.rows` says: a category to the middle of the span it fills."""
        found = [self._index.get(_category(value), self._stranger) for value in values]
        cells = np.asarray(found, dtype=np.int64)
        return self._middles[cells], cells


def _as_floats(values: Array) -> FloatArray:
    """Return numbers as float64; None becomes NaN."""
    if values.dtype.kind == "O":
        return np.asarray([math.nan if value is None else float(value) for value in values], dtype=np.float64)
    return values.astype(np.float64)


def _category(value: object) -> str | None:
    """Return a category as text, the same for 3, 3.0 and "3"; None when there is no value."""
    plain = value.item() if isinstance(value, np.generic) else value
    match plain:
        case None:
            return None
        case bytes():
            return plain.decode("utf-8", "replace")
        case float() if math.isnan(plain):
            return None
        case float() if plain.is_integer():
            return str(int(plain))
        case bool():
            return str(int(plain))
        case _:
            return str(plain)
