"""How long a phase of a rollout has been seen: a clock of the log that stands still while nothing comes.

A phase must not pass on data that is not there. A monitor that reads late finds the phase before still running at the log's time,
so a phase begins with its own first record; a worker that hangs, an outage, or a quiet night make a gap, of which only the first
minutes count. A function of the log alone: how late it is read changes nothing. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.fields import Fields, Json
from gateway.core.rollouts import Rollout, RolloutState

SILENCE_S: Final = 300.0  # of a gap counts; a route with a request in five minutes still gets on, if slowly


@dataclass(slots=True)
class PhaseClock:
    """The time of one phase.

    Attributes:
        revision: Of the route, from which on its records are the phase's.
        counted_s: Up to the last of them.
        last_s: When that came; None before the first.
    """

    revision: int
    counted_s: float = 0.0
    last_s: float | None = None

    def observe(self, revision: int, now_s: float) -> None:
        """Take a record of the rollout at a revision of the route; one from before the phase counts for nothing."""
        if revision >= self.revision:
            self.counted_s, self.last_s = self.passed_s(now_s), now_s

    def observe_all(self, revision: int, times_s: Sequence[float]) -> None:
        """Take several records of one revision."""
        if revision < self.revision or not times_s:
            return
        self.observe(revision, times_s[0])
        counted_s, last_s = self.counted_s, times_s[0]
        for now_s in times_s:
            counted_s, last_s = counted_s + min(now_s - last_s, SILENCE_S), now_s
        self.counted_s, self.last_s = counted_s, last_s

    def passed_s(self, now_s: float) -> float:
        """Return how long the phase has been seen."""
        return 0.0 if self.last_s is None else self.counted_s + min(now_s - self.last_s, SILENCE_S)

    def stalled(self, now_s: float) -> str:
        """Return why the clock stands still; empty while it runs."""
        if self.last_s is None:
            return "the clock stands still: the log that was read holds no record of this phase yet"
        if now_s - self.last_s <= SILENCE_S:
            return ""
        return f"the clock stands still: no record has come for {now_s - self.last_s:.0f} s"

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        return {"revision": self.revision, "counted_s": self.counted_s, "last_s": self.last_s}

    @classmethod
    def restored(cls, state: object) -> PhaseClock:
        """Go on from what `state` returned."""
        fields = Fields(state, "clock")
        last_s = fields.number("last_s", 0.0, 1e12) if fields.has("last_s") else None
        return cls(fields.integer("revision", 0, 1 << 62), fields.number("counted_s", 0.0, 1e12), last_s)


def is_resplit(before: Rollout, after: Rollout) -> bool:
    """Return whether a phase gives callers to the two versions otherwise than the one before."""
    is_copied = [one.state is RolloutState.SHADOW for one in (before, after)]
    return before.step != after.step or is_copied[0] != is_copied[1]
