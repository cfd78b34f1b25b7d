"""Has a version become worse than it was at first? Errors or losses, one number in [0, 1] a prediction.

With one version running nobody runs beside it, so its own first outcomes are the reference, with the error that so few have.
Only more is a departure. What moved it this cannot say: without a concurrent variant it is taken for the world. Pure.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import numpy as np

from gateway.core.blocks import Blocks, block_lengths
from gateway.core.departures import SHIFTS, ranges, stakes
from gateway.core.fields import Json

LEARN_OUTCOMES: Final = 2_000  # the first; their mean is then known to a fifteenth at a rate of .1
RETURN_OUTCOMES: Final = 10_000  # without another departure, and the outcomes are as they were
NO_ROOM: Final = -1  # every outcome is betted on at once
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
    """One outcome of one version: the same e-detector as for many signals, one number at a time in a microsecond.

    Outcomes that cannot be an alarm, however they fell, wait for each other and are betted on together.

    Attributes:
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
        self._waiting: list[tuple[float, float]] = []  # outcomes not betted on yet, at most `CHUNK`, and their times
        self._room = NO_ROOM  # how many more that a bet may grow with can wait
        self._is_departed = False
        self.departure: Departure | None = None

    def observe(self, value: float, at_s: float = 0.0) -> str:
        """Take an outcome, and return why it is an alarm; empty when it is none.

        Args:
            at_s: When what it judges was done; a departure tells since when.
        """
        assert 0.0 <= value <= 1.0, "an outcome lies in [0, 1]"
        self._chunk.append(value)
        if len(self._chunk) == CHUNK:
            self._settle()
            self._learn_correlation()
        if not self._stakes:
            self._learn(value, at_s)
            return ""
        self._waiting.append((value, at_s))
        if value > self._high:
            self._room -= 1
        return self._settle() if self._room < 0 else ""

    def with_all(self, values: Sequence[float], times_s: Sequence[float]) -> OutcomeWatch | None:
        """Return what this becomes with several outcomes, to the bit as if one by one; None where one of them is an alarm.

        This watch stays as it is.
        """
        after = self._copied()
        return after if after._takes(values, times_s) else None  # noqa: SLF001 - of its own kind

    @property
    def is_departed(self) -> bool:
        """Whether it is worse now than at first."""
        self._settle()
        return self._is_departed

    @property
    def log_e(self) -> float:
        """Of the average e-detector now; -inf before the first bet and after a departure."""
        self._settle()
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
        self._settle()
        return {**vars(self), "_blocks": self._blocks.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        blocks = self._blocks
        vars(self).update(state)
        self._blocks = blocks
        blocks.restore(state["_blocks"])

    def _copied(self) -> OutcomeWatch:
        """Return the same watch again: what grows in its place is copied, what is always made anew is shared."""
        after = copy.copy(self)
        after._blocks = copy.copy(self._blocks)  # noqa: SLF001
        for name in ("_sums", "_chunk", "_walks", "_begins", "_waiting"):
            setattr(after, name, list(getattr(self, name)))
        return after

    def _takes(self, values: Sequence[float], times_s: Sequence[float]) -> bool:
        """Take outcomes up to the first alarm, and return whether there was none."""
        at = 0
        while at < len(values):
            until = min(max(at + 1, at + CHUNK - 1 - len(self._chunk)), len(values))  # a chunk's last is taken by itself
            if not self._waits_with(values[at:until], times_s[at:until]):
                for one in range(at, until):
                    if self.observe(values[one], times_s[one]):
                        return False
            at = until
        return True

    def _waits_with(self, values: Sequence[float], times_s: Sequence[float]) -> bool:
        """Let outcomes wait that do not fill the chunk, where that is all there is to do with them; return whether it is."""
        if not self._stakes or len(self._chunk) + len(values) >= CHUNK:
            return False
        above = sum(map(self._high.__lt__, values))
        if above > self._room:
            return False
        self._chunk += values
        self._waiting += zip(values, times_s, strict=True)
        self._room -= above
        return True

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

    def _learn_correlation(self) -> None:
        self._blocks.learn(np.asarray([self._chunk]))
        self._next_length = int(block_lengths(self._blocks.correlations)[0])
        self._chunk = []
        self._room = self._room_left()

    def _settle(self) -> str:
        """Bet on what waits, and return why the last of it is an alarm; empty when it is none."""
        if not self._waiting:
            return ""
        waiting, self._waiting = self._waiting, []
        self._since += len(waiting)
        if self._since >= RETURN_OUTCOMES:
            self._is_departed = False
        if self._next_length == 1 and not self._filled:
            self._bet(waiting, [value for value, _ in waiting])
        else:
            for outcome in waiting:
                self._fill_block(outcome)
        why = self._alarm() if max(self._sums) >= self._sum_min and self.log_e >= self.bound else ""
        self._room = self._room_left()
        return why

    def _fill_block(self, outcome: tuple[float, float]) -> None:
        """Bet on a block's mean when it is full."""
        value, _ = outcome
        if self._filled == 0:
            self._length = self._next_length
        self._total += value
        self._filled += 1
        if self._filled < self._length:
            self._seen += 1
            self._seen_total += value
            return
        mean, self._filled, self._total = self._total / self._filled, 0, 0.0
        self._bet([outcome], [mean])

    def _bet(self, outcomes: Sequence[tuple[float, float]], means: Sequence[float]) -> None:
        """Bet on what each outcome, with its time, makes: its own value, or the mean of the block that it fills."""
        totals = list(accumulate([value for value, _ in outcomes], initial=self._seen_total))
        bets = [self._bets.get(mean) or self._bets_on(mean) for mean in means]
        for at in range(len(SHIFTS)):
            e, walked, begun = self._sums[at], self._walks[at], 0
            for seen, (factors, logs) in enumerate(bets, 1):
                e = (1.0 + e) * factors[at]
                walked += logs[at]
                if walked <= 0.0:
                    walked, begun = 0.0, seen
            self._sums[at], self._walks[at] = e, walked
            if begun:
                self._begins[at] = (outcomes[begun - 1][1], self._seen + begun, totals[begun])
        self._seen += len(outcomes)
        self._seen_total = totals[-1]

    def _room_left(self) -> int:
        """Return how many outcomes above the mean that is explained may wait, with any number of others up to `CHUNK`.

        A sum e becomes (1 + e)·f, where f is at most that of a 1 for those and at most 1 for the others: after n outcomes, k of
        them above, it is under (1 + e + n)·f₁ᵏ.
        """
        if not self._stakes or self._next_length > 1 or self._filled:
            return NO_ROOM
        room = CHUNK
        for e, log in zip(self._sums, self._bets[1.0][1], strict=True):
            left = math.log(self._sum_min / (1.0 + e + CHUNK))
            room = min(room, math.floor(left / max(log, 1e-9)))
        return room

    def _bets_on(self, mean: float) -> _Bets:
        """Return what a mean multiplies each bet by, and the logarithms of that."""
        factors = [1.0 + stake * (mean - self._high) for stake in self._stakes]
        return factors, [math.log(factor) for factor in factors]

    def _alarm(self) -> str:
        log_e, was_departed = self.log_e, self._is_departed
        self._is_departed, self._since = True, 0
        self._sums = [0.0] * len(SHIFTS)
        rate = self._sum / self._count
        since_s, seen, total = self._begins[max(range(len(SHIFTS)), key=self._walks.__getitem__)]
        count = max(1, self._seen - seen)
        mean = (self._seen_total - total) / count
        self.departure = Departure(since_s, mean, count, rate, self._high, log_e, self.bound)
        self._walks = [0.0] * len(SHIFTS)
        return "" if was_departed else f"worse than its first {self._count:,} ({rate:.4g}): log e {log_e:.1f} of {self.bound:.1f}"
