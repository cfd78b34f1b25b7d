"""Evidence from the values of two variants that run at the same time: a two-sample e-process and an interval beside it.

Some values only become one in [0, 1] through what was learned before: a lens does that. Given the past, a lens turns the outcome
of a key into the same value whichever side the key is on, so that the split's chance alone carries the proof; keys it learned
from do not count in its epoch. Pure.
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import Final, Protocol, assert_never

import numpy as np

from gateway.core.evidence.bets import Keys, MeanInterval, SplitBet, floats, log_mean, log_peak, log_weight, odds_of
from gateway.core.evidence.plan import COUNT_MAX, Direction, EvidenceKind, EvidencePlan, Outcome, Side
from gateway.core.fields import Fields, Json

LEARN_MAX: Final = 10_000  # keys of the champion that quantiles are learned from
BINS: Final = 10  # of probabilities, as calibration is usually drawn
WAITING_MAX: Final = 128  # keys taken together: in columns each costs a fifth of what it costs alone
COLUMNS_MIN: Final = 12  # fewer are taken one by one: columns have a price of their own, whatever is in them
MARGIN: Final = 1e-6  # of a logarithm: more than rounding makes of a bound
EFFECT_PRIOR: Final = 0.5  # the pooled mean before the first key
BIN_KEYS_MIN: Final = 5  # of the challenger in a bin before the sign of its error there is believed


class SplitEpoch:
    """One epoch.

    The interval is that of the mean of X = (y − m)·(±1 / the side's share), which is the key's own difference for every
    predictable m; m is the pooled mean, which makes X small. Keys that cannot bring the evidence to its bound, however they fell,
    wait for each other and are taken together.
    """

    __slots__ = ("_bet", "_goal", "_growth", "_interval", "_lens", "_room", "_sum", "_waiting")

    def __init__(self, plan: EvidencePlan, number: int) -> None:
        self._lens = _lens(plan)
        self._bet = SplitBet(plan.direction)
        self._interval = MeanInterval(math.log(2.0 / plan.interval_alpha) - log_weight(number))
        self._goal = -math.log(plan.alpha) - log_weight(number) - MARGIN  # the log e at which the bound may have been reached
        self._growth = _Growth(plan.direction)
        self._waiting: list[tuple[bool, float, float]] = []  # whether the challenger's, value, share; at most `WAITING_MAX`
        self._sum = 0.0  # of all values, those that wait included
        self._room = self._goal  # that the logarithm of a bet may still grow by with keys that wait

    @property
    def counts(self) -> tuple[int, int]:
        """Keys counted of the champion and of the challenger."""
        return self._bet.counts[0], self._bet.counts[1]

    @property
    def log_e(self) -> float:
        """The log of the e-value now."""
        return self._bet.log_e

    @property
    def is_pressing(self) -> bool:
        """Whether what waits must be taken now."""
        return self._room <= 0.0 or len(self._waiting) >= WAITING_MAX

    @property
    def subject(self) -> str:
        """What the lens learned, where a person wants to know it."""
        return self._lens.subject

    def add(self, outcome: Outcome) -> bool:
        """Take a key's outcome, and return whether it counted."""
        value = self._lens.seen(outcome)
        if value is None:
            return False
        assert 0.0 <= value <= 1.0, "an outcome lies in [0, 1]"
        is_challenger, share = outcome.side is Side.CHALLENGER, outcome.share
        count = self._bet.counts[0] + self._bet.counts[1] + len(self._waiting)
        self._room -= self._growth.most(is_challenger, value, share, (self._sum + self._bet.prior) / (count + 1))
        self._waiting.append((is_challenger, value, share))
        self._sum += value
        return True

    def settle(self, least: float) -> float:
        """Take what waits, and return the greatest log e on the way; −inf where none is surely above `least`."""
        if not self._waiting:
            return -math.inf
        waiting, self._waiting = self._waiting, []
        if len(waiting) < COLUMNS_MIN:
            peak = max([self._take(*one, least) for one in waiting])
        else:
            peak = self._take_all(Keys(*map(np.asarray, zip(*waiting, strict=True))), least)
        self._sum = self._bet.sums[0] + self._bet.sums[1]
        self._room = self._goal - max(self._bet.log_es)
        return peak

    @property
    def is_plain(self) -> bool:
        """Whether values count as they are: every key's, whatever was learned before."""
        return isinstance(self._lens, _Plain)

    def with_all(self, sides: Sequence[bool], values: Sequence[float], shares: Sequence[float]) -> SplitEpoch:
        """Return what this plain epoch becomes with the outcomes of several keys, which wait to be taken; it stays as it is."""
        after = copy.copy(self)
        after._bet, after._interval = self._bet.copied(), copy.copy(self._interval)  # noqa: SLF001 - of its own kind
        after._waiting = [*self._waiting, *zip(sides, values, shares, strict=True)]  # noqa: SLF001
        return after

    def _take(self, is_challenger: bool, value: float, share: float, least: float) -> float:
        effect, reach = effect_of(is_challenger, value, share, pooled=self._pooled())
        self._interval.add(effect, reach=reach, variance=0.25 / (share * (1.0 - share)))
        self._bet.add(is_challenger, value, share)
        return log_mean(self._bet.log_es) if max(self._bet.log_es) > least else -math.inf

    def _take_all(self, keys: Keys, least: float) -> float:
        """Do the same in columns, to the bit."""
        sides, values, shares = keys
        pooled, others = self._bet.pooled(keys, EFFECT_PRIOR), 1.0 - shares
        effects = (values - pooled) * np.where(sides, 1.0 / shares, -1.0 / others)
        reaches = np.maximum(pooled, 1.0 - pooled) / np.minimum(shares, others)
        self._interval.add_all(effects, reaches=reaches, variances=0.25 / (shares * others))
        return log_peak(self._bet.add_all(keys), least)

    def means(self) -> tuple[float, float]:
        """Return the mean of each side."""
        return self._bet.means()

    def interval(self) -> tuple[float, float]:
        """Return what holds the difference, whenever one looks."""
        return self._interval.interval()

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {"bet": self._bet.state(), "interval": self._interval.state(), "lens": self._lens.state()}

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "evidence.epoch")
        self._bet.restore(fields.value("bet"))
        self._interval.restore(fields.value("interval"))
        self._lens.restore(fields.value("lens"))
        self._waiting = []
        self._sum, self._room = self._bet.sums[0] + self._bet.sums[1], self._goal - max(self._bet.log_es)

    def _pooled(self) -> float:
        return (self._bet.sums[0] + self._bet.sums[1] + EFFECT_PRIOR) / (self._bet.counts[0] + self._bet.counts[1] + 1)


class _Growth:
    """How much the logarithms of a split's bets may grow with a key, at most; see `SplitBet`.

    A side's rate over p_0 is at most 1 / the side's chance, and the challenger's at most the odds. Where all odds are above 1,
    p_a ≤ p_0 ≤ p_b: an outcome of 0 grows no bet on the challenger's side and by 1/(1 − p_0) on the champion's, and p_0 is the
    pooled rate.
    """

    __slots__ = ("_log_odds", "_share", "_shared")

    def __init__(self, direction: Direction) -> None:
        odds = odds_of(direction)
        self._log_odds = math.log(max(odds)) if min(odds) > 1.0 else math.inf  # inf: some are not above 1
        self._share = 0.0
        self._shared = (0.0, 0.0)  # the logarithms of one over each side's chance

    def most(self, is_challenger: bool, value: float, share: float, pooled: float) -> float:
        """Return the bound for a key, given the pooled rate before it."""
        if share != self._share:
            self._share, self._shared = share, (-math.log(1.0 - share), -math.log(share))
        if self._log_odds == math.inf:
            return self._shared[is_challenger]
        if is_challenger:
            return min(self._shared[1], self._log_odds) if value else 0.0
        return min(self._shared[0], pooled / (1.0 - pooled))


def effect_of(is_challenger: bool, value: float, share: float, *, pooled: float) -> tuple[float, float]:
    """Return X = (value − pooled)·(±1 / the side's share) and the most that |X| may be.

    Given the value, the mean of X over the side is the key's own difference.
    """
    effect = (value - pooled) * (1.0 / share if is_challenger else -1.0 / (1.0 - share))
    return effect, max(pooled, 1.0 - pooled) / min(share, 1.0 - share)


class Lens(Protocol):
    """Makes a value in [0, 1] of an outcome, by what it learned of earlier ones."""

    @property
    def subject(self) -> str:
        """What it learned, for a person."""
        ...

    def seen(self, outcome: Outcome) -> float | None:
        """Return the value, or None for an outcome that is only learned from."""
        ...

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        ...

    def restore(self, state: object) -> None:
        """Go on from what `state` returned."""
        ...


def _lens(plan: EvidencePlan) -> Lens:
    match plan.kind:
        case EvidenceKind.EXCEEDANCE | EvidenceKind.PLACEMENT:
            return _Quantiles(plan)
        case EvidenceKind.CALIBRATION:
            return _Residuals()
        case EvidenceKind.SPLIT | EvidenceKind.SEGMENTS | EvidenceKind.RATE | EvidenceKind.PAIRED:
            return _Plain()
        case _:
            assert_never(plan.kind)


class _Plain:
    """The value as it is."""

    subject = ""

    def seen(self, outcome: Outcome) -> float:
        return outcome.value

    def state(self) -> Json:
        return {}

    def restore(self, state: object) -> None:
        Fields(state, "evidence.lens").done()


class _Quantiles:
    """Where a value lies among the champion's own: the first keys of an epoch tell its distribution, then it is fixed."""

    def __init__(self, plan: EvidencePlan) -> None:
        self._plan = plan
        self._learned: list[float] = []  # the champion's, rising

    @property
    def subject(self) -> str:
        if self._plan.kind is EvidenceKind.PLACEMENT or not self._is_ready:
            return ""
        return f"above {self._threshold:.4g}"

    def seen(self, outcome: Outcome) -> float | None:
        assert math.isfinite(outcome.value), "a value that has a place is finite"
        if not self._is_ready:
            if outcome.side is Side.CHAMPION:
                insort(self._learned, outcome.value)
            return None
        if self._plan.kind is EvidenceKind.EXCEEDANCE:
            return float(outcome.value > self._threshold)
        below, up_to = bisect_left(self._learned, outcome.value), bisect_right(self._learned, outcome.value)
        return (below + up_to) / 2.0 / len(self._learned)

    @property
    def _is_ready(self) -> bool:
        return len(self._learned) >= self._plan.learn_keys

    @property
    def _threshold(self) -> float:
        return self._learned[min(int(self._plan.level * len(self._learned)), len(self._learned) - 1)]

    def state(self) -> Json:
        return {"learned": list(self._learned)}

    def restore(self, state: object) -> None:
        self._learned = floats(Fields(state, "evidence.lens"), "learned", LEARN_MAX)


class _Residuals:
    """How far a probability is off what came true, counted in the direction in which the challenger was off so far.

    The mean of s·(truth − p) is at most the calibration error in its bin for any sign s, and it is that error for the right one.
    In each bin s is the sign of the challenger's own mean error so far, while that is greater than the champion's, and 0
    otherwise, so that what the challenger does better or alike does not count against it.
    """

    subject = ""

    def __init__(self) -> None:
        self._counts = [[0] * BINS, [0] * BINS]  # by side and bin
        self._sums = [[0.0] * BINS, [0.0] * BINS]  # of truth − p

    def seen(self, outcome: Outcome) -> float:
        at = min(int(outcome.value * BINS), BINS - 1)
        side, residual = int(outcome.side is Side.CHALLENGER), outcome.beside - outcome.value
        sign = self._sign(at)
        self._counts[side][at] += 1
        self._sums[side][at] += residual
        return (1.0 + sign * residual) / 2.0

    def _sign(self, at: int) -> int:
        if self._counts[1][at] < BIN_KEYS_MIN:
            return 0
        champion = self._sums[0][at] / max(self._counts[0][at], 1)
        challenger = self._sums[1][at] / self._counts[1][at]
        return int(math.copysign(1.0, challenger)) if abs(challenger) > abs(champion) else 0

    def state(self) -> Json:
        return {
            "champion_counts": list(self._counts[0]),
            "challenger_counts": list(self._counts[1]),
            "champion_sums": list(self._sums[0]),
            "challenger_sums": list(self._sums[1]),
        }

    def restore(self, state: object) -> None:
        fields = Fields(state, "evidence.lens")
        for at, side in enumerate(("champion", "challenger")):
            counts = fields.items(f"{side}_counts", BINS)
            self._counts[at] = [Fields({"n": n}, "evidence.lens").integer("n", 0, COUNT_MAX) for n in counts]
            self._sums[at] = floats(fields, f"{side}_sums", BINS)
