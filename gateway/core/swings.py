"""How far a signal swings by itself, by the hour or with the season, in rows that were taken in their order.

A signal that swings resembles its near neighbours and its farther ones alike, which hides the swing from `Blocks`. Its levels,
the means of neighbouring rows, show it: those of independent rows hardly differ. Pure.
"""

from __future__ import annotations

import math
from typing import Final

from gateway.core.tensors import FloatArray

LEVEL_ROWS: Final = 64  # neighbours whose mean is a level: an hour of a slow route, and .29/√64 = .036 by chance alone
LEVELS_MIN: Final = 4  # of which a variance says something
CHANCE_ERRORS: Final = 4.0  # standard errors of that variance which chance may explain


def levels(values: FloatArray) -> tuple[float, float]:
    """Return the least and the greatest level of some values; where nothing swings, that is how far chance goes.

    Args:
        values: Shape (rows,). Finite, at least one, in their order.
    """
    means = _means(values)
    return float(means.min()), float(means.max())


def swing(values: FloatArray) -> float:
    """Return the correlation of neighbours that would make levels vary as they do, in [0, 1); 0 where chance alone may have.

    Of independent rows the levels' variance is 1/`LEVEL_ROWS` of the values'; of a first-order autoregression it is about
    (1 + φ)/(1 − φ) times that.

    Args:
        values: As for `levels`.
    """
    means, variance = _means(values), float(values.var())
    if variance <= 0.0 or len(means) < LEVELS_MIN:
        return 0.0
    times = LEVEL_ROWS * float(means.var()) / variance
    is_chance = times < 1.0 + CHANCE_ERRORS * math.sqrt(2.0 / len(means))
    return 0.0 if is_chance else (times - 1.0) / (times + 1.0)


def _means(values: FloatArray) -> FloatArray:
    whole = len(values) - len(values) % LEVEL_ROWS
    means: FloatArray = values[:whole].reshape(-1, LEVEL_ROWS).mean(axis=1) if whole else values.mean(keepdims=True)
    return means
