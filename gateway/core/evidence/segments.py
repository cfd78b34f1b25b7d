"""Evidence that a challenger treats one segment worse than the rest, beyond what the champion does.

Each key's effect is X = (y − m)·(±1 / the side's share), whose mean over the split is what the challenger changes for that key.
Blocks of one key of a segment and those of the rest that came meanwhile, or the other way round, give the difference of two such
effects: its mean is 0 when the challenger changes as much for the segment as for the rest, however different the segments are
and however good or bad the challenger is for all. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.core.evidence.bets import MeanInterval, floats, log_mean, log_weight
from gateway.core.evidence.plan import COUNT_MAX, Direction, EvidencePlan, Outcome, Side
from gateway.core.evidence.splits import effect_of
from gateway.core.fields import Fields, Json

SEGMENTS_MAX: Final = 8  # they share the guardrail's alpha
_WHOLE_MAX: Final = 2.0**53  # above it neighbours are more than 1 apart
_NARROW_MAX: Final = float(np.finfo(np.float32).max)
LIMIT: Final = 2.0  # of a difference of two differences


@dataclass(frozen=True, slots=True)
class SegmentReading:
    """One segment as it stands.

    Attributes:
        champion_count, challenger_count: Keys of the segment.
        champion_mean, challenger_mean: Of their outcomes; 0 without any.
        widening: How much further above the rest the segment lies with the challenger than with the champion; None without data.
        lower, upper: Anytime-valid interval of the widening.
    """

    segment: str
    champion_count: int
    challenger_count: int
    champion_mean: float
    challenger_mean: float
    widening: float | None
    lower: float
    upper: float


def segment_name(number: float) -> str:
    """Return the name of a number's segment: a whole number as such, another as the shortest text that reads back as the same.

    A number that FP32 can hold is written as FP32's shortest, so that .1 is one segment whatever the column's datatype.

    Args:
        number: Finite.
    """
    if number.is_integer() and abs(number) < _WHOLE_MAX:
        return str(int(number))
    narrow = np.float32(number) if abs(number) < _NARROW_MAX else None
    return repr(number) if narrow is None or float(narrow) != number else str(narrow)


class SegmentsEpoch:
    """One epoch. Its e-value is the mean over the segments, those not met yet with an e of 1."""

    __slots__ = ("_counts", "_direction", "_gaps", "_level", "_named", "_share", "_sum")

    def __init__(self, plan: EvidencePlan, number: int) -> None:
        self._named = plan.segments
        self._direction = plan.direction
        width = len(self._named) or SEGMENTS_MAX
        self._level = math.log(2.0 * width / plan.interval_alpha) - log_weight(number)
        self._gaps = {name: _Gap(self._level) for name in self._named}
        self._counts = [0, 0]
        self._sum = 0.0
        self._share = 0.0

    @property
    def counts(self) -> tuple[int, int]:
        """Keys counted of the champion and of the challenger, over all segments."""
        return self._counts[0], self._counts[1]

    @property
    def log_e(self) -> float:
        """The log of the e-value now."""
        signs = {Direction.UP: (1,), Direction.DOWN: (-1,), Direction.EITHER: (1, -1)}[self._direction]
        unmet = (len(self._named) or SEGMENTS_MAX) - len(self._gaps)
        return log_mean(
            [gap.interval.log_e(sign) for gap in self._gaps.values() for sign in signs] + [0.0] * (unmet * len(signs))
        )

    @property
    def is_pressing(self) -> bool:
        """Always: nothing waits."""
        return True

    def settle(self, least: float) -> float:  # noqa: ARG002 - there is nothing cheaper
        """Return the log of the e-value now."""
        return self.log_e

    @property
    def subject(self) -> str:
        """The segment whose gap widened most."""
        worst = self._worst()
        return worst[0] if worst else ""

    def add(self, outcome: Outcome) -> bool:
        """Take a key's outcome in [0, 1]; False for a segment that is not looked at."""
        assert 0.0 <= outcome.value <= 1.0, "an outcome lies in [0, 1]"
        if outcome.segment not in self._gaps:
            if self._named or len(self._gaps) >= SEGMENTS_MAX:
                return False
            self._gaps[outcome.segment] = _Gap(self._level)
        if outcome.share != self._share:
            self._share = outcome.share
            for gap in self._gaps.values():
                gap.drop_block()
        is_challenger = outcome.side is Side.CHALLENGER
        effect, _ = effect_of(is_challenger, outcome.value, outcome.share, pooled=(self._sum + 0.5) / (sum(self._counts) + 1))
        for name, gap in self._gaps.items():
            gap.add(is_challenger, outcome.value, effect, outcome.share, is_own=name == outcome.segment)
        self._counts[is_challenger] += 1
        self._sum += outcome.value
        return True

    def means(self) -> tuple[float, float]:
        """Return how far the segment whose gap widened most lies above the rest: with the champion and with the challenger."""
        worst = self._worst()
        return worst[1] if worst else (0.0, 0.0)

    def interval(self) -> tuple[float, float]:
        """Return what holds the widening of the gap of the worst segment; of both directions, that of all segments."""
        if not self._gaps:
            return -LIMIT, LIMIT
        lowers, uppers = zip(*(gap.interval.interval() for gap in self._gaps.values()), strict=True)
        match self._direction:
            case Direction.UP:
                return max(lowers), max(uppers)
            case Direction.DOWN:
                return min(lowers), min(uppers)
            case Direction.EITHER:
                return min(lowers), max(uppers)

    def segments(self) -> tuple[SegmentReading, ...]:
        """Return every segment as it stands."""
        return tuple(gap.reading(name) for name, gap in self._gaps.items())

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {
            "names": list(self._gaps),
            "gaps": [gap.state() for gap in self._gaps.values()],
            "counts": list(self._counts),
            "sum": self._sum,
            "share": self._share,
        }

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "evidence.epoch")
        names = [str(name) for name in fields.items("names", SEGMENTS_MAX)]
        self._gaps = {name: _Gap(self._level) for name in names}
        for gap, saved in zip(self._gaps.values(), fields.items("gaps", SEGMENTS_MAX), strict=True):
            gap.restore(saved)
        self._counts = _integers(fields, "counts", 2)
        self._sum = fields.number("sum", 0.0, 1e300)
        self._share = fields.number("share", 0.0, 1.0)

    def _worst(self) -> tuple[str, tuple[float, float]] | None:
        """Return the segment that the challenger treats worst compared with the champion, and its gap with either."""
        known = [(name, gaps) for name, gap in self._gaps.items() if (gaps := gap.gaps()) is not None]
        return max(known, key=lambda one: self._direction.harm_of(one[1][1] - one[1][0]), default=None)


class _Gap:
    """One segment against the rest.

    Attributes:
        interval: Of the difference of the effects, a value a block.
    """

    __slots__ = ("_block_counts", "_block_sums", "_counts", "_sums", "interval")

    def __init__(self, level: float) -> None:
        self.interval = MeanInterval(level, LIMIT)
        self._counts = [0, 0, 0, 0]  # rest and own with the champion, rest and own with the challenger
        self._sums = [0.0, 0.0, 0.0, 0.0]  # of the values
        self._block_counts = [0, 0]  # rest and own in the open block
        self._block_sums = [0.0, 0.0]  # of the effects

    def add(self, is_challenger: bool, value: float, effect: float, share: float, *, is_own: bool) -> None:
        """Take a key's value and effect; a block is full with the first key of the other kind."""
        self._counts[2 * is_challenger + is_own] += 1
        self._sums[2 * is_challenger + is_own] += value
        self._block_counts[is_own] += 1
        self._block_sums[is_own] += effect
        if all(self._block_counts):
            rest, own = (total / count for total, count in zip(self._block_sums, self._block_counts, strict=True))
            # |y − m| is at most 1, whatever m becomes within the block
            self.interval.add(own - rest, reach=2.0 / min(share, 1.0 - share), variance=0.5 / (share * (1.0 - share)))
            self.drop_block()

    def drop_block(self) -> None:
        """Begin a block anew."""
        self._block_counts, self._block_sums = [0, 0], [0.0, 0.0]

    def gaps(self) -> tuple[float, float] | None:
        """Return how far the segment's mean lies above the rest's, with champion and challenger; None without data."""
        if not all(self._counts):
            return None
        means = [total / count for total, count in zip(self._sums, self._counts, strict=True)]
        return means[1] - means[0], means[3] - means[2]

    def reading(self, segment: str) -> SegmentReading:
        """Return the segment as it stands."""
        gaps = self.gaps()
        lower, upper = self.interval.interval()
        return SegmentReading(
            segment=segment,
            champion_count=self._counts[1],
            challenger_count=self._counts[3],
            champion_mean=self._sums[1] / max(self._counts[1], 1),
            challenger_mean=self._sums[3] / max(self._counts[3], 1),
            widening=None if gaps is None else gaps[1] - gaps[0],
            lower=lower,
            upper=upper,
        )

    def state(self) -> Json:
        return {
            "interval": self.interval.state(),
            "counts": list(self._counts),
            "sums": list(self._sums),
            "block_counts": list(self._block_counts),
            "block_sums": list(self._block_sums),
        }

    def restore(self, state: object) -> None:
        fields = Fields(state, "evidence.gap")
        self.interval.restore(fields.value("interval"))
        self._counts, self._sums = _integers(fields, "counts", 4), floats(fields, "sums", 4)
        self._block_counts, self._block_sums = _integers(fields, "block_counts", 2), floats(fields, "block_sums", 2)


def _integers(fields: Fields, name: str, count_max: int) -> list[int]:
    return [Fields({name: item}, "evidence").integer(name, 0, COUNT_MAX) for item in fields.items(name, count_max)]
