"""Each consumer's cursor and state, in one row of a SQLite file of their own: the monitor's saves never wait for a commit."""

from __future__ import annotations

import json
from pathlib import Path, PurePath

from adapters.stores.rows import text_of
from adapters.stores.schema import CHECKPOINTS
from adapters.stores.sqlite import Database
from gateway.core.errors import StoreFailed
from gateway.core.records import Cursor, Offset


class SqliteCheckpoints:
    """A `CheckpointStore` in one file."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, CHECKPOINTS)

    def load(self, consumer: str) -> tuple[Cursor, bytes] | None:
        """Read the consumer's row."""
        with self._database.reading() as transaction:
            row = transaction.row("SELECT cursor, state FROM checkpoints WHERE consumer = ?", consumer)
        return (_cursor(row[0]), row[1]) if row else None

    def save(self, consumer: str, cursor: Cursor, state: bytes) -> None:
        """Replace the consumer's row in a durable transaction."""
        with self._database.writing() as transaction:
            transaction.run("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", consumer, text_of(dict(cursor)), state)

    def backup(self, to: PurePath) -> None:
        """Copy with SQLite's own backup, then link into place."""
        self._database.backup(Path(to))

    def close(self) -> None:
        """Release the file."""
        self._database.close()


def _cursor(text: str) -> Cursor:
    try:
        return {stream: Offset(offset) for stream, offset in json.loads(text).items()}
    except ValueError as error:
        raise StoreFailed(f"a checkpoint's cursor cannot be read: {error}") from error
