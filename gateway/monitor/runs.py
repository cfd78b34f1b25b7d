"""Folds records that come in a row together: of each route what it has of them, in columns.

Most records are alike: a sound answer of one row by the variant that the split chose, or the first truth of such an answer. A run
is as many of those as follow each other within a second of the log's time. What comes out is to the bit what one by one gives.
So a run is only taken where it can bring no decision: everything that could make one due is tried first, beside what stands, and
where something comes of it, or anything is not alike, the fold takes the records one by one. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.evidence import Trial
from gateway.core.hindsight import ERRORS, LOSS
from gateway.core.losses import Answered, Statement, answered, loss_of, statement_of
from gateway.core.models import Task
from gateway.core.outcomes import OutcomeWatch
from gateway.core.records import Anchor, GroundTruthRecord, Heartbeat, Kind, PredictionRecord, StreamEnd
from gateway.core.rollouts import CHALLENGER
from gateway.core.routes import DriftAction
from gateway.core.sampling import RECORD_EVENTS
from gateway.core.tensors import Tensor
from gateway.monitor.alike import Counted, Form, Lane, is_plain
from gateway.monitor.fold import Fold
from gateway.monitor.merge import Merged
from gateway.monitor.phase import RunOfRollout
from gateway.monitor.rails import Rail
from gateway.monitor.rows import answer_tensor, row_count
from gateway.monitor.state import RouteState
from gateway.monitor.truth import Entry, packed, unpacked
from gateway.monitor.views import RouteView

ROUTE_RECORDS_MIN: Final = 24  # of each route on average; fewer cost more in columns than one by one


@dataclass(slots=True)
class _Route:
    """What a run has of one route.

    Attributes:
        closed: A rollout that ended, of which each truth is taken by itself.
        view: At the revision of its predictions; None before the first.
        answers: Live ones of the version in charge, for its drift watch; of `times_s`.
        losses: Of such, and when they were answered.
    """

    name: str
    state: RouteState
    rollout: RunOfRollout | None
    closed: str = ""
    view: RouteView | None = None
    lanes: dict[str, Lane] = field(default_factory=dict)
    counted: dict[tuple[str, str], Counted] = field(default_factory=dict)
    predictions: int = 0
    answers: list[PredictionRecord] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    answered_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Trials:
    """What a run makes of what could bring a decision, by route."""

    rails: dict[str, list[tuple[Rail, Trial]]] = field(default_factory=dict)
    outcomes: dict[str, dict[str, OutcomeWatch]] = field(default_factory=dict)


def take_run(fold: Fold, ready: Sequence[Merged]) -> tuple[int, bool]:
    """Take the first records of those that are ready, as many as are alike.

    Returns:
        How many are next, at least one, and whether they were taken; otherwise they are to be taken one by one.
    """
    sampling = fold.sampling
    if fold.ahead or sampling.rate < 1.0 or sampling.least < 1.0:
        return len(ready), False
    run = _Run(fold, len(ready))
    for merged in ready:
        if not run.adds(merged):
            break
        if ROUTE_RECORDS_MIN * len(run.routes) > len(ready):
            return len(ready), False
    count = run.count
    if not count or count < ROUTE_RECORDS_MIN * len(run.routes) or sampling.events + run.events > sampling.events_per_s_max:
        return count + 1, False
    trials = run.trials()
    if trials is None:
        return count, False
    run.take(trials)
    return count, True


class _Run:
    """Records that follow each other, gathered; the fold stays as it is until `take`."""

    def __init__(self, fold: Fold, count: int) -> None:
        self._fold = fold
        self._second = int(fold.now_s)
        self._is_begun = fold.sampling.second == self._second
        self.count = 0
        self.events = 0
        self.routes: dict[str, _Route | None] = {}
        self._now_s = fold.now_s
        self._join = fold.truth
        self._count_max = fold.truth.rows_max  # none of the run has to make room for another of it
        self._dropped = fold.truth.first_out(count)
        self._fresh: dict[str, tuple[Entry, Answered | None, Statement | None]] = {}  # predictions of the run that wait
        self._known: set[str] = set()
        self._entries: list[tuple[str, Entry]] = []  # all that changes among those that wait, in order

    def adds(self, merged: Merged) -> bool:
        """Take one more record; return whether it is like the others."""
        time_s, record = merged.time_s, merged.record
        if not self._now_s <= time_s < self._second + 1 or self.count >= self._count_max:
            return False
        if isinstance(record, PredictionRecord):
            is_alike = self._predict(record, time_s)
        elif isinstance(record, GroundTruthRecord):
            is_alike = self._know(record, time_s)
        else:
            is_alike = isinstance(record, Heartbeat | Anchor | StreamEnd)
        if is_alike:
            self.count += 1
            self._now_s = time_s
        return is_alike

    def _predict(self, record: PredictionRecord, time_s: float) -> bool:
        route = self._route(record.route)
        if route is None:
            return False
        lane = route.lanes.get(record.variant) or self._lane(route, record)
        if lane is None or record.revision != lane.revision or not is_plain(record, lane, time_s):
            return False
        counted, place = lane.counted, lane.place
        if place is not None and counted.version is not None:
            id = record.prediction_id
            if id in self._fresh or id in self._known or not self._join.is_new(id):
                return False
            output = record.outputs[0]
            answer = answered(output.data, 0)
            statement = None if answer is None else statement_of(counted.version.target, answer)
            estimate = None if statement is None else counted.estimate.expect(statement)
            entry: Entry = (place, record.assignment_key, 1, packed(output.data), time_s, (), estimate)
            self._fresh[id] = (entry, answer, statement)
            self._entries.append((id, entry))
            counted.rows += 1
            if estimate is not None:
                counted.window.count_estimate(estimate)
            if lane.is_evidence and route.rollout is not None:
                route.rollout.cohorts.expect(lane.is_challenger, time_s)
        counted.last_at = self.count
        counted.window.count_prediction(time_s, is_fault=False, latency_us=record.attempts[0].duration_us)
        if lane.is_evidence and route.rollout is not None:
            route.rollout.seen.add(record.assignment_key, lane.is_challenger, 0.0, lane.share)
            route.rollout.times_s.append(time_s)
        if lane.is_live:
            route.answers.append(record)
            route.times_s.append(time_s)
        route.predictions += 1
        self.events += lane.events
        return True

    def _know(self, record: GroundTruthRecord, time_s: float) -> bool:
        """Join the first truth of a prediction of one row."""
        id = record.prediction_id
        if record.row != 0 or id in self._known or id in self._dropped or self._join.is_left(id):
            return False
        fresh = self._fresh.get(id)
        entry = self._join.waiting(id) if fresh is None else fresh[0]
        if entry is None or entry[2] != 1:
            return False
        place = entry[0]
        route = self._route(place.route)
        counted = None if route is None else _counted(self._fold, route, place.variant, place.version, place.model)
        if route is None or counted is None or counted.version is None:
            return False
        target = counted.version.target
        if fresh is not None:
            _, answer, statement = fresh
        else:
            answer = answered(unpacked(place, entry[3], target.output).data, 0)
            statement = None if answer is None else statement_of(target, answer)
        value = None if answer is None else loss_of(target, answer, record.value)
        if value is None or not self._tell(route, entry, value):
            return False
        if statement is not None:
            counted.estimate.learn(statement, value, entry[6])
        counted.last_at = self.count
        counted.delays.append(max(0.0, time_s - entry[4]))
        counted.window.count_truth(time_s, value)
        drift = route.state.drift
        if drift is not None and drift.version == place.version:
            route.losses.append(value)
            route.answered_s.append(entry[4])
        self._fresh.pop(id, None)
        self._known.add(id)
        self._entries.append((id, (*entry[:5], ((0, record.value, time_s),), entry[6])))
        self.events += RECORD_EVENTS
        return True

    def _tell(self, route: _Route, entry: Entry, value: float) -> bool:
        """Let the rollout that an answer is evidence of have its loss; return False where that has to wait."""
        place, rollout = entry[0], route.rollout
        if place.rollout and place.rollout == route.closed:
            return False
        if not place.rollout or rollout is None or rollout.id != place.rollout:
            return True
        is_challenger = place.variant == CHALLENGER
        if not rollout.cohorts.passes(is_challenger, entry[4]):
            return False
        rollout.told.add(entry[1], is_challenger, value, place.share)
        return True

    def _route(self, name: str) -> _Route | None:
        """Return what the run has of a route; None for one whose records are taken one by one."""
        if name not in self.routes:
            self.routes[name] = _begun(self._fold, name) if self._is_begun else None
        return self.routes[name]

    def _lane(self, route: _Route, record: PredictionRecord) -> Lane | None:
        """Return what a record has in common with others of its variant; None where it is not of the most usual kind."""
        state, fold = route.state, self._fold
        view = state.views.get(record.revision)
        if view is None or view.model != record.model or not (record.inputs and record.outputs) or row_count(record) != 1:
            return None
        if route.view is None:
            route.view = view
            if route.rollout is not None:
                route.rollout.revision = view.revision
        live = state.view.live_version if record.revision else record.version
        if state.drift is None or state.drift.version != live or view is not route.view:
            return None
        counted = _counted(fold, route, record.variant, record.version, record.model)
        if counted is None:
            return None
        watch = state.watch if route.rollout is not None else None
        rollout = fold.evidence_of(state, view, record) if watch is not None and watch.rollout.is_open else ""
        version, output = counted.version, record.outputs[0]
        columns = 0 if version is None else len(version.columns) + len(version.summaries)
        place = None
        if version is not None and version.target.task is not Task.OTHER:
            if answer_tensor(version.target, (output,)) is None or output.data.ndim not in (1, 2) or len(output.data) != 1:
                return None
            place = fold.places.place(record, output, rollout, view.share)
        lane = Lane(
            revision=record.revision,
            model=record.model,
            version=record.version,
            share=view.share,
            inputs=len(record.inputs),
            input=_form(record.inputs[0]),
            output=_form(output),
            counted=counted,
            place=place,
            is_evidence=bool(rollout),
            is_challenger=record.variant == CHALLENGER,
            is_live=record.version == live,
            events=RECORD_EVENTS + columns + 1,
        )
        route.lanes[record.variant] = lane
        return lane

    def trials(self) -> _Trials | None:
        """Return what the run makes of what could bring a decision; None where it does bring one."""
        found = _Trials()
        for route in filter(None, self.routes.values()):
            if route.rollout is not None and route.state.watch is not None:
                rails = route.state.watch.trial(route.rollout, self._now_s)
                if rails is None:
                    return None
                found.rails[route.name] = rails
            drift = route.state.drift
            if drift is None:
                continue
            errors = drift.outcomes[ERRORS].with_all([0.0] * len(route.times_s), route.times_s)
            losses = drift.outcomes[LOSS].with_all(route.losses, route.answered_s)
            if errors is None or losses is None:
                return None
            found.outcomes[route.name] = {ERRORS: errors, LOSS: losses}
        return found

    def take(self, trials: _Trials) -> None:
        """Fold the run."""
        fold = self._fold
        fold.now_s = self._now_s
        fold.records += self.count
        fold.sampling.events += self.events
        self._join.take(self._entries)
        for route in filter(None, self.routes.values()):
            state = route.state
            for counted in sorted(filter(Counted.has_any, route.counted.values()), key=lambda one: one.last_at):
                counted.take(state)
            if route.view is not None:
                fold.unplaced += 0 if route.view.is_known else route.predictions
            if route.rollout is not None and state.watch is not None:
                state.watch.take(route.rollout, trials.rails[route.name])
            if state.drift is not None:
                state.drift.outcomes = trials.outcomes[route.name]
                state.incident_count += state.drift.observe_all(route.answers, route.times_s)


def _begun(fold: Fold, name: str) -> _Route | None:
    """Return a route of which the run has nothing yet; None where each of its records may bring a decision."""
    state = fold.routes.get(name)
    if state is None or state.is_drifted or state.view.drift_action is DriftAction.ROLLBACK:
        return None
    watch = state.watch
    if watch is None:
        return _Route(name, state, None)
    if watch.takes_runs:
        return _Route(name, state, RunOfRollout(watch.rollout.id, watch.cohorts.trial()))
    return _Route(name, state, None, closed=watch.rollout.id) if watch.is_over else None


def _counted(fold: Fold, route: _Route, variant: str, version: str, model: str) -> Counted | None:
    """Return what a run adds to the tally of a version; None for one of which nothing was counted before."""
    found = route.counted.get((variant, version))
    if found is None:
        tally = route.state.tallies.get((variant, version, Kind.LIVE.value))
        if tally is None or (model, version) not in fold.versions:
            return None
        found = Counted((variant, version), fold.versions[model, version], tally.estimate.copied())
        route.counted[variant, version] = found
    return found


def _form(tensor: Tensor) -> Form:
    return Form(tensor.name, tensor.datatype, tensor.data.shape)
