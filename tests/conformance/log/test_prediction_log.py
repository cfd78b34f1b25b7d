"""Every prediction log keeps the promises of `PredictionLogWriter` and `PredictionLogReader`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from adapters.clock import SystemClock
from adapters.logs.memory import MemoryLog
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentWriter
from gateway.core.errors import LogFailed, LogFull
from gateway.core.records import Attempt, GroundTruthRecord, Heartbeat, Offset, Outcome, Record, StreamEnd
from gateway.core.tensors import Datatype, Tensor
from gateway.ports.log import PredictionLogReader, PredictionLogWriter
from tests.records import prediction

START = Offset(0)


@dataclass
class Log:
    """One log under test: its reader, and writers by stream, with room for `records` or a little more."""

    reader: PredictionLogReader
    writer: Callable[..., PredictionLogWriter]


@pytest.fixture(params=["memory", "segments", "small segments"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Log]:
    if request.param == "memory":
        memory = MemoryLog(records_max=2_000)
        yield Log(memory, memory.writer)
        return
    reader = SegmentReader(tmp_path)
    opened: list[SegmentWriter] = []

    def writer(stream: str) -> SegmentWriter:
        opened.append(
            SegmentWriter(
                tmp_path,
                stream,
                segment_bytes_max=2**20 if request.param == "segments" else 300,
                segment_age_s=1e9,
                bytes_max=2_000 * len(b'{"v":1,"type":"heartbeat","time":1000.0} \n'),
                free_bytes_min=0,
                clock=SystemClock(),
            )
        )
        return opened[-1]

    yield Log(reader, writer)
    reader.close()
    for one in opened:
        one.close()


def beats(first: int, count: int) -> list[Record]:
    return [Heartbeat(float(time)) for time in range(first, first + count)]


def all_of(reader: PredictionLogReader, stream: str, limit: int = 1000) -> list[Record]:
    found, after = [], START
    while (page := reader.read(stream, after, limit)).next != after:
        found += [record for _, record in page.records]
        after = page.next
    return found


def backwards(reader: PredictionLogReader, stream: str, limit: int) -> list[Record]:
    found, before = [], reader.end(stream)
    while (page := reader.read_before(stream, before, limit)).next != before:
        assert len(page.records) <= limit
        found += [record for _, record in reversed(page.records)]
        before = page.next
    return found


def test_log_returns_records_in_order(log):
    """Records come back as they were appended, within a call and over calls."""
    writer = log.writer("w0")
    for start in (0, 3, 10):
        writer.append(beats(start, 3))
    assert all_of(log.reader, "w0") == beats(0, 3) + beats(3, 3) + beats(10, 3)


def test_log_holds_every_kind_of_record(log):
    """Predictions, ground truth, heartbeats and ends are all records of one stream."""
    failover = (Attempt("a", "1", Outcome.FAILED, 5), Attempt("b", "2", Outcome.OK, 7))
    inputs = (Tensor("x", Datatype.FP32, np.array([[1.5, np.nan]], np.float32)),)
    answered = prediction(time_s=1.0, assigned="a", variant="b", version="2", attempts=failover, inputs=inputs)
    others = [GroundTruthRecord("p", 2.0, 0, "late", 1.9, "key"), Heartbeat(3.0), StreamEnd(4.0)]
    log.writer("w0").append([answered, *others])
    found = all_of(log.reader, "w0")
    assert found[1:] == others
    assert found[0].attempts == answered.attempts
    assert found[0].inputs[0].data.tobytes() == answered.inputs[0].data.tobytes()


def test_log_append_returns_the_end(log):
    """The offset that append returns is where the reader's next page starts."""
    writer = log.writer("w0")
    middle = writer.append(beats(0, 5))
    end = writer.append(beats(5, 5))
    assert log.reader.end("w0") == end
    assert [record for _, record in log.reader.read("w0", middle).records] == beats(5, 5)
    assert writer.append([]) == end


def test_log_page_can_be_read_again_from_any_record(log):
    """Every offset in a page, and its `next`, is a place to go on from."""
    log.writer("w0").append(beats(0, 20))
    seen = log.reader.read("w0", START)
    whole = all_of(log.reader, "w0")
    for at, (offset, record) in enumerate(seen.records):
        again = log.reader.read("w0", offset, limit=2)
        assert [found for _, found in again.records] == [record, *(whole[at + 1 : at + 2])]


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_log_limit_bounds_a_page(log, limit):
    """No page is longer than asked, and small pages together are the whole."""
    writer = log.writer("w0")
    for start in range(0, 40, 4):
        writer.append(beats(start, 4))
    assert len(log.reader.read("w0", START, limit).records) <= limit
    assert all_of(log.reader, "w0", limit) == beats(0, 40)


@pytest.mark.parametrize("limit", [1, 3, 1000])
def test_log_backwards_is_the_reverse(log, limit):
    """Reading before the end, again and again, returns every record, the newest first."""
    writer = log.writer("w0")
    for start in range(0, 40, 4):
        writer.append(beats(start, 4))
    assert backwards(log.reader, "w0", limit) == beats(0, 40)[::-1]


def test_log_end_has_nothing_after_it(log):
    """At the end a page is empty and its `next` stays, until something is appended."""
    writer = log.writer("w0")
    end = writer.append(beats(0, 3))
    assert log.reader.read("w0", end).records == ()
    assert log.reader.read("w0", end).next == end
    writer.append(beats(3, 1))
    assert [record for _, record in log.reader.read("w0", end).records] == beats(3, 1)


def test_log_unknown_stream_is_empty(log):
    """A stream that nobody wrote has nothing, and reading it is no error."""
    assert log.reader.read("w9", START).records == ()
    assert log.reader.read_before("w9", START).records == ()
    assert (log.reader.oldest("w9"), log.reader.end("w9")) == (0, 0)


def test_log_streams_are_apart(log):
    """Each worker's records are in its own stream."""
    log.writer("w0").append(beats(0, 2))
    log.writer("w1").append(beats(5, 2))
    assert log.reader.streams() == ["w0", "w1"]
    assert all_of(log.reader, "w1") == beats(5, 2)


def test_log_refuses_an_offset_beyond_the_end(log):
    """A consumer that is ahead of the log is told so, rather than left waiting."""
    end = log.writer("w0").append(beats(0, 3))
    with pytest.raises(LogFailed):
        log.reader.read("w0", Offset(end + 5))


def test_log_full_appends_all_or_nothing(log):
    """A call that does not fit raises and leaves no record of it; a smaller one still fits."""
    writer = log.writer("w0")
    writer.append(beats(1000, 1_500))
    before = all_of(log.reader, "w0")
    with pytest.raises(LogFull):
        writer.append(beats(3000, 1_500))
    assert all_of(log.reader, "w0") == before
    writer.append(beats(4000, 10))
    assert all_of(log.reader, "w0") == before + beats(4000, 10)


def test_log_reopened_stream_goes_on(log):
    """A new writer of a stream continues where the last one ended."""
    first = log.writer("w0")
    first.append(beats(0, 3))
    first.sync()
    first.close()
    log.writer("w0").append(beats(3, 3))
    assert all_of(log.reader, "w0") == beats(0, 6)


def test_log_writer_knows_the_time_it_resumes_at(log):
    """A writer says when its stream's last record was, so that time goes on from there; 0 for a new stream."""
    writer = log.writer("w0")
    assert writer.resumed_s == 0.0
    writer.append(beats(1_000, 3))
    writer.close()
    assert log.writer("w0").resumed_s == 1_002.0
