"""Evidence that a challenger is worse than the champion it runs beside, valid whenever one looks.

The unit is the assignment key, and the only chance that is relied on is the split's own: a hash gives each key to the challenger
with the planned share, whatever the key is like and whatever it will meet. A key counts once in an epoch, with its first outcome.
So nothing is assumed of the outcomes: they may depend on the key, on each other and on the hour.
`docs/decisions/0002-a-key-counts-once-an-epoch.md` has the argument. Pure; natural logarithms throughout.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Final

from gateway.core.fields import Fields, Json

COUNT_MAX: Final = 1 << 62
SRM_ALPHA: Final = 0.001  # a mismatch makes every verdict void, so it is raised ten times more rarely than a rollback
ODDS: Final = (2.0, 5.0, 20.0)  # how much worse a version may be: doubled, 10 → 40 %, and from hardly ever to often
NARROWEST: Final = 1_000  # keys at which the interval is about as narrow as one looked at once; ×1.4 at 200 and at 20,000


class Side(enum.Enum):
    """Which variant the split chose."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one prediction says of the variant that the split chose for it.

    Attributes:
        key: The hashed assignment key; not empty, without a line break.
        value: In [0, 1]; 1 is as bad as can be.
        time_s: When the log learned of it, seconds since the epoch.
        share: The chance with which the split gave this key to the challenger: its weight out of `SLOTS` in the route's revision
            that decided.
    """

    side: Side
    key: str
    value: float
    time_s: float
    share: float


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
    """

    alpha: float = 0.01
    interval_alpha: float = 0.05
    epoch_s: float = 600.0
    epoch_keys_min: int = 1_000
    epoch_max_s: float = 3_600.0
    keys_max: int = 200_000


@dataclass(frozen=True, slots=True)
class EvidenceReading:
    """Evidence as it stands.

    Attributes:
        log_e: Of the running epoch now.
        log_e_best: The highest that any epoch reached, after its weight; this is what is compared with `bound`.
        bound: ln(1/alpha).
        champion_count, challenger_count: Keys counted in the epoch that the means and the interval speak of.
        champion_mean, challenger_mean: Of their first outcomes; 0 without any.
        estimate: Challenger's mean less champion's.
        lower, upper: Anytime-valid interval of that difference, within [-1, 1].
        epoch: 1, 2, 3…, the running one.
        keys: Counted over all epochs.
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

    def body(self) -> Json:
        """Return the reading as an audit entry stores it."""
        return {name: getattr(self, name) for name in self.__slots__}


class TwoSample:
    """The evidence of one guardrail over one rollout. Not shared between threads."""

    def __init__(self, plan: EvidencePlan) -> None:
        self._plan = plan
        self._since_s = 0.0
        self._keys = 0
        self._best = -math.inf
        self._seen: dict[str, None] = {}
        self._epoch = _Epoch(1, plan.interval_alpha)
        self._last: _Epoch | None = None

    def observe(self, outcome: Outcome) -> bool:
        """Take one outcome, in the log's merged order, and return whether its key counted.

        A share of 0 or 1 compares nothing, and its outcomes do not count.
        """
        assert 0.0 <= outcome.value <= 1.0, "an outcome lies in [0, 1]"
        assert outcome.key, "a record without a key has that of its prediction"
        if not 0.0 < outcome.share < 1.0:
            return False
        self._roll(outcome.time_s)
        if outcome.key in self._seen:
            return False
        self._seen[outcome.key] = None
        self._keys += 1
        self._epoch.add(outcome.side is Side.CHALLENGER, outcome.value, outcome.share)
        self._best = max(self._best, self._epoch.log_e + log_weight(self._epoch.number))
        return True

    @property
    def has_reached_bound(self) -> bool:
        """Whether any epoch's evidence ever reached the bound; much cheaper than a reading."""
        return self._best >= -math.log(self._plan.alpha)

    def reading(self) -> EvidenceReading:
        """Return the evidence now.

        The means and the interval are the running epoch's, or the one's before while that had more keys of the challenger.
        """
        shown = self._epoch
        if self._last is not None and self._last.counts[1] > shown.counts[1]:
            shown = self._last
        lower, upper = shown.interval()
        champion, challenger = shown.means()
        return EvidenceReading(
            log_e=self._epoch.log_e,
            log_e_best=max(self._best, log_weight(self._epoch.number)),
            bound=-math.log(self._plan.alpha),
            champion_count=shown.counts[0],
            challenger_count=shown.counts[1],
            champion_mean=champion,
            challenger_mean=challenger,
            estimate=challenger - champion,
            lower=lower,
            upper=upper,
            epoch=self._epoch.number,
            keys=self._keys,
        )

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON; at most 17 bytes a key of the running epoch."""
        return {
            "since_s": self._since_s,
            "keys": self._keys,
            "best": None if self._best == -math.inf else self._best,
            "seen": "\n".join(self._seen),
            "epoch": self._epoch.state(),
            "last": None if self._last is None else self._last.state(),
        }

    @classmethod
    def restored(cls, plan: EvidencePlan, state: object) -> TwoSample:
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
        evidence._epoch = _Epoch.restored(fields.value("epoch"), plan.interval_alpha)
        evidence._last = _Epoch.restored(fields.value("last"), plan.interval_alpha) if fields.has("last") else None
        return evidence

    def _roll(self, time_s: float) -> None:
        """Begin an epoch where one is due. Neither side's count may play a part: the end must not depend on the split."""
        if self._keys == 0:
            self._since_s = time_s
        span_s, keys = time_s - self._since_s, len(self._seen)
        is_over = span_s >= self._plan.epoch_s and (keys >= self._plan.epoch_keys_min or span_s >= self._plan.epoch_max_s)
        if keys and (is_over or keys >= self._plan.keys_max):
            self._last, self._epoch = self._epoch, _Epoch(self._epoch.number + 1, self._plan.interval_alpha)
            self._seen = {}
            self._since_s = time_s


def log_weight(epoch: int) -> float:
    """Return ln w of an epoch's part of alpha, w = 1/(j(j+1)); over all epochs they sum to 1."""
    return -math.log(epoch * (epoch + 1))


def factor(is_challenger: bool, value: float, share: float, *, pooled: float, odds: float) -> float:
    """Return what one key's first outcome multiplies the e-process by.

    Args:
        value: The outcome, in [0, 1].
        share: The chance of the challenger, in (0, 1).
        pooled: The rate over both sides so far, in (0, 1).
        odds: The challenger's odds over the champion's that are betted on, above 1.
    """
    ta = _champion_rate(share, pooled, odds)
    tb = odds * ta / (1.0 + (odds - 1.0) * ta)
    t0 = (1.0 - share) * ta + share * tb
    rate = tb if is_challenger else ta
    return value * rate / t0 + (1.0 - value) * (1.0 - rate) / (1.0 - t0)


def _champion_rate(share: float, pooled: float, odds: float) -> float:
    """Return ta for which (1 − share)·ta + share·tb is the pooled rate: the positive root of a·ta² + b·ta − pooled."""
    a = (1.0 - share) * (odds - 1.0)
    b = (1.0 - share) + share * odds - pooled * (odds - 1.0)
    root = math.sqrt(b * b + 4.0 * a * pooled)
    return 2.0 * pooled / (b + root) if b > 0.0 else (root - b) / (2.0 * a)  # either form, without cancellation


def _log_mean(log_es: list[float]) -> float:
    top = max(log_es)
    return top + math.log(sum(math.exp(one - top) for one in log_es) / len(log_es))


class _Epoch:
    """One epoch: a two-sample e-process over first outcomes, and an empirical-Bernstein confidence sequence beside it.

    The e-process is that of Turner, Ly and Grünwald ("Generic E-variables for exact sequential k-sample tests") in blocks of one
    key: a key with outcome y multiplies it by p_side(y) / p_0(y), with p_0 = (1 − share)·p_a + share·p_b. With y fixed and the
    side left to the split the mean of that factor is (1 − share)·p_a/p_0 + share·p_b/p_0 = 1. For y between 0 and 1 the factors
    of 0 and of 1 are mixed, which keeps the mean 1. The rates ta ≤ tb follow from the past's pooled rate and an odds ratio;
    three ratios run side by side and are averaged. Where no key is harmed and some are helped, the mean is below 1.

    The interval is Waudby-Smith and Ramdas' (theorem 2) over X = (y − m)·(±1 / the side's share), whose mean is the key's own
    difference for every predictable m; m is the pooled mean, which makes X small.
    """

    __slots__ = ("centre", "counts", "level", "log_es", "number", "pull", "slack", "spread", "sums", "weight")

    def __init__(self, number: int, interval_alpha: float) -> None:
        self.number = number
        self.level = math.log(2.0 / interval_alpha) - log_weight(number)
        self.log_es = [0.0] * len(ODDS)
        self.counts = [0, 0]
        self.sums = [0.0, 0.0]
        self.centre = 0.0  # Σ X, for the predictable mean of X
        self.spread = 0.0  # Σ (X − mean before)²
        self.weight = 0.0  # Σ λ
        self.pull = 0.0  # Σ λX
        self.slack = 0.0  # Σ ψ(λR)·(X − mean before)²/R²

    def add(self, is_challenger: bool, value: float, share: float) -> None:
        pooled = (self.sums[0] + self.sums[1] + 0.1) / (self.counts[0] + self.counts[1] + 1)
        for at, odds in enumerate(ODDS):
            self.log_es[at] += math.log(factor(is_challenger, value, share, pooled=pooled, odds=odds))
        self._narrow(is_challenger, value, share)
        self.counts[is_challenger] += 1
        self.sums[is_challenger] += value

    @property
    def log_e(self) -> float:
        return _log_mean(self.log_es)

    def means(self) -> tuple[float, float]:
        champion, challenger = (total / count if count else 0.0 for total, count in zip(self.sums, self.counts, strict=True))
        return champion, challenger

    def interval(self) -> tuple[float, float]:
        if self.weight == 0.0:
            return -1.0, 1.0
        middle = self.pull / self.weight
        radius = (self.level + self.slack) / self.weight
        return max(-1.0, middle - radius), min(1.0, middle + radius)

    def _narrow(self, is_challenger: bool, value: float, share: float) -> None:
        count = self.counts[0] + self.counts[1]
        pooled = (self.sums[0] + self.sums[1] + 0.5) / (count + 1)
        mean = min(1.0, max(-1.0, self.centre / (count + 1)))
        effect = (value - pooled) * (1.0 / share if is_challenger else -1.0 / (1.0 - share))
        reach = max(pooled, 1.0 - pooled) / min(share, 1.0 - share) + abs(mean)  # of |X − mean|
        variance = (self.spread + 0.25 / (share * (1.0 - share))) / (count + 1)
        wish = math.sqrt(2.0 * self.level / (variance * max(count + 1, NARROWEST)))
        bet = min(wish * reach, 0.9)  # of [0, 1); beyond it ψ grows without bound
        gap = ((effect - mean) / reach) ** 2
        self.slack += (-math.log1p(-bet) - bet) * gap
        self.weight += bet / reach
        self.pull += bet / reach * effect
        self.spread += (effect - mean) ** 2
        self.centre += effect

    def state(self) -> Json:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def restored(cls, state: object, interval_alpha: float) -> _Epoch:
        fields = Fields(state, "evidence.epoch")
        epoch = cls(fields.integer("number", 1, COUNT_MAX), interval_alpha)
        epoch.counts = [Fields({"n": n}, "evidence.epoch").integer("n", 0, COUNT_MAX) for n in fields.items("counts", 2)]
        epoch.sums = [Fields({"s": s}, "evidence.epoch").number("s", 0.0, 1e300) for s in fields.items("sums", 2)]
        epoch.log_es = [Fields({"e": e}, "evidence.epoch").number("e", -1e300, 1e300) for e in fields.items("log_es", len(ODDS))]
        for name in ("level", "centre", "spread", "weight", "pull", "slack"):
            setattr(epoch, name, fields.number(name, -1e300, 1e300))
        return epoch


@dataclass(frozen=True, slots=True)
class ShareReading:
    """Whether the split does what it was told.

    Attributes:
        log_e_best, bound: A mismatch when the first reaches the second.
        keys, challenger_keys: Counted in the running stage.
        share: Planned in the running stage.
    """

    log_e_best: float
    bound: float
    keys: int
    challenger_keys: int
    share: float

    @property
    def is_mismatch(self) -> bool:
        """Whether the shares cannot be what was planned."""
        return self.log_e_best >= self.bound

    def body(self) -> Json:
        """Return the reading as an audit entry stores it."""
        return {name: getattr(self, name) for name in self.__slots__}


class ShareTest:
    """Sample ratio mismatch: first-seen keys against the planned share, by beta mixtures, valid whenever one looks.

    A stage ends when the share changes or its keys are too many; stages share alpha as epochs do. Two mixtures are averaged: a
    wide one, which finds a split gone wrong within dozens of keys, and a narrow one, which finds 11 % for 10 %.
    """

    STRENGTHS: Final = (10.0, 1_000.0)  # keys' worth of belief in the planned share

    def __init__(self, keys_max: int = 200_000) -> None:
        self._keys_max = keys_max
        self._best = -math.inf
        self._stage = 0
        self._share = 0.0
        self._seen: dict[str, None] = {}
        self._challenger = 0
        self._log_e = [0.0, 0.0]

    def observe(self, key: str, side: Side, share: float) -> None:
        """Take the assignment of one live prediction; a key counts when it is first seen in a stage.

        A share of 0 or 1 leaves nothing to test and does not count.
        """
        if not 0.0 < share < 1.0:
            return
        if share != self._share or len(self._seen) >= self._keys_max:
            self._stage, self._share, self._seen = self._stage + 1, share, {}
            self._challenger, self._log_e = 0, [0.0, 0.0]
        if key in self._seen:
            return
        is_challenger = side is Side.CHALLENGER
        for at, strength in enumerate(self.STRENGTHS):
            believed = (strength * share + self._challenger) / (strength + len(self._seen))
            self._log_e[at] += math.log(believed / share if is_challenger else (1.0 - believed) / (1.0 - share))
        self._seen[key] = None
        self._challenger += is_challenger
        self._best = max(self._best, _log_mean(self._log_e) + log_weight(self._stage))

    def reading(self) -> ShareReading:
        """Return where the test stands."""
        return ShareReading(
            log_e_best=max(self._best, log_weight(max(self._stage, 1))),
            bound=-math.log(SRM_ALPHA),
            keys=len(self._seen),
            challenger_keys=self._challenger,
            share=self._share,
        )

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {
            "best": None if self._best == -math.inf else self._best,
            "stage": self._stage,
            "share": self._share,
            "seen": "\n".join(self._seen),
            "challenger": self._challenger,
            "log_e": list(self._log_e),
        }

    @classmethod
    def restored(cls, state: object, keys_max: int = 200_000) -> ShareTest:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "share")
        test = cls(keys_max)
        test._best = fields.number("best", -1e300, 1e300, -math.inf)
        test._stage = fields.integer("stage", 0, COUNT_MAX)
        test._share = fields.number("share", 0.0, 1.0)
        seen = fields.text("seen", length_max=COUNT_MAX)
        test._seen = dict.fromkeys(seen.split("\n")) if seen else {}
        test._challenger = fields.integer("challenger", 0, COUNT_MAX)
        test._log_e = [Fields({"e": e}, "share.log_e").number("e", -1e300, 1e300) for e in fields.items("log_e", 2)]
        return test
