"""Joining small files changes how many there are, and nothing that anybody reads."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import duckdb
import numpy as np
import pytest

from adapters.archives.duck import DuckArchive
from adapters.logs.codec import decode
from gateway.core.errors import ArchiveFailed
from gateway.core.records import Anchor, GroundTruthRecord
from gateway.core.tensors import Datatype, Tensor
from gateway.ports.archive import Filter

ALL = Filter(limit=1_000_000)
LATER_S = 1_763_726_400.0 + 2 * 86_400  # the records' day is over


def parquet(house) -> set[str]:
    archive = house.directory / "archive"
    return {str(path.relative_to(archive)) for path in archive.rglob("*.parquet")}


def named(house) -> set[str]:
    return {file["path"] for file in json.loads((house.directory / "archive/manifest.json").read_text())["files"]}


def join_all(archive) -> int:
    count = 0
    while merged := archive.merge(LATER_S):
        count += merged
    return count


def read(archive, to):
    """Return everything that readers of the archive read."""
    ids = [body["prediction_id"] for body in archive.query(ALL)]
    _, ordered = archive.in_order(ALL, decode=decode)
    archive.export(ALL, to)
    exported = duckdb.sql(f"SELECT * FROM read_parquet('{to}') ORDER BY prediction_id, row").fetchall()
    timed = [(time_s, stream, offset) for time_s, stream, offset, _ in ordered]
    return list(archive.query(ALL)), timed, archive.lines(ids), archive.anchors(), exported


def test_joined_files_read_as_the_small_ones_did(house, prediction):
    """Listings, the monitor's order with its streams, lines, anchors and exports are the same; the forms stay apart."""
    for start in range(0, 60, 10):
        house.write(*(prediction(number) for number in range(start, start + 10)), Anchor(1_763_726_400.0, start, "a" * 64))
        house.write(*(prediction(100 + number) for number in range(start, start + 5)), stream="w1")
        named_inputs = (Tensor("x", Datatype.INT64, np.array([[start]], np.int64)),)
        house.write(prediction(200 + start, inputs=named_inputs), stream="w1")
        truth = prediction(start).prediction_id
        house.write(GroundTruthRecord(truth, 1_763_726_400.0 + start, 0, start, 1.0), stream="w1")
        house.take()
    before = read(house.archive, house.directory / "before.parquet")
    small = named(house)

    assert join_all(house.archive) == len(small)

    assert read(house.archive, house.directory / "after.parquet") == before
    assert len(named(house)) == 5  # w0 and w1 of one form, w1 of the other, ground truth, anchors
    types = {
        tuple(duckdb.sql(f"SELECT column_type FROM (DESCRIBE FROM read_parquet('{house.directory}/archive/{path}'))").fetchall())
        for path in named(house)
        if path.startswith("route=")
    }
    assert len(types) == 2


def test_query_that_began_before_still_reads_its_files(house, prediction):
    """Files that were joined stay until two looks for old ones later, and go then."""
    for start in range(0, 3_000, 1_000):
        house.write(*(prediction(number) for number in range(start, start + 1_000)))
        house.take()
    running = house.archive.query(ALL)
    next(running)
    assert join_all(house.archive) == 3
    house.archive.drop(0.0)
    assert len(list(running)) == 2_999
    house.archive.drop(0.0)
    assert parquet(house) == named(house)
    assert len(named(house)) == 1
    assert len(list(house.archive.query(ALL))) == 3_000


def test_joining_survives_a_kill_at_any_point(house, prediction):
    """Killed again and again while it joins, every reader finds each prediction once, and no file is left over in the end."""
    for start in range(0, 4_000, 100):
        house.write(*(prediction(number) for number in range(start, start + 100)))
    house.take()
    script = """
import sys
from pathlib import Path
from adapters.archives.duck import DuckArchive

archive = DuckArchive(Path(sys.argv[1]) / "archive", memory_bytes=512 << 20)
print("ready", flush=True)
while archive.merge(float(sys.argv[2])):
    pass
"""
    for delay_s in (0.005, 0.02, 0.04, 0.08):
        words = [sys.executable, "-c", script, str(house.directory), str(LATER_S)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = [body["prediction_id"] for body in house.archive.query(ALL)]
        assert (len(found), len(set(found))) == (4_000, 4_000)
    fresh = DuckArchive(house.directory / "archive", memory_bytes=512 * 2**20)
    join_all(fresh)
    fresh.drop(0.0)
    fresh.drop(0.0)
    assert parquet(house) == named(house)
    assert len(named(house)) == 1
    fresh.close()


@pytest.mark.parametrize("job", ["join", "take"])
def test_disk_that_fills_up_keeps_no_half_files(house, prediction, job):
    """What could not be written whole leaves nothing behind; readers find everything, and once there is room it is written."""
    for start in range(0, 3_000, 1_000):
        house.write(*(prediction(number) for number in range(start, start + 1_000)))
        house.take()
    house.write(*(prediction(number) for number in range(3_000, 6_000)))
    archive = house.directory / "archive"
    work = {"join": lambda: join_all(house.archive), "take": house.take}[job]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))  # a file system that takes no more than so much of a file
    try:
        with pytest.raises(ArchiveFailed):
            work()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {str(path.relative_to(archive)) for path in archive.rglob("*") if path.is_file()} == {"manifest.json", *named(house)}
    assert len(list(house.archive.query(ALL))) == 3_000
    assert work() == 3 if job == "join" else 3_000
    house.archive.drop(0.0)
    house.archive.drop(0.0)
    assert parquet(house) == named(house)
