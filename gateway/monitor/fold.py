"""The monitor's state, and how one record changes it.

What comes out of it is a function of the merged log and of the views it was given: no I/O, no clock but the log's. A record that
makes a decision due says so in `due`; whoever drives the fold decides and acts before the next record.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from gateway.core.hindsight import ERRORS, LOSS, Worsening
from gateway.core.losses import loss, scored
from gateway.core.models import Version
from gateway.core.policy import INCREASES
from gateway.core.records import FAULTS, Cursor, Elsewhere, GroundTruthRecord, Kind, Outcome, PredictionRecord
from gateway.core.rollouts import Event, Rollout
from gateway.core.routes import DriftAction
from gateway.core.sampling import RECORD_EVENTS, Sampling
from gateway.core.trouble import FleetBreaker
from gateway.monitor.drifting import DriftWatch
from gateway.monitor.increases import Increases
from gateway.monitor.measured import Known
from gateway.monitor.merge import Merged
from gateway.monitor.phase import Told
from gateway.monitor.rows import RECORD_ROWS_MAX, row_count
from gateway.monitor.sides import SIDES
from gateway.monitor.state import RouteState, is_due
from gateway.monitor.truth import Joined, TruthJoin, unpacked
from gateway.monitor.views import RouteView
from gateway.monitor.waiting import Places
from gateway.monitor.watch import RolloutWatch
from gateway.ports.readings import Detector

_ROLLBACKS: Final = frozenset({Event.CONVICT, Event.ROLLBACK})  # of the monitor's own events


class Fold:
    """Everything the monitor knows from the log.

    Attributes:
        now_s: The time of the last record.
        routes: By name.
        due: Routes with a decision due, in order.
        sought: Predictions to look for in the archive before the next record, because ground truth came for them.
        fleet: The routes that were rolled back lately.
        increases: What the audit log says of the monitor's own; no part of a checkpoint.
        sampling: The share that is looked at while more comes than the budget allows.
        elsewhere: Routes that other processes handle.
        ahead: Routes folded further than the others by another process, which handed them over: their records before a cursor
            are passed over.
        records: Folded so far.
        left: Those of them that other processes handle.
        unscored: Values of ground truth that fit no answer.
        epoch_s: Of the evidence, see `core/evidence/plan.py`.
        unplaced: Live records of a revision that was not found; they are no evidence.
        places: Shared by what waits for its ground truth.
    """

    def __init__(
        self,
        detector: Callable[[int], Detector],
        *,
        epoch_s: float,
        truth_rows_max: int,
        false_alarm_events: float,
        events_per_s_max: float = math.inf,
    ) -> None:
        self._detector = detector
        self.epoch_s = epoch_s
        self._false_alarm_events = false_alarm_events
        self.now_s = 0.0
        self.routes: dict[str, RouteState] = {}
        self.truth = TruthJoin(truth_rows_max)
        self.versions: dict[tuple[str, str], Version | None] = {}
        self.due: dict[str, None] = {}
        self.sought: list[str] = []
        self.fleet = FleetBreaker()
        self.increases = Increases()
        self.sampling = Sampling(events_per_s_max)
        self.elsewhere: dict[str, None] = {}
        self.ahead: list[tuple[Cursor, frozenset[str]]] = []
        self.records = 0
        self.left = 0
        self.unscored = 0
        self.unplaced = 0
        self.places = Places()

    def lacks_view(self, record: PredictionRecord) -> bool:
        """Return whether the route at the record's revision must be learned before it is folded."""
        state = self.routes.get(record.route)
        return state is None or record.revision not in state.views

    def learn(self, view: RouteView) -> None:
        """Take a route at a revision; the rollout of the newest is the one watched."""
        state = self.routes.setdefault(view.name, RouteState(view))
        state.learn(view)
        if view.rollout is not None and view is state.view:
            self._watch(state, view.rollout)

    def take(self, merged: Merged) -> None:
        """Fold one record."""
        second = int(self.now_s)
        self.now_s = now_s = max(self.now_s, merged.time_s)
        self.records += 1
        if self.ahead:
            self.ahead = [one for one in self.ahead if merged.offset < one[0].get(merged.stream, 0)]
        match merged.record:
            case PredictionRecord() as record:
                if not self.ahead or not self._is_ahead(record.route):
                    self._predict(record)
            case GroundTruthRecord():
                self._learn(merged.record)
            case Elsewhere(prediction_id, _, route):
                self.left += 1
                self.elsewhere[route] = None
                self.truth.leave(prediction_id)
        if int(now_s) != second:
            self.sought = self.truth.sought(self.now_s)
            for name, state in self.routes.items():
                if self._is_ahead(name):
                    continue
                state.retraining.look(state.watch, self.now_s)
                is_reopened = state.watch is not None and state.watch.wants_look(self.now_s)
                if state.is_drifted or state.retraining.rise is not None or is_due(state) or is_reopened:
                    self.due[name] = None

    @property
    def route_count(self) -> int:
        """Of this process and all others."""
        return len(self.routes) + len(self.elsewhere)

    def _is_ahead(self, route: str) -> bool:
        return any(route in routes for _, routes in self.ahead)

    def _learn(self, truth: GroundTruthRecord) -> None:
        if self.truth.is_left(truth.prediction_id):
            self.left += 1
            return
        if self.ahead and self._is_ahead(self.truth.route_of(truth.prediction_id)):
            return
        self.sampling.count(RECORD_EVENTS, self.now_s)
        is_missing = not self.sampling.has_taken(truth.prediction_id)
        joined = self.truth.learn(truth.prediction_id, truth.row, truth.value, self.now_s, is_missing=is_missing)
        if joined is not None:
            self._know(truth.prediction_id, joined)

    def acted(self, name: str, event: Event, rollout: Rollout | None, view: RouteView) -> None:
        """Take what the monitor itself changed."""
        state = self.routes[name]
        state.learn(view)
        if rollout is not None and state.watch is not None and state.watch.rollout.id == rollout.id:
            state.watch.learn(rollout, view.revision)
        state.changes[event.value] = state.changes.get(event.value, 0) + 1
        if event in INCREASES:
            state.last_increase_s = self.now_s
        elif event in _ROLLBACKS:
            self.fleet.observe(name, self.now_s)

    def _watch(self, state: RouteState, rollout: Rollout) -> None:
        if state.watch is None or state.watch.rollout.id != rollout.id:
            versions = self.versions_of(rollout.model)
            state.watch, state.decision = RolloutWatch(rollout, epoch_s=self.epoch_s, version_of=versions), {}
        else:
            state.watch.learn(rollout, state.view.revision)

    def _predict(self, record: PredictionRecord) -> None:
        state = self.routes[record.route]
        version = self.versions.get((record.model, record.version))
        columns = 0 if version is None else len(version.columns) + len(version.summaries)
        self.sampling.count(RECORD_EVENTS + min(row_count(record), RECORD_ROWS_MAX) * (columns + 1), self.now_s)
        state.count(record)
        if state.watch is not None and is_due(state) and state.watch.observe_beside(record, self.now_s):
            self.due[record.route] = None
        if record.kind not in (Kind.LIVE, Kind.SHADOW):
            return
        view = state.views.get(record.revision, state.view)
        is_watched = self.sampling.takes(record.shadow_of or record.prediction_id)
        watch = state.watch
        if is_watched and watch is not None:
            self._pair(state, watch, view, record)
        if record.kind is not Kind.LIVE:
            return
        self.unplaced += not view.is_known
        if watch is not None and watch.aftermath is not None:
            watch.observe_after(record)
        rollout = self.evidence_of(state, view, record) if watch is not None and watch.rollout.is_open else ""
        if rollout and watch is not None:
            if not self.sampling.takes(record.assignment_key):
                watch.passed_over += 1
                rollout = ""
            elif watch.observe(record, self.now_s, view.share):
                self.due[record.route] = None
        if is_watched or rollout:
            self._expect(state, record, version, rollout, view)
        else:
            self.sampling.passed_over += 1
        if is_watched:
            self._observe_drift(state, record, version)

    def _pair(self, state: RouteState, watch: RolloutWatch, view: RouteView, record: PredictionRecord) -> None:
        """Let a live answer wait for its copy, or join the two, while a rollout that asks for it is open or cools down."""
        if not watch.hears_pairs or not is_due(state):
            return
        is_its = view.rollout.id == watch.rollout.id if view.rollout is not None else not watch.rollout.is_open
        if is_its and watch.observe_pairable(record, self.now_s):
            self.due[record.route] = None

    def recall(self, record: PredictionRecord, known: Iterable[GroundTruthRecord]) -> None:
        """Take a prediction from the archive, with its ground truth there, because more of that came.

        Its route must be learned at its revision, and its version.
        """
        state = self.routes[record.route]
        view = state.views.get(record.revision, state.view)
        rollout = self.evidence_of(state, view, record) if self.sampling.has_taken(record.assignment_key) else ""
        version = self.versions.get((record.model, record.version))
        waiting = None
        if record.kind is Kind.LIVE:
            waiting = self.places.waiting(record, version, rollout=rollout, share=view.share, now_s=self.now_s)
        if waiting is None or version is None:
            self.truth.miss(record.prediction_id, self.now_s, for_good=True)
            return
        fits = partial(loss, version.target, record.outputs)
        values = [(truth.row, truth.value, truth.time_s) for truth in known if fits(truth.row, truth.value) is not None]
        for joined in self.truth.recall(record.prediction_id, replace(waiting, time_s=record.time_s), values):
            self._know(record.prediction_id, joined)

    def evidence_of(self, state: RouteState, view: RouteView, record: PredictionRecord) -> str:
        """Return the id of the rollout whose evidence a live record is, ended or not; empty when it is none."""
        watch = state.watch
        is_evidence = (
            watch is not None
            and view.rollout is not None
            and view.rollout.id == watch.rollout.id
            and watch.accepts(record)
            and 0.0 < view.share < 1.0
        )
        return watch.rollout.id if is_evidence and watch is not None else ""

    def _expect(
        self, state: RouteState, record: PredictionRecord, version: Version | None, rollout: str, view: RouteView
    ) -> None:
        waiting = self.places.waiting(record, version, rollout=rollout, share=view.share, now_s=self.now_s)
        if waiting is None or version is None:
            return
        tally = state.tally(record.variant, record.version, record.kind)
        tally.rows += waiting.rows
        waiting.estimate = tally.estimated(version.target, record.outputs, waiting.rows)
        if waiting.estimate is not None:
            tally.window(record.time_s).count_estimate(waiting.estimate)
        if waiting.place.rollout and state.watch is not None:
            state.watch.cohorts.expect(SIDES[record.variant], self.now_s)
        for joined in self.truth.expect(record.prediction_id, waiting):
            self._know(record.prediction_id, joined)

    def _know(self, prediction_id: str, joined: Joined) -> None:
        """Score one row of an answer against its ground truth."""
        place = joined.waiting.place
        version = self.versions.get((place.model, place.version))
        state = self.routes.get(place.route)
        if version is None or state is None:
            return
        answer = unpacked(place, joined.waiting.answer, version.target.output)
        found = scored(version.target, (answer,), joined.row, joined.value)
        if found is None:
            self.unscored += 1
            self.truth.refuse(prediction_id, joined)
            return
        value, statement = found
        watch = state.watch if place.rollout and state.watch is not None and state.watch.rollout.id == place.rollout else None
        tally = state.tally(place.variant, place.version, Kind.LIVE)
        before = None if joined.corrects is None else loss(version.target, (answer,), joined.row, joined.corrects[0])
        if joined.corrects is not None and before is not None:
            tally.correct(joined.corrects[1], before, value)
            if watch is not None:
                watch.arrivals.correct()
            return
        tally.rows_known += 1
        if statement is not None:
            tally.estimate.learn(statement, value, joined.waiting.estimate)
        tally.delays.count(max(0.0, joined.time_s - joined.waiting.time_s))
        tally.window(joined.time_s).count_truth(joined.time_s, value)
        if state.drift is not None and state.drift.version == place.version:
            self._observe_loss(state, state.drift, value, joined)
        self._know_pair(state, prediction_id, joined)
        if watch is None and state.watch is not None:
            state.watch.know_after(place.version, joined.waiting.key, value, answered_s=joined.waiting.time_s)
        if watch is not None:
            told = Told(prediction_id, SIDES[place.variant], joined.waiting.key, place.share, joined.waiting.time_s)
            if watch.know(told, Known(version, answer, joined.row, joined.value, value), now_s=self.now_s):
                self.due[place.route] = None

    def _know_pair(self, state: RouteState, prediction_id: str, joined: Joined) -> None:
        """Score both answers where a shadow's was joined to this one."""
        watch = state.watch
        if watch is None or not watch.hears_pairs or not is_due(state):
            return
        if watch.observe_truth(prediction_id, joined.row, joined.value, self.now_s):
            self.due[joined.waiting.place.route] = None

    def _observe_drift(self, state: RouteState, record: PredictionRecord, answering: Version | None) -> None:
        """Feed the live version's own answers and faults to its drift watch."""
        live = state.view.live_version if record.revision else record.version  # revision 0: whatever the champion is
        version = answering if live == record.version else self.versions.get((record.model, live))
        if version is None:
            return
        drift = state.drift
        if drift is None or drift.version != live:
            drift = state.drift = self.drift_watch(version)
            state.is_drifted = False
        for attempt in record.attempts:
            outcome = attempt.outcome
            if attempt.version == live and outcome is not Outcome.ABANDONED:
                error = 1.0 if outcome is not Outcome.OK and outcome in FAULTS else 0.0
                found = drift.observe_outcome(ERRORS, error, self.now_s, answered_s=record.time_s)
                if found is not None:
                    _worsen(state, ERRORS, drift)
                    self._raise_drift(state, record.route, found)
        if record.outcome is Outcome.OK and record.version == live:
            found = drift.observe(record, self.now_s)
            if found is not None:
                self._raise_drift(state, record.route, found)

    def _observe_loss(self, state: RouteState, drift: DriftWatch, value: float, joined: Joined) -> None:
        """Feed a loss of the live version to its drift watch; a rise may be a reason to train anew."""
        route = joined.waiting.place.route
        found = drift.observe_outcome(LOSS, value, self.now_s, answered_s=joined.waiting.time_s)
        if found is None:
            return
        _worsen(state, LOSS, drift)
        if (departure := drift.outcomes[LOSS].departure) is not None:
            state.retraining.learn(drift.version, departure, self.now_s)
            self.due[route] = None
        self._raise_drift(state, route, found)

    def _raise_drift(self, state: RouteState, route: str, incidents: int) -> None:
        """Count new incidents of an alarm; where the route asks for it a rollback is due."""
        state.incident_count += incidents
        if state.view.drift_action is DriftAction.ROLLBACK:
            state.is_drifted = True
            self.due[route] = None

    def versions_of(self, model: str) -> Callable[[str], Version | None]:
        """Return what finds a model's version by name; None for one that no record named yet, or that is not registered."""
        return lambda version: self.versions.get((model, version))

    def drift_watch(self, version: Version) -> DriftWatch:
        """Return a watch over a version's features and answers that has seen nothing."""
        return DriftWatch(version, self._detector, false_alarm_events=self._false_alarm_events)


def _worsen(state: RouteState, outcome: str, drift: DriftWatch) -> None:
    """Let a promoted version's shadow be asked, because the version got worse by its own past."""
    departure = drift.outcomes[outcome].departure
    if state.watch is not None and departure is not None:
        mean = f"{departure.mean:.4g} over {departure.outcomes}, {departure.reference:.4g} at first"
        state.watch.worsen(drift.version, Worsening(outcome, f"{outcome} of version {drift.version}: {mean}"))
