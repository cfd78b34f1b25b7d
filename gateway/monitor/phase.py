"""What the assignments of one rollout say: the split's own share, bursts of faults, and how far its running phase was seen.

Folds records in merged order, and runs of them; no I/O and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from gateway.core.cohorts import CohortTrial
from gateway.core.evidence import Outcomes, ShareTest, Side
from gateway.core.fields import Fields, Json
from gateway.core.phases import PhaseClock, is_resplit
from gateway.core.rollouts import Rollout
from gateway.core.trouble import BurstWatch

STEP_KEYS_MAX: Final = 100_000  # counted at one step; a plan that asks for more waits for a person


@dataclass(slots=True)
class RunOfRollout:
    """What several records in a row say of one rollout: sound answers of the assigned variants, and truths of such.

    Attributes:
        id: Of the rollout.
        cohorts: Answers and truths counted.
        revision: That decided on the answers.
        seen: The answers, without a fault.
        times_s: Of the answers.
        told: What became known, the losses.
    """

    id: str
    cohorts: CohortTrial
    revision: int = 0
    seen: Outcomes = field(default_factory=lambda: Outcomes([], [], [], []))
    times_s: list[float] = field(default_factory=list)
    told: Outcomes = field(default_factory=lambda: Outcomes([], [], [], []))


@dataclass(slots=True)
class Told:
    """Whose answer the truth became known of. Never changed; not frozen, because every value of ground truth makes one.

    Attributes:
        key: The hashed assignment key.
        share: The challenger's chance of this key.
        answered_s: When it was answered, in the log's time.
    """

    prediction_id: str
    side: Side
    key: str
    share: float
    answered_s: float


class Phase:
    """The assignments of one rollout, and those of its running phase.

    Attributes:
        share: Whether the split does what it was told, over the whole rollout.
        burst: Hard faults in a row.
        clock: How long the phase was seen.
        keys: The challenger's in the phase.
    """

    def __init__(self, rollout: Rollout) -> None:
        self.share = ShareTest()
        self.burst = BurstWatch()
        self.clock = PhaseClock(rollout.since_revision)
        self.keys: dict[str, None] = {}

    def learn(self, before: Rollout, after: Rollout, revision: int) -> None:
        """Take the rollout as it stands now; a new phase begins to count anew, with records from a revision on."""
        if after.since_s != before.since_s:
            self.keys = {}
            first = max(revision, after.since_revision)
            self.clock = PhaseClock(first if is_resplit(before, after) else self.clock.revision)

    def count_key(self, key: str, revision: int) -> None:
        """Count a key of the challenger in this phase."""
        if revision >= self.clock.revision and len(self.keys) < STEP_KEYS_MAX:
            self.keys[key] = None

    def take(self, run: RunOfRollout) -> None:
        """Take the answers of a run."""
        seen: Outcomes = run.seen
        if not seen.keys:
            return
        self.clock.observe_all(run.revision, run.times_s)
        self.share.observe_all(seen.keys, seen.sides, seen.shares[0])
        self.burst.observe_sound(seen.sides, seen.keys, run.times_s)
        if run.revision >= self.clock.revision:
            self._count_keys([key for key, is_challenger in zip(seen.keys, seen.sides, strict=True) if is_challenger])

    def _count_keys(self, keys: Sequence[str]) -> None:
        fresh = (key for key in dict.fromkeys(keys) if key not in self.keys)
        self.keys |= dict.fromkeys(islice(fresh, STEP_KEYS_MAX - len(self.keys)))

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {
            "share": self.share.state(),
            "burst": self.burst.state(),
            "step_keys": list(self.keys),
            "clock": self.clock.state(),
        }

    def restore(self, fields: Fields) -> None:
        """Go on from what `state` returned.

        Raises:
            MalformedRequest: it is not such a state.
        """
        self.share = ShareTest.restored(fields.value("share"))
        self.burst = BurstWatch.restored(fields.value("burst"))
        self.keys = dict.fromkeys(str(key) for key in fields.items("step_keys", STEP_KEYS_MAX))
        self.clock = PhaseClock.restored(fields.value("clock"))
