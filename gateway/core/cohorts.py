"""Holds ground truth back until it is known alike for both variants, so that a version that slows its own does not look good.

Answers of the same time are a cohort. While the share of it that is known differs between the variants by more than chance, what
is known of it waits, and so does everything behind it: evidence always gets the values in the order in which they came, and only
when it gets them is decided here. So nothing here can make it invalid; `core/arrivals.py` says meanwhile whether it may be relied
on at all. No value waits for longer than a multiple of the time that it took itself. Pure; times are the log's.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.evidence import Side
from gateway.core.fields import Fields, Json

COHORT_S: Final = 60.0
COHORTS_MAX: Final = 10_000  # a week's; what is known of older ones passes at once
WAIT_FACTOR: Final = 10.0  # times its own delay, and a cohort's span: by then the test of arrivals has seen what is missing
HELD_MAX: Final = 50_000  # beyond it the oldest passes; 100 bytes of state each
EVEN_SHARE: Final = 0.9  # of the better known side: less says little of a loss
EVEN_ERRORS: Final = 4.0  # standard errors; one cohort in 16,000 waits by chance
ANSWERS_MIN: Final = 10  # of either side; fewer compare nothing


@dataclass(slots=True)
class Known:
    """What ground truth says of one answer. Never changed; not frozen, because every answer may make one.

    Attributes:
        key: The hashed assignment key.
        value: The loss, in [0, 1].
        share: The challenger's chance of this key.
        others: What else it says, a guardrail's name and what its outcome is made of each (value, beside, segment).
    """

    side: Side
    key: str
    value: float
    share: float
    others: tuple[tuple[str, float, float, str], ...] = ()


class Cohorts:
    """The cohorts of one rollout, and what waits."""

    def __init__(self) -> None:
        self._counts: dict[int, list[int]] = {}  # by cohort: answers and known of the champion, the same of the challenger
        self._held: deque[tuple[int, float, Known]] = deque()  # cohort, when it passes at the latest, what is known

    @property
    def held(self) -> int:
        """How many values wait."""
        return len(self._held)

    def expect(self, side: Side, time_s: float) -> None:
        """Count an answer that either variant could have given."""
        cohort = int(time_s // COHORT_S)
        counts = self._counts.get(cohort)
        if counts is None:
            counts = self._counts[cohort] = [0, 0, 0, 0]
            if len(self._counts) > COHORTS_MAX:
                del self._counts[next(iter(self._counts))]
        counts[2 if side is Side.CHALLENGER else 0] += 1

    def know(self, known: Known, *, answered_s: float, now_s: float) -> None:
        """Take what became known of an answer; `pop` returns it when its turn has come."""
        cohort = int(answered_s // COHORT_S)
        counts = self._counts.get(cohort)
        if counts is not None:
            counts[3 if known.side is Side.CHALLENGER else 1] += 1
        self._held.append((cohort, now_s + WAIT_FACTOR * (now_s - answered_s) + COHORT_S, known))

    def trial(self) -> CohortTrial:
        """Return what counts answers and what becomes known of them apart, until `take` is given it."""
        return CohortTrial(self._counts)

    def take(self, trial: CohortTrial) -> None:
        """Count what a trial counted."""
        self._counts.update(trial.counts)
        while len(self._counts) > COHORTS_MAX:
            del self._counts[next(iter(self._counts))]

    def pop(self, now_s: float) -> Known | None:
        """Return the next value that may pass, or None."""
        if not self._held:
            return None
        cohort, latest_s, known = self._held[0]
        if now_s < latest_s and len(self._held) <= HELD_MAX and not _is_even(self._counts.get(cohort)):
            return None
        self._held.popleft()
        return known

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {
            "counts": [[cohort, *counts] for cohort, counts in self._counts.items()],
            "held": [
                [cohort, latest_s, one.side.value, one.key, one.value, one.share, [list(other) for other in one.others]]
                for cohort, latest_s, one in self._held
            ],
        }

    @classmethod
    def restored(cls, state: object) -> Cohorts:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        fields = Fields(state, "cohorts")
        cohorts = cls()
        for item in fields.items("counts", COHORTS_MAX):
            assert isinstance(item, list)
            cohorts._counts[int(item[0])] = [int(count) for count in item[1:]]
        for item in fields.items("held", HELD_MAX + 1):
            assert isinstance(item, list)
            others = tuple((str(name), float(value), float(beside), str(segment)) for name, value, beside, segment in item[6])
            known = Known(Side(item[2]), str(item[3]), float(item[4]), float(item[5]), others)
            cohorts._held.append((int(item[0]), float(item[1]), known))
        return cohorts


class CohortTrial:
    """Counts of some cohorts beside those of a rollout, for as long as everything that becomes known passes at once.

    Attributes:
        counts: Of the cohorts met.
    """

    def __init__(self, before: Mapping[int, list[int]]) -> None:
        self._before = before
        self.counts: dict[int, list[int]] = {}

    def expect(self, is_challenger: bool, time_s: float) -> None:
        """Count an answer."""
        cohort = int(time_s // COHORT_S)
        counts = self._of(cohort) or self.counts.setdefault(cohort, [0, 0, 0, 0])
        counts[2 if is_challenger else 0] += 1

    def passes(self, is_challenger: bool, answered_s: float) -> bool:
        """Count what became known of an answer, if it need not wait; return whether."""
        counts = self._of(int(answered_s // COHORT_S))
        if counts is None:
            return True
        at = 3 if is_challenger else 1
        counts[at] += 1
        is_even = _is_even(counts)
        counts[at] -= not is_even
        return is_even

    def _of(self, cohort: int) -> list[int] | None:
        found = self.counts.get(cohort)
        if found is None and (before := self._before.get(cohort)) is not None:
            found = self.counts[cohort] = list(before)
        return found


def _is_even(counts: list[int] | None) -> bool:
    """Return whether about as much is known of either side; also when there is too little to tell."""
    if counts is None:
        return True
    champion, champion_known, challenger, challenger_known = counts
    if min(champion, challenger) < ANSWERS_MIN:
        return True
    low, high = sorted((champion_known / champion, challenger_known / challenger))
    if low >= EVEN_SHARE * high:
        return True
    pooled = (champion_known + challenger_known) / (champion + challenger)
    return high - low <= EVEN_ERRORS * math.sqrt(pooled * (1.0 - pooled) * (1.0 / champion + 1.0 / challenger))
