"""Copies of log and archive that are made while both change."""

from __future__ import annotations

from pathlib import Path

from adapters import backups
from adapters.archives.duck import DuckArchive
from adapters.archives.manifest import load_manifest
from adapters.backups import BackupDirectory
from adapters.logs.reading import SegmentReader
from gateway.core.records import Offset
from gateway.history import predictions
from gateway.ports.archive import Filter

ALL = Filter(limit=1_000_000)


def test_copy_of_the_log_ends_with_its_last_whole_append(house, prediction):
    """What is being written while the log is copied is left out; every record before it is there."""
    house.write(*(prediction(number) for number in range(5)))
    house.write(*(prediction(number) for number in range(5, 9)))
    newest = max((house.directory / "log/w0").iterdir())
    with newest.open("ab") as file:
        file.write(b'{"v":1,"type":"predic')

    firsts = house.store.backup(house.directory / "copy")

    assert firsts == {"w0": 0}
    copy = SegmentReader(house.directory / "copy")
    assert len(copy.read("w0", Offset(0), 100).records) == 5
    assert sum(len(copy.read("w0", Offset(at)).records) for at in (0, house.store.closed("w0")[0].next)) == 9
    copy.close()


def test_copy_of_the_log_begins_after_what_was_removed(house, prediction):
    """A copy says where it begins, so that a gap to the archive is found."""
    house.write(prediction(1))
    house.write(prediction(2))
    first = house.store.closed("w0")[0]
    house.store.remove(first)
    assert house.store.backup(house.directory / "copy") == {"w0": first.next}


def test_archive_is_copied_again_only_where_it_changed(house, prediction):
    """A second copy to the same place takes what is new, drops what was joined, and answers like the archive itself."""
    copy = house.directory / "copy"
    for start in range(0, 40, 10):
        house.write(*(prediction(number) for number in range(start, start + 10)))
        house.take()
    house.archive.backup(copy)
    first = {path: path.stat().st_ino for path in copy.rglob("*.parquet")}
    house.write(*(prediction(number) for number in range(40, 50)))
    house.take()
    house.archive.backup(copy)
    assert first.items() <= {path: path.stat().st_ino for path in copy.rglob("*.parquet")}.items()

    while house.archive.merge(1_763_726_400.0 + 2 * 86_400):
        pass
    taken = house.archive.backup(copy)

    assert {str(path.relative_to(copy)) for path in copy.rglob("*.parquet")} == {f.path for f in load_manifest(copy).files}
    assert taken == {"w0": house.archive.taken("w0")}
    other = DuckArchive(copy, memory_bytes=512 * 2**20)
    found = [list(predictions(ALL, archive=archive, log=house.reader)) for archive in (house.archive, other)]
    assert found[0] == found[1]
    assert len(found[0]) == 50
    other.close()


def test_backup_and_restore_survive_a_power_loss(tmp_path, monkeypatch):
    """Every file and every list of names is on the disk before the rename that makes them count, and so is the rename."""
    target, elsewhere = tmp_path / "backups" / "monday", tmp_path / "elsewhere"
    renamed = target / "backup.json"
    flushed: list[tuple[Path, bool]] = []  # and whether it was renamed by then
    flush = backups.flush

    def recorded(path: Path) -> None:
        flush(path)
        flushed.append((path, renamed.exists()))

    monkeypatch.setattr(backups, "flush", recorded)
    backup = BackupDirectory(target)
    backup.begin()
    (target / "log" / "w0").mkdir(parents=True)
    for name in ("registry.db", "log/w0/0.jsonl"):
        (target / name).write_text(name)
    backup.seal(1.0)
    before = {path for path, is_late in flushed if not is_late}
    assert {target / name for name in ("registry.db", "log", "log/w0", "log/w0/0.jsonl", "backup.json.new")} <= before
    assert {target, target.parent} <= {path for path, is_late in flushed if is_late}

    flushed.clear()
    renamed = elsewhere
    backup.restore(elsewhere)
    partial = tmp_path / "elsewhere.partial"
    before = {path for path, is_late in flushed if not is_late}
    assert {partial, *(partial / name for name in ("registry.db", "log", "log/w0", "log/w0/0.jsonl"))} <= before
    assert tmp_path in {path for path, is_late in flushed if is_late}
