"""A plan over logged traffic: when the monitor would have advanced or rolled back, and on what evidence.

Each rollout that the log holds is judged anew under another plan, by the monitor's fold and policy. The traffic is what it was:
weights do not follow the plan's own steps, and evidence ends where the rollout really ended.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gateway.core.fields import Json
from gateway.core.plans import Plan, plan_body
from gateway.core.policy import Decision
from gateway.core.rollouts import Event, Rollout, RolloutState, moved_by, rollout_body
from gateway.monitor.decide import drift_evidence, judged
from gateway.monitor.state import RouteState
from gateway.monitor.views import RouteView
from gateway.ports.archive import Filter
from gateway.replay.past import Past, Progress, unheard
from gateway.replay.refold import Refold, Routes


@dataclass(frozen=True, slots=True)
class Act:
    """What the monitor would have done, in the log's time."""

    time_s: float
    event: str
    reason: str
    attribution: str
    evidence: Json

    def body(self) -> Json:
        """Return the act as it is printed."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Tried:
    """One rollout under the plan; `reason` is why it last held, or went."""

    rollout: Rollout
    really: Rollout
    acts: list[Act] = field(default_factory=list)
    reason: str = ""
    is_whole: bool = True

    def body(self) -> Json:
        """Return the rollout as it is printed."""
        really = rollout_body(self.really)
        return {
            "id": self.rollout.id,
            "champion": self.rollout.champion,
            "challenger": self.rollout.challenger,
            "started_at_s": self.rollout.started_at_s,
            "would_be": {"state": self.rollout.state.value, "step": self.rollout.step, "reason": self.reason},
            "was": {name: really[name] for name in ("state", "step", "reason", "changed_at_s")},
            "is_whole": self.is_whole,
            "acts": [act.body() for act in self.acts],
        }


class PlanReplay:
    """A plan's replay on one route.

    Attributes:
        tried: The rollouts that had traffic in the replayed time, by id.
        drifts: When the live version's drift would have brought back what stood before it (`drift_action: rollback`).
        records: Folded.
    """

    def __init__(self, past: Past, route: str, plan: Plan) -> None:
        self._past = past
        self._route = route
        self._plan = plan
        self._routes = Routes(past.registry)
        self._rollouts = {id: _anew(rollout, plan) for id, rollout in self._routes.of(route).items()}
        self._refold = Refold(past, self._view, self._routes.ended, owns=route.__eq__)
        self.tried: dict[str, Tried] = {}
        self.drifts: list[Act] = []

    @property
    def records(self) -> int:
        """How many records were folded."""
        return self._refold.fold.records

    def run(self, *, since_s: float | None = None, until_s: float | None = None, progress: Progress = unheard) -> None:
        """Fold the route's traffic and decide whatever is due.

        Raises:
            ArchiveFailed, LogFailed, StoreFailed: the past cannot be read.
        """
        begin_s = max(since_s or 0.0, self._past.archive.dropped_s())
        fold = self._refold.fold
        for timed in self._past.records(Filter(route=self._route, since_s=since_s, until_s=until_s), progress):
            for _ in self._refold.ticks(timed[0]):
                self._decide(begin_s)
            self._refold.take(timed)
            if fold.due:
                self._decide(begin_s)

    def body(self) -> Json:
        """Return what was found as it is printed."""
        return {
            "route": self._route,
            "plan": plan_body(self._plan),
            "records": self.records,
            "rollouts": [one.body() for one in self.tried.values()],
            "drift_rollbacks": [act.body() for act in self.drifts],
        }

    def _view(self, name: str, model: str, revision: int) -> RouteView:
        view = self._routes.view(name, model, revision)
        return view if view.rollout is None else replace(view, rollout=self._rollouts[view.rollout.id])

    def _decide(self, begin_s: float) -> None:
        fold = self._refold.fold
        for name in list(fold.due):
            state = fold.routes[name]
            watch = state.watch
            if watch is not None and watch.rollout.is_open:
                tried = self._tried(watch.rollout, begin_s)
                decision = judged(fold, state, watch, is_automation_on=True)
                tried.reason = decision.reason
                if decision.event is not None:
                    self._act(state, tried, decision, fold.now_s)
            if state.is_drifted and state.drift is not None:
                reason = f"drift of version {state.drift.version}"
                self.drifts.append(Act(fold.now_s, Event.ROLLBACK.value, reason, "NONE", drift_evidence(state.drift)))
                state.is_drifted = False
        fold.due.clear()

    def _tried(self, rollout: Rollout, begin_s: float) -> Tried:
        if rollout.id not in self.tried:
            really = self._routes.rollouts[rollout.id]
            self.tried[rollout.id] = Tried(rollout, really, is_whole=rollout.started_at_s >= begin_s)
        return self.tried[rollout.id]

    def _act(self, state: RouteState, tried: Tried, decision: Decision, now_s: float) -> None:
        event = decision.event
        assert event is not None, "what changes nothing is not acted on"
        rollout = self._rollouts[tried.rollout.id]
        moved = moved_by(rollout, event, reason=decision.reason, now_s=now_s)
        self._rollouts[rollout.id] = tried.rollout = moved
        tried.acts.append(Act(now_s, event.value, decision.reason, decision.attribution.value, decision.evidence))
        self._refold.fold.acted(state.view.name, event, moved, replace(state.view, rollout=moved))


def _anew(rollout: Rollout, plan: Plan) -> Rollout:
    """Return a rollout as it began, under another plan; without a shadow phase, of which the log has no copies."""
    began_s = rollout.started_at_s
    return replace(
        rollout,
        plan=replace(plan, shadow=None),
        state=RolloutState.CANARY,
        step=0,
        held_in=None,
        changed_at_s=began_s,
        since_s=began_s,
        cools_until_s=0.0,
        reason="",
    )
