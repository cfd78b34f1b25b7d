"""Whether a route's model is to be trained anew: rises of its loss, and what ran beside them.

Two things tell of a rise: the live version's own first losses, and the champion's past while a rollout compares it. A function of
the log alone, like all that the monitor decides; asking is `monitor/act.py`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.attribution import Attribution, PastWatch
from gateway.core.drift import MERGE_S, Incident
from gateway.core.fields import Json
from gateway.core.hindsight import LOSS, RAILS
from gateway.core.outcomes import Departure
from gateway.core.retraining import Rise, attributed_rise
from gateway.monitor.watch import RolloutWatch

REST_S: Final = 600.0  # between a rise and the request: broken inputs, or the shadow, may explain it; training takes hours


@dataclass(frozen=True, slots=True)
class Request:
    """What would be asked of whoever trains.

    Attributes:
        key: The same whenever the same log is read.
        attribution: WORLD when it is to be asked, NONE while that is not known yet.
    """

    key: str
    rise: Rise
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
        rise: Not asked for yet.
        risen_s: When it was found, in the log's time.
        rollout: The rollout that told of it, or empty.
        asked_s: When it was last asked; None before.
        told: The rollout that told of a rise last; it tells of no other.
    """

    rise: Rise | None = None
    risen_s: float = 0.0
    rollout: str = ""
    asked_s: float | None = None
    told: str = ""

    def learn(self, version: str, departure: Departure, now_s: float) -> None:
        """Take an alarm of the live version's losses."""
        self.rise, self.risen_s, self.rollout = _rise_of(version, departure), now_s, ""

    def look(self, watch: RolloutWatch | None, now_s: float) -> None:
        """Look at the champion's past; call it once in each second of the log's time."""
        if self.rise is not None or watch is None or not watch.rollout.is_open or watch.rollout.id == self.told:
            return
        move = watch.world_loss()
        if move is not None:
            rollout = watch.rollout
            self.rise = Rise(rollout.champion, rollout.started_at_s, move.recent, move.past, move.bound, PastWatch.RECENT)
            self.risen_s, self.rollout, self.told = now_s, rollout.id, rollout.id

    def drop(self) -> None:
        """Forget the rise."""
        self.rise = None

    def asked(self, now_s: float) -> None:
        """Take that it was asked."""
        self.rise, self.asked_s = None, now_s

    def request(self, live: str, watch: RolloutWatch | None, incidents: Sequence[Incident]) -> Request | None:
        """Return what would be asked now; None when nothing rose of the live version."""
        rise = self.rise
        if rise is None or rise.version != live:
            return None
        is_broken = any(one.attribution is Attribution.DATA and one.last_at_s >= rise.since_s - MERGE_S for one in incidents)
        paired = []
        if watch is not None and watch.hindsight is not None and watch.rollout.is_cooling:
            paired = [one for one in watch.hindsight.findings() if one.guardrail == RAILS[LOSS]]
        is_compared = watch is not None and watch.rollout.is_open
        attributed = attributed_rise(rise, paired, is_compared=is_compared, is_broken=is_broken)
        return Request(self.rollout or f"{live}:{self.risen_s:.3f}", rise, attributed.attribution, attributed.why)


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
