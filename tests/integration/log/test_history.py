"""Predictions are found wherever they lie, once, the newest first, with all of their ground truth."""

from __future__ import annotations

import itertools
import random

import duckdb
import pytest

from adapters.logs.codec import decode
from gateway.core.records import Anchor, GroundTruthRecord, Heartbeat
from gateway.history import anchors, export, in_order, predictions
from gateway.ports.archive import Filter

ALL = Filter(limit=1_000_000)


@pytest.fixture
def found(house):
    """Return what is found, as (number of the prediction, values of its ground truth), the newest first."""

    def find(wanted=ALL, archive=None):
        bodies = predictions(wanted, archive=archive or house.archive, log=house.reader)
        return [(int(body["prediction_id"][-6:], 16), [truth["value"] for truth in body["ground_truth"]]) for body in bodies]

    return find


def test_history_reads_archive_and_open_log(house, prediction, found):
    """Some streams archived, some not, some half: each prediction once, by time."""
    for start, stream in itertools.product((0, 100, 200), ("w0", "w1", "w2")):
        house.write(*(prediction(number) for number in range(start + int(stream[1]), start + 100, 3)), stream=stream)
        if start == 0 or (start, stream) == (100, "w1"):
            house.take()
    numbers = [number for number, _ in found()]
    assert numbers == list(range(299, -1, -1))
    assert [number for number, _ in found(Filter(limit=7))] == numbers[:7]
    wanted = Filter(since_s=prediction(50).time_s, until_s=prediction(250).time_s, limit=1_000)
    assert [number for number, _ in found(wanted)] == list(range(249, 49, -1))


@pytest.mark.parametrize("seed", range(3))
def test_history_joins_ground_truth_wherever_it_lies(house, prediction, found, seed):
    """Prediction and ground truth may each be archived or not, in any stream; they meet, and no value twice."""
    chance = random.Random(seed)
    expected: dict[int, list[int]] = {number: [] for number in range(60)}
    unwritten = {"w0": [], "w1": []}
    for number in range(60):
        records = [prediction(number), Heartbeat(prediction(number).time_s)]
        for value in range(chance.randrange(3)):
            late = chance.randrange(number + 1)
            expected[late].append(100 * number + value)
            truth = GroundTruthRecord(
                prediction(late).prediction_id, prediction(number).time_s + 0.1, 0, 100 * number + value, 1.0
            )
            records.append(truth)
        stream = chance.choice(["w0", "w1"])
        unwritten[stream] += records
        if chance.random() < 0.1 or number > 57:
            house.write(*unwritten.pop(stream), stream=stream)
            unwritten[stream] = []
            if chance.random() < 0.5:
                house.take()
    for stream, records in unwritten.items():
        house.write(*records, stream=stream)
    assert found() == [(number, expected[number]) for number in range(59, -1, -1)]
    for number in chance.sample(range(60), 10):
        assert found(Filter(prediction_id=prediction(number).prediction_id)) == [(number, expected[number])]


def test_history_shows_nothing_twice_while_a_segment_moves(house, prediction, found):
    """The archive may take a segment after this asked how far it is; the segment is then in both, and shown once."""

    class Moving:
        """The archive, taking everything right after it was asked how far it is."""

        def taken(self, stream):
            before = house.archive.taken(stream)
            house.take()
            return before

        def __getattr__(self, name):
            return getattr(house.archive, name)

    house.write(*(prediction(number) for number in range(50)))
    house.write(GroundTruthRecord(prediction(9).prediction_id, prediction(60).time_s, 0, "late", 1.0))
    expected = [(number, ["late"] if number == 9 else []) for number in range(49, -1, -1)]
    assert found(archive=Moving()) == expected
    assert found() == expected


def test_history_stops_early(house, prediction):
    """The newest few of a long log are found without reading the rest of it."""

    class Counting:
        """The log, counting the records it returned."""

        returned = 0

        def read_before(self, *asked):
            page = house.reader.read_before(*asked)
            self.returned += len(page.records)
            return page

        def __getattr__(self, name):
            return getattr(house.reader, name)

    house.write(*(prediction(number) for number in range(5_000)))
    log = Counting()
    assert len(list(predictions(Filter(limit=100), archive=house.archive, log=log))) == 100
    assert log.returned <= 300


def test_history_export_holds_archive_and_open_log(house, prediction):
    """One Parquet file with every matching prediction and its ground truth, in the log or in the archive."""
    house.write(*(prediction(number) for number in range(20)))
    house.take()
    house.write(*(prediction(number) for number in range(20, 30)))
    house.write(GroundTruthRecord(prediction(5).prediction_id, 2e9, 0, 1, 1.0), stream="w1")
    to = house.directory / "all.parquet"
    assert export(Filter(limit=1_000), to, archive=house.archive, log=house.reader) == 30
    rows = duckdb.sql(f"SELECT time, in_x_1, ground_truth_number FROM '{to}' ORDER BY time").fetchall()
    assert [row[0] for row in rows] == [prediction(number).time_s for number in range(30)]
    assert rows[25][1] == float(prediction(25).inputs[0].data[0, 1])
    assert [row[2] for row in rows if row[2] is not None] == [1.0]
    assert export(Filter(limit=4), to, archive=house.archive, log=house.reader) == 4
    assert export(Filter(route="none"), to, archive=house.archive, log=house.reader) == 0


def test_history_is_read_in_the_order_it_was_made(house, prediction):
    """Archive and open log together give every record once, by time and stream, with the ground truth between; to the bit."""
    written = []
    for start in range(0, 300, 50):
        for stream in ("w0", "w1"):
            records = [prediction(number) for number in range(start + int(stream[1]), start + 50, 2)]
            truth = GroundTruthRecord(records[0].prediction_id, records[-1].time_s + 0.5, 0, "yes", 1.0)
            house.write(*records, truth, stream=stream)
            written += [(record.time_s, stream, record) for record in (*records, truth)]
        if start in {0, 100}:
            house.take()
    found = list(in_order(ALL, archive=house.archive, log=house.reader, decode=decode))
    assert [repr((time_s, stream, record)) for time_s, stream, _, record in found] == [
        repr(timed) for timed in sorted(written, key=lambda timed: timed[:2])
    ]
    offsets = set()
    for stream in ("w0", "w1"):
        at = house.reader.oldest(stream)
        while (page := house.reader.read(stream, at)).records:
            offsets |= {(stream, offset) for offset, _ in page.records}
            at = page.next
    assert {(stream, offset) for _, stream, offset, _ in found} == offsets
    wanted = Filter(since_s=prediction(20).time_s, until_s=prediction(280).time_s, route="other")
    assert {type(record) for *_, record in in_order(wanted, archive=house.archive, log=house.reader, decode=decode)} == {
        GroundTruthRecord
    }
    house.archive.drop(prediction(60).time_s)
    assert house.archive.dropped_s() == prediction(49).time_s + 0.5


def test_anchors_are_found_in_archive_and_open_log(house, prediction):
    """Each number and hash comes once with its earliest time, wherever it lies; predictions beside it are what they were."""
    house.write(Anchor(10.0, 1, "a"), prediction(1), Anchor(11.0, 2, "b"))
    house.write(Anchor(10.5, 1, "a"), stream="w1")
    assert house.take() == 1
    house.write(Anchor(12.0, 2, "b"), Anchor(13.0, 2, "other"), stream="w1")
    expected = [Anchor(10.0, 1, "a"), Anchor(11.0, 2, "b"), Anchor(13.0, 2, "other")]
    assert anchors(archive=house.archive, log=house.reader) == expected
    assert house.archive.ground_truth([prediction(1).prediction_id]) == {}
    assert [type(one[3]) for one in in_order(ALL, archive=house.archive, log=house.reader, decode=decode)] == [
        type(prediction(1))
    ]
    house.take()
    assert anchors(archive=house.archive, log=house.reader) == expected
