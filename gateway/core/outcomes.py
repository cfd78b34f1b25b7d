"""Has a version become worse than it was at first? Errors or losses, one number in [0, 1] a prediction.

With one version running nobody runs beside it, so its own first outcomes are the reference, with the error that so few have.
Only more is a departure. What moved it this cannot say: without a concurrent variant it is taken for the world. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from gateway.core.blocks import Blocks, block_lengths
from gateway.core.departures import SHIFTS, ranges, stakes
from gateway.core.fields import Json

LEARN_OUTCOMES: Final = 2_000  # the first; their mean is then known to a fifteenth at a rate of .1
RETURN_OUTCOMES: Final = 10_000  # without another departure, and the outcomes are as they were
CHUNK: Final = 64  # outcomes after which their correlation is looked at again, which one by one would cost fifty times as much
_Bets = tuple[list[float], list[float]]


@dataclass(frozen=True, slots=True)
class Departure:
    """What an alarm rests on.

    Attributes:
        since_s: When the outcomes began that the strongest bet grew with.
        mean, outcomes: Of those.
        reference, high: The mean of the first outcomes, and the mean that their own error still explains.
    """

    since_s: float
    mean: float
    outcomes: int
    reference: float
    high: float
    log_e: float
    bound: float


class OutcomeWatch:
    """One outcome of one version: the same e-detector as for many signals, one number at a time in two microseconds.

    Attributes:
        is_departed: Whether it is worse now than at first.
        departure: The last alarm's, or None.
    """

    def __init__(self, *, alarm_rows: float, learn: int = LEARN_OUTCOMES) -> None:
        self.bound = math.log(alarm_rows)
        self._sum_min = alarm_rows / 2.0  # that the greatest sum has at least where the average reaches the bound
        self._learn_count = learn
        self._count, self._sum, self._squares = 0, 0.0, 0.0  # of the first outcomes
        self._high = 1.0
        self._stakes: list[float] = []  # empty while the reference is learned
        self._bets: dict[float, _Bets] = {}  # of 0 and of 1, which nearly all outcomes are
        self._sums = [0.0] * len(SHIFTS)
        self._blocks = Blocks(1)
        self._chunk: list[float] = []
        self._next_length = self._length = 1  # of a block
        self._filled, self._total = 0, 0.0
        self._since = 0
        self._seen, self._seen_total = 0, 0.0  # since there are bets
        self._walks = [0.0] * len(SHIFTS)  # each bet's logarithm, never under 0: where it last was 0, its growth began
        self._begins = [(0.0, 0, 0.0)] * len(SHIFTS)  # (when, seen, their total) there
        self.is_departed = False
        self.departure: Departure | None = None

    def observe(self, value: float, at_s: float = 0.0) -> str:
        """Take an outcome, and return why it is an alarm; empty when it is none.

        Args:
            at_s: When what it judges was done; a departure tells since when.
        """
        assert 0.0 <= value <= 1.0, "an outcome lies in [0, 1]"
        self._chunk.append(value)
        if len(self._chunk) == CHUNK:
            self._blocks.push(np.asarray([self._chunk]))
            self._next_length = int(block_lengths(self._blocks.correlations)[0])
            self._chunk = []
        if not self._stakes:
            self._learn(value, at_s)
            return ""
        self._since += 1
        if self._since >= RETURN_OUTCOMES:
            self.is_departed = False
        self._seen += 1
        self._seen_total += value
        return self._alarm() if self._bet(value, at_s) else ""

    @property
    def log_e(self) -> float:
        """Of the average e-detector now; -inf before the first bet and after a departure."""
        average = sum(self._sums) / len(self._sums)
        return math.log(average) if average > 0.0 else -math.inf

    def body(self) -> Json:
        """Return where it stands; `reference` is the mean of the first outcomes, null while it is learned."""
        return {
            "reference": self._sum / self._count if self._stakes else None,
            "log_e": self.log_e if self.log_e > -math.inf else None,
            "bound": self.bound,
            "is_departed": self.is_departed,
        }

    def state(self) -> dict[str, Any]:
        """Return everything needed to go on exactly."""
        return {**vars(self), "_blocks": self._blocks.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        blocks = self._blocks
        vars(self).update(state)
        self._blocks = blocks
        blocks.restore(state["_blocks"])

    def _learn(self, value: float, at_s: float) -> None:
        self._count += 1
        self._sum += value
        self._squares += value * value
        if self._count < self._learn_count:
            return
        mean = self._sum / self._count
        deviation = math.sqrt(max(self._squares / self._count - mean * mean, 0.0))
        alike = min(float(self._blocks.correlations[0]), 0.999)
        rows = self._count * (1.0 - alike) / (1.0 + alike)
        allowed = ranges(np.asarray([mean]), np.asarray([deviation]), rows)
        self._high = float(allowed.high[0])
        self._stakes = stakes(allowed)[0][0].tolist()
        self._bets = {mean: self._bets_on(mean) for mean in (0.0, 1.0)}
        self._begins = [(at_s, 0, 0.0)] * len(SHIFTS)

    def _bet(self, value: float, at_s: float) -> bool:
        """Bet on a block's mean when one is full, and return whether the average reached its bound."""
        if self._filled == 0:
            self._length = self._next_length
        self._total += value
        self._filled += 1
        if self._filled < self._length:
            return False
        mean, self._filled, self._total = self._total / self._filled, 0, 0.0
        factors, logs = self._bets.get(mean) or self._bets_on(mean)
        self._sums = [(1.0 + e) * factor for e, factor in zip(self._sums, factors, strict=True)]
        begin = (at_s, self._seen, self._seen_total)
        for at, log in enumerate(logs):
            walked = self._walks[at] + log
            if walked <= 0.0:
                walked, self._begins[at] = 0.0, begin
            self._walks[at] = walked
        return max(self._sums) >= self._sum_min and self.log_e >= self.bound

    def _bets_on(self, mean: float) -> _Bets:
        """Return what a mean multiplies each bet by, and the logarithms of that."""
        factors = [1.0 + stake * (mean - self._high) for stake in self._stakes]
        return factors, [math.log(factor) for factor in factors]

    def _alarm(self) -> str:
        log_e, was_departed = self.log_e, self.is_departed
        self.is_departed, self._since = True, 0
        self._sums = [0.0] * len(SHIFTS)
        rate = self._sum / self._count
        since_s, seen, total = self._begins[max(range(len(SHIFTS)), key=self._walks.__getitem__)]
        count = max(1, self._seen - seen)
        mean = (self._seen_total - total) / count
        self.departure = Departure(since_s, mean, count, rate, self._high, log_e, self.bound)
        self._walks = [0.0] * len(SHIFTS)
        return "" if was_departed else f"worse than its first {self._count:,} ({rate:.4g}): log e {log_e:.1f} of {self.bound:.1f}"
