"""Windows: a fold of one version's records over a span, which merges with any other in any grouping, to the bit.

All sums are integers (fractions count in 2⁻³²), because float addition is not associative and the same log must give the same
figures however it was cut. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gateway.core.fields import Fields, Json
from gateway.core.profiles import IntArray

UNIT: Final = 1 << 32  # of summed losses: 2e-10 of rounding a row
CELLS_MAX: Final = 200
FEATURES_MAX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Window:
    """What happened to one version over a span.

    Attributes:
        since_s, until_s: Of the first and the last record; inf and -inf when there is none.
        predictions, faults: Own attempts of the version, and those that failed.
        latency_us: Summed.
        truths, loss_units: Rows with ground truth, and their summed loss in units of 2⁻³².
        cells: Feature → how many values lay in each cell of the reference profile.
    """

    since_s: float = math.inf
    until_s: float = -math.inf
    predictions: int = 0
    faults: int = 0
    latency_us: int = 0
    truths: int = 0
    loss_units: int = 0
    cells: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def error_rate(self) -> float | None:
        """Faults a prediction; None without predictions."""
        return self.faults / self.predictions if self.predictions else None

    @property
    def mean_loss(self) -> float | None:
        """In [0, 1]; None without ground truth."""
        return self.loss_units / UNIT / self.truths if self.truths else None


def of_prediction(time_s: float, *, is_fault: bool, latency_us: int) -> Window:
    """Return the window of one prediction."""
    return Window(time_s, time_s, predictions=1, faults=int(is_fault), latency_us=latency_us)


def of_truth(time_s: float, loss: float) -> Window:
    """Return the window of one row's ground truth; the loss is in [0, 1]."""
    assert 0.0 <= loss <= 1.0, "a loss lies in [0, 1]"
    return Window(time_s, time_s, truths=1, loss_units=round(loss * UNIT))


def of_cells(time_s: float, cells: Mapping[str, tuple[int, ...]]) -> Window:
    """Return the window of some rows' features, counted by cell (see `counted`)."""
    return Window(time_s, time_s, cells=dict(cells))


def counted(cells: IntArray, cell_count: int) -> tuple[int, ...]:
    """Return how often each cell occurs.

    Args:
        cells: Shape (rows,). Each in [0, cell_count).
    """
    return tuple(np.bincount(cells, minlength=cell_count).tolist())


def merge(one: Window, other: Window) -> Window:
    """Return the window over both. Associative and commutative; `Window()` changes nothing.

    A feature in both has equally many cells: windows of different profiles do not merge.
    """
    return Window(
        since_s=min(one.since_s, other.since_s),
        until_s=max(one.until_s, other.until_s),
        predictions=one.predictions + other.predictions,
        faults=one.faults + other.faults,
        latency_us=one.latency_us + other.latency_us,
        truths=one.truths + other.truths,
        loss_units=one.loss_units + other.loss_units,
        cells=_merged_cells(one.cells, other.cells),
    )


def _merged_cells(one: Mapping[str, tuple[int, ...]], other: Mapping[str, tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    merged = dict(one)
    for name, counts in other.items():
        mine = merged.get(name)
        merged[name] = counts if mine is None else tuple(a + b for a, b in zip(mine, counts, strict=True))
    return merged


def window_body(window: Window) -> Json:
    """Return a window as JSON; `window_from_body` reads it back."""
    has_span = window.since_s <= window.until_s
    return {
        "since_s": window.since_s if has_span else None,
        "until_s": window.until_s if has_span else None,
        "predictions": window.predictions,
        "faults": window.faults,
        "latency_us": window.latency_us,
        "truths": window.truths,
        "loss_units": window.loss_units,
        "cells": {name: list(counts) for name, counts in window.cells.items()},
    }


def window_from_body(body: object) -> Window:
    """Read what `window_body` wrote.

    Raises:
        MalformedRequest: it is not such a body.
    """
    fields = Fields(body, "window")
    large = 1 << 200
    cells = fields.value("cells")
    assert isinstance(cells, dict)
    return Window(
        since_s=fields.number("since_s", -1e12, 1e12, math.inf),
        until_s=fields.number("until_s", -1e12, 1e12, -math.inf),
        predictions=fields.integer("predictions", 0, large),
        faults=fields.integer("faults", 0, large),
        latency_us=fields.integer("latency_us", 0, large),
        truths=fields.integer("truths", 0, large),
        loss_units=fields.integer("loss_units", 0, large),
        cells={str(name): tuple(int(count) for count in counts) for name, counts in cells.items()},
    )
