"""What each kind of write does to the registry's tables, and what stood there before it."""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from adapters.stores.rows import (
    key_of,
    key_text,
    owners_text,
    quarantine_of,
    rollout_of,
    route_of,
    text_of,
    version_of,
)
from adapters.stores.sqlite import Transaction
from gateway.core.changes import (
    Automation,
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
)
from gateway.core.commits import (
    read_back,
    refuse_fewer_strikes,
    refuse_other_version,
)
from gateway.core.rollouts import rollout_body
from gateway.core.routes import DROPPED_MAX, Revision, route_body
from gateway.core.split import SLOTS
from gateway.core.version_bodies import version_body


def settled(transaction: Transaction, write: Write) -> Write:
    """Return the write as it will stand: a route gets its next revision.

    Raises:
        VersionExists: the version is there and differs in more than its state.
        RevisionConflict: the digest was convicted since.
        MalformedRequest: it could not be read back.
    """
    write = read_back(write)
    match write:
        case PutRoute(route):
            assert len(route.owners) == SLOTS, "whoever commits a route has assigned its slots"
            row = transaction.row("SELECT revision FROM routes WHERE name = ?", route.name)
            return PutRoute(replace(route, revision=Revision(1 + (row[0] if row else 0))))
        case PutVersion(version):
            before = standing(transaction, write)
            if isinstance(before, PutVersion):
                refuse_other_version(before.version, version)
            return write
        case Quarantine():
            before = standing(transaction, write)
            if isinstance(before, Quarantine):
                refuse_fewer_strikes(before, write)
            return write
        case _:
            return write


def standing(transaction: Transaction, write: Write) -> Write | None:
    """Return the write that would restore what stands where `write` goes; None when nothing stands there."""
    match write:
        case PutVersion(version):
            row = transaction.row("SELECT body FROM versions WHERE model = ? AND version = ?", version.model, version.version)
            return PutVersion(version_of(row[0])) if row else None
        case PutChampion(model):
            row = transaction.row("SELECT version FROM champions WHERE model = ?", model)
            return PutChampion(model, row[0]) if row else None
        case PutHold(model, name) | DropHold(model, name):
            row = transaction.row("SELECT 1 FROM holds WHERE model = ? AND version = ? AND is_held", model, name)
            return PutHold(model, name) if row else None
        case PutRoute() | DropRoute():
            name = write.route.name if isinstance(write, PutRoute) else write.name
            row = transaction.row("SELECT body, owners FROM routes WHERE name = ? AND body IS NOT NULL", name)
            return PutRoute(route_of(*row)) if row else None
        case PutRollout(rollout):
            row = transaction.row("SELECT body FROM rollouts WHERE id = ?", rollout.id)
            return PutRollout(rollout_of(row[0])) if row else None
        case Quarantine(digest):
            row = transaction.row("SELECT body FROM quarantines WHERE digest = ?", digest)
            return quarantine_of(row[0]) if row else None
        case PutKey() | DropKey():
            id = write.key.id if isinstance(write, PutKey) else write.id
            row = transaction.row("SELECT body, token_sha256 FROM keys WHERE id = ?", id)
            return PutKey(key_of(*row)) if row else None
        case Automation():
            row = transaction.row("SELECT is_automation_on FROM registry")
            return Automation(bool(row and row[0]))
        case _:
            assert_never(write)


def apply(transaction: Transaction, write: Write, *, table_revision: int) -> None:
    """Carry out a settled write."""
    match write:
        case PutVersion(version):
            transaction.run(
                "INSERT INTO versions (model, version, changed, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (model, version) DO UPDATE SET changed = excluded.changed, body = excluded.body",
                version.model,
                version.version,
                table_revision,
                text_of(version_body(version)),
            )
        case PutChampion(model, name):
            transaction.run("INSERT OR REPLACE INTO champions VALUES (?, ?)", model, name)
        case PutHold(model, name):
            transaction.run("INSERT OR REPLACE INTO holds VALUES (?, ?, 1, ?)", model, name, table_revision)
        case DropHold(model, name):
            transaction.run("INSERT OR REPLACE INTO holds VALUES (?, ?, 0, ?)", model, name, table_revision)
            transaction.run(
                "DELETE FROM holds WHERE rowid IN (SELECT rowid FROM holds WHERE NOT is_held"
                " ORDER BY changed DESC, model DESC, version DESC LIMIT -1 OFFSET ?)",
                DROPPED_MAX,
            )
        case PutRoute(route):
            transaction.run(
                "INSERT OR REPLACE INTO routes VALUES (?, ?, ?, ?)",
                route.name,
                route.revision,
                text_of(route_body(route)),
                owners_text(route.owners),
            )
        case DropRoute(name):
            transaction.run("UPDATE routes SET body = NULL, owners = NULL WHERE name = ?", name)
        case PutRollout(rollout):
            transaction.run(
                "INSERT INTO rollouts (id, route, is_open, body) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET route = excluded.route, is_open = excluded.is_open, body = excluded.body",
                rollout.id,
                rollout.route,
                rollout.is_open,
                text_of(rollout_body(rollout)),
            )
        case Quarantine(digest):
            transaction.run("INSERT OR REPLACE INTO quarantines VALUES (?, ?)", digest, text_of(quarantine_body(write)))
        case PutKey(key):
            transaction.run("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", key.id, key.token_sha256, key_text(key))
        case DropKey(id):
            transaction.run("DELETE FROM keys WHERE id = ?", id)
        case Automation(is_on):
            transaction.run("UPDATE registry SET is_automation_on = ?", is_on)
        case _:
            assert_never(write)
