"""The archive holds what the log held, to the bit, whatever happens while it copies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pytest

from adapters.archives.duck import DuckArchive
from adapters.logs.codec import decode, encode, record_from_body
from gateway.core.errors import ArchiveFailed
from gateway.core.records import GroundTruthRecord, Heartbeat, Outcome
from gateway.core.tensors import Datatype, Tensor
from gateway.ports.archive import Filter

ALL = Filter(limit=1_000_000)


def rows(path: Path | str, columns: str, order: str = "time, row") -> list[tuple[object, ...]]:
    query = f"SELECT {columns} FROM read_parquet('{path}', union_by_name = true) ORDER BY {order}"
    return duckdb.sql(query).fetchall()


def tensor(name: str, datatype: Datatype, values: object, dtype: object) -> Tensor:
    return Tensor(name, datatype, np.array(values, dtype))


def test_archive_equals_the_log(house, prediction):
    """Every prediction of the log is in the archive once, and its record reads back to the same bits."""
    logged = [prediction(number) for number in range(300)]
    logged[7] = prediction(7, inputs=(tensor("x", Datatype.FP32, [[np.nan, np.inf, -0.0, 1e-45]], np.float32),))
    logged[8] = prediction(8, inputs=(tensor("s", Datatype.BYTES, [b"\xff\x00", b'"'], object),))
    logged[9] = prediction(9, outcome=Outcome.FAILED, outputs=())
    house.write(Heartbeat(1.0), *logged, GroundTruthRecord(logged[3].prediction_id, 2e9, 0, "late", 2e9))
    assert house.take() == 300
    assert house.take() == 0
    found = list(house.archive.query(ALL))
    assert [record["prediction_id"] for record in found] == [record.prediction_id for record in reversed(logged)]
    for body, record in zip(reversed(found), logged, strict=True):
        body.pop("ground_truth")
        assert encode([record_from_body(body)]) == encode([record])
    assert house.archive.taken("w0") == house.reader.end("w0")


def test_archive_spreads_rows_into_typed_columns(house, prediction):
    """One row per row of a prediction; a wide tensor by position, named inputs by name, NaN and text as such."""
    wide = np.array([[1, np.nan], [-np.inf, 4]], np.float32)
    inputs = (
        Tensor("x", Datatype.FP32, wide),
        tensor("carrier", Datatype.BYTES, [[b"UA"], [b"\xff"]], object),
        tensor("count", Datatype.UINT64, [2**64 - 1, 0], np.uint64),
        tensor("is_late", Datatype.BOOL, [[True], [False]], np.bool_),
        Tensor("image", Datatype.UINT8, np.zeros((2, 3, 3), np.uint8)),
    )
    house.write(prediction(1, inputs=inputs, outputs=(tensor("p", Datatype.FP64, [[0.1, 0.9], [0.2, 0.8]], np.float64),)))
    house.take()
    path = house.directory / "archive/route=delay/date=2025-11-21/*.parquet"
    found = rows(path, 'rows, "row", in_x_0, in_x_1, in_carrier, in_count, in_is_late, out_p_0, out_p_1, record IS NULL')
    assert found[0][:3] == (2, 0, 1.0)
    assert np.isnan(found[0][3])
    assert found[0][4:] == ("UA", 2**64 - 1, True, 0.1, 0.9, False)
    assert found[1] == (2, 1, -np.inf, 4.0, "\\xff", 0, False, 0.2, 0.8, True)
    types = dict(duckdb.sql(f"SELECT column_name, column_type FROM (DESCRIBE FROM read_parquet('{path}'))").fetchall())
    assert (types["in_x_0"], types["in_count"], types["time"], types["time_utc"]) == ("FLOAT", "UBIGINT", "DOUBLE", "TIMESTAMP")
    assert not [name for name in types if name.startswith("in_image")]


def test_archive_columns_hold_the_same_bits(house, prediction):
    """An FP32 feature's column holds exactly the value that was predicted on."""
    data = np.random.default_rng(3).integers(0, 2**31 - 2**23, 2_000, dtype=np.uint32).view(np.float32)
    data = data[np.isfinite(data)].reshape(-1, 1)
    house.write(prediction(1, inputs=(Tensor("x", Datatype.FP32, data),)))
    house.take()
    found = rows(house.directory / "archive/route=delay/*/*.parquet", "in_x")
    assert np.array(found, np.float32).tobytes() == data.tobytes()


@pytest.mark.parametrize("name", ['a"; DROP TABLE line; --', "route", "x'y", "ü x", "a.b", "A" * 200])
def test_archive_takes_any_name(house, prediction, name):
    """Tensors and routes may be called anything printable; names are quoted, encoded in paths, and never collide."""
    inputs = tuple(tensor(each, Datatype.FP32, [1.5], np.float32) for each in (name, name.lower(), name.upper() + "_0"))
    house.write(prediction(1, route=name, inputs=inputs))
    assert house.take() == 1
    assert next(house.archive.query(Filter(route=name)))["route"] == name
    assert list(house.archive.query(Filter(route=name + "x"))) == []
    described = duckdb.sql(
        f"DESCRIBE FROM read_parquet('{house.directory}/archive/route=*/*/*.parquet', hive_partitioning=false)"
    )
    assert f"in_{name}" in [column[0] for column in described.fetchall()]


def test_archive_keeps_predictions_without_rows(house, prediction):
    """A prediction of no rows, and one whose inputs are no table, are in the archive too."""
    empty = prediction(1, inputs=(Tensor("x", Datatype.FP32, np.empty((0, 4), np.float32)),), outputs=())
    scalar = prediction(2, inputs=(tensor("x", Datatype.FP32, 3.5, np.float32),))
    house.write(empty, scalar, prediction(3, inputs=(), outputs=()))
    assert house.take() == 3
    assert len(list(house.archive.query(ALL))) == 3


def test_archive_bounds_the_number_of_files(house, prediction):
    """Inputs of ever other widths cannot make a file each; the rarest are archived without columns."""
    shapes = [np.zeros((1, width), np.float32) for width in range(1, 111)]
    house.write(*(prediction(at, inputs=(Tensor("x", Datatype.FP32, data),)) for at, data in enumerate(shapes)))
    assert house.take() == 110
    assert len(list((house.directory / "archive").rglob("*.parquet"))) <= 101
    assert len(list(house.archive.query(ALL))) == 110


def test_archive_days_and_routes_are_apart(house, prediction):
    """A prediction lies under its route and its UTC day, however the segments were cut."""
    house.write(prediction(1), prediction(2, route="fare"), prediction(86_400))
    house.take()
    found = {
        str(path.parent.relative_to(house.directory / "archive")) for path in (house.directory).rglob("route=*/**/*.parquet")
    }
    assert found == {"route=delay/date=2025-11-21", "route=fare/date=2025-11-21", "route=delay/date=2025-11-22"}


def test_archive_query_is_newest_first_over_overlapping_streams(house, prediction):
    """Predictions of several workers, interleaved in time, come back in one order and only as many as asked."""
    for stream in range(3):
        for start in (0, 90, 180):
            house.write(*(prediction(at) for at in range(start + stream, start + 90, 3)), stream=f"w{stream}")
            house.take()
    found = [body["time"] for body in house.archive.query(ALL)]
    assert len(found) == 270
    assert found == sorted(found, reverse=True)
    assert [body["time"] for body in house.archive.query(Filter(limit=35))] == found[:35]
    since, until = found[200], found[50]
    assert [body["time"] for body in house.archive.query(Filter(since_s=since, until_s=until, limit=999))] == found[51:201]


def test_archive_finds_lines_by_id(house, prediction):
    """Of the predictions asked for, over segments and streams, each archived one has its own line; others are left out."""
    house.write(*(prediction(number) for number in range(20)))
    house.write(*(prediction(number) for number in range(20, 40)), stream="w1")
    house.take()
    wanted = [prediction(number).prediction_id for number in (3, 19, 25, 99)]

    found = house.archive.lines(wanted)

    assert set(found) == set(wanted[:3])
    assert all(decode(line).prediction_id == id for id, line in found.items())
    assert house.archive.lines([]) == {}


def test_archive_query_filters(house, prediction):
    """Route, version and id select; an unknown one finds nothing."""
    house.write(prediction(1), prediction(2, version="2"), prediction(3, route="fare"))
    house.take()
    assert [body["version"] for body in house.archive.query(Filter(version="2"))] == ["2"]
    assert [body["route"] for body in house.archive.query(Filter(route="fare"))] == ["fare"]
    wanted = prediction(2).prediction_id
    assert [body["prediction_id"] for body in house.archive.query(Filter(prediction_id=wanted))] == [wanted]
    assert list(house.archive.query(Filter(prediction_id="none"))) == []


def test_archive_joins_ground_truth(house, prediction):
    """Ground truth of any type, late or early, several for a row, stands with its prediction, the oldest first."""
    ids = [prediction(number).prediction_id for number in range(3)]
    house.write(*(prediction(number) for number in range(3)))
    house.take()
    values = ["late", True, 3, 0.1]
    house.write(*(GroundTruthRecord(ids[1], 2e9 + at, 0, value, 1.5, "key") for at, value in enumerate(values)), stream="w1")
    house.take()
    found = list(house.archive.query(ALL))
    assert [[truth["value"] for truth in body["ground_truth"]] for body in found] == [[], values, []]
    assert found[1]["ground_truth"][0] == {"row": 0, "value": "late", "observed_at": 1.5, "time": 2e9, "principal": "key"}


def test_archive_export_is_one_file_with_ground_truth(house, prediction):
    """An export holds the newest matching predictions, all columns of all forms, and the newest ground truth of each row."""
    house.write(*(prediction(number) for number in range(10)))
    house.write(prediction(10, inputs=(tensor("z", Datatype.INT64, [[5], [6]], np.int64),)))
    ids = [prediction(number).prediction_id for number in range(11)]
    house.write(GroundTruthRecord(ids[10], 2e9, 1, 7, 1.5), GroundTruthRecord(ids[10], 2e9 + 1, 1, 8, 1.5))
    house.take()
    to = house.directory / "export.parquet"
    assert house.archive.export(Filter(limit=4), to) == 4
    found = rows(to, "prediction_id, row, in_x_0, in_z, ground_truth, ground_truth_number")
    assert [row[0] for row in found] == [ids[7], ids[8], ids[9], ids[10], ids[10]]
    assert found[-1][1:] == (1, None, 6, "8", 8.0)
    assert house.archive.export(Filter(route="none"), to) == 0
    assert rows(to, "prediction_id, record, ground_truth") == []


def test_archive_take_survives_a_kill_at_any_point(house, prediction):
    """Killed again and again while it copies, the archive ends up with every prediction once and no stray file."""
    for start in range(0, 6_000, 1_000):
        house.write(*(prediction(number) for number in range(start, start + 1_000)))
    house.store.repair()
    script = """
import sys
from pathlib import Path
from adapters.archives.duck import DuckArchive
from adapters.logs.segments import SegmentDirectory

archive = DuckArchive(Path(sys.argv[1]) / "archive", memory_bytes=512 << 20)
print("ready", flush=True)
for segment in SegmentDirectory(Path(sys.argv[1]) / "log").closed("w0"):
    archive.take(segment)
"""
    for delay_s in (0.01, 0.03, 0.06, 0.1, 0.15):
        process = subprocess.Popen([sys.executable, "-c", script, str(house.directory)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(delay_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = [body["prediction_id"] for body in house.archive.query(ALL)]
        assert len(found) == len(set(found))
        assert len(found) % 1_000 == 0
    stray = house.directory / "archive/route=delay/date=2025-11-21/w0-stray.parquet"
    stray.parent.mkdir(parents=True, exist_ok=True)
    stray.write_bytes(b"half a file")
    fresh = DuckArchive(house.directory / "archive", memory_bytes=512 * 2**20)
    for segment in house.store.closed("w0"):
        fresh.take(segment)
    assert len(list(fresh.query(ALL))) == 6_000
    listed = {file["path"] for file in json.loads((house.directory / "archive/manifest.json").read_text())["files"]}
    assert {
        str(path.relative_to(house.directory / "archive")) for path in (house.directory / "archive").rglob("*.parquet")
    } == listed
    fresh.close()


def test_archive_drop_removes_old_files_and_running_queries_finish(house, prediction):
    """Retention takes whole files at once out of the manifest; a query that began before still reads to its end."""
    for start in (0, 100, 200):
        house.write(*(prediction(number) for number in range(start, start + 100)))
        house.take()
    running = house.archive.query(ALL)
    next(running)
    assert house.archive.drop(prediction(200).time_s) == 2
    assert len(list(running)) == 299
    assert len(list(house.archive.query(ALL))) == 100
    assert house.archive.drop(prediction(200).time_s) == 0
    assert len(list((house.directory / "archive").rglob("*.parquet"))) == 1


def test_archive_refuses_a_damaged_segment_whole(house, prediction):
    """A segment that cannot be read adds nothing, and the error is the port's."""
    house.write(prediction(1))
    house.store.repair()
    segment = house.store.closed("w0")[0]
    Path(segment.path).write_bytes(b'{"v":1,"type":"prediction",\n')
    with pytest.raises(ArchiveFailed):
        house.archive.take(segment)
    assert house.archive.taken("w0") == 0
    assert list(house.archive.query(ALL)) == []
