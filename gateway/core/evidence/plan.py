"""What goes into evidence, how it is gathered, and what it says as it stands. Values only."""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Final

from gateway.core.fields import Json

COUNT_MAX: Final = 1 << 62


class Side(enum.Enum):
    """Which variant the split chose."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


class Direction(enum.Enum):
    """Which way a difference is harm."""

    UP = "up"
    DOWN = "down"
    EITHER = "either"

    def harm_of(self, difference: float) -> float:
        """Return how harmful a difference is; negative for a help."""
        match self:
            case Direction.UP:
                return difference
            case Direction.DOWN:
                return -difference
            case Direction.EITHER:
                return abs(difference)


class EvidenceKind(enum.Enum):
    """What is made of the outcomes of an epoch."""

    SPLIT = "split"  # the values of two concurrent variants
    EXCEEDANCE = "exceedance"  # how often a value lies above the champion's own quantile
    PLACEMENT = "placement"  # where a value lies among the champion's own, from 0 to 1
    CALIBRATION = "calibration"  # probabilities against what came true
    SEGMENTS = "segments"  # how far the difference between variants differs between segments
    RATE = "rate"  # one mean against a bound
    PAIRED = "paired"  # both variants on the same request


@dataclass(slots=True)
class Outcome:
    """What one prediction says of the variant that the split chose for it. Never changed; not frozen, since each makes several.

    Attributes:
        key: The hashed assignment key; not empty, without a line break.
        value: In [0, 1]; any finite number for EXCEEDANCE and PLACEMENT; the probability for CALIBRATION; the challenger's for
            PAIRED.
        time_s: When the log learned of it, seconds since the epoch.
        share: The chance with which the split gave this key to the challenger: its weight out of `SLOTS` in the route's revision
            that decided. Nothing was split for RATE and PAIRED.
        beside: CALIBRATION: 1 if it came true, else 0; PAIRED: the champion's value.
        segment: SEGMENTS: which one the key belongs to.
    """

    side: Side
    key: str
    value: float
    time_s: float
    share: float
    beside: float = 0.0
    segment: str = ""


@dataclass(frozen=True, slots=True)
class EvidencePlan:
    """How evidence is gathered; fixed before the first outcome.

    Attributes:
        alpha: Chance of ever reaching the bound when the challenger harms no key, over all epochs together.
        interval_alpha: Chance that the interval ever misses the difference, over all epochs together.
        epoch_s: Least span of an epoch. A key counts again in the next one.
        epoch_keys_min: An epoch with fewer keys goes on, so that a quiet route gathers enough in one epoch…
        epoch_max_s: …but not beyond this span, so that what goes bad late is seen.
        keys_max: An epoch ends early with so many keys: 16 bytes of text each, 20 MB of memory.
        level: EXCEEDANCE: the quantile, in (0, 1); RATE: the bound of the mean, in (0, 1).
        learn_keys: EXCEEDANCE, PLACEMENT: keys of the champion from which an epoch learns its quantiles before it counts.
        segments: SEGMENTS: those looked at; empty for the first that are met.
    """

    alpha: float = 0.01
    interval_alpha: float = 0.05
    epoch_s: float = 600.0
    epoch_keys_min: int = 1_000
    epoch_max_s: float = 3_600.0
    keys_max: int = 200_000
    kind: EvidenceKind = EvidenceKind.SPLIT
    direction: Direction = Direction.UP
    level: float = 0.5
    learn_keys: int = 100
    segments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EvidenceReading:
    """Evidence as it stands.

    Attributes:
        log_e: Of the running epoch now.
        log_e_best: The highest that any epoch reached, after its weight; this is what is compared with `bound`.
        bound: ln(1/alpha).
        champion_count, challenger_count: Keys counted in the epoch that the means and the interval speak of.
        champion_mean, challenger_mean: Of their first outcomes; 0 without any. SEGMENTS: how far `subject` lies above the rest.
        estimate: Challenger's mean less champion's.
        lower, upper: Anytime-valid interval of that difference.
        epoch: 1, 2, 3…, the running one.
        keys: Counted over all epochs.
        subject: What the means speak of where the name of the guardrail does not say it: a quantile's value, a segment.
    """

    log_e: float
    log_e_best: float
    bound: float
    champion_count: int
    challenger_count: int
    champion_mean: float
    challenger_mean: float
    estimate: float
    lower: float
    upper: float
    epoch: int
    keys: int
    subject: str = ""

    def body(self) -> Json:
        """Return the reading as an audit entry stores it."""
        return {name: getattr(self, name) for name in self.__slots__}

    def in_units(self, low: float, high: float) -> EvidenceReading:
        """Return the reading of values that were mapped from [low, high] to [0, 1] in the units they had."""
        span = high - low
        return replace(
            self,
            champion_mean=low + span * self.champion_mean if self.champion_count else 0.0,
            challenger_mean=low + span * self.challenger_mean if self.challenger_count else 0.0,
            estimate=span * self.estimate,
            lower=span * self.lower,
            upper=span * self.upper,
        )
