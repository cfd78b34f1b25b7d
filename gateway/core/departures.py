"""Have the means of many signals left what their reference allows? One false-alarm budget for all of them together.

An average of e-detectors (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change detection"):
each signal is betted on upwards and downwards, with bets of several sizes, and each bet keeps a Shiryaev–Roberts sum
M ← (1 + M)·(1 + λ(x − m)). While a signal's mean, given its past, stays within its range, each factor's mean is at most 1, so the
average of all sums, however many and however they depend on each other, reaches A at most once in A rows. The shares of the sums
say which signals did it. A range is as wide as the reference's own error. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from gateway.core.tensors import FloatArray

SHIFTS: Final = (0.15, 0.4, 1.0)  # standard deviations that are betted on; what lies between is found nearly as fast
STAKE_MAX: Final = 0.9  # of what a bet can lose at once
DEVIATION_MIN: Final = 0.01  # of a signal that hardly ever moves; bounds the factors, and with them 128 of them multiplied
CHUNK_ROWS: Final = 128  # multiplied at a time: factors lie in [0.1, 101], and 101¹²⁸ is a float
STRIDE_MIN: Final = 8  # rows a step; fewer cost as much
REFERENCE_ALPHA: Final = 0.01  # chance that any signal's true mean lies outside its range because of the sample


@dataclass(frozen=True, slots=True)
class Ranges:
    """What the reference allows each signal's mean to be.

    Attributes:
        low, high: Shape (signals,). Within [0, 1].
        deviation: Shape (signals,). Of the signal's values in the reference; the unit of `SHIFTS`.
    """

    low: FloatArray
    high: FloatArray
    deviation: FloatArray


def ranges(means: FloatArray, deviations: FloatArray, rows: FloatArray | float) -> Ranges:
    """Return the ranges of signals in [0, 1] by their means and deviations in a reference of so many independent rows.

    Wilson's interval with each signal's own variance in place of p(1 − p): it also holds for what the reference never had.
    """
    z = float(ndtri(1.0 - REFERENCE_ALPHA / (2 * max(len(means), 1))))
    share = z * z / rows
    centre = (means + share / 2.0) / (1.0 + share)
    radius = z * np.sqrt(deviations**2 / rows + share / (4.0 * rows)) / (1.0 + share)
    return Ranges((centre - radius).clip(0.0, 1.0), (centre + radius).clip(0.0, 1.0), deviations)


def stakes(allowed: Ranges) -> tuple[FloatArray, FloatArray]:
    """Return λ of the bets on a greater and on a lesser mean. Shape (signals, shifts) each."""
    wanted = np.asarray(SHIFTS) / np.maximum(allowed.deviation, DEVIATION_MIN)[:, None]
    up = np.minimum(wanted, STAKE_MAX / np.maximum(allowed.high, 1e-9)[:, None])
    return up, np.minimum(wanted, STAKE_MAX / np.maximum(1.0 - allowed.low, 1e-9)[:, None])


@dataclass(frozen=True, slots=True)
class Departure:
    """The average reached its bound.

    Attributes:
        log_e: Of the average, natural.
        shares: Shape (signals,). Of each in the average; they sum to 1.
    """

    log_e: float
    shares: FloatArray


class Departures:
    """The average of the e-detectors. Begins anew after each departure.

    Attributes:
        bound: What the logarithm of the average must reach.
    """

    def __init__(self, allowed: Ranges, weights: FloatArray, *, rises_only: NDArray[np.bool_], alarm_rows: float) -> None:
        """Watch signals.

        Args:
            weights: Shape (signals,). Of each in the average; sum 1.
            rises_only: Shape (signals,). Whether only a greater mean is a departure.
            alarm_rows: Mean distance between false departures is at least this.
        """
        self.bound = math.log(alarm_rows)
        self._signals = len(weights)
        self._both = np.flatnonzero(~rises_only)  # whose lesser mean is betted on too
        up, down = stakes(allowed)
        self._up, self._down = up.T.copy(), -down[self._both].T
        self._rests = _side_by_side(1.0 - self._up * allowed.high, 1.0 - self._down * allowed.low[self._both])  # of a factor at 0
        each = weights * np.where(rises_only, 1.0, 0.5) / len(SHIFTS)
        self._weights = np.concatenate((np.tile(each, len(SHIFTS)), np.tile(each[self._both], len(SHIFTS))))
        self._owners = np.concatenate((np.tile(np.arange(self._signals), len(SHIFTS)), np.tile(self._both, len(SHIFTS))))
        self._sums = np.zeros(len(self._weights))
        self._stride = CHUNK_ROWS  # rows that the next step looks at; what it finds does not depend on it

    def push(self, values: FloatArray) -> Departure | None:
        """Take rows and return the last departure among them.

        Args:
            values: Shape (signals, rows). In [0, 1]; NaN where a signal says nothing, which leaves its sums as they are.
        """
        departure, at = None, 0
        while at < values.shape[1]:
            taken, found = self._advance(values[:, at : at + self._stride])
            departure, at = found or departure, at + taken
            # Far from the reference a departure comes every few rows, and what was worked out beyond it is lost.
            self._stride = min(max(2 * taken, STRIDE_MIN), CHUNK_ROWS)
        return departure

    @property
    def log_e(self) -> float:
        """Of the average now; -inf before the first row and after a departure."""
        average = float(np.add.reduce(self._weights * self._sums))
        return math.log(average) if average > 0.0 else -math.inf

    def shares(self) -> FloatArray:
        """Return each signal's share of the average now; 0 for all when there is none. Shape (signals,)."""
        return self._shares(self._sums)

    def state(self) -> FloatArray:
        """Return everything needed to go on exactly, at most 48 bytes a signal."""
        return self._sums

    def restore(self, state: FloatArray) -> None:
        """Go on from what `state` returned for the same signals."""
        assert state.shape == self._sums.shape, "the state of other signals"
        self._sums = state

    def _shares(self, sums: FloatArray) -> FloatArray:
        parts: FloatArray = np.bincount(self._owners, self._weights * sums, minlength=self._signals).astype(np.float64)
        whole = float(np.add.reduce(parts))
        shares: FloatArray = parts / whole if whole > 0.0 else parts
        return shares

    def _advance(self, values: FloatArray) -> tuple[int, Departure | None]:
        """Take rows up to a departure and return how many, and it."""
        factors = self._factors(values)
        rows = factors  # the sums after each row; a row's factors become them
        if not np.isfinite(values).all():
            is_said = np.isfinite(factors)
            rows = np.where(is_said, factors, 0.0)  # what a sum that begins with the row has become after it
            factors = np.where(is_said, factors, 1.0)
        before, grown = self._sums, np.empty_like(self._sums)
        multiply, add = np.multiply, np.add
        for factor, after in zip(factors, rows, strict=True):
            multiply(before, factor, grown)
            add(grown, after, after)
            before = after
        averages = np.add.reduce(self._weights * rows, axis=1)
        reached = (averages >= math.exp(self.bound)).nonzero()[0]
        if not reached.size:
            self._sums = before.copy()
            return len(rows), None
        first = int(reached[0])
        self._sums = np.zeros_like(before)
        return first + 1, Departure(math.log(averages[first]), self._shares(rows[first]))

    def _factors(self, values: FloatArray) -> FloatArray:
        """Return 1 + λ(x − m) of every bet, shape (rows, bets); NaN where a signal says nothing."""
        rows = np.ascontiguousarray(values.T)
        factors = np.empty((len(rows), len(self._rests)))
        up, down = factors[:, : self._up.size], factors[:, self._up.size :]
        np.multiply(rows[:, None, :], self._up, up.reshape(len(rows), *self._up.shape))
        np.multiply(rows[:, None, self._both], self._down, down.reshape(len(rows), *self._down.shape))
        factors += self._rests
        return factors


def _side_by_side(up: FloatArray, down: FloatArray) -> FloatArray:
    """Return what bets on greater means and on lesser ones have, shape (shifts, signals) each, as one row."""
    return np.concatenate((up.ravel(), down.ravel()))
