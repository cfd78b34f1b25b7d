"""Whether the split does what it was told: first-seen keys against the planned share. Pure; natural logarithms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from gateway.core.evidence.bets import log_mean, log_weight
from gateway.core.evidence.plan import COUNT_MAX, Side
from gateway.core.fields import Fields, Json

SRM_ALPHA: Final = 0.001  # a mismatch makes every verdict void, so it is raised ten times more rarely than a rollback


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
        weight = log_weight(self._stage)
        if max(self._log_e) + weight > self._best:  # the mean of the e-values is at most the greatest
            self._best = max(self._best, log_mean(self._log_e) + weight)

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
