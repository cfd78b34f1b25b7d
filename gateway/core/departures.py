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
        up, down = stakes(allowed)
        down = np.where(rises_only[:, None], 0.0, down)
        self._bets = np.concatenate((up, -down), axis=1)[:, :, None]
        self._centres = np.repeat(np.stack((allowed.high, allowed.low), axis=1), len(SHIFTS), axis=1)[:, :, None]
        sides = np.where(rises_only[:, None], (1.0, 0.0), (0.5, 0.5)) / len(SHIFTS)
        self._weights = (weights[:, None] * np.repeat(sides, len(SHIFTS), axis=1))[:, :, None]
        self._sums = np.zeros(self._bets.shape[:2])

    def push(self, values: FloatArray) -> Departure | None:
        """Take rows and return the last departure among them.

        Args:
            values: Shape (signals, rows). In [0, 1]; NaN where a signal says nothing, which leaves its sums as they are.
        """
        departure, at = None, 0
        while at < values.shape[1]:
            taken, found = self._advance(values[:, at : at + CHUNK_ROWS])
            departure, at = found or departure, at + taken
        return departure

    @property
    def log_e(self) -> float:
        """Of the average now; -inf before the first row and after a departure."""
        average = float(np.add.reduce(self._weights[:, :, 0] * self._sums, axis=None))
        return math.log(average) if average > 0.0 else -math.inf

    def shares(self) -> FloatArray:
        """Return each signal's share of the average now; 0 for all when there is none. Shape (signals,)."""
        parts = np.add.reduce(self._weights[:, :, 0] * self._sums, axis=1)
        whole = float(np.add.reduce(parts))
        shares: FloatArray = parts / whole if whole > 0.0 else parts
        return shares

    def state(self) -> FloatArray:
        """Return everything needed to go on exactly, 48 bytes a signal."""
        return self._sums

    def restore(self, state: FloatArray) -> None:
        """Go on from what `state` returned for the same signals."""
        assert state.shape == self._sums.shape, "the state of other signals"
        self._sums = state

    def _advance(self, values: FloatArray) -> tuple[int, Departure | None]:
        """Take rows up to a departure and return how many, and it.

        With P the running product of the factors, M = P·(M₀ + Σ 1/P of the row before): all rows at once.
        """
        is_said = np.isfinite(values)[:, None, :]
        is_whole = bool(is_said.all())
        factors = values[:, None, :] - self._centres
        if not is_whole:
            factors[~np.broadcast_to(is_said, factors.shape)] = 0.0
        factors *= self._bets
        factors += 1.0
        products = np.multiply.accumulate(factors, axis=2, out=factors)
        starts = np.empty_like(products)
        starts[:, :, 0] = 1.0
        np.divide(1.0, products[:, :, :-1], out=starts[:, :, 1:])
        if not is_whole:
            starts[~np.broadcast_to(is_said, starts.shape)] = 0.0
        sums = np.add.accumulate(starts, axis=2, out=starts)
        sums += self._sums[:, :, None]
        sums *= products
        weighted = np.multiply(self._weights, sums, out=products)
        averages = np.add.reduce(np.add.reduce(weighted, axis=1), axis=0)
        reached = np.flatnonzero(averages >= math.exp(self.bound))
        if not reached.size:
            self._sums = sums[:, :, -1].copy()
            return values.shape[1], None
        first = int(reached[0])
        self._sums = np.zeros_like(self._sums)
        parts = np.add.reduce(weighted[:, :, first], axis=1)
        return first + 1, Departure(math.log(averages[first]), parts / np.add.reduce(parts))
