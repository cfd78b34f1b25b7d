"""Questions in SQL see every logged prediction, nothing else, and cannot take more than they may."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.errors import ArchiveFailed, NotReady, NotValid
from gateway.core.records import GroundTruthRecord
from gateway.core.tensors import Datatype, Tensor
from gateway.history import TAIL_MAX, _bounded, ask
from gateway.ports.archive import QuestionLimits

LIMITS = QuestionLimits(rows_max=100, bytes_max=2**20, memory_bytes=256 * 2**20, timeout_s=30.0)


@pytest.fixture
def asked(house, prediction):
    """Return what asks a log whose first half is archived; the fourth prediction's outcome was corrected."""
    house.write(*(prediction(number, version=str(number % 2 + 1)) for number in range(10)))
    house.write(GroundTruthRecord(prediction(3).prediction_id, 1.0, 0, 5, 1.0))
    house.take()
    house.write(*(prediction(number, version="3") for number in range(10, 14)), stream="w1")
    house.write(GroundTruthRecord(prediction(3).prediction_id, 2.0, 0, 7, 1.0), stream="w1")

    def answer(sql: str, **changed: object):
        more = {"is_archived_only": True} if changed.pop("is_archived_only", False) else {}
        return ask(sql, within=replace(LIMITS, **changed), archive=house.archive, log=house.reader, **more)

    return answer


def test_question_is_answered_over_archive_and_open_log(asked):
    """Predictions that are archived and those that are not yet count once each, with typed columns."""
    found = asked("SELECT version, count(*) AS n, max(in_x_0) AS most FROM predictions GROUP BY version ORDER BY version")

    assert found.columns == ("version", "n", "most")
    assert found.types == ("VARCHAR", "BIGINT", "FLOAT")
    assert found.rows == (("1", 5, 8.0), ("2", 5, 9.0), ("3", 4, 13.0))
    assert not found.is_cut


def test_question_sees_the_newest_outcome_of_a_row(asked):
    """Of an outcome that was corrected, the correction counts, wherever each of the two lies."""
    joined = "SELECT version, value_number FROM predictions JOIN ground_truth USING (prediction_id, row)"

    assert asked(joined).rows == (("2", 7.0),)
    assert asked(joined, is_archived_only=True).rows == (("2", 5.0),)


def test_question_of_the_archive_alone_leaves_out_the_open_log(asked):
    """Who does not need the last minutes is not answered from them."""
    assert asked("SELECT count(*) FROM predictions", is_archived_only=True).rows == ((10,),)


def test_question_sees_what_is_logged_raw_before_and_after_it_is_archived(house, prediction):
    """A row with a missing value and a tensor of many numbers have their features while they are in the open log, too."""
    missing = np.array([[1.5, np.nan, 3.0, 4.0]], np.float32)
    many = np.arange(400, dtype=np.float32).reshape(2, 200)
    house.write(
        prediction(1, inputs=(Tensor("x", Datatype.FP32, missing),)), prediction(2, inputs=(Tensor("w", Datatype.FP32, many),))
    )

    def seen() -> tuple[object, ...]:
        sql = "SELECT count(*), sum(in_x_0), count(in_x_1), sum(in_w_199) FROM predictions"
        return ask(sql, within=LIMITS, archive=house.archive, log=house.reader).rows

    in_the_open_log = seen()
    house.take()
    assert in_the_open_log == seen() == ((3, 1.5, 1, 199.0 + 399.0),)


def test_question_over_nothing_has_the_fixed_columns(house):
    """Before the first prediction a question is answered with no rows, not refused."""
    found = ask("SELECT version, latency_us FROM predictions", within=LIMITS, archive=house.archive, log=house.reader)
    assert (found.columns, found.rows) == (("version", "latency_us"), ())


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT nothing FROM predictions", "nothing"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("", "one statement"),
        ("CREATE TABLE mine AS SELECT 1", "one statement"),
        ("SET memory_limit = '9GB'", "one statement"),
        ("ATTACH 'other.db'", "one statement"),
        ("COPY (SELECT 1) TO 'out.csv'", "one statement"),
        ("EXPLAIN ANALYZE COPY predictions TO 'out.csv'", "one statement"),
        ("INSTALL httpfs", "one statement"),
        ("SELECT * FROM read_text('/etc/passwd')", "disabled"),
        ("SELECT * FROM '/etc/passwd'", ""),
        ("SELECT * FROM glob('/*')", "disabled"),
        ("SELECT * FROM read_csv('https://example.com/a.csv')", ""),
        ("SELECT list(range) FROM range(1000000000)", "memory"),
        ("SELECT repeat('x', 400000000)", "memory"),
    ],
)
def test_question_that_may_not_be_asked_says_why(asked, sql, reason):
    """Wrong SQL, more than one statement, any that changes something, any other file, and too much memory are refused."""
    with pytest.raises(NotValid) as refused:
        asked(sql)
    assert reason in refused.value.message


def test_question_reaches_no_other_file_of_the_gateway(house, asked):
    """Neither the manifest, the log nor a Parquet file that the manifest does not name can be read."""
    stray = house.directory / "archive" / "stray.parquet"
    stray.write_bytes(b"PAR1")
    for path in (house.directory / "archive" / "manifest.json", next((house.directory / "log").rglob("*.jsonl")), stray):
        with pytest.raises(NotValid) as refused:
            asked(f"SELECT * FROM read_text('{path}')")
        assert "disabled" in refused.value.message


def test_question_leaves_the_archive_as_it_was(house, asked):
    """Even a file that a question may read cannot be written."""
    before = {path: path.read_bytes() for path in (house.directory / "archive").rglob("*.*")}
    path = next(path for path in before if path.suffix == ".parquet")
    for sql in (f"COPY predictions TO '{path}' (USE_TMP_FILE false)", f"SELECT * FROM query('COPY predictions TO ''{path}''')"):
        with pytest.raises(NotValid):
            asked(sql)
    assert {path: path.read_bytes() for path in before} == before


def test_question_is_ended_at_its_deadline(asked):
    """What does not end is killed, and the asker is told the bound."""
    with pytest.raises(NotValid) as refused:
        asked("SELECT sum(range % 7) FROM range(1000000000000000)", timeout_s=2.0)
    assert "within 2 s" in refused.value.message


def test_answer_is_cut_at_its_bounds(asked):
    """An answer holds so many rows and bytes, and says that there was more."""
    by_rows = asked("SELECT prediction_id FROM predictions", rows_max=4)
    by_bytes = asked("SELECT repeat('x', 1000) FROM predictions", bytes_max=3_500)
    assert (len(by_rows.rows), by_rows.is_cut) == (4, True)
    assert (len(by_bytes.rows), by_bytes.is_cut) == (3, True)


def test_row_that_is_larger_than_an_answer_may_be_is_refused(asked):
    """An answer without any row says why, and does not look like one that was cut."""
    with pytest.raises(NotValid, match="larger than its 1 MiB"):
        asked("SELECT repeat('x', 2000000)", bytes_max=2**20)


def test_answer_holds_what_json_can(asked):
    """Values that JSON has no form for are text: times, decimals, NaN, bytes and integers beyond 64 bits."""
    found = asked(
        "SELECT TIMESTAMP '2025-11-21 12:00:00', 1.50::DECIMAL(5,2), 'nan'::DOUBLE, 'ab'::BLOB, 2::HUGEINT ** 0 * 0, [1, NULL],"
        " {'a': 'inf'::FLOAT}, 170141183460469231731687303715884105727::HUGEINT, true, NULL"
    )
    assert json.loads(json.dumps(found.rows)) == [
        [
            "2025-11-21T12:00:00",
            "1.50",
            "nan",
            "6162",
            0,
            [1, None],
            {"a": "inf"},
            "170141183460469231731687303715884105727",
            True,
            None,
        ]
    ]


def test_question_waits_for_an_archive_that_is_far_behind():
    """More records than can be made ready in time are refused with what to do, not left out in silence."""
    assert len(list(_bounded(iter([{}] * TAIL_MAX)))) == TAIL_MAX
    with pytest.raises(NotReady):
        list(_bounded(iter([{}] * (TAIL_MAX + 1))))


def test_question_over_a_damaged_archive_is_the_archives_fault(house, asked):
    """A file that cannot be read is not the asker's fault."""
    next((house.directory / "archive").rglob("route=*/**/*.parquet")).write_bytes(b"PAR1 no more")
    with pytest.raises(ArchiveFailed):
        asked("SELECT count(*) FROM predictions")
