"""The registry's tables. A migration that was ever released is never edited: the next change is the next migration."""

from __future__ import annotations

from typing import Final

from adapters.stores.sqlite import FIRST, Migration

REGISTRY: Final[tuple[Migration, ...]] = (
    (
        *FIRST,
        # sequence: of everything `follow` tells; revision: of the route table; is_automation_on: 0 or 1. One row.
        "CREATE TABLE registry (sequence INTEGER NOT NULL, revision INTEGER NOT NULL, is_automation_on INTEGER NOT NULL)",
        "INSERT INTO registry VALUES (0, 0, 1)",
        # number: the order of registration; changed: the table's revision that wrote the row last.
        """CREATE TABLE versions (
            number INTEGER PRIMARY KEY, model TEXT NOT NULL, version TEXT NOT NULL, changed INTEGER NOT NULL, body TEXT NOT NULL,
            UNIQUE (model, version))""",
        "CREATE TABLE champions (model TEXT PRIMARY KEY, version TEXT NOT NULL)",
        # A dropped route keeps its row, without body and owners, so that its revision goes on counting.
        "CREATE TABLE routes (name TEXT PRIMARY KEY, revision INTEGER NOT NULL, body TEXT, owners TEXT)",
        """CREATE TABLE rollouts (
            number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, route TEXT NOT NULL, is_open INTEGER NOT NULL,
            body TEXT NOT NULL)""",
        "CREATE INDEX rollouts_of_route ON rollouts (route, number)",
        "CREATE TABLE quarantines (digest TEXT PRIMARY KEY, body TEXT NOT NULL)",
        "CREATE TABLE keys (id TEXT PRIMARY KEY, token_sha256 TEXT NOT NULL, body TEXT NOT NULL)",
        "CREATE TABLE audit (seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, body TEXT NOT NULL)",
        """CREATE TABLE decisions (
            id TEXT PRIMARY KEY, revision INTEGER NOT NULL, table_revision INTEGER NOT NULL, audit_seq INTEGER NOT NULL)""",
        # AUTOINCREMENT: an id is never given twice, although old proposals are removed.
        "CREATE TABLE proposals (id INTEGER PRIMARY KEY AUTOINCREMENT, needs TEXT NOT NULL)",
        """CREATE TABLE workers (
            worker TEXT PRIMARY KEY, revision INTEGER NOT NULL, prepared INTEGER NOT NULL, failure TEXT NOT NULL,
            seen_at_s REAL NOT NULL)""",
    ),
    (
        # is_held: 0 once it was let go of, which workers have to see; changed: the table's revision that wrote the row last.
        """CREATE TABLE holds (
            model TEXT NOT NULL, version TEXT NOT NULL, is_held INTEGER NOT NULL, changed INTEGER NOT NULL,
            PRIMARY KEY (model, version))""",
        "ALTER TABLE workers ADD COLUMN settled INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE workers ADD COLUMN cold TEXT NOT NULL DEFAULT '[]'",
    ),
)

CHECKPOINTS: Final[tuple[Migration, ...]] = (
    (
        *FIRST,
        "CREATE TABLE checkpoints (consumer TEXT PRIMARY KEY, cursor TEXT NOT NULL, state BLOB NOT NULL)",
    ),
)
