"""Evidence from single values: a mean against a bound, or both variants' losses on the same request.

Nothing was split here, so what carries the proof is said in so many words: given the past, the mean of the next key's value is at
most the bound (RATE), or the challenger's loss on a request is on average at most the champion's on the same request (PAIRED). Of
0/1 losses only the pairs count in which one variant is right and the other wrong, as in McNemar's test. Pure.
"""

from __future__ import annotations

import math

from gateway.core.evidence.bets import MeanInterval, floats, log_mean, log_weight, odds_of, rate_factor
from gateway.core.evidence.plan import EvidenceKind, EvidencePlan, Outcome
from gateway.core.fields import Fields, Json


class RateEpoch:
    """One epoch. Of RATE the champion's mean is 0, so that the difference is the rate itself."""

    __slots__ = ("_interval", "_is_paired", "_level", "_log_es", "_odds", "_sums")

    def __init__(self, plan: EvidencePlan, number: int) -> None:
        self._is_paired = plan.kind is EvidenceKind.PAIRED
        self._level = 0.5 if self._is_paired else plan.level
        self._odds = odds_of(plan.direction)
        self._log_es = [0.0] * len(self._odds)
        self._sums = [0.0, 0.0]
        self._interval = MeanInterval(math.log(2.0 / plan.interval_alpha) - log_weight(number))

    @property
    def counts(self) -> tuple[int, int]:
        """Keys counted; both variants answered each."""
        return self._interval.count, self._interval.count

    @property
    def log_e(self) -> float:
        """The log of the e-value now."""
        return log_mean(self._log_es)

    @property
    def subject(self) -> str:
        """Nothing more."""
        return ""

    @property
    def is_pressing(self) -> bool:
        """Always: nothing waits."""
        return True

    def settle(self, least: float) -> float:
        """Return the log of the e-value now; −inf where it is surely not above `least`."""
        return self.log_e if max(self._log_es) > least else -math.inf

    def add(self, outcome: Outcome) -> bool:
        """Take a key's value, or its pair of values, in [0, 1]."""
        assert 0.0 <= outcome.value <= 1.0, "an outcome lies in [0, 1]"
        assert 0.0 <= outcome.beside <= 1.0, "an outcome lies in [0, 1]"
        difference = outcome.value - outcome.beside if self._is_paired else outcome.value
        value = (1.0 + difference) / 2.0 if self._is_paired else difference
        for at, odds in enumerate(self._odds):
            self._log_es[at] += math.log(rate_factor(value, self._level, odds))
        self._interval.add(difference, reach=1.0, variance=0.25)
        self._sums[0] += outcome.beside
        self._sums[1] += outcome.value
        return True

    def means(self) -> tuple[float, float]:
        """Return the mean of the champion (0 for RATE) and that of the challenger."""
        count = max(self._interval.count, 1)
        return self._sums[0] / count, self._sums[1] / count

    def interval(self) -> tuple[float, float]:
        """Return what holds the mean difference, or the rate."""
        lower, upper = self._interval.interval()
        return (lower, upper) if self._is_paired else (max(0.0, lower), upper)

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {"log_es": list(self._log_es), "sums": list(self._sums), "interval": self._interval.state()}

    def restore(self, state: object) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "evidence.epoch")
        self._log_es, self._sums = floats(fields, "log_es", len(self._odds)), floats(fields, "sums", 2)
        self._interval.restore(fields.value("interval"))
