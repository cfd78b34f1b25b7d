"""The bets that evidence is made of: e-processes over bounded values, and a confidence sequence of a mean. Pure."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.core.evidence.plan import COUNT_MAX, Direction
from gateway.core.fields import Fields, Json
from gateway.core.tensors import FloatArray

ODDS: Final = (2.0, 5.0, 20.0)  # how much worse a version may be: doubled, 10 → 40 %, and from hardly ever to often
NARROWEST: Final = 1_000  # keys at which the interval is about as narrow as one looked at once; ×1.4 at 200 and at 20,000
PRIOR: Final = {Direction.UP: 0.1, Direction.EITHER: 0.5, Direction.DOWN: 0.9}  # pooled mean before the first key: mostly well
ROUNDED: Final = 1e-9  # NumPy's logarithms lie closer to the true ones than this, which choose what is looked at to the bit


class Keys(NamedTuple):
    """Outcomes of several keys in their order, each of shape (keys,): whether it is the challenger's, the value, the chance."""

    sides: NDArray[np.bool_]
    values: FloatArray
    shares: FloatArray


def odds_of(direction: Direction) -> tuple[float, ...]:
    """Return the odds ratios betted on; those below 1 are bets that the challenger has less."""
    less = tuple(1.0 / odds for odds in ODDS)
    match direction:
        case Direction.UP:
            return ODDS
        case Direction.DOWN:
            return less
        case Direction.EITHER:
            return (*ODDS, *less)


@lru_cache(1_000)  # asked for with every key
def log_weight(epoch: int) -> float:
    """Return ln w of an epoch's part of alpha, w = 1/(j(j+1)); over all epochs they sum to 1."""
    return -math.log(epoch * (epoch + 1))


def log_mean(log_es: Sequence[float]) -> float:
    """Return the log of the mean of e-values."""
    top = max(log_es)
    return top + math.log(sum([math.exp(one - top) for one in log_es]) / len(log_es))


def log_peak(rows: FloatArray, least: float) -> float:
    """Return the greatest `log_mean` among several moments; −inf where surely none is above `least`.

    Args:
        rows: Shape (bets, moments). Logarithms.
    """
    tops = rows.max(axis=0)
    if tops.max() <= least:
        return -math.inf
    means = tops + np.log(np.exp(rows - tops).sum(axis=0) / len(rows))
    highest = float(means.max())
    if highest <= least - ROUNDED:
        return -math.inf
    return max(log_mean(rows[:, at].tolist()) for at in np.flatnonzero(means >= highest - 2.0 * ROUNDED).tolist())


def grown(first: float, steps: FloatArray) -> FloatArray:
    """Return a sum after each of several steps, itself first: the same to the bit as if each had been added alone."""
    sums: FloatArray = np.add.accumulate(np.concatenate(([first], steps)))
    return sums


def logs(values: FloatArray) -> FloatArray:
    """Return natural logarithms, to the bit those of `math.log`, which NumPy's are not on every processor."""
    found: FloatArray = np.asarray(list(map(math.log, values.tolist())))
    return found


def factors(is_challenger: bool, value: float, share: float, pooled: float, odds: Sequence[float]) -> list[float]:
    """Return what one key's first outcome multiplies the e-process of a split by, for each of several bets.

    Args:
        value: The outcome, in [0, 1].
        share: The chance of the challenger, in (0, 1).
        pooled: The rate over both sides so far, in (0, 1).
        odds: The challenger's odds over the champion's that are betted on, none 1.

    Where `ta`, the champion's rate, is the one for which (1 − share)·ta + share·tb is the pooled rate: a·ta² + b·ta − pooled = 0,
    the root in (0, 1). One function, because it runs for every key and guardrail.
    """
    rest, found = 1.0 - share, []
    for ratio in odds:
        more = ratio - 1.0
        a = rest * more
        b = rest + share * ratio - pooled * more
        root = math.sqrt(b * b + 4.0 * a * pooled)
        ta = 2.0 * pooled / (b + root) if b > 0.0 else (root - b) / (2.0 * a)  # either form, without cancellation
        tb = ratio * ta / (1.0 + more * ta)
        t0 = rest * ta + share * tb
        rate = tb if is_challenger else ta
        found.append(value * rate / t0 + (1.0 - value) * (1.0 - rate) / (1.0 - t0))
    return found


def rate_factor(value: float, bound: float, odds: float) -> float:
    """Return what one value multiplies the e-process of a mean by: its mean is at most 1 while the value's is at most the bound.

    Args:
        value: In [0, 1].
        bound: In (0, 1).
        odds: Of the mean over the bound's that are betted on; below 1 the bound is a least one.
    """
    rate = odds * bound / (1.0 + (odds - 1.0) * bound)
    return value * rate / bound + (1.0 - value) * (1.0 - rate) / (1.0 - bound)


class SplitBet:
    """The two-sample e-process of Turner, Ly and Grünwald ("Generic E-variables for exact sequential k-sample tests") in blocks
    of one key.

    A key with outcome y multiplies it by p_side(y) / p_0(y), with p_0 = (1 − share)·p_a + share·p_b. With y fixed and the side
    left to the split the mean of that factor is (1 − share)·p_a/p_0 + share·p_b/p_0 = 1. For y between 0 and 1 the factors of 0
    and of 1 are mixed, which keeps the mean 1. The rates follow from the past's pooled rate and an odds ratio; several ratios run
    side by side and are averaged. Where no key is harmed and some are helped, the mean is below 1.
    """

    __slots__ = ("_odds", "counts", "log_es", "prior", "sums")

    def __init__(self, direction: Direction) -> None:
        self._odds = odds_of(direction)
        self.prior = PRIOR[direction]
        self.log_es = [0.0] * len(self._odds)
        self.counts = [0, 0]
        self.sums = [0.0, 0.0]

    def copied(self) -> SplitBet:
        """Return the same bet again, which goes its own way."""
        after = copy.copy(self)
        after.log_es, after.counts, after.sums = list(self.log_es), list(self.counts), list(self.sums)
        return after

    def add(self, is_challenger: bool, value: float, share: float) -> None:
        """Take one key's outcome in [0, 1]."""
        assert 0.0 <= value <= 1.0, "an outcome lies in [0, 1]"
        pooled = (self.sums[0] + self.sums[1] + self.prior) / (self.counts[0] + self.counts[1] + 1)
        for at, factor in enumerate(factors(is_challenger, value, share, pooled, self._odds)):
            self.log_es[at] += math.log(factor)
        self.counts[is_challenger] += 1
        self.sums[is_challenger] += value

    def add_all(self, keys: Keys) -> FloatArray:
        """Take the outcomes of several keys as if one by one, and return the bets' logarithms after each. Shape (bets, keys)."""
        sides, values, shares = keys
        pooled, rests, ratios = self.pooled(keys, self.prior), 1.0 - shares, np.asarray(self._odds)[:, None]
        more = ratios - 1.0  # from here on as `factors`, of all bets at once
        a = rests * more
        b = rests + shares * ratios - pooled * more
        root = np.sqrt(b * b + 4.0 * a * pooled)
        with np.errstate(divide="ignore", invalid="ignore"):  # in the form that is not taken
            ta = np.where(b > 0.0, 2.0 * pooled / (b + root), (root - b) / (2.0 * a))
        tb = ratios * ta / (1.0 + more * ta)
        t0 = rests * ta + shares * tb
        rates = np.where(sides, tb, ta)
        found = values * rates / t0 + (1.0 - values) * (1.0 - rates) / (1.0 - t0)
        rows: FloatArray = np.add.accumulate(np.column_stack((self.log_es, logs(found.ravel()).reshape(found.shape))), axis=1)[
            :, 1:
        ]
        self.log_es = rows[:, -1].tolist()
        taken = int(np.count_nonzero(sides))
        self.counts = [self.counts[0] + len(values) - taken, self.counts[1] + taken]
        self.sums = [float(sums[-1]) for sums in self._sums_with(keys)]
        return rows

    def pooled(self, keys: Keys, prior: float) -> FloatArray:
        """Return the mean over both sides before each of several keys, with one more of a prior value. Shape (keys,)."""
        champions, challengers = self._sums_with(keys)
        counts = self.counts[0] + self.counts[1] + np.arange(len(keys.values))
        means: FloatArray = (champions[:-1] + challengers[:-1] + prior) / (counts + 1)
        return means

    def _sums_with(self, keys: Keys) -> tuple[FloatArray, FloatArray]:
        sides, values, _ = keys
        return grown(self.sums[0], np.where(sides, 0.0, values)), grown(self.sums[1], np.where(sides, values, 0.0))

    @property
    def log_e(self) -> float:
        """The log of the e-value now."""
        return log_mean(self.log_es)

    def means(self) -> tuple[float, float]:
        """Return the mean of each side; 0 without any."""
        champion, challenger = (total / count if count else 0.0 for total, count in zip(self.sums, self.counts, strict=True))
        return champion, challenger

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {"log_es": list(self.log_es), "counts": list(self.counts), "sums": list(self.sums)}

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "evidence.bet")
        self.counts = [Fields({"n": n}, "evidence.bet").integer("n", 0, COUNT_MAX) for n in fields.items("counts", 2)]
        self.sums, self.log_es = floats(fields, "sums", 2), floats(fields, "log_es", len(self._odds))


class MeanInterval:
    """Where a mean lies, and evidence that it is above or below 0: an empirical-Bernstein confidence sequence (Waudby-Smith and
    Ramdas, theorem 2). Its bets are tuned to be near the best at `NARROWEST` values.

    Args:
        level: ln(2 / chance of ever missing).
        limit: The mean lies within ±limit.
    """

    __slots__ = ("_level", "_limit", "centre", "count", "pull", "slack", "spread", "weight")

    def __init__(self, level: float, limit: float = 1.0) -> None:
        self._level = level
        self._limit = limit
        self.count = 0
        self.centre = 0.0  # Σ X, for the predictable mean of X
        self.spread = 0.0  # Σ (X − mean before)²
        self.weight = 0.0  # Σ λ
        self.pull = 0.0  # Σ λX
        self.slack = 0.0  # Σ ψ(λR)·(X − mean before)²/R²

    def add(self, value: float, *, reach: float, variance: float) -> None:
        """Take one value.

        Args:
            reach: The most that its absolute value may be; known before it.
            variance: What its variance is believed to be before the first.
        """
        mean = min(self._limit, max(-self._limit, self.centre / (self.count + 1)))
        reach += abs(mean)  # of |X − mean|
        varied = (self.spread + variance) / (self.count + 1)
        wish = math.sqrt(2.0 * self._level / (varied * max(self.count + 1, NARROWEST)))
        bet = min(wish * reach, 0.9)  # of [0, 1); beyond it ψ grows without bound
        off = value - mean
        gap = off / reach
        self.slack += (-math.log1p(-bet) - bet) * (gap * gap)
        self.weight += bet / reach
        self.pull += bet / reach * value
        self.spread += off * off
        self.centre += value
        self.count += 1

    def add_all(self, values: FloatArray, *, reaches: FloatArray, variances: FloatArray) -> None:
        """Take several values as if one by one."""
        counts = self.count + np.arange(len(values)) + 1
        centres = grown(self.centre, values)
        means = np.minimum(self._limit, np.maximum(-self._limit, centres[:-1] / counts))
        reaches = reaches + np.abs(means)
        off = values - means
        gaps = off / reaches
        spreads = grown(self.spread, off * off)
        varied = (spreads[:-1] + variances) / counts
        wishes = np.sqrt(2.0 * self._level / (varied * np.maximum(counts, NARROWEST)))
        bets = np.minimum(wishes * reaches, 0.9)
        lost = np.asarray(list(map(math.log1p, (-bets).tolist())))
        self.slack = float(grown(self.slack, (-lost - bets) * (gaps * gaps))[-1])
        self.weight = float(grown(self.weight, bets / reaches)[-1])
        self.pull = float(grown(self.pull, bets / reaches * values)[-1])
        self.spread, self.centre = float(spreads[-1]), float(centres[-1])
        self.count += len(values)

    def log_e(self, sign: int) -> float:
        """Return the log of the evidence that the mean is above 0 (sign 1) or below it (sign −1)."""
        return sign * self.pull - self.slack

    def interval(self) -> tuple[float, float]:
        """Return what holds the mean, whenever one looks."""
        if self.weight == 0.0:
            return -self._limit, self._limit
        middle = self.pull / self.weight
        radius = (self._level + self.slack) / self.weight
        return max(-self._limit, middle - radius), min(self._limit, middle + radius)

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {name: getattr(self, name) for name in self.__slots__ if not name.startswith("_")}

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "evidence.interval")
        self.count = fields.integer("count", 0, COUNT_MAX)
        for name in ("centre", "spread", "weight", "pull", "slack"):
            setattr(self, name, fields.number(name, -1e300, 1e300))


def floats(fields: Fields, name: str, count_max: int) -> list[float]:
    """Return an array of finite numbers from a saved state."""
    return [Fields({name: item}, "evidence").number(name, -1e300, 1e300) for item in fields.items(name, count_max)]
