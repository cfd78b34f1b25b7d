"""Routes: looking, replacing, removing, and back to the last good table.

A change that needs versions which are not warm yet is prepared first: every worker loads and warms them. Then one commit
compares the route's revision, writes the change with its audit entry, and the answer says which table each worker runs.
A rollback prepares nothing, since what it restores is kept warm, and never waits for another change's preparation.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import Final

from gateway.control.calls import Answer, Call, Control, page_of
from gateway.control.propagation import prepared, settled
from gateway.core.chains import digests_of
from gateway.core.changes import Change, Committed, DropRoute, PutChampion, PutRoute, Write
from gateway.core.errors import (
    Conflict,
    IllegalTransition,
    MalformedRequest,
    Quarantined,
    RevisionConflict,
    SignatureMismatch,
    UnknownRoute,
)
from gateway.core.fields import Json
from gateway.core.metadata import checked_public_name
from gateway.core.models import Version, VersionState
from gateway.core.routes import AssignmentSource, Revision, Route, RouteTable, Variant, route_body, route_from_body, with_weights
from gateway.core.split import SLOTS
from gateway.core.tensors import TensorSpec

ATTEMPTS: Final = 5  # of a rollback against others that change the same route at the same moment


def list_routes(control: Control, call: Call) -> Answer:
    """Return one page of routes, by name."""
    limit, after = call.asked("limit", int), call.asked("after", str)
    routes = sorted((route for route in control.registry.table().routes.values() if route.name > after), key=lambda one: one.name)
    return page_of("routes", routes[: limit + 1], limit, show=route_body, key=lambda route: route.name)


def show_route(control: Control, call: Call) -> Answer:
    """Return a route; its revision is the ETag."""
    route = existing(control.registry.table(), call.path["route"])
    return Answer(route_body(route), headers=etag(route.revision))


def put_route(control: Control, call: Call) -> Answer:
    """Create or replace a route."""
    if call.if_match is None:
        raise MalformedRequest(
            "If-Match is missing: it names the revision that this replaces", hint='If-Match: "0" creates; GET shows the revision'
        )
    asked = route_from_body(checked_public_name(call.path["route"], "route"), call.body)
    table = control.registry.table()
    before = table.routes.get(asked.name)
    refuse_stale(before, call.if_match)
    if before is not None and before.rollout:
        raise IllegalTransition(f"rollout {before.rollout} is open on this route", hint="promote it or roll it back first")
    answering = set() if before is None else {variant.version for variant in before.variants if variant.weight}
    check_versions(control, asked, table, answering=answering)
    after = _joined(before, asked)
    needs = [(after.model, version) for version in after.needs() if version not in _warm(table, before, after.model)]
    change = Change(
        call.principal.name, "route.put", f"route:{after.name}", call.asked("reason", str), (PutRoute(after),), route=after.name
    )
    with prepared(control, needs), control.last_look:
        check_versions(control, asked, control.registry.table(), answering=answering)  # preparing took its time
        committed = control.registry.commit(change, expected_revision=Revision(call.if_match))
    return route_answer(control, after, committed)


def delete_route(control: Control, call: Call) -> Answer:
    """Remove a route; under its name its model's champion answers again, if it is a model's name."""
    route = existing(control.registry.table(), call.path["route"])
    if call.if_match is not None:
        refuse_stale(route, call.if_match)
    if route.rollout:
        raise IllegalTransition(f"rollout {route.rollout} is open on this route", hint="promote it or roll it back first")
    change = Change(
        call.principal.name,
        "route.delete",
        f"route:{route.name}",
        call.asked("reason", str),
        (DropRoute(route.name),),
        route=route.name,
    )
    committed = control.registry.commit(change, expected_revision=route.revision)
    return Answer(
        {
            "name": route.name,
            "table_revision": int(committed.table_revision),
            "workers": settled(control, committed.table_revision),
        }
    )


def restore(control: Control, route: Route, principal: str, reason: str) -> tuple[Route, Committed]:
    """Put a route that no rollout is responsible for back to its last good variants.

    Raises:
        IllegalTransition: it has none, or answers with them already.
        Quarantined: one of them is in quarantine.
        RevisionConflict: the route moved on meanwhile.
    """
    if not route.last_good or route.last_good == tuple(variant for variant in route.variants if variant.weight):
        raise IllegalTransition(f"route {route.name} answers with its last good variants already")
    table = control.registry.table()
    refuse_quarantined(control, (table.versions[route.model, variant.version] for variant in route.last_good))
    restored = replace(with_weights(route, route.last_good), fallback=route.last_good[0].name, rollout="")
    writes: tuple[Write, ...] = (PutRoute(restored),)
    leaving = {variant.version for variant in route.variants} - {variant.version for variant in route.last_good}
    if route.name == route.model and table.champions.get(route.model) in leaving:
        writes = (*writes, PutChampion(route.model, route.last_good[0].version))
    change = Change(principal, "route.rollback", f"route:{route.name}", reason, writes, route=route.name)
    return restored, control.registry.commit(change, expected_revision=route.revision)


def route_answer(control: Control, route: Route, committed: Committed, *, more: Json | None = None) -> Answer:
    """Return what a change of a route answers: the route, its revision, and the table that each worker runs by now."""
    body = {
        "route": route_body(replace(route, revision=committed.revision)),
        "revision": int(committed.revision),
        "table_revision": int(committed.table_revision),
        "workers": settled(control, committed.table_revision),
    }
    return Answer({**body, **(more or {})}, headers=etag(committed.revision))


def existing(table: RouteTable, name: str) -> Route:
    """Return the route of that name.

    Raises:
        UnknownRoute: there is none, even if a model has that name.
    """
    route = table.routes.get(name)
    if route is None:
        hint = (
            "the model answers with its champion; PUT a route with If-Match: 0 to split it" if name in table.champions else None
        )
        raise UnknownRoute(f"there is no route {name!r}", hint=hint)
    return route


def refuse_stale(route: Route | None, revision: int) -> None:
    """Raise `RevisionConflict` unless the route has that revision; 0 means that there is none."""
    now = 0 if route is None else int(route.revision)
    if now != revision:
        state = "does not exist" if route is None else f"is at revision {now}"
        raise RevisionConflict(f"the route {state}, not at {revision}", hint="read it again and decide anew")


def check_versions(control: Control, route: Route, table: RouteTable, *, answering: Collection[str] = ()) -> None:
    """Check that every version of a route may answer on it.

    Args:
        answering: Versions that answer on the route already; quarantine does not take those off.

    Raises:
        UnknownVersion: the model has no such version.
        Conflict: a version is retired.
        Quarantined: a version's digest is in quarantine.
        SignatureMismatch: the variants' signatures differ, a shadow's inputs do, or the assignment key's input is none.
    """
    names = [*(variant.version for variant in route.variants), *(shadow.version for shadow in route.shadows)]
    versions = {name: _version(control, table, route.model, name) for name in names}
    for version in versions.values():
        if version.state is VersionState.RETIRED:
            raise Conflict(f"version {version.version} of {version.model} is retired")
    refuse_quarantined(control, (version for name, version in versions.items() if name not in answering))
    first = versions[route.variants[0].version]
    for variant in route.variants[1:]:
        refuse_different(first, versions[variant.version], also_outputs=True)
    for shadow in route.shadows:
        refuse_different(first, versions[shadow.version], also_outputs=False)
    fallback = route.variant(route.fallback) or route.variants[0]
    _refuse_unread_key(route, versions[fallback.version])


def refuse_quarantined(control: Control, versions: Iterable[Version]) -> None:
    """Raise `Quarantined` if a version's digest, or that of a member, is in quarantine now."""
    now_s = control.clock.now_s()
    held = {one.digest: one for one in control.registry.quarantines() if one.until_s > now_s}
    for version in versions:
        if (quarantine := next((held[digest] for digest in digests_of(version) if digest in held), None)) is not None:
            left_s = quarantine.until_s - now_s
            name = f"version {version.version} of {version.model}"
            raise Quarantined(
                f"{name} is in quarantine for {left_s / 60:.0f} min more: {quarantine.reason}",
                hint=f"headgate quarantine release {quarantine.digest} --reason …",
            )


def refuse_different(one: Version, other: Version, *, also_outputs: bool) -> None:
    """Raise `SignatureMismatch`, naming the first difference of two versions' signatures."""
    sides = [("input", one.signature.inputs, other.signature.inputs)]
    if also_outputs:
        sides.append(("output", one.signature.outputs, other.signature.outputs))
    for side, mine, theirs in sides:
        if mine != theirs:
            names = f"versions {one.version} and {other.version} of {one.model}"
            raise SignatureMismatch(f"{names} cannot stand on one route: {_difference(side, mine, theirs)}")


def _refuse_unread_key(route: Route, version: Version) -> None:
    """Raise `SignatureMismatch` if the route's assignment key is read from an input or column that requests do not have."""
    if route.assignment.source is not AssignmentSource.INPUT:
        return
    known = [*(spec.name for spec in version.signature.inputs), *(column.name for column in version.columns)]
    if route.assignment.name not in known:
        raise SignatureMismatch(
            f"route.assignment.input: {version.model} has no input or column {route.assignment.name!r}",
            hint=f"it has {', '.join(dict.fromkeys(known[:20]))}",
        )


def etag(revision: int) -> dict[str, str]:
    """Return the header that carries a route's revision."""
    return {"ETag": f'"{int(revision)}"'}


def new_salt() -> str:
    """Return a salt for a split; a new one deals the keys anew."""
    return secrets.token_hex(8)


def _difference(side: str, mine: tuple[TensorSpec, ...], theirs: tuple[TensorSpec, ...]) -> str:
    if len(mine) != len(theirs):
        return f"{len(mine)} {side}s and {len(theirs)}"
    pair = next((a, b) for a, b in zip(mine, theirs, strict=True) if a != b)
    return f"{side} " + " and ".join(f"{spec.name!r} {spec.datatype.value}{list(spec.shape)}" for spec in pair)


def _version(control: Control, table: RouteTable, model: str, version: str) -> Version:
    known = table.versions.get((model, version))
    return known if known is not None else control.registry.version(model, version)


def _joined(before: Route | None, asked: Route) -> Route:
    """Return the asked route with what the registry keeps of the one before: salt, slot owners, last good variants."""
    if before is None or before.model != asked.model:
        trusted = next(variant for variant in asked.variants if variant.name == asked.fallback)
        return with_weights(replace(asked, salt=new_salt(), last_good=_alone(trusted)), asked.variants)
    live = [variant for variant in before.variants if variant.weight]
    is_settled = len(live) == 1 and live[0].version not in {v.version for v in asked.variants if v.weight == SLOTS}
    kept = replace(
        asked,
        salt=before.salt,
        owners=before.owners,
        last_good=_alone(live[0]) if is_settled else before.last_good,
    )
    return with_weights(kept, asked.variants)


def _alone(variant: Variant) -> tuple[Variant, ...]:
    return (replace(variant, weight=SLOTS),)


def _warm(table: RouteTable, before: Route | None, model: str) -> set[str]:
    """Return the versions of a model that every worker holds warm for this route or as the champion."""
    warm = set(before.needs()) if before is not None and before.model == model else set()
    if (champion := table.champions.get(model)) is not None:
        warm.add(champion)
    return warm
