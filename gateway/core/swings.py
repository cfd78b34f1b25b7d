"""How far a signal swings by itself, by the hour or with the season, in rows that were taken in their order.

A signal that swings resembles its near neighbours and its farther ones alike, which hides the swing from `Blocks`. Its levels,
the means of neighbouring rows, show it: those of independent rows hardly differ. Pure.
"""

from __future__ import annotations

from typing import Final

from scipy.special import chdtri

from gateway.core.tensors import FloatArray

LEVEL_ROWS: Final = 64  # neighbours whose mean is a level: an hour of a slow route, and .29/√64 = .036 by chance alone
LEVELS_MIN: Final = 4  # of which a variance says something
SLOWER: Final = 4  # times as many rows has the next longer level: an hour, a morning, a day of a slow route
CHANCE: Final = 1e-4  # that independent rows are taken for swinging, at each length: once in a thousand features or less often


def levels(values: FloatArray) -> tuple[float, float]:
    """Return the least and the greatest level of some values; where nothing swings, that is how far chance goes.

    Args:
        values: Shape (rows,). Finite, at least one, in their order.
    """
    means = _means(values, LEVEL_ROWS)
    return float(means.min()), float(means.max())


def swing(values: FloatArray, rows: int = LEVEL_ROWS) -> float:
    """Return the correlation of neighbours that would make levels vary as they do, in [0, 1); 0 where chance alone may have.

    Of independent rows the variance of levels of n rows is 1/n of the values'; of a first-order autoregression it is about
    (1 + φ)/(1 − φ) times that, for n beyond its memory.

    Args:
        values: As for `levels`.
        rows: Of a level.
    """
    variance = float(values.var())
    if variance <= 0.0 or len(values) < LEVELS_MIN * rows:
        return 0.0
    means = _means(values, rows)
    times = rows * float(means.var(ddof=1)) / variance
    is_chance = times <= max(1.0, float(chdtri(len(means) - 1, CHANCE)) / (len(means) - 1))
    return 0.0 if is_chance else (times - 1.0) / (times + 1.0)


def slowest_swing(values: FloatArray) -> float:
    """Return the greatest `swing` of levels of ever more rows: what is slower than a level shows in longer ones only."""
    found, rows = 0.0, LEVEL_ROWS
    while len(values) >= LEVELS_MIN * rows:
        found, rows = max(found, swing(values, rows)), rows * SLOWER
    return found


def _means(values: FloatArray, rows: int) -> FloatArray:
    whole = len(values) - len(values) % rows
    means: FloatArray = values[:whole].reshape(-1, rows).mean(axis=1) if whole else values.mean(keepdims=True)
    return means
