"""A decision becomes a change of the registry, once.

The decision's id is made of the rollout, the event and the step, so that a monitor that died between committing and saving its
checkpoint commits the same decision again and the registry answers with what the first did. A route that moved on raises
`RevisionConflict`: the caller reads it again and decides anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from gateway.core.access import MONITOR
from gateway.core.aftermath import REVISE
from gateway.core.attribution import Attribution
from gateway.core.audit import AuditEntry
from gateway.core.changes import Change, DecisionId, PutChampion, PutRollout, PutRoute, Quarantine, Write
from gateway.core.errors import RevisionConflict
from gateway.core.fields import Json
from gateway.core.policy import INCREASES, Advance, Hold, Rollback, quarantine_s
from gateway.core.records import Cursor
from gateway.core.reopening import Acquit
from gateway.core.retraining import ASK
from gateway.core.rollouts import Event, Rollout, RolloutState, apply_event, moved_champion
from gateway.core.routes import Revision, Route, Variant, with_weights
from gateway.monitor.retraining import Request
from gateway.monitor.views import RouteView, view_of
from gateway.ports.stores import RegistryStore

BEGIN: Final = "monitor.begin"  # the action in the audit log
CODE_VERSION: Final = "8"  # of the decision's arithmetic; grows when the same log may give another decision

_ACTIONS: Final = {Event.CONVICT: "rollback", Event.GIVE_UP: "rollback"}  # a rollback is one to whoever reads the audit log


@dataclass(frozen=True, slots=True)
class Acted:
    """A committed decision.

    Attributes:
        rollout: After it, or None when no rollout was concerned.
        view: The route after it.
        is_repeat: Whether it had been committed before.
    """

    event: Event
    rollout: Rollout | None
    view: RouteView
    is_repeat: bool


def act(
    registry: RegistryStore,
    decision: Hold | Advance | Rollback,
    rollout: Rollout,
    view: RouteView,
    *,
    now_s: float,
    cursor: Cursor,
) -> Acted:
    """Commit a decision's event on a rollout.

    Args:
        rollout, view: What the decision rests on; the commit fails if the route is at another revision.
        now_s: The log's time.
        cursor: Where each stream stands; part of the evidence.

    Raises:
        RevisionConflict: the route moved on or is gone; nothing was written.
        StoreFailed: nothing was written.
    """
    event = decision.event
    assert event is not None, "a hold without an event changes nothing"
    moved, route = apply_event(rollout, _route(registry, view), event, reason=decision.reason, now_s=now_s)
    writes: tuple[Write, ...] = (PutRoute(route), PutRollout(moved), *_alias(registry, moved))
    if event is Event.CONVICT:
        writes += (_quarantine(registry, rollout, decision.reason, now_s),)
    change = Change(
        principal=MONITOR.name,
        action=action_of(event),
        subject=f"rollout:{rollout.id}",
        reason=decision.reason,
        writes=writes,
        route=view.name,
        evidence=_evidence(decision.evidence, decision.attribution, cursor, now_s),
    )
    decision_id = _decision_id(rollout, moved, event, view)
    committed = registry.commit(change, expected_revision=Revision(view.revision), decision_id=decision_id)
    after = view_of(replace(route, revision=committed.revision), moved if moved.is_open else None)
    return Acted(event, moved, after, committed.is_repeat)


def acquit(registry: RegistryStore, acquittal: Acquit, rollout: Rollout, *, now_s: float, cursor: Cursor) -> None:
    """Record, once, that a quarantined version is sound after all; the quarantine stays until a person releases it.

    Raises:
        StoreFailed: nothing was written.
    """
    change = Change(
        principal=MONITOR.name,
        action="rollout.acquit",
        subject=f"rollout:{rollout.id}",
        reason=acquittal.reason,
        writes=(PutRollout(replace(rollout, reason=acquittal.reason)),),
        evidence=_evidence(acquittal.evidence, acquittal.attribution, cursor, now_s),
    )
    registry.commit(change, decision_id=DecisionId(f"{rollout.id}:acquit"))


def revise(registry: RegistryStore, rollout: Rollout, evidence: Json, reason: str, *, now_s: float, cursor: Cursor) -> Rollout:
    """Record, once, that a rollback did not help, and return the rollout with that as its reason.

    The quarantine stays until a person releases it: that the champion is as bad does not make the version good.

    Raises:
        StoreFailed: nothing was written.
    """
    revised = replace(rollout, reason=reason)
    change = Change(
        principal=MONITOR.name,
        action=REVISE,
        subject=f"rollout:{rollout.id}",
        reason=reason,
        writes=(PutRollout(revised),),
        evidence=_evidence(evidence, Attribution.WORLD, cursor, now_s),
    )
    registry.commit(change, decision_id=DecisionId(f"{rollout.id}:revise"))
    return revised


def ask_retraining(registry: RegistryStore, view: RouteView, request: Request, *, now_s: float, cursor: Cursor) -> None:
    """Record, once, that a route's model is to be trained anew; whoever is told of it reads it from there.

    Raises:
        StoreFailed: nothing was written.
    """
    change = Change(
        principal=MONITOR.name,
        action=ASK,
        subject=f"route:{view.name}",
        reason=request.why,
        writes=(),
        evidence=_evidence(request.evidence(view.model, now_s), request.attribution, cursor, now_s),
    )
    registry.commit(change, decision_id=DecisionId(f"{view.name}:retraining:{request.key}"))


def begin(registry: RegistryStore, consumer: str, cursor: Cursor) -> None:
    """Record, once, that nothing is known of the log before a place, because the monitor's state was lost.

    Args:
        consumer: Whose state.

    Raises:
        StoreFailed: nothing was written.
    """
    place = dict(sorted(cursor.items()))
    change = Change(
        principal=MONITOR.name,
        action=BEGIN,
        subject=f"monitor:{consumer}",
        reason="the monitor's state is gone or of another form: it forgot what the log said before, and evidence begins at zero",
        writes=(),
        evidence={"cursor": place},
    )
    at = ",".join(f"{stream}={offset}" for stream, offset in place.items())
    registry.commit(change, decision_id=DecisionId(f"{consumer}:begin:{at}"))


def action_of(event: Event) -> str:
    """Return what the audit log calls an event of the monitor's."""
    return f"rollout.{_ACTIONS.get(event, event.value)}"


def is_increase(entry: AuditEntry) -> bool:
    """Return whether an entry is an increase of a challenger's weight by the monitor."""
    return entry.principal == MONITOR.name and entry.action in _INCREASED


def is_rollback(entry: AuditEntry) -> bool:
    """Return whether an entry is a rollback by the monitor that blames a version or its inputs."""
    is_one = entry.principal == MONITOR.name and entry.action.endswith(f".{Event.ROLLBACK.value}")
    return is_one and not entry.decision_id.endswith(f":{Event.GIVE_UP.value}")


_INCREASED: Final = frozenset(action_of(event) for event in INCREASES)


def _decision_id(rollout: Rollout, moved: Rollout, event: Event, view: RouteView) -> DecisionId:
    """Return what makes the decision the same one when it is made again: what can happen more than once names where it began."""
    match event:
        case Event.ADVANCE:
            return DecisionId(f"{rollout.id}:{event.value}:{moved.step}")
        case Event.HOLD | Event.RESUME | Event.BAKE | Event.ASK:
            return DecisionId(f"{rollout.id}:{event.value}:{view.revision}")
        case _:
            return DecisionId(f"{rollout.id}:{event.value}")


def _alias(registry: RegistryStore, moved: Rollout) -> tuple[Write, ...]:
    """Return the write that keeps a model's alias together with the model's own route."""
    version = moved_champion(moved, registry.table().champions.get(moved.model))
    return () if version is None else (PutChampion(moved.model, version),)


def roll_back_for_drift(
    registry: RegistryStore, view: RouteView, *, evidence: Json, now_s: float, cursor: Cursor
) -> Acted | None:
    """Bring back what stood before the live version, because the route asks for it on drift; None when nothing did.

    An open rollout ends without blame; a promoted version's rollout is rolled back; a route made by hand gets its last good
    variants. The audit entry says that nothing was attributed.

    Raises:
        RevisionConflict: the route moved on or is gone; nothing was written.
        StoreFailed: nothing was written.
    """
    route = _route(registry, view)
    reason = f"drift of version {view.live_version}, and the route's drift_action is rollback"
    rollout = view.rollout or _promoted(registry, view)
    if rollout is not None:
        moved, restored = apply_event(rollout, route, Event.ROLLBACK, reason=reason, now_s=now_s)
    elif _versions(view.last_good) in ((), _versions(view.variants)):
        return None
    else:
        moved, restored = None, _with_last_good(route, view.last_good)
    change = Change(
        principal=MONITOR.name,
        action="rollout.rollback" if moved else "route.rollback",
        subject=f"rollout:{moved.id}" if moved else f"route:{view.name}",
        reason=reason,
        writes=(PutRoute(restored), *((PutRollout(moved), *_alias(registry, moved)) if moved else ())),
        route=view.name,
        evidence=_evidence(evidence, Attribution.NONE, cursor, now_s),
    )
    decision_id = DecisionId(f"{view.name}:drift:{view.live_version}:{view.revision}")
    committed = registry.commit(change, expected_revision=Revision(view.revision), decision_id=decision_id)
    after = view_of(replace(restored, revision=committed.revision), None)
    return Acted(Event.ROLLBACK, moved, after, committed.is_repeat)


def _route(registry: RegistryStore, view: RouteView) -> Route:
    """Return the present route, for what a view leaves out; that its revision fits is for the commit to say.

    Raises:
        RevisionConflict: the route is gone, or another rollout was begun on it.
    """
    route = registry.table().routes.get(view.name)
    if route is None:
        raise RevisionConflict(f"route {view.name!r} is gone")
    if route.rollout not in {"", view.rollout.id if view.rollout is not None else ""}:
        raise RevisionConflict(f"route {view.name!r} has another rollout")
    return route


def _quarantine(registry: RegistryStore, rollout: Rollout, reason: str, now_s: float) -> Quarantine:
    digest = registry.version(rollout.model, rollout.challenger).digest
    strikes = next((one.strikes for one in registry.quarantines() if one.digest == digest), 0)
    until_s = now_s + quarantine_s(strikes, rollout.plan.quarantine_s)
    return Quarantine(digest, rollout.model, rollout.challenger, strikes + 1, until_s, reason)


def _promoted(registry: RegistryStore, view: RouteView) -> Rollout | None:
    """Return the rollout that made the live version live, if it was the route's last."""
    last = next(iter(registry.rollouts(view.name, limit=1)), None)
    is_it = last is not None and last.state is RolloutState.LIVE and last.challenger == view.live_version
    return last if is_it else None


def _with_last_good(route: Route, last_good: tuple[Variant, ...]) -> Route:
    return replace(with_weights(route, last_good), fallback=last_good[0].name, last_good=last_good)


def _versions(variants: tuple[Variant, ...]) -> tuple[tuple[str, int], ...]:
    return tuple((variant.version, variant.weight) for variant in variants)


def _evidence(evidence: Json, attribution: Attribution, cursor: Cursor, now_s: float) -> Json:
    return {
        **evidence,
        "attribution": attribution.value,
        "cursor": dict(sorted(cursor.items())),
        "log_time_s": now_s,
        "code_version": CODE_VERSION,
    }
