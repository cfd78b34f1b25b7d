"""SQLite behind a few verbs: open, migrate, read, write, copy.

The only file that names the driver. A write-ahead log lets readers go on while one process writes; `synchronous=FULL` makes a
commit survive power loss. Connections are pooled: a caller takes an idle one or opens another, so that any thread may call and
nobody waits for a reader. No driver's error leaves: each becomes `StoreFailed`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from adapters.durability import flush
from gateway.core.errors import StoreFailed

BUSY_TIMEOUT_S: Final = 10.0  # for another process's transaction; the longest known is a checkpoint of the log, under 1 s
Migration = tuple[str, ...]  # the statements that lead from one schema version to the next


class Transaction:
    """What may be done inside `Database.reading` and `Database.writing`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Return every row of a query."""
        return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        """Return the first row of a query, or None."""
        row: tuple[Any, ...] | None = self._connection.execute(sql, values).fetchone()
        return row

    def run(self, sql: str, *values: object) -> int:
        """Run a statement that writes; return the number of the row it inserted last."""
        return self._connection.execute(sql, values).lastrowid or 0


class Database:
    """One database file; safe to share between threads, and with other processes that open the same file."""

    def __init__(self, path: Path, migrations: Sequence[Migration]) -> None:
        """Open or create the file and bring its schema up to date.

        Raises:
            StoreFailed: it cannot be opened, is no database, or was written by a newer program.
        """
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._pool = threading.Lock()
        self._writer = (
            threading.Lock()
        )  # threads queue here fairly; the driver's own waiting between processes sleeps and retries
        self._is_closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreFailed(f"{path.parent}: {error}") from error
        self._migrate(migrations)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._is_closed

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """Open a transaction that sees one moment of the database."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            try:
                yield Transaction(connection)
            finally:
                _leave(connection, "ROLLBACK")

    @contextmanager
    def writing(self, *, is_durable: bool = True) -> Iterator[Transaction]:
        """Open the only writing transaction; it commits at the end of the block, or leaves nothing when the block raises.

        Args:
            is_durable: Whether the commit survives power loss; without it, only the death of the process.
        """
        with self._writer, self._connection() as connection:
            connection.execute(f"PRAGMA synchronous={'FULL' if is_durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield Transaction(connection)
                connection.execute("COMMIT")
            finally:
                _leave(connection, "ROLLBACK")

    def backup(self, to: Path) -> None:
        """Write a consistent copy to a new file, durably, while others read and write.

        Raises:
            StoreFailed: the file exists, or it cannot be written.
        """
        partial = to.with_name(to.name + ".partial")
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            partial.unlink(missing_ok=True)
            self._copy(partial)
            flush(partial)
            os.link(partial, to)  # unlike a rename, it refuses to replace
            flush(to.parent)
        except OSError as error:
            raise StoreFailed(f"{to}: {error.strerror}", hint="name a new file on a file system with room") from error
        finally:
            partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Close what is idle now, and what is in use as soon as it is given back."""
        with self._pool:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _copy(self, to: Path) -> None:
        with self._connection() as connection:
            copy = sqlite3.connect(to, isolation_level=None)
            try:
                connection.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")  # one file, complete in itself
            finally:
                copy.close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                self._give_back(connection)
        except sqlite3.Error as error:
            raise StoreFailed(f"{self._path}: {error}", hint=_hint(error)) from error

    def _take(self) -> sqlite3.Connection:
        with self._pool:
            if self._is_closed:
                raise StoreFailed(f"{self._path} is closed")
            if self._idle:
                return self._idle.pop()
        return _open(self._path)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._pool:
            if not self._is_closed:
                self._idle.append(connection)
                return
        connection.close()

    def _migrate(self, migrations: Sequence[Migration]) -> None:
        with self.reading() as transaction:
            if self._applied(transaction, len(migrations)) == len(migrations):
                return
        with self.writing() as transaction:  # whoever comes second finds nothing left to do
            for number in range(self._applied(transaction, len(migrations)), len(migrations)):
                for statement in migrations[number]:
                    transaction.run(statement)
                transaction.run("INSERT INTO migrations VALUES (?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))", number + 1)

    def _applied(self, transaction: Transaction, known: int) -> int:
        """Return the number of the last migration applied."""
        if transaction.row("SELECT 1 FROM sqlite_master WHERE name = 'migrations'") is None:
            return 0
        newest = transaction.row("SELECT COALESCE(MAX(number), 0) FROM migrations")
        applied = int(newest[0]) if newest else 0
        if applied > known:
            raise StoreFailed(
                f"{self._path} has schema {applied}; this program knows schemas up to {known}",
                hint="start the newer headgate that wrote it, or restore a backup made by this one",
            )
        return applied


FIRST: Final[Migration] = (
    "CREATE TABLE migrations (number INTEGER PRIMARY KEY, applied_at TEXT NOT NULL)",
)  # what every first migration begins with


def _open(path: Path) -> sqlite3.Connection:
    # The pool hands a connection to one thread at a time, which is all the driver asks for.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _write_ahead(connection)
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; while two processes create one file, SQLite refuses the switch without waiting."""
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(0.005)
        else:
            return


def _leave(connection: sqlite3.Connection, how: str) -> None:
    if connection.in_transaction:
        connection.execute(how)


def _hint(error: sqlite3.Error) -> str | None:
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:  # the primary code, without its extension
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return f"another process held the database for {BUSY_TIMEOUT_S:.0f} s; look for one that is stopped"
        case sqlite3.SQLITE_FULL:
            return "make room on the file system"
        case sqlite3.SQLITE_IOERR:  # what a mapped file of a full file system says, among others
            return "make room on the file system if it is full; else look at what the kernel says of it"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return "restore a backup with `headgate restore`"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
            return "check that the user of the gateway may write to this directory"
        case _:
            return None
