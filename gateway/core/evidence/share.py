"""Whether the split does what it was told: first-seen keys against the planned share. Pure; natural logarithms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.core.evidence.bets import grown, log_peak, log_weight, logs
from gateway.core.evidence.plan import COUNT_MAX, Side
from gateway.core.fields import Fields, Json

WAITING_MAX: Final = 128  # keys that wait to be counted together: nobody looks at each
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
        self._waiting: list[bool] = []  # keys of the stage that the test has yet to take: whether each is the challenger's

    def observe(self, key: str, side: Side, share: float) -> None:
        """Take the assignment of one live prediction; a key counts when it is first seen in a stage.

        A share of 0 or 1 leaves nothing to test and does not count.
        """
        if not 0.0 < share < 1.0:
            return
        if share != self._share or len(self._seen) >= self._keys_max:
            self._settle()
            self._stage, self._share, self._seen = self._stage + 1, share, {}
            self._challenger, self._log_e = 0, [0.0, 0.0]
        if key in self._seen:
            return
        self._seen[key] = None
        self._waiting.append(side is Side.CHALLENGER)
        if len(self._waiting) >= WAITING_MAX:
            self._settle()

    def observe_all(self, keys: Sequence[str], sides: Sequence[bool], share: float) -> None:
        """Take several assignments at one share; `sides` says which are the challenger's."""
        if share != self._share or len(self._seen) + len(keys) > self._keys_max:
            for key, is_challenger in zip(keys, sides, strict=True):
                self.observe(key, Side.CHALLENGER if is_challenger else Side.CHAMPION, share)
            return
        seen, waiting = self._seen, self._waiting
        for key, is_challenger in zip(keys, sides, strict=True):
            if key not in seen:
                seen[key] = None
                waiting.append(is_challenger)
        if len(waiting) >= WAITING_MAX:
            self._settle()

    def reading(self) -> ShareReading:
        """Return where the test stands."""
        self._settle()
        return ShareReading(
            log_e_best=max(self._best, log_weight(max(self._stage, 1))),
            bound=-math.log(SRM_ALPHA),
            keys=len(self._seen),
            challenger_keys=self._challenger,
            share=self._share,
        )

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        self._settle()
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

    def _settle(self) -> None:
        """Take the keys that wait, in columns, to the bit as if one by one."""
        if not self._waiting:
            return
        sides, share, count = np.asarray(self._waiting), self._share, len(self._waiting)
        challengers = self._challenger + np.cumsum(sides)
        before, keys = challengers - sides, len(self._seen) - count + np.arange(count)
        rows = np.empty((len(self.STRENGTHS), count))
        for at, strength in enumerate(self.STRENGTHS):
            believed = (strength * share + before) / (strength + keys)
            found = logs(np.where(sides, believed / share, (1.0 - believed) / (1.0 - share)))
            rows[at] = grown(self._log_e[at], found)[1:]
        self._waiting, self._challenger, self._log_e = [], int(challengers[-1]), rows[:, -1].tolist()
        weight = log_weight(self._stage)
        self._best = max(self._best, log_peak(rows, self._best - weight) + weight)
