"""Whether a route's model is to be trained anew: rises of its loss, and what ran beside them.

Two things tell of a rise: the live version's own first losses, and the champion's past while a rollout compares it. A function of
the log alone, like all that the monitor decides; asking is `monitor/act.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.core.attribution import Attribution, PastWatch
from gateway.core.drift import MERGE_S, Incident
from gateway.core.fields import Json
from gateway.core.hindsight import LOSS, RAILS
from gateway.core.outcomes import Departure
from gateway.core.retraining import Rise, attributed_rise
from gateway.monitor.watch import RolloutWatch, is_cooling


@dataclass(frozen=True, slots=True)
class Request:
    """What would be asked of whoever trains.

    Attributes:
        key: The same whenever the same log is read.
        rollout: The rollout that tells of it, or empty.
        attribution: WORLD when it is to be asked, NONE while that is not known yet.
    """

    key: str
    rise: Rise
    rollout: str
    attribution: Attribution
    why: str

    def evidence(self, model: str, until_s: float) -> Json:
        """Return what an audit entry keeps of it, but for the attribution."""
        finding = {"measure": "loss", **self.rise.body()}
        return {"model": model, "why": self.why, "finding": finding, "since_s": self.rise.since_s, "until_s": until_s}


@dataclass(slots=True)
class Retraining:
    """What one route knows of rises.

    Attributes:
        rise: Of the version that is live, not asked for yet.
        risen_s: When it was found, in the log's time.
        asked_s: When it was last asked; None before.
        rollout: During which it was asked for the champion's past.
    """

    rise: Rise | None = None
    risen_s: float = 0.0
    asked_s: float | None = None
    rollout: str = ""

    def learn(self, version: str, departure: Departure, now_s: float) -> None:
        """Take an alarm of the live version's losses."""
        self.rise, self.risen_s = _rise_of(version, departure), now_s

    def drop(self) -> None:
        """Forget the rise."""
        self.rise = None

    def asked(self, request: Request, now_s: float) -> None:
        """Take that it was asked."""
        self.rise, self.asked_s, self.rollout = None, now_s, request.rollout or self.rollout

    def request(self, live: str, watch: RolloutWatch | None, incidents: Sequence[Incident]) -> Request | None:
        """Return what would be asked now; None when nothing rose of the live version."""
        found = self._of_version(live) or self._of_rollout(watch)
        if found is None:
            return None
        is_broken = any(
            one.attribution is Attribution.DATA and one.last_at_s >= found.rise.since_s - MERGE_S for one in incidents
        )
        paired = []
        if watch is not None and watch.hindsight is not None and is_cooling(watch.rollout):
            paired = [one for one in watch.hindsight.findings() if one.guardrail == RAILS[LOSS]]
        is_compared = watch is not None and watch.rollout.is_open
        attributed = attributed_rise(found.rise, paired, is_compared=is_compared, is_broken=is_broken)
        return replace(found, attribution=attributed.attribution, why=attributed.why)

    def _of_version(self, live: str) -> Request | None:
        if self.rise is None or self.rise.version != live:
            return None
        return Request(f"{live}:{self.risen_s:.3f}", self.rise, "", Attribution.NONE, "")

    def _of_rollout(self, watch: RolloutWatch | None) -> Request | None:
        if watch is None or not watch.rollout.is_open or watch.rollout.id == self.rollout:
            return None
        move = watch.world_loss()
        if move is None:
            return None
        rollout = watch.rollout
        rise = Rise(rollout.champion, rollout.started_at_s, move.recent, move.past, move.bound, PastWatch.RECENT)
        return Request(rollout.id, rise, rollout.id, Attribution.NONE, "")


def _rise_of(version: str, departure: Departure) -> Rise:
    return Rise(
        version=version,
        since_s=departure.since_s,
        loss=departure.mean,
        reference=departure.reference,
        bound=departure.high,
        outcomes=departure.outcomes,
        log_e=departure.log_e,
        log_e_bound=departure.bound,
    )
