"""The registry and checkpoints in memory, for one process: they pass the same suites as those on disk and die with it.

A commit works on a copy of the state and then swaps it, so that a reader sees all of a change or nothing.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import assert_never

from gateway.core.access import Key
from gateway.core.audit import AuditEntry
from gateway.core.chains import follows
from gateway.core.changes import (
    Automation,
    Change,
    Committed,
    DecisionId,
    DropHold,
    DropKey,
    DropRoute,
    Proposal,
    PutChampion,
    PutHold,
    PutKey,
    PutRollout,
    PutRoute,
    PutVersion,
    Quarantine,
    WorkerStatus,
    Write,
)
from gateway.core.commits import (
    body_of,
    entry_of,
    read_back,
    refuse_fewer_strikes,
    refuse_other_version,
    refuse_stale,
    route_named_by,
    subject_of,
    touches_table,
)
from gateway.core.errors import StoreFailed, UnknownSubject, UnknownVersion
from gateway.core.fields import Json
from gateway.core.models import Version
from gateway.core.records import Cursor
from gateway.core.rollouts import Rollout
from gateway.core.routes import DROPPED_MAX, Revision, Route, RouteTable
from gateway.core.split import SLOTS
from gateway.ports.clock import Clock


@dataclass(slots=True)
class _State:
    """What a registry holds at one moment."""

    revision: int = 0
    versions: dict[tuple[str, str], Version] = field(default_factory=dict)
    champions: dict[str, str] = field(default_factory=dict)
    routes: dict[str, Route] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)  # of every route there ever was
    rollouts: dict[str, Rollout] = field(default_factory=dict)
    quarantines: dict[str, Quarantine] = field(default_factory=dict)
    keys: dict[str, Key] = field(default_factory=dict)
    automation: Automation = field(default_factory=Automation)
    holds: dict[tuple[str, str], Revision] = field(default_factory=dict)
    dropped: dict[tuple[str, str], Revision] = field(default_factory=dict)
    audit: list[AuditEntry] = field(default_factory=list)
    decisions: dict[str, Committed] = field(default_factory=dict)

    def copied(self) -> _State:
        """Return a copy; the values themselves are immutable and shared."""
        names = [name for name in self.__slots__ if name != "revision"]
        return _State(self.revision, *(copy.copy(getattr(self, name)) for name in names))


class MemoryRegistry:
    """A `RegistryStore` for the threads of one process."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._state = _State()
        self._proposals: list[Proposal] = []
        self._workers: dict[str, WorkerStatus] = {}
        self._sequence = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def models(self, after: str = "", limit: int = 100) -> Sequence[tuple[str, str]]:
        """Page through the models of the versions."""
        state = self._read()
        names = sorted({model for model, _ in state.versions if model > after})[:limit]
        return [(model, state.champions.get(model, "")) for model in names]

    def versions(self, model: str, after: str = "", limit: int = 100) -> Sequence[Version]:
        """Page in the order of registration; an unknown `after` starts at the beginning."""
        found = [version for (of, _), version in self._read().versions.items() if of == model]
        start = next((at + 1 for at, version in enumerate(found) if version.version == after), 0)
        return found[start : start + limit]

    def version(self, model: str, version: str) -> Version:
        """Look it up."""
        found = self._read().versions.get((model, version))
        if found is None:
            raise UnknownVersion(f"model {model!r} has no version {version!r}")
        return found

    def followers(self, model: str, version: str, limit: int = 10) -> Sequence[tuple[str, str]]:
        """Look through the members of all versions."""
        return [pair for pair, one in self._read().versions.items() if follows(one, model, version)][:limit]

    def table(self) -> RouteTable:
        """Build the table of this moment."""
        state = self._read()
        needed = {(route.model, version) for route in state.routes.values() for version in route.needs()}
        needed |= set(state.champions.items()) | set(state.holds)
        versions = {pair: state.versions[pair] for pair in sorted(needed) if pair in state.versions}
        return RouteTable(
            Revision(state.revision),
            dict(state.routes),
            dict(state.champions),
            versions,
            dict(state.holds),
            dict(state.dropped),
        )

    def rollout(self, id: str) -> Rollout:
        """Look it up."""
        found = self._read().rollouts.get(id)
        if found is None:
            raise UnknownSubject(f"there is no rollout {id!r}")
        return found

    def rollouts(self, route: str = "", *, open_only: bool = False, limit: int = 100) -> Sequence[Rollout]:
        """Return them against the order of their first commits."""
        found = reversed(self._read().rollouts.values())
        chosen = [one for one in found if route in ("", one.route) and (one.is_open or not open_only)]
        return chosen[:limit]

    def newest_rollouts(self) -> Mapping[str, Rollout]:
        """Let each route's later ones take the place of those before."""
        state = self._read()
        return {one.route: one for one in state.rollouts.values() if one.route in state.routes}

    def quarantines(self) -> Sequence[Quarantine]:
        """Return all, in order of digest."""
        return [one for _, one in sorted(self._read().quarantines.items())]

    def automation(self) -> Automation:
        """Return the switch."""
        return self._read().automation

    def keys(self, after: str = "", limit: int = 100) -> Sequence[Key]:
        """Page by id."""
        return [key for id, key in sorted(self._read().keys.items()) if id > after][:limit]

    def audit(self, after: int = 0, limit: int = 100, *, newest_first: bool = False) -> Sequence[AuditEntry]:
        """Page by number."""
        entries = self._read().audit
        if newest_first:
            return entries[: after - 1 if after else len(entries)][::-1][:limit]
        return entries[after : after + limit]

    def commit(
        self, change: Change, *, expected_revision: Revision | None = None, decision_id: DecisionId | None = None
    ) -> Committed:
        """Change a copy of the state, then swap it in."""
        with self._changed:
            state = self._read().copied()
            if decision_id is not None and (first := state.decisions.get(decision_id)) is not None:
                return replace(first, is_repeat=True)
            refuse_stale(change, _route_revision(state, change.route), expected_revision)
            committed = self._write(state, change, decision_id)
            self._state = state
            self._count()
        return committed

    def propose(self, needs: Sequence[tuple[str, str]]) -> Proposal:
        """Keep the proposal; an earlier one no longer counts."""
        with self._changed:
            self._read()
            proposal = Proposal(self._proposals[-1].id + 1 if self._proposals else 1, tuple(needs))
            self._proposals = [proposal]
            self._count()
        return proposal

    def proposal(self) -> Proposal | None:
        """Return the newest."""
        self._read()
        return self._proposals[-1] if self._proposals else None

    def report(self, status: WorkerStatus) -> None:
        """Replace the worker's report."""
        with self._changed:
            self._read()
            self._workers[status.worker] = status
            self._count()

    def workers(self) -> Sequence[WorkerStatus]:
        """Return one report a worker."""
        self._read()
        return [status for _, status in sorted(self._workers.items())]

    def follow(self, after: int, timeout_s: float) -> int:
        """Wait on a condition."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._sequence != after, timeout_s)
            return after if self._is_closed else self._sequence

    def backup(self, to: PurePath) -> None:
        """Refuse: there is no file to copy."""
        raise StoreFailed(f"{to}: a registry in memory has no backup", hint="give the gateway a data directory")

    def close(self) -> None:
        """Wake whoever follows."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _read(self) -> _State:
        if self._is_closed:
            raise StoreFailed("the registry is closed")
        return self._state

    def _count(self) -> None:
        self._sequence += 1
        self._changed.notify_all()

    def _write(self, state: _State, change: Change, decision_id: DecisionId | None) -> Committed:
        before: Json = {}
        after: Json = {}
        for asked in change.writes:
            write = _settled(state, asked)
            if (stood := _standing(state, write)) is not None:
                before.setdefault(subject_of(write), body_of(stood))
            _apply(state, write)
            after[subject_of(write)] = body_of(write)
        state.revision += touches_table(change.writes)
        last = (state.audit[-1].seq, state.audit[-1].hash) if state.audit else None
        entry = entry_of(change, decision_id, time_s=self._clock.now_s(), before=before, after=after, last=last)
        state.audit.append(entry)
        committed = Committed(_route_revision(state, route_named_by(change)), Revision(state.revision), entry.seq)
        if decision_id is not None:
            state.decisions[decision_id] = committed
        return committed


def _route_revision(state: _State, route: str) -> Revision:
    found = state.routes.get(route)
    return found.revision if found else Revision(0)


def _settled(state: _State, write: Write) -> Write:
    write = read_back(write)
    match write:
        case PutRoute(route):
            assert len(route.owners) == SLOTS, "whoever commits a route has assigned its slots"
            revision = Revision(state.revisions.get(route.name, 0) + 1)
            return PutRoute(replace(route, revision=revision))
        case PutVersion(version):
            if (before := state.versions.get((version.model, version.version))) is not None:
                refuse_other_version(before, version)
            return write
        case Quarantine(digest):
            if (stood := state.quarantines.get(digest)) is not None:
                refuse_fewer_strikes(stood, write)
            return write
        case _:
            return write


def _standing(state: _State, write: Write) -> Write | None:
    match write:
        case PutVersion(version):
            known = state.versions.get((version.model, version.version))
            return PutVersion(known) if known else None
        case PutChampion(model):
            champion = state.champions.get(model)
            return PutChampion(model, champion) if champion else None
        case PutHold(model, name) | DropHold(model, name):
            return PutHold(model, name) if (model, name) in state.holds else None
        case PutRoute() | DropRoute():
            route = state.routes.get(write.route.name if isinstance(write, PutRoute) else write.name)
            return PutRoute(route) if route else None
        case PutRollout(rollout):
            moved = state.rollouts.get(rollout.id)
            return PutRollout(moved) if moved else None
        case Quarantine(digest):
            return state.quarantines.get(digest)
        case PutKey() | DropKey():
            key = state.keys.get(write.key.id if isinstance(write, PutKey) else write.id)
            return PutKey(key) if key else None
        case Automation():
            return state.automation
        case _:
            assert_never(write)


def _apply(state: _State, write: Write) -> None:
    match write:
        case PutVersion(version):
            state.versions[version.model, version.version] = version
        case PutChampion(model, name):
            state.champions[model] = name
        case PutHold(model, name):
            state.holds[model, name] = Revision(state.revision + 1)  # the commit's own
            state.dropped.pop((model, name), None)
        case DropHold(model, name):
            state.holds.pop((model, name), None)
            state.dropped[model, name] = Revision(state.revision + 1)
            newest = sorted(state.dropped.items(), key=lambda item: (item[1], item[0]))[-DROPPED_MAX:]
            state.dropped = dict(newest)
        case PutRoute(route):
            state.routes[route.name] = route
            state.revisions[route.name] = route.revision
        case DropRoute(name):
            state.routes.pop(name, None)
        case PutRollout(rollout):
            state.rollouts[rollout.id] = rollout
        case Quarantine(digest):
            state.quarantines[digest] = write
        case PutKey(key):
            state.keys[key.id] = key
        case DropKey(id):
            state.keys.pop(id, None)
        case Automation():
            state.automation = write
        case _:
            assert_never(write)


class MemoryCheckpoints:
    """A `CheckpointStore`."""

    def __init__(self) -> None:
        self._saved: dict[str, tuple[Cursor, bytes]] = {}

    def load(self, consumer: str) -> tuple[Cursor, bytes] | None:
        """Return what was saved."""
        return self._saved.get(consumer)

    def save(self, consumer: str, cursor: Cursor, state: bytes) -> None:
        """Replace both in one step."""
        self._saved[consumer] = (dict(cursor), bytes(state))

    def backup(self, to: PurePath) -> None:
        """Refuse: there is no file to copy."""
        raise StoreFailed(f"{to}: checkpoints in memory have no backup", hint="give the gateway a data directory")
