"""The evidence of one guardrail over one rollout: epochs of first outcomes, each with a part of alpha.

What an epoch makes of its outcomes is the plan's kind: `splits.py`, `segments.py` and `rates.py`. An epoch starts from nothing:
what was learnt by side would carry over which callers always fail, and on which side. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol, assert_never

from gateway.core.evidence.bets import log_weight
from gateway.core.evidence.plan import COUNT_MAX, EvidenceKind, EvidencePlan, EvidenceReading, Outcome
from gateway.core.evidence.rates import RateEpoch
from gateway.core.evidence.segments import SegmentReading, SegmentsEpoch
from gateway.core.evidence.splits import SplitEpoch
from gateway.core.fields import Fields, Json


class Epoch(Protocol):
    """What is made of one epoch's outcomes, a key each. Some may wait to be taken together; readings speak of those taken."""

    @property
    def counts(self) -> tuple[int, int]:
        """Keys of the champion and of the challenger that the evidence rests on."""
        ...

    @property
    def log_e(self) -> float:
        """The log of the epoch's e-value now."""
        ...

    @property
    def is_pressing(self) -> bool:
        """Whether what waits must be taken now, because with it the evidence may have reached its bound, or it is too much."""
        ...

    def settle(self, least: float) -> float:
        """Take what waits, and return the greatest log e at any moment since it was asked last; −inf if none is above `least`."""
        ...

    @property
    def subject(self) -> str:
        """What the means speak of, where the kind alone does not say it."""
        ...

    def add(self, outcome: Outcome) -> bool:
        """Take the first outcome of a key, and return whether it moved the evidence; one that was only learned from did not."""
        ...

    def means(self) -> tuple[float, float]:
        """Return what the estimate is the difference of: champion's and challenger's."""
        ...

    def interval(self) -> tuple[float, float]:
        """Return what holds the difference, whenever one looks."""
        ...

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        ...

    def restore(self, state: object) -> None:
        """Go on from what `state` returned."""
        ...


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes of several predictions, in the log's merged order; see `Outcome`.

    Attributes:
        sides: Whether each is the challenger's.
        shares: Each in (0, 1).
    """

    keys: list[str]
    sides: list[bool]
    values: list[float]
    shares: list[float]

    def add(self, key: str, is_challenger: bool, value: float, share: float) -> None:
        """Take one more."""
        self.keys.append(key)
        self.sides.append(is_challenger)
        self.values.append(value)
        self.shares.append(share)

    def first_of_keys(self, seen: Collection[str]) -> Outcomes:
        """Return the first outcome of each key that was not seen yet."""
        first: dict[str, int] = {}
        for at, key in enumerate(self.keys):
            if key not in seen and key not in first:
                first[key] = at
        if len(first) == len(self.keys):
            return self
        kept = list(first.values())
        values, shares = ([column[at] for at in kept] for column in (self.values, self.shares))
        return Outcomes(list(first), [self.sides[at] for at in kept], values, shares)


@dataclass(frozen=True, slots=True)
class Trial:
    """What evidence would become with several outcomes.

    Attributes:
        fresh: Those that count: the first of each key.
    """

    epoch: SplitEpoch
    best: float
    fresh: Outcomes


class Evidence:
    """The evidence of one guardrail over one rollout. Not shared between threads."""

    def __init__(self, plan: EvidencePlan) -> None:
        self._plan = plan
        self._bound = -math.log(plan.alpha)
        self._since_s = 0.0
        self._keys = 0
        self._best = -math.inf
        self._seen: dict[str, None] = {}
        self._number = 1
        self._epoch = _begun(plan, 1)
        self._last: Epoch | None = None

    def observe(self, outcome: Outcome) -> bool:
        """Take one outcome, in the log's merged order, and return whether its key counted.

        A share of 0 or 1 compares nothing, and its outcomes do not count.
        """
        assert outcome.key, "a record without a key has that of its prediction"
        if not 0.0 < outcome.share < 1.0:
            return False
        self._roll(outcome.time_s)
        if outcome.key in self._seen:
            return False
        self._seen[outcome.key] = None
        if not self._epoch.add(outcome):
            return False
        self._keys += 1
        if self._epoch.is_pressing:
            self._settle()
        return True

    def trial(self, outcomes: Outcomes, until_s: float) -> Trial | None:
        """Return what several outcomes make of this evidence, which stays as it is until `take` is given that.

        None where they cannot be taken together: they bring it to its bound, an epoch may begin or end with them, or its kind
        learns from each.

        Args:
            until_s: The time of the last.
        """
        if not isinstance(self._epoch, SplitEpoch) or not self._epoch.is_plain or not self._seen:
            return None
        if self.has_reached_bound or self._is_over(len(self._seen) + len(outcomes.keys), until_s):
            return None
        fresh = outcomes.first_of_keys(self._seen)
        epoch, weight = self._epoch.with_all(fresh.sides, fresh.values, fresh.shares), log_weight(self._number)
        best = max(self._best, epoch.settle(self._best - weight) + weight)
        return None if best >= self._bound else Trial(epoch, best, fresh)

    def take(self, trial: Trial) -> None:
        """Become what `trial` returned; nothing may have been taken since."""
        self._epoch, self._best = trial.epoch, trial.best
        self._keys += len(trial.fresh.keys)
        self._seen.update(dict.fromkeys(trial.fresh.keys))

    @property
    def has_reached_bound(self) -> bool:
        """Whether any epoch's evidence ever reached the bound, that of what waits included; much cheaper than a reading."""
        return self._best >= self._bound

    def reading(self) -> EvidenceReading:
        """Return the evidence now.

        The means and the interval are the running epoch's, or the one's before while that had more keys of the challenger.
        """
        self._settle()
        shown = self._shown()
        lower, upper = shown.interval()
        champion, challenger = shown.means()
        return EvidenceReading(
            log_e=self._epoch.log_e,
            log_e_best=max(self._best, log_weight(self._number)),
            bound=self._bound,
            champion_count=shown.counts[0],
            challenger_count=shown.counts[1],
            champion_mean=champion,
            challenger_mean=challenger,
            estimate=challenger - champion,
            lower=lower,
            upper=upper,
            epoch=self._number,
            keys=self._keys,
            subject=shown.subject,
        )

    def segments(self) -> tuple[SegmentReading, ...]:
        """Return the segments of the same epoch; none where the evidence is not of segments."""
        shown = self._shown()
        return shown.segments() if isinstance(shown, SegmentsEpoch) else ()

    def _shown(self) -> Epoch:
        if self._last is not None and self._last.counts[1] > self._epoch.counts[1]:
            return self._last
        return self._epoch

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON; at most 17 bytes a key of the running epoch."""
        self._settle()
        return {
            "since_s": self._since_s,
            "keys": self._keys,
            "best": None if self._best == -math.inf else self._best,
            "seen": "\n".join(self._seen),
            "number": self._number,
            "epoch": self._epoch.state(),
            "last": None if self._last is None else self._last.state(),
        }

    @classmethod
    def restored(cls, plan: EvidencePlan, state: object) -> Evidence:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "evidence")
        evidence = cls(plan)
        evidence._since_s = fields.number("since_s", -1e12, 1e12)
        evidence._keys = fields.integer("keys", 0, COUNT_MAX)
        evidence._best = fields.number("best", -1e300, 1e300, -math.inf)
        seen = fields.text("seen", length_max=COUNT_MAX)
        evidence._seen = dict.fromkeys(seen.split("\n")) if seen else {}
        evidence._number = fields.integer("number", 1, COUNT_MAX)
        evidence._epoch = _begun(plan, evidence._number)
        evidence._epoch.restore(fields.value("epoch"))
        if fields.has("last"):
            evidence._last = _begun(plan, evidence._number - 1)
            evidence._last.restore(fields.value("last"))
        return evidence

    def _settle(self) -> None:
        weight = log_weight(self._number)
        self._best = max(self._best, self._epoch.settle(self._best - weight) + weight)

    def _roll(self, time_s: float) -> None:
        """Begin an epoch where one is due. Neither side's count may play a part: the end must not depend on the split."""
        keys = len(self._seen)
        if keys == 0:
            self._since_s = time_s
        if keys and self._is_over(keys, time_s):
            self._settle()
            self._number += 1
            self._last, self._epoch = self._epoch, _begun(self._plan, self._number)
            self._seen = {}
            self._since_s = time_s

    def _is_over(self, keys: int, time_s: float) -> bool:
        span_s = time_s - self._since_s
        is_over = span_s >= self._plan.epoch_s and (keys >= self._plan.epoch_keys_min or span_s >= self._plan.epoch_max_s)
        return is_over or keys >= self._plan.keys_max


def _begun(plan: EvidencePlan, number: int) -> Epoch:
    """Return an epoch that has seen nothing."""
    match plan.kind:
        case EvidenceKind.SPLIT | EvidenceKind.EXCEEDANCE | EvidenceKind.PLACEMENT | EvidenceKind.CALIBRATION:
            return SplitEpoch(plan, number)
        case EvidenceKind.SEGMENTS:
            return SegmentsEpoch(plan, number)
        case EvidenceKind.RATE | EvidenceKind.PAIRED:
            return RateEpoch(plan, number)
        case _:
            assert_never(plan.kind)
