"""The registry in one SQLite file, shared by every process of the gateway.

A commit is one `BEGIN IMMEDIATE` transaction: compare the revision, write, chain the audit entry, count. After it a datagram
wakes whoever follows (`bell.py`); a poll of the sequence number is the safety net. Who may change what, and whether it makes
sense, is decided before: the store only keeps its promises.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Final

from adapters.stores import rows
from adapters.stores.bell import Bell
from adapters.stores.schema import REGISTRY
from adapters.stores.sqlite import Database, Transaction
from adapters.stores.table import Reading, read_table
from adapters.stores.writes import apply, settled, standing
from gateway.core.access import Key
from gateway.core.audit import AuditEntry
from gateway.core.chains import follows
from gateway.core.changes import (
    Automation,
    Change,
    Committed,
    DecisionId,
    Proposal,
    Quarantine,
    WorkerStatus,
)
from gateway.core.commits import (
    body_of,
    entry_of,
    refuse_stale,
    route_named_by,
    subject_of,
    touches_table,
)
from gateway.core.errors import StoreFailed, UnknownSubject, UnknownVersion
from gateway.core.fields import Json
from gateway.core.models import Runtime, Version
from gateway.core.rollouts import Rollout
from gateway.core.routes import Revision, RouteTable
from gateway.ports.clock import Clock

POLL_S: Final = 0.2  # the safety net; a change is promised within 250 ms
PROPOSALS_KEPT: Final = 100  # only the newest counts; the rest is for whoever looks


class SqliteRegistry:
    """A `RegistryStore` in one file. Other processes open the same file; `<its directory>/run/notify` holds their sockets."""

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._clock = clock
        self._database = Database(path, REGISTRY)
        self._bell = Bell(path.parent / "run" / "notify")
        self._table = Reading()

    def models(self, after: str = "", limit: int = 100) -> Sequence[tuple[str, str]]:
        """Page through the distinct models of the versions."""
        with self._database.reading() as transaction:
            found = transaction.rows(
                "SELECT DISTINCT v.model, COALESCE(c.version, '') FROM versions v LEFT JOIN champions c USING (model)"
                " WHERE v.model > ? ORDER BY v.model LIMIT ?",
                after,
                limit,
            )
        return [(model, champion) for model, champion in found]

    def versions(self, model: str, after: str = "", limit: int = 100) -> Sequence[Version]:
        """Page by the number that registration gave; an unknown `after` starts at the beginning."""
        with self._database.reading() as transaction:
            found = transaction.rows(
                "SELECT body FROM versions WHERE model = ?1 AND number >"
                " COALESCE((SELECT number FROM versions WHERE model = ?1 AND version = ?2), 0) ORDER BY number LIMIT ?3",
                model,
                after,
                limit,
            )
        return [rows.version_of(body) for (body,) in found]

    def version(self, model: str, version: str) -> Version:
        """Read one row."""
        with self._database.reading() as transaction:
            found = transaction.row("SELECT body FROM versions WHERE model = ? AND version = ?", model, version)
        if found is None:
            raise UnknownVersion(f"model {model!r} has no version {version!r}")
        return rows.version_of(found[0])

    def followers(self, model: str, version: str, limit: int = 10) -> Sequence[tuple[str, str]]:
        """Read all chains, which are few."""
        with self._database.reading() as transaction:
            found = transaction.rows(
                "SELECT body FROM versions WHERE instr(body, ?) ORDER BY number", f'"runtime":"{Runtime.CHAINED.value}"'
            )
        chains = (rows.version_of(body) for (body,) in found)
        return [(one.model, one.version) for one in chains if follows(one, model, version)][:limit]

    def table(self) -> RouteTable:
        """Return the last table again unless its revision moved."""
        with self._database.reading() as transaction:
            reading = read_table(transaction, self._table, self._named)
        self._table = reading  # the other of two threads may be older; then the next call reads again
        return reading.table

    def _named(self, pair: tuple[str, str]) -> Version:
        try:
            return self.version(*pair)
        except UnknownVersion as gone:  # it was there when the table was read
            raise StoreFailed(f"version {pair[1]!r} of {pair[0]!r} left the registry") from gone

    def rollout(self, id: str) -> Rollout:
        """Read one row."""
        with self._database.reading() as transaction:
            found = transaction.row("SELECT body FROM rollouts WHERE id = ?", id)
        if found is None:
            raise UnknownSubject(f"there is no rollout {id!r}")
        return rows.rollout_of(found[0])

    def rollouts(self, route: str = "", *, open_only: bool = False, limit: int = 100) -> Sequence[Rollout]:
        """Page by the number that the first commit gave."""
        with self._database.reading() as transaction:
            found = transaction.rows(
                "SELECT body FROM rollouts WHERE (?1 = '' OR route = ?1) AND is_open >= ?2 ORDER BY number DESC LIMIT ?3",
                route,
                open_only,
                limit,
            )
        return [rows.rollout_of(body) for (body,) in found]

    def newest_rollouts(self) -> Mapping[str, Rollout]:
        """Look one up for each route, by index."""
        with self._database.reading() as transaction:
            found = transaction.rows(
                "SELECT n.name, r.body FROM routes n JOIN rollouts r ON r.number ="
                " (SELECT max(number) FROM rollouts WHERE route = n.name) WHERE n.body IS NOT NULL"
            )
        return {name: rows.rollout_of(body) for name, body in found}

    def quarantines(self) -> Sequence[Quarantine]:
        """Read all rows; one a digest."""
        with self._database.reading() as transaction:
            found = transaction.rows("SELECT body FROM quarantines ORDER BY digest")
        return [rows.quarantine_of(body) for (body,) in found]

    def automation(self) -> Automation:
        """Read the switch."""
        with self._database.reading() as transaction:
            found = transaction.row("SELECT is_automation_on FROM registry")
        return Automation(bool(found and found[0]))

    def keys(self, after: str = "", limit: int = 100) -> Sequence[Key]:
        """Page by id."""
        with self._database.reading() as transaction:
            found = transaction.rows("SELECT body, token_sha256 FROM keys WHERE id > ? ORDER BY id LIMIT ?", after, limit)
        return [rows.key_of(*row) for row in found]

    def audit(self, after: int = 0, limit: int = 100, *, newest_first: bool = False) -> Sequence[AuditEntry]:
        """Page by number."""
        chosen = "(?1 = 0 OR seq < ?1) ORDER BY seq DESC" if newest_first else "seq > ?1 ORDER BY seq"
        with self._database.reading() as transaction:
            found = transaction.rows(f"SELECT body, hash FROM audit WHERE {chosen} LIMIT ?2", after, limit)  # noqa: S608
        return [rows.entry_of(*row) for row in found]

    def commit(
        self, change: Change, *, expected_revision: Revision | None = None, decision_id: DecisionId | None = None
    ) -> Committed:
        """Do it in one `BEGIN IMMEDIATE` transaction, then ring."""
        with self._database.writing() as transaction:
            if decision_id is not None and (first := _decided(transaction, decision_id)) is not None:
                return first
            refuse_stale(change, _route_revision(transaction, change.route), expected_revision)
            committed = self._write(transaction, change, decision_id)
        self._bell.ring()
        return committed

    def propose(self, needs: Sequence[tuple[str, str]]) -> Proposal:
        """Keep the proposal and the last hundred before it."""
        with self._database.writing(is_durable=False) as transaction:  # a power loss ends the workers it speaks to as well
            id = transaction.run("INSERT INTO proposals (needs) VALUES (?)", rows.text_of([list(need) for need in needs]))
            transaction.run("DELETE FROM proposals WHERE id <= ?", id - PROPOSALS_KEPT)
            _count(transaction)
        self._bell.ring()
        return Proposal(id, tuple(needs))

    def proposal(self) -> Proposal | None:
        """Read the newest row."""
        with self._database.reading() as transaction:
            found = transaction.row("SELECT id, needs FROM proposals ORDER BY id DESC LIMIT 1")
        return Proposal(found[0], rows.needs_of(found[1])) if found else None

    def report(self, status: WorkerStatus) -> None:
        """Replace the worker's row."""
        with self._database.writing(is_durable=False) as transaction:
            transaction.run(
                "INSERT OR REPLACE INTO workers VALUES (?, ?, ?, ?, ?, ?, ?)",
                status.worker,
                status.revision,
                status.prepared,
                status.failure,
                status.seen_at_s,
                status.settled,
                rows.text_of([[one.model, one.version, one.reason] for one in status.cold]),
            )
            _count(transaction)
        self._bell.ring()

    def workers(self) -> Sequence[WorkerStatus]:
        """Read all rows; one a worker."""
        with self._database.reading() as transaction:
            found = transaction.rows(
                "SELECT worker, revision, prepared, failure, seen_at_s, settled, cold FROM workers ORDER BY worker"
            )
        return [rows.worker_of(row) for row in found]

    def follow(self, after: int, timeout_s: float) -> int:
        """Wait for a datagram, and look at the sequence number every 200 ms whatever happens."""
        deadline_s = time.monotonic() + timeout_s  # real time, because a socket waits in real time
        with self._bell.listening() as ear:  # before the first look, so that nothing falls between look and wait
            while (now := self._sequence(after)) == after and not self._database.is_closed:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    break
                ear.wait(min(left_s, POLL_S))
        return now

    def backup(self, to: PurePath) -> None:
        """Copy with SQLite's own backup, then link into place."""
        self._database.backup(Path(to))

    def close(self) -> None:
        """Close the connections, wake and close the sockets."""
        self._database.close()
        self._bell.close()

    def _write(self, transaction: Transaction, change: Change, decision_id: DecisionId | None) -> Committed:
        table_revision = Revision(_table_revision(transaction) + touches_table(change.writes))
        before: Json = {}
        after: Json = {}
        for asked in change.writes:
            write = settled(transaction, asked)
            if (stood := standing(transaction, write)) is not None:
                before.setdefault(subject_of(write), body_of(stood))
            apply(transaction, write, table_revision=table_revision)
            after[subject_of(write)] = body_of(write)
        _count(transaction, table_revision)
        last = transaction.row("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        entry = entry_of(
            change,
            decision_id,
            time_s=self._clock.now_s(),
            before=before,
            after=after,
            last=(last[0], last[1]) if last else None,
        )
        transaction.run("INSERT INTO audit VALUES (?, ?, ?)", entry.seq, entry.hash, rows.entry_text(entry))
        revision = _route_revision(transaction, route_named_by(change))
        if decision_id is not None:
            transaction.run("INSERT INTO decisions VALUES (?, ?, ?, ?)", decision_id, revision, table_revision, entry.seq)
        return Committed(revision, table_revision, entry.seq)

    def _sequence(self, if_closed: int) -> int:
        try:
            with self._database.reading() as transaction:
                found = transaction.row("SELECT sequence FROM registry")
        except StoreFailed:
            if self._database.is_closed:
                return if_closed
            raise
        return int(found[0]) if found else 0


def _decided(transaction: Transaction, decision_id: DecisionId) -> Committed | None:
    row = transaction.row("SELECT revision, table_revision, audit_seq FROM decisions WHERE id = ?", decision_id)
    return Committed(Revision(row[0]), Revision(row[1]), row[2], is_repeat=True) if row else None


def _route_revision(transaction: Transaction, route: str) -> Revision:
    """Return the revision of a route; 0 when there is none."""
    row = transaction.row("SELECT revision FROM routes WHERE name = ? AND body IS NOT NULL", route)
    return Revision(row[0] if row else 0)


def _table_revision(transaction: Transaction) -> Revision:
    row = transaction.row("SELECT revision FROM registry")
    return Revision(row[0] if row else 0)


def _count(transaction: Transaction, table_revision: Revision | None = None) -> None:
    """Move the number that `follow` tells, and the table's revision where it changed."""
    transaction.run("UPDATE registry SET sequence = sequence + 1, revision = COALESCE(?, revision)", table_revision)
