"""Whether ground truth comes alike for both variants of a rollout, valid whenever one looks.

A version whose ground truth comes late, or not at all where it was wrong, looks good. If the version plays no part in what
becomes known and when, then which keys become known in which order is settled before the split, and each of them is the
challenger's with the planned chance. So the side of every key is tested when its first ground truth comes; no age has to be
agreed on from which ground truth counts as missing, and a version that only slows it is seen as well. Pure; natural logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from gateway.core.evidence import COUNT_MAX, Side, log_peak, log_weight
from gateway.core.fields import Fields, Json

ARRIVAL_ALPHA: Final = 0.001  # as a sample ratio mismatch: it makes verdicts void, so it is raised more rarely than a rollback
ODDS: Final = (0.2, 0.5, 0.8, 1.25, 2.0, 5.0)  # of the challenger's ground truth; a tenth more or less says little of a loss
WAITING_MAX: Final = 128  # keys that wait to be counted together: nobody looks at each
KEYS_MAX: Final = 200_000  # remembered; 17 bytes of state each
CORRECTED_SHARE_MAX: Final = 0.05  # of the joined values; above it evidence rests on values that no longer stand
CORRECTED_MIN: Final = 20  # below it a share says nothing


@dataclass(frozen=True, slots=True)
class ArrivalReading:
    """Whether the ground truth of a rollout can be relied on.

    Attributes:
        log_e_best, bound: A mismatch when the first reaches the second.
        keys, challenger_keys: Whose ground truth came, in the running stage.
        expected_keys: The challenger's, had it come alike for both.
        values, corrected: Joined over the whole rollout, and those of them that a later value contradicted.
    """

    log_e_best: float = 0.0
    bound: float = -math.log(ARRIVAL_ALPHA)
    keys: int = 0
    challenger_keys: int = 0
    expected_keys: float = 0.0
    values: int = 0
    corrected: int = 0

    @property
    def doubt(self) -> str:
        """Why no verdict on ground truth stands, as a sentence with its numbers; empty when nothing is wrong with it."""
        if self.log_e_best >= self.bound:
            came = f"{self.challenger_keys} of {self.keys} keys are the challenger's, {self.expected_keys:.0f} expected"
            return f"ground truth comes unequally: {came}"
        if self.corrected >= CORRECTED_MIN and self.corrected > CORRECTED_SHARE_MAX * self.values:
            return f"ground truth was corrected: {self.corrected} of {self.values} values"
        return ""

    def body(self) -> Json:
        """Return the reading as an audit entry stores it."""
        return {name: getattr(self, name) for name in self.__slots__} | {"doubt": self.doubt}


class Arrivals:
    """The test over one rollout: bets on several odds that the challenger's ground truth comes more or less often, averaged.

    A key counts with its first ground truth. When too many are remembered a new stage begins, with its part of alpha.
    """

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        self._keys_max = keys_max
        self._best = log_weight(1)
        self._stage = 1
        self._seen: dict[str, None] = {}
        self._challenger = 0
        self._expected = 0.0
        self._log_es = [0.0] * len(ODDS)
        self._values = 0
        self._corrected = 0
        self._waiting: list[tuple[float, ...]] = []  # what keys of the stage add to each bet's logarithm

    def observe(self, key: str, side: Side, share: float) -> None:
        """Take a value of ground truth of an answer that the split gave to a side with that chance of the challenger."""
        self._values += 1
        if key in self._seen or not 0.0 < share < 1.0:
            return
        if len(self._seen) >= self._keys_max:
            self._settle()
            self._stage, self._seen = self._stage + 1, {}
            self._challenger, self._expected, self._log_es = 0, 0.0, [0.0] * len(ODDS)
        self._seen[key] = None
        is_challenger = side is Side.CHALLENGER
        self._challenger += is_challenger
        self._expected += share
        self._waiting.append(_log_factors(share, is_challenger))
        if len(self._waiting) >= WAITING_MAX:
            self._settle()

    def observe_all(self, keys: Sequence[str], sides: Sequence[bool], shares: Sequence[float]) -> None:
        """Take several values; `sides` says which are the challenger's."""
        for key, is_challenger, share in zip(keys, sides, shares, strict=True):
            if key not in self._seen:
                self.observe(key, Side.CHALLENGER if is_challenger else Side.CHAMPION, share)
            else:
                self._values += 1

    def correct(self) -> None:
        """Count a value that replaces one observed earlier."""
        self._corrected += 1

    def reading(self) -> ArrivalReading:
        """Return where the test stands."""
        self._settle()
        return ArrivalReading(
            log_e_best=self._best,
            keys=len(self._seen),
            challenger_keys=self._challenger,
            expected_keys=self._expected,
            values=self._values,
            corrected=self._corrected,
        )

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        self._settle()
        return {
            "best": self._best,
            "stage": self._stage,
            "seen": "\n".join(self._seen),
            "challenger": self._challenger,
            "expected": self._expected,
            "log_es": list(self._log_es),
            "values": self._values,
            "corrected": self._corrected,
        }

    @classmethod
    def restored(cls, state: object, keys_max: int = KEYS_MAX) -> Arrivals:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "arrivals")
        test = cls(keys_max)
        test._best = fields.number("best", -1e300, 1e300)
        test._stage = fields.integer("stage", 1, COUNT_MAX)
        seen = fields.text("seen", length_max=COUNT_MAX)
        test._seen = dict.fromkeys(seen.split("\n")) if seen else {}
        test._challenger = fields.integer("challenger", 0, COUNT_MAX)
        test._expected = fields.number("expected", 0.0, 1e300)
        test._log_es = [Fields({"e": e}, "arrivals.log_es").number("e", -1e300, 1e300) for e in fields.items("log_es", len(ODDS))]
        test._values = fields.integer("values", 0, COUNT_MAX)
        test._corrected = fields.integer("corrected", 0, COUNT_MAX)
        return test

    def _settle(self) -> None:
        """Take the keys that wait, in columns, to the bit as if one by one."""
        if not self._waiting:
            return
        rows = np.add.accumulate(np.asarray([self._log_es, *self._waiting]))[1:].T
        self._waiting, self._log_es = [], rows[:, -1].tolist()
        weight = log_weight(self._stage)
        self._best = max(self._best, log_peak(rows, self._best - weight) + weight)


@lru_cache(1_000)  # the shares of the revisions that late ground truth still speaks of
def _log_factors(share: float, is_challenger: bool) -> tuple[float, ...]:
    return tuple(math.log((odds if is_challenger else 1.0) / (1.0 - share + odds * share)) for odds in ODDS)
