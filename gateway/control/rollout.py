"""Rollouts, moved by a person: start, look, hold, resume, advance, promote, rollback; and the direct rollback of a route.

What an event does is `core/rollouts.py`'s to say; here it is checked, prepared, committed and waited for. Every event writes the
route as well, so that its revision orders a person's events against the monitor's: whoever reads first and commits second is
refused, reads again and decides anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import quote
from uuid import UUID

from gateway.control import monitored
from gateway.control.calls import Answer, Call, Control, Reply, page_of
from gateway.control.propagation import prepared
from gateway.control.routing import (
    ATTEMPTS,
    check_versions,
    existing,
    new_salt,
    refuse_quarantined,
    restore,
    route_answer,
)
from gateway.core.access import Principal, Scope
from gateway.core.budget import FREE, budget_of, refuse_overspent
from gateway.core.changes import Change, Committed, PutChampion, PutRollout, PutRoute, Write
from gateway.core.errors import IllegalTransition, PortFault, RevisionConflict, UnknownSubject
from gateway.core.measurable import refuse_unmeasurable
from gateway.core.outlook import explained
from gateway.core.plans import plan_from_body
from gateway.core.rollouts import Event, Rollout, RolloutState, apply_event, at_step, begin, moved_champion, rollout_body
from gateway.core.routes import Revision, Route, RouteTable
from gateway.history import CLOCK_STEP_S, predictions
from gateway.ports.archive import Filter

ROLLOUTS_MAX: Final = 10_000  # of one route that a listing looks through
_BRINGS_CHALLENGER: Final = frozenset({Event.ADVANCE, Event.PROMOTE, Event.APPROVE, Event.RESUME})


def start(control: Control, call: Call) -> Answer:
    """Start moving a route to a challenger."""
    fields = call.fields("body")
    challenger, plan, reason = fields.name("challenger"), plan_from_body(fields.value("plan")), fields.text("reason", "")
    fields.done()
    table = control.registry.table()
    route = table.route(call.path["route"])
    now_s = control.clock.now_s()
    id = str(uuid7(now_s, os.urandom(10)))

    def begun(route: Route) -> tuple[Rollout, Route]:
        return begin(route, id=id, challenger=challenger, plan=plan, salt=salt, now_s=now_s)

    salt = new_salt()
    rollout, split = begun(route)
    check_versions(control, at_step(split, rollout, 0), table, answering={rollout.champion})
    compared = (control.registry.version(split.model, version) for version in (rollout.champion, challenger))
    refuse_unmeasurable(plan.guardrails, *compared, shadows=split.shadows)
    refuse_overspent(route.name, plan, control.registry.rollouts(route.name, limit=ROLLOUTS_MAX), now_s)
    with prepared(control, [(split.model, challenger)] if challenger not in route.needs() else []), control.last_look:
        now = control.registry.table()  # preparing took its time
        check_versions(control, at_step(split, rollout, 0), now, answering={rollout.champion})
        if route.name not in table.routes:
            rollout, split = begun(_made_real(control, route, call.principal.name))
        writes: tuple[Write, ...] = (PutRoute(split), PutRollout(rollout))
        change = Change(call.principal.name, "rollout.start", f"rollout:{id}", reason, writes, route=route.name)
        committed = control.registry.commit(change, expected_revision=split.revision)
    answer = route_answer(control, split, committed, more=rollout_body(rollout))
    location = {"Location": f"/api/v1/routes/{quote(route.name)}/rollouts/{id}"}
    return replace(answer, status=201, headers={**answer.headers, **location})


def list_rollouts(control: Control, call: Call) -> Answer:
    """Return one page of a route's rollouts, the newest first."""
    limit, after = call.asked("limit", int), call.asked("after", str)
    rollouts = list(control.registry.rollouts(call.path["route"], limit=ROLLOUTS_MAX))
    ids = [rollout.id for rollout in rollouts]
    first = ids.index(after) + 1 if after in ids else 0
    return page_of("rollouts", rollouts[first : first + limit + 1], limit, show=rollout_body, key=lambda rollout: rollout.id)


def show(control: Control, call: Call) -> Answer:
    """Return a rollout in sentences, with the monitor's newest evidence and the route's budget of false rollbacks."""
    rollout = _rollout(control, call)
    budget = budget_of(rollout.plan, control.registry.rollouts(rollout.route, limit=ROLLOUTS_MAX), control.clock.now_s())
    evidence = monitored.evidence(monitored.picture(control), rollout)
    told = [*explained(rollout, evidence), *(monitored.waited_for(control) if rollout.is_watched else ())]
    return Answer({**rollout_body(rollout), "budget": budget.body(), "explanation": told, "evidence": evidence})


def move(event: Event) -> Callable[[Control, Call], Reply]:
    """Return the operation that makes an event happen to a rollout."""

    def moved(control: Control, call: Call) -> Answer:
        reason = _reason(call, is_required=event is Event.ROLLBACK)
        _rollout(control, call)
        return _retried(lambda: _turn(control, call.path["id"], event, call.principal, reason))

    return moved


def rollback_route(control: Control, call: Call) -> Answer:
    """Put a route back to its last good table; the rollout that brought it here ends with it."""
    reason = _reason(call, is_required=True)

    def attempt() -> Answer:
        route = existing(control.registry.table(), call.path["route"])
        if (responsible := _responsible(control, route)) is not None:
            return _turn(control, responsible.id, Event.ROLLBACK, call.principal, reason)
        restored, committed = restore(control, route, call.principal.name, reason)
        return route_answer(control, restored, committed)

    return _retried(attempt)


def uuid7(now_s: float, entropy: bytes) -> UUID:
    """Return a UUID of version 7: milliseconds since the epoch, then 74 of the 80 random bits given."""
    bits = int(now_s * 1000) << 80 | int.from_bytes(entropy, "big")
    bits = bits & ~(0xF << 76) | 0x7 << 76
    return UUID(int=bits & ~(0x3 << 62) | 0x2 << 62)


def _made_real(control: Control, route: Route, principal: str) -> Route:
    """Create the route that a champion implies, and return it with the revision from which the rollout counts its evidence."""
    change = Change(
        principal,
        "route.put",
        f"route:{route.name}",
        "the model's own route, for a rollout",
        (PutRoute(route),),
        route=route.name,
    )
    return replace(route, revision=control.registry.commit(change, expected_revision=Revision(0)).revision)


def _turn(control: Control, id: str, event: Event, principal: Principal, reason: str) -> Answer:
    """Make an event happen, once; raise `RevisionConflict` when somebody else was first."""
    table = control.registry.table()
    rollout = control.registry.rollout(id)
    route = existing(table, rollout.route)
    _refuse_overtaken(rollout, route)
    if event is Event.PROMOTE and route.needs_approval:
        principal.require(Scope.APPROVE)
    moved, changed = apply_event(rollout, route, event, reason=reason, now_s=control.clock.now_s())
    if event in _BRINGS_CHALLENGER:
        refuse_quarantined(control, [table.versions[route.model, rollout.challenger]])
    writes: tuple[Write, ...] = (PutRoute(changed), PutRollout(moved), *_alias(table, moved))
    change = Change(principal.name, f"rollout.{event.value}", f"rollout:{id}", reason, writes, route=route.name)
    committed: Committed = control.registry.commit(change, expected_revision=route.revision)
    if moved.state is RolloutState.ROLLED_BACK and moved.is_spent:
        moved = _given_back(control, moved, principal)
    return route_answer(control, changed, committed, more=rollout_body(moved))


def _given_back(control: Control, rollout: Rollout, principal: Principal) -> Rollout:
    """Give back what a rolled-back rollout reserved, unless a request of its route may have been answered while it was open.

    Looked up once it is over: nothing that comes into the log later can count any more. The rollback stands whatever becomes of
    this, and what cannot be looked up stays spent.
    """
    since_s = rollout.started_at_s - CLOCK_STEP_S
    wanted = Filter(route=rollout.route, since_s=since_s, limit=1)
    freed = replace(rollout, is_spent=False)
    reason = "no request of the route was answered while it was open; its part of the budget is free again"
    try:
        is_gone = control.archive.dropped_s() >= since_s
        if is_gone or next(predictions(wanted, archive=control.archive, log=control.log), None) is not None:
            return rollout
        control.registry.commit(Change(principal.name, FREE, f"rollout:{rollout.id}", reason, (PutRollout(freed),)))
    except PortFault:
        return rollout
    return freed


def _retried(attempt: Callable[[], Answer]) -> Answer:
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except RevisionConflict:
            continue
    return attempt()


def _alias(table: RouteTable, moved: Rollout) -> tuple[Write, ...]:
    """Return the write that keeps a model's alias together with the model's own route."""
    version = moved_champion(moved, table.champions.get(moved.model))
    return () if version is None else (PutChampion(moved.model, version),)


def _refuse_overtaken(rollout: Rollout, route: Route) -> None:
    """Refuse to act for a rollout that the route has moved past: what it would restore is no longer what was before."""
    live = [variant.version for variant in route.variants if variant.weight]
    if route.rollout == rollout.id or (not route.rollout and live == [rollout.challenger]) or not _is_undoable(rollout):
        return
    raise IllegalTransition(
        f"route {route.name} has moved on since rollout {rollout.id}", hint="headgate rollback ROUTE restores its last good table"
    )


def _is_undoable(rollout: Rollout) -> bool:
    return rollout.is_open or rollout.state is RolloutState.LIVE


def _responsible(control: Control, route: Route) -> Rollout | None:
    """Return the rollout that a rollback of the route undoes: the open one, or the newest if its challenger answers alone."""
    if route.rollout:
        return control.registry.rollout(route.rollout)
    newest = next(iter(control.registry.rollouts(route.name, limit=1)), None)
    live = [variant.version for variant in route.variants if variant.weight]
    if (
        newest is not None
        and newest.state is RolloutState.LIVE
        and live == [newest.challenger]
        and route.last_good == newest.before
    ):
        return newest
    return None


def _rollout(control: Control, call: Call) -> Rollout:
    rollout = control.registry.rollout(call.path["id"])
    if rollout.route != call.path["route"]:
        raise UnknownSubject(f"route {call.path['route']!r} has no rollout {rollout.id}")
    return rollout


def _reason(call: Call, *, is_required: bool) -> str:
    fields = call.fields("body")
    reason = fields.reason() if is_required else fields.text("reason", "")
    fields.done()
    return reason
