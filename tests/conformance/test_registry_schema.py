"""The file of the registry: its schema's versions, its backups, and what tampering and damage look like."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from adapters.memory import ManualClock
from adapters.stores.registry import SqliteRegistry
from adapters.stores.schema import REGISTRY
from adapters.stores.sqlite import FIRST, Database
from gateway.core.audit import first_broken
from gateway.core.changes import Automation, Change, PutChampion, PutHold, PutRoute, PutVersion
from gateway.core.errors import StoreFailed
from gateway.core.models import Digest, Runtime, Version
from gateway.core.routes import Route, Variant, with_weights
from gateway.core.tensors import Signature

ONE = ((*FIRST, "CREATE TABLE things (name TEXT)", "INSERT INTO things VALUES ('old')"),)
TWO = (*ONE, ("ALTER TABLE things ADD COLUMN size INTEGER NOT NULL DEFAULT 7", "INSERT INTO things VALUES ('new', 8)"))


def opened(path: Path) -> SqliteRegistry:
    return SqliteRegistry(path, clock=ManualClock())


def version(name: str) -> Version:
    return Version("m", name, Digest("a" * 64), 10, Runtime.ONNX, "1.31", Signature((), ()))


def turn(registry: SqliteRegistry, count: int) -> None:
    for at in range(count):
        registry.commit(Change("ada", "automation.set", "automation", f"turn {at}", (Automation(at % 2 == 0),)))


def test_database_migrates_an_older_schema_and_keeps_its_rows(tmp_path):
    """A file of an older schema gets what it lacks, once, and nothing that stood in it goes."""
    Database(tmp_path / "d.db", ONE).close()
    for _ in range(2):
        database = Database(tmp_path / "d.db", TWO)
        with database.reading() as transaction:
            assert transaction.rows("SELECT * FROM things") == [("old", 7), ("new", 8)]
            assert [number for (number,) in transaction.rows("SELECT number FROM migrations")] == [1, 2]
        database.close()


def test_database_leaves_the_schema_alone_when_a_migration_fails(tmp_path):
    """A migration that fails halfway is taken back whole, so that the next start finds the older schema."""
    Database(tmp_path / "d.db", ONE).close()
    broken = (*ONE, ("ALTER TABLE things ADD COLUMN size INTEGER", "INSERT INTO absent VALUES (1)"))
    with pytest.raises(StoreFailed, match="no such table: absent"):
        Database(tmp_path / "d.db", broken)
    database = Database(tmp_path / "d.db", TWO)
    with database.reading() as transaction:
        assert transaction.rows("SELECT * FROM things") == [("old", 7), ("new", 8)]
    database.close()


def test_registry_refuses_a_newer_schema(tmp_path):
    """A file that a newer program wrote is not touched, and the error says what to do."""
    opened(tmp_path / "r.db").close()
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("INSERT INTO migrations VALUES (?, 'tomorrow')", (len(REGISTRY) + 1,))
    connection.close()
    with pytest.raises(StoreFailed, match=f"schema {len(REGISTRY) + 1}") as caught:
        opened(tmp_path / "r.db")
    assert caught.value.hint is not None
    assert "newer" in caught.value.hint


@pytest.mark.parametrize("content", [b"not a database, whatever its name says" * 100, b"SQLite format 3\0" + bytes(4080)])
def test_registry_refuses_a_file_that_is_no_database(tmp_path, content):
    """A foreign or damaged file is an error with a hint, not a traceback of the driver."""
    (tmp_path / "r.db").write_bytes(content)
    with pytest.raises(StoreFailed):
        opened(tmp_path / "r.db")


def test_registry_says_that_its_directory_cannot_be_made(tmp_path):
    """A path below a plain file is an error of the store."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed):
        opened(tmp_path / "file" / "r.db")


def test_registry_row_that_cannot_be_read_is_the_stores_fault(tmp_path):
    """Damage inside a row never looks like a caller's mistake."""
    registry = opened(tmp_path / "r.db")
    route = with_weights(Route("r", "m", ()), (Variant("a", "1", 10_000),))
    registry.commit(Change("p", "route.put", "route:r", "", (PutRoute(route),), "r"))
    for damage in ("{", "{}", "[]", '{"name": "r", "variants": 3}'):
        with sqlite3.connect(tmp_path / "r.db") as connection:
            connection.execute("UPDATE routes SET body = ?, revision = revision + 1", (damage,))
            connection.execute("UPDATE registry SET revision = revision + 1")
        connection.close()
        with pytest.raises(StoreFailed, match="route"):
            registry.table()
    registry.close()


def test_registry_version_is_read_when_it_is_asked_for(tmp_path):
    """A table names versions that nobody has read yet; one that is damaged says so to who asks for it, and to nobody else."""
    registry = opened(tmp_path / "r.db")
    for name in ("1", "2"):
        registry.commit(Change("p", "version.register", "model:m", "", (PutVersion(version(name)), PutHold("m", name))))
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE versions SET body = '{' WHERE version = '2'")
    connection.close()
    versions = registry.table().versions
    assert set(versions) == {("m", "1"), ("m", "2")}
    assert versions["m", "1"] == version("1")
    with pytest.raises(StoreFailed, match="version"):
        versions.get(("m", "2"))
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("UPDATE versions SET body = '{'")
    connection.close()
    registry.commit(Change("p", "champion.put", "model:m", "", (PutChampion("m", "1"),)))
    assert registry.table().versions["m", "1"] == version("1")  # taken over: it did not change
    registry.close()


def test_registry_backup_is_a_whole_registry(tmp_path):
    """A backup made while commits go on opens as a registry of one moment, in one file."""
    registry = opened(tmp_path / "r.db")
    turn(registry, 5)
    registry.backup(tmp_path / "to" / "b.db")
    turn(registry, 3)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["b.db"]
    copy = opened(tmp_path / "to" / "b.db")
    assert len(copy.audit()) == 5
    assert first_broken(copy.audit()) is None
    turn(copy, 1)
    assert first_broken(copy.audit()) is None
    copy.close()
    registry.close()


def test_registry_backup_never_replaces_a_file(tmp_path):
    """A backup onto a file that is there is refused, and the file stays."""
    registry = opened(tmp_path / "r.db")
    (tmp_path / "b.db").write_text("dear")
    with pytest.raises(StoreFailed, match="exists"):
        registry.backup(tmp_path / "b.db")
    assert (tmp_path / "b.db").read_text() == "dear"
    registry.close()


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE audit SET body = replace(body, 'turn 3', 'turn 9') WHERE seq = 4",
        "UPDATE audit SET body = replace(body, '\"ada\"', '\"bob\"') WHERE seq = 4",
        "UPDATE audit SET body = replace(body, '\"is_on\":true', '\"is_on\":false') WHERE seq = 4",
        "UPDATE audit SET body = replace(body, '1700000000.0', '1700000001.0') WHERE seq = 4",
        "UPDATE audit SET hash = replace(hash, substr(hash, 1, 8), '00000000') WHERE seq = 4",
        "DELETE FROM audit WHERE seq = 4",
        "UPDATE audit SET seq = CASE seq WHEN 4 THEN -5 WHEN 5 THEN -4 END WHERE seq IN (4, 5);"
        "UPDATE audit SET seq = -seq WHERE seq < 0",
    ],
)
def test_registry_audit_finds_tampering_with_the_file(tmp_path, edit):
    """Whoever edits, removes or swaps entries in the file breaks the chain at that place."""
    registry = opened(tmp_path / "r.db")
    turn(registry, 8)
    assert first_broken(registry.audit()) is None
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.executescript(edit)
    connection.close()
    assert first_broken(registry.audit()) in (4, 5)
    registry.close()


def test_database_releases_a_transaction_whose_block_raised(tmp_path):
    """After an error inside a transaction the next one finds nothing of it and does not wait."""
    database = Database(tmp_path / "d.db", ONE)

    def fail() -> None:
        with database.writing() as transaction:
            transaction.run("DELETE FROM things")
            transaction.run("DELETE FROM absent")

    with pytest.raises(StoreFailed, match="no such table"):
        fail()
    with database.writing() as transaction:
        assert transaction.rows("SELECT name FROM things") == [("old",)]
    database.close()
