"""Where a change comes from, with the sentence and the numbers that say so.

What two variants answer at the same time tells the version from the world: the split chose who met which, so whatever both share
is not the version's doing. A variant's own past tells only that something moved. Pure.
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.arrivals import ArrivalReading
from gateway.core.evidence import ShareReading
from gateway.core.fields import Fields, Json
from gateway.core.guardrails import Finding, Verdict


class Attribution(enum.Enum):
    """Where a change comes from."""

    VERSION = "VERSION"
    WORLD = "WORLD"
    DATA = "DATA"
    ASSIGNMENT = "ASSIGNMENT"
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class Attributed:
    """A finding's attribution, and why: one sentence with its numbers."""

    attribution: Attribution
    why: str


@dataclass(frozen=True, slots=True)
class Move:
    """One variant's mean of one measure, in its past and of late.

    Attributes:
        bound: What the recent mean may be by chance.
    """

    past: float
    recent: float
    bound: float

    @property
    def has_risen(self) -> bool:
        """Whether it got worse by more than chance."""
        return self.recent > self.bound

    def __str__(self) -> str:
        return f"{self.past:.4g} before, {self.recent:.4g} of late"

    def body(self) -> Json:
        """Return the move as an audit entry stores it."""
        return {"past": self.past, "recent": self.recent, "bound": self.bound, "has_risen": self.has_risen}


def attributed_body(
    finding: Finding, *, srm: ShareReading, truth: ArrivalReading, moves: Mapping[str, Move], frozen_by: Attribution
) -> Json:
    """Return a finding with its attribution, as readings show it and audit entries store it; moves by guardrail."""
    doubt = truth.doubt if finding.guardrail.needs_truth else ""
    attributed = attribute(finding, srm=srm, doubt=doubt, move=moves.get(finding.guardrail.name), frozen_by=frozen_by)
    return {**finding.body(), "attribution": attributed.attribution.value, "why": attributed.why}


def attribute(finding: Finding, *, srm: ShareReading, doubt: str, move: Move | None, frozen_by: Attribution) -> Attributed:
    """Return where what a guardrail found of two concurrent variants comes from; the first that applies.

    The split does not do what it was told, or ground truth comes for one variant more than for the other: ASSIGNMENT, and nothing
    else can be told. The challenger is worse than the champion at
    the same time: VERSION, also while both get worse. The champion got worse against its own past: WORLD. A drift incident is
    open: what it says. Nothing of this: NONE.

    Args:
        doubt: Why the finding's ground truth cannot be relied on; empty when it can, or when it needs none.
        move: Of the champion, in the finding's measure; None while too little is known.
        frozen_by: Of the route's open drift incident, or NONE.
    """
    reading = finding.reading
    if srm.is_mismatch:
        shares = f"{srm.challenger_keys} of {srm.keys} keys went to the challenger, {srm.share:.2%} were planned"
        return Attributed(Attribution.ASSIGNMENT, f"{shares}: the variants met different callers")
    if doubt:
        return Attributed(Attribution.ASSIGNMENT, doubt)
    if finding.verdict is Verdict.FAIL:
        rates = f"{reading.challenger_mean:.4g} against the champion's {reading.champion_mean:.4g} at the same time"
        shared = f"; the champion's own {move} is in both" if move is not None and move.has_risen else ""
        why = f"the challenger's {rates}, log e {reading.log_e_best:.2f} of {reading.bound:.2f}{shared}"
        return Attributed(Attribution.VERSION, why)
    if move is not None and move.has_risen:
        difference = f"the challenger's difference is in [{reading.lower:.4g}, {reading.upper:.4g}]"
        return Attributed(Attribution.WORLD, f"the champion got worse against its own past ({move}), and {difference}")
    if frozen_by is not Attribution.NONE:
        return Attributed(frozen_by, "a drift incident of the champion is open, and the challenger was not found worse")
    return Attributed(Attribution.NONE, "nothing moved by more than chance")


class PastWatch:
    """Whether one variant got worse against its own past: the last keys' mean against that of the keys before them.

    Both are means of outcomes in [0, 1]. The change counts when it exceeds `RISE_MIN` and four standard errors: once in 30,000
    looks at independent windows, which is enough for what only holds a rollout.
    """

    RECENT: Final = 200  # outcomes
    PAST_MIN: Final = 200
    RISE_MIN: Final = 0.02
    ERRORS: Final = 4.0

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._count = 0
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Take one outcome in [0, 1]."""
        self._recent.append(value)
        if len(self._recent) > self.RECENT:
            self._count += 1
            self._sum += self._recent.popleft()

    def observe_all(self, values: Sequence[float]) -> None:
        """Take several outcomes."""
        self._recent.extend(values)
        while len(self._recent) > self.RECENT:
            self._count += 1
            self._sum += self._recent.popleft()

    def move(self) -> Move | None:
        """Return where the recent mean lies against the past's; None while too little is known."""
        if self._count < self.PAST_MIN:
            return None
        past, recent = self._sum / self._count, sum(self._recent) / len(self._recent)
        pooled = (self._sum + sum(self._recent)) / (self._count + len(self._recent))
        error = math.sqrt(max(pooled * (1.0 - pooled), 1.0 / self.RECENT) * (1.0 / self._count + 1.0 / len(self._recent)))
        return Move(past, recent, bound=past + max(self.RISE_MIN, self.ERRORS * error))

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {"recent": list(self._recent), "count": self._count, "sum": self._sum}

    @classmethod
    def restored(cls, state: object) -> PastWatch:
        """Go on from what `state` returned."""
        fields = Fields(state, "past")
        watch = cls()
        watch._recent = deque(Fields({"v": v}, "past").number("v", 0.0, 1.0) for v in fields.items("recent", cls.RECENT))
        watch._count = fields.integer("count", 0, 1 << 62)
        watch._sum = fields.number("sum", 0.0, 1e300)
        return watch
