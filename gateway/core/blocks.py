"""Averages runs of correlated signals, so that what watches them sees values that are nearly independent of each other.

Several signals side by side, row by row. How much the neighbours of each resemble one another is learned from the signal itself,
and until enough is known its rows wait: a correlated signal taken for an independent one would raise alarms at once. Pure.
"""

from __future__ import annotations

import copy
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.tensors import FloatArray, IntArray

CORRELATION_MAX: Final = 0.2  # of neighbours; above it a detector takes runs for changes
BLOCK_MAX: Final = 128  # neighbours alike at .97; beyond that a block would hide real changes for too long
FAR: Final = 64  # rows; neighbours that far apart are taken for strangers
MEMORY: Final = 1.0 / 1_000.0  # weight of the newest difference: an hour's habit is forgotten in an hour's worth of rows
COUNT_MIN: Final = 200  # differences before the estimate is believed


class Blocks:
    """The correlation of each signal's neighbours, and the block that each is in.

    The correlation is 1 − D1/Dk, D1 and Dk being mean squared differences of values one and `FAR` rows apart; unlike the textbook
    estimate it does not take a shift of the level, which the detectors are there for, for correlation.
    """

    def __init__(self, signals: int, *, like: IntArray | None = None) -> None:
        """Average signals.

        Args:
            like: Shape (signals,). Index of a signal whose neighbours this one's resemble at least as much; itself by default.
                What is rare, such as a value out of range, comes in runs with the values and is too rare to show it.
        """
        self._like: IntArray = np.arange(signals) if like is None else like
        self._past: NDArray[np.float32] = np.full(
            (signals, FAR), np.nan, np.float32
        )  # the last `FAR` rows; half the state of a feature
        self._near, self._far, self._count = np.zeros((3, signals))
        self._sum = np.zeros(signals)
        self._filled, self._length = np.zeros(signals, np.int64), np.ones(signals, np.int64)
        self._rows = 0
        self._held: list[FloatArray] = []

    def push(self, values: FloatArray) -> FloatArray:
        """Take rows and return those released: a block's mean in the row that fills it, NaN elsewhere.

        Args:
            values: Shape (signals, rows). In [0, 1], or NaN where a signal has no value.

        Returns:
            Shape (signals, rows released): none while the correlations are unknown, then all that waited, then as many as came.
        """
        self.learn(values)
        if not self.is_known:
            self._rows += values.shape[1]
            self._held.append(values)
            if not self.is_known:
                return values[:, :0]
            values, self._held = np.concatenate(self._held, axis=1), []
        correlations = self.correlations
        if correlations.max() <= CORRELATION_MAX and not self._filled.any():
            return values
        lengths = block_lengths(correlations)
        lengths = np.maximum(lengths, lengths[self._like])
        averaged = np.flatnonzero((lengths > 1) | (self._filled > 0))
        means = values.copy()
        for at in averaged.tolist():
            means[at] = self._averaged(at, values[at], int(lengths[at]))
        return means

    def learn(self, values: FloatArray) -> None:
        """Take rows as `push` does, for the correlations alone: none are kept or released."""
        joined: FloatArray = np.concatenate((self._past, values), axis=1)
        now, is_whole = joined[:, FAR:], math.isfinite(np.add.reduce(joined, axis=None))
        near, near_count = _squares(now - joined[:, FAR - 1 : -1], is_whole=is_whole)
        far, far_count = _squares(now - joined[:, :-FAR], is_whole=is_whole)
        self._count = self._count + far_count
        weight = self._weight(far_count)
        self._near = _mixed(self._near, near, near_count, weight if is_whole else self._weight(near_count))
        self._far = _mixed(self._far, far, far_count, weight)
        self._past = joined[:, -FAR:].astype(np.float32)

    @property
    def is_known(self) -> bool:
        """Whether rows are released."""
        return self._rows >= FAR + COUNT_MIN

    @property
    def correlations(self) -> FloatArray:
        """Of each signal's neighbours, in [0, 1]; 0 while too little is known. Shape (signals,)."""
        is_known = (self._count >= COUNT_MIN) & (self._far > 0.0)
        found: FloatArray = np.where(is_known, 1.0 - self._near / np.where(is_known, self._far, 1.0), 0.0).clip(0.0, 1.0)
        return found

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly."""
        return copy.deepcopy(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned for as many signals."""
        assert state["_past"].shape == self._past.shape, "the state of other signals"
        vars(self).update(state)

    def _weight(self, count: FloatArray) -> FloatArray:
        """Return what `count` more squares weigh; while few are known each weighs alike."""
        weight: FloatArray = np.maximum(1.0 - (1.0 - MEMORY) ** count, count / np.maximum(self._count, 1.0))
        return np.minimum(weight, 1.0)

    def _averaged(self, at: int, values: FloatArray, length: int) -> FloatArray:
        """Return one signal's means, each in the row that fills its block; a block keeps the length it began with."""
        means = np.full(len(values), np.nan)
        rows = np.flatnonzero(np.isfinite(values))
        known = values[rows]
        if self._filled[at]:
            first = min(int(self._length[at] - self._filled[at]), len(known))
            self._fill(at, known[:first])
            if self._filled[at] == self._length[at]:
                means[rows[first - 1]] = self._sum[at] / self._filled[at]
                self._sum[at], self._filled[at] = 0.0, 0
            known, rows = known[first:], rows[first:]
        if len(known):
            self._length[at] = length
            whole = len(known) - len(known) % length
            means[rows[length - 1 : whole : length]] = np.add.reduce(known[:whole].reshape(-1, length), axis=1) / length
            self._fill(at, known[whole:])
        return means

    def _fill(self, at: int, values: FloatArray) -> None:
        self._sum[at] += np.add.reduce(values)
        self._filled[at] += len(values)


def _mixed(mean: FloatArray, total: FloatArray, count: FloatArray, weight: FloatArray) -> FloatArray:
    """Return means of squares that take in `count` more."""
    if count.all():
        return mean + weight * (total / count - mean)
    mixed: FloatArray = np.where(count > 0, mean + weight * (total / np.maximum(count, 1.0) - mean), mean)
    return mixed


def _squares(gaps: FloatArray, *, is_whole: bool) -> tuple[FloatArray, FloatArray]:
    """Return the sum of squares of each row, and of how many; NaN, of which a whole one has none, counts for nothing."""
    if is_whole:
        return np.add.reduce(gaps * gaps, axis=1), np.full(len(gaps), float(gaps.shape[1]))
    is_known = np.isfinite(gaps)
    squares = np.where(is_known, gaps * gaps, 0.0)
    return np.add.reduce(squares, axis=1), np.add.reduce(is_known, axis=1, dtype=np.float64)


def block_lengths(correlations: FloatArray) -> IntArray:
    """Return how many neighbours to average so that means correlate by under `CORRELATION_MAX` / 2; at most `BLOCK_MAX`.

    A signal is taken for a first-order autoregression: means of b values then correlate by
    φ(1 − φ^b)² / (b(1 − φ²) − 2φ(1 − φ^b)).
    """
    lengths = np.ones(len(correlations), np.int64)
    is_short = correlations > CORRELATION_MAX
    phi = np.where(is_short, correlations.clip(max=0.999), 0.5)
    length = 1
    while is_short.any() and length < BLOCK_MAX:
        length *= 2
        lengths[is_short] = length
        rest = 1.0 - phi**length
        left = phi * rest**2 / (length * (1.0 - phi**2) - 2.0 * phi * rest)
        is_short &= left > CORRELATION_MAX / 2
    return lengths
