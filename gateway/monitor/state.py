"""What the monitor knows of one route: its revisions, its rollout's evidence, its live version's drift, and what was decided."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from gateway.core.attribution import Attribution
from gateway.core.drift import frozen_by
from gateway.core.fields import Json
from gateway.core.records import FAULTS, Kind, Outcome, PredictionRecord
from gateway.core.rollouts import RolloutState
from gateway.monitor.drifting import DriftWatch
from gateway.monitor.retraining import Retraining
from gateway.monitor.tally import VersionTally
from gateway.monitor.views import RouteView
from gateway.monitor.watch import RolloutWatch

VIEWS_MAX: Final = 20  # revisions of one route kept, those learned last; records of several come mixed
VERSIONS_MAX: Final = 50  # of one route in the tallies, the least recently seen dropped first


@dataclass(slots=True)
class RouteState:
    """One route.

    Attributes:
        view: The newest revision seen in a record, or made by the monitor itself.
        views: The revisions learned last, by number.
        tallies: By (variant, version, kind).
        decision: The last one on the rollout, as its body.
        is_drifted: Whether a rollback for drift is due; while automation is off it stays so.
        incident_count: Drift incidents of all versions that were live.
        changes: How often the monitor changed the route, by event.
        retraining: Rises of the loss that may have to be told to whoever trains.
    """

    view: RouteView
    views: dict[int, RouteView] = field(default_factory=dict)
    tallies: dict[tuple[str, str, str], VersionTally] = field(default_factory=dict)
    watch: RolloutWatch | None = None
    drift: DriftWatch | None = None
    last_increase_s: float | None = None
    decision: Json = field(default_factory=dict)
    is_drifted: bool = False
    incident_count: int = 0
    changes: dict[str, int] = field(default_factory=dict)
    retraining: Retraining = field(default_factory=Retraining)
    _last: tuple[tuple[str, str, str], VersionTally] | None = None  # the tally asked for last, with its key

    def learn(self, view: RouteView) -> None:
        """Take a revision of the route; the newest becomes its view."""
        self.views.pop(view.revision, None)
        self.views[view.revision] = view
        while len(self.views) > VIEWS_MAX:
            del self.views[next(iter(self.views))]  # not the oldest: a monitor that is behind needs just those
        if view.revision >= self.view.revision:
            self.view = view

    def remove(self, view: RouteView) -> None:
        """Take that the route was deleted: what its promoted version was watched for, and what it asked for on drift, is over.

        Args:
            view: What answers under its name now.
        """
        self.view = view
        self.is_drifted = False
        if self.watch is not None and self.watch.rollout.is_cooling:
            self.watch.learn(replace(self.watch.rollout, cools_until_s=0.0))

    def tally(self, variant: str, version: str, kind: Kind) -> VersionTally:
        """Return the tally of a version, making room for a new one."""
        key = (variant, version, kind._value_)  # as `value`, ten times as fast
        if self._last is not None and self._last[0] == key:
            return self._last[1]
        found = self.tallies.pop(key, None) or VersionTally()
        self.tallies[key] = found
        if len(self.tallies) > VERSIONS_MAX:
            del self.tallies[next(iter(self.tallies))]
        self._last = (key, found)
        return found

    def count(self, record: PredictionRecord) -> None:
        """Count a record's attempts, but for abandoned ones: they say nothing of the version, neither sound nor failed."""
        for attempt in record.attempts:
            outcome = attempt.outcome
            if outcome is not Outcome.ABANDONED:
                window = self.tally(attempt.variant, attempt.version, record.kind).window(record.time_s)
                is_fault = outcome is not Outcome.OK and outcome in FAULTS  # to hash an enum costs more than the rest
                window.count_prediction(record.time_s, is_fault=is_fault, latency_us=attempt.duration_us)

    def frozen_by(self, now_s: float) -> Attribution:
        """Return what freezes the route."""
        return frozen_by(self.drift.incidents, now_s) if self.drift else Attribution.NONE


def is_due(state: RouteState) -> bool:
    """Return whether each second may bring a decision on the route's rollout: it is open, or its promotion cools down."""
    rollout = state.watch.rollout if state.watch is not None else None
    if rollout is None or not rollout.is_watched:
        return False
    return rollout.state is not RolloutState.LIVE or state.view.live_version == rollout.challenger
