"""What every registry keeps to when it commits: what a write is about, what is refused, what the audit entry holds.

Pure; the stores differ in where they put the rows, never in these rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import assert_never

from gateway.core.access import key_body
from gateway.core.audit import FIRST_HASH, AuditEntry, chained
from gateway.core.changes import (
    Automation,
    Change,
    DecisionId,
    DropHold,
    DropKey,
    DropRoute,
    PutChampion,
    PutHold,
    PutKey,
    PutRollout,
    PutRoute,
    PutVersion,
    Quarantine,
    Write,
    quarantine_body,
    quarantine_from_body,
)
from gateway.core.errors import RevisionConflict, VersionExists
from gateway.core.fields import Json
from gateway.core.models import Version
from gateway.core.rollouts import rollout_body, rollout_from_body
from gateway.core.routes import Revision, route_body, stored_route
from gateway.core.version_bodies import version_body, version_from_body


def subject_of(write: Write) -> str:
    """Return what a write is about, e.g. `route:delays`; two writes with the same subject replace each other."""
    match write:
        case PutVersion(version):
            return f"version:{version.model}/{version.version}"
        case PutChampion(model):
            return f"champion:{model}"
        case PutHold(model, name) | DropHold(model, name):
            return f"hold:{model}/{name}"
        case PutRoute(route):
            return f"route:{route.name}"
        case DropRoute(name):
            return f"route:{name}"
        case PutRollout(rollout):
            return f"rollout:{rollout.id}"
        case Quarantine(digest):
            return f"quarantine:{digest}"
        case PutKey(key):
            return f"key:{key.id}"
        case DropKey(id):
            return f"key:{id}"
        case Automation():
            return "automation"
        case _:
            assert_never(write)


def body_of(write: Write) -> Json | None:
    """Return what an audit entry keeps of a write; None when it removes its subject.

    Of a version's reference profile, which may be megabytes, only whether there is one: the digest names the artifact.
    """
    match write:
        case PutVersion(version):
            return {**version_body(replace(version, profile=None)), "has_profile": version.profile is not None}
        case PutChampion(model, version_name) | PutHold(model, version_name):
            return {"model": model, "version": version_name}
        case PutRoute(route):
            return route_body(route)
        case PutRollout(rollout):
            return rollout_body(rollout)
        case Quarantine():
            return quarantine_body(write)
        case PutKey(key):
            return key_body(key)
        case Automation(is_on):
            return {"is_on": is_on}
        case DropRoute() | DropKey() | DropHold():
            return None
        case _:
            assert_never(write)


def read_back(write: Write) -> Write:
    """Return the write as a registry will read it back from the bodies it stores.

    Raises:
        MalformedRequest: it could not be read back; one such row would hide every other.
    """
    match write:
        case PutVersion(version):
            return PutVersion(version_from_body(version_body(version)))
        case PutRoute(route):
            return PutRoute(stored_route(route_body(route), route.owners))
        case PutRollout(rollout):
            return PutRollout(rollout_from_body(rollout_body(rollout)))
        case Quarantine():
            return quarantine_from_body(quarantine_body(write))
        case PutChampion() | PutHold() | DropHold() | DropRoute() | PutKey() | DropKey() | Automation():
            return write
        case _:
            assert_never(write)


def touches_table(writes: Iterable[Write]) -> bool:
    """Return whether workers have something to read: a route, a champion, a version or a hold changes."""
    return any(isinstance(write, PutVersion | PutChampion | PutHold | DropHold | PutRoute | DropRoute) for write in writes)


def route_named_by(change: Change) -> str:
    """Return the route whose revision a commit answers with: the one named, else the last one written, else none."""
    written = (write.route.name for write in reversed(change.writes) if isinstance(write, PutRoute))
    return change.route or next(written, "")


def refuse_stale(change: Change, current: Revision, expected: Revision | None) -> None:
    """Raise `RevisionConflict` if the change's route is not at the expected revision; None expects nothing."""
    if expected is not None and current != expected:
        raise RevisionConflict(
            f"route {change.route!r} is at revision {current}, not {expected}", hint="read the route again and decide anew"
        )


def refuse_other_version(before: Version, after: Version) -> None:
    """Raise `VersionExists` unless the two differ in their state at most."""
    if version_body(replace(before, state=after.state)) != version_body(after):
        raise VersionExists(
            f"model {before.model} has a version {before.version} already; versions are immutable",
            hint="register it under another name",
        )


def refuse_fewer_strikes(before: Quarantine, after: Quarantine) -> None:
    """Raise `RevisionConflict` if a digest would have fewer strikes: it was convicted since it was looked at."""
    if after.strikes < before.strikes:
        raise RevisionConflict(
            f"digest {after.digest} was convicted {before.strikes} times, not {after.strikes}",
            hint="read it again and decide anew",
        )


def entry_of(
    change: Change, decision_id: DecisionId | None, *, time_s: float, before: Json, after: Json, last: tuple[int, str] | None
) -> AuditEntry:
    """Return the audit entry of a change, chained to the one before.

    Args:
        last: Number and hash of the entry before; None for the first.
    """
    seq, previous = last or (0, FIRST_HASH)
    return chained(
        AuditEntry(
            seq=seq + 1,
            time_s=time_s,
            principal=change.principal,
            action=change.action,
            subject=change.subject,
            reason=change.reason,
            decision_id=decision_id or "",
            before=before,
            after=after,
            evidence=change.evidence,
            previous=previous,
        )
    )
