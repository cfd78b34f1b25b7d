"""Segments survive what happens to files: torn writes, dead writers, full disks, rotation under a reader, lost power."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.clock import SystemClock
from adapters.logs.codec import encode
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentDirectory, SegmentWriter
from gateway.core.errors import LogFailed, LogFull
from gateway.core.records import GroundTruthRecord, Offset, Page, Record

START = Offset(0)
WRITER = """
import sys
from pathlib import Path
from adapters.clock import SystemClock
from adapters.logs.segments import SegmentWriter
from gateway.core.records import GroundTruthRecord

directory, first, group, count = Path(sys.argv[1]), *map(int, sys.argv[2:5])
writer = SegmentWriter(
    directory, "w0", segment_bytes_max=20_000, segment_age_s=1e9, bytes_max=1 << 40, free_bytes_min=0, clock=SystemClock()
)
print("ready", flush=True)
for start in range(first, first + count, group):
    writer.append([GroundTruthRecord("p", 1.0, row, "x" * (row % 300), 1.0) for row in range(start, start + group)])
    print(start + group, flush=True)
"""


class Timer:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        """Return what the test set."""
        return self.time_s

    def monotonic_s(self) -> float:
        """Return what the test set."""
        return self.time_s


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[..., SegmentWriter]]:
    """Open writers of stream w0 that are closed after the test."""
    opened: list[SegmentWriter] = []

    def open_writer(**changed: object) -> SegmentWriter:
        options: dict[str, object] = {
            "segment_bytes_max": 1 << 30,
            "segment_age_s": 1e9,
            "bytes_max": 1 << 40,
            "free_bytes_min": 0,
            "clock": SystemClock(),
            **changed,
        }
        opened.append(SegmentWriter(tmp_path, "w0", **options))
        return opened[-1]

    yield open_writer
    for writer in opened:
        writer.close()


def rows(first: int, count: int, width: int = 10) -> list[Record]:
    return [GroundTruthRecord("p", 1.0, row, "x" * width, 1.0) for row in range(first, first + count)]


def read_rows(reader: SegmentReader, after: Offset = START) -> list[int]:
    found = []
    while (page := reader.read("w0", after)).next != after:
        found += [record.row for _, record in page.records]
        after = page.next
    return found


def files(directory: Path) -> list[Path]:
    return sorted((directory / "w0").glob("*.jsonl"))


def run_writer(directory: Path, first: int, group: int, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(directory), str(first), str(group), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_torn_tail_is_never_read_and_is_repaired(tmp_path_factory, data):
    """Whatever prefix of the last append is left, a reader stops before it and repair cuts exactly it."""
    directory = tmp_path_factory.mktemp("log")
    whole = encode(rows(0, 3))
    torn = encode(rows(3, data.draw(st.integers(1, 4)), data.draw(st.integers(0, 50))))
    kept = data.draw(st.integers(0, len(torn) - 1))
    (directory / "w0").mkdir()
    (directory / "w0" / f"{0:020d}.jsonl").write_bytes(whole + torn[:kept])
    reader = SegmentReader(directory)
    assert read_rows(reader) == [0, 1, 2]
    assert reader.end("w0") == len(whole)
    assert SegmentDirectory(directory).repair() == ([("w0", kept)] if kept else [])
    assert files(directory)[0].read_bytes() == whole
    assert read_rows(reader) == [0, 1, 2]
    reader.close()


def test_writer_goes_on_after_a_torn_tail(tmp_path, write):
    """A worker that comes back cuts what its predecessor left half-written, and a waiting reader goes on."""
    first = write()
    end = first.append(rows(0, 3))
    first.close()
    reader = SegmentReader(tmp_path)
    assert reader.read("w0", end).next == end
    with files(tmp_path)[0].open("ab") as file:
        file.write(encode(rows(3, 2))[:-5])
    assert reader.read("w0", end).next == end
    write().append(rows(3, 2))
    assert read_rows(reader, end) == [3, 4]
    reader.close()


def test_killed_writer_leaves_whole_appends(tmp_path):
    """After kill -9 at random moments and repair, the log holds every append that returned, whole appends only, in order."""
    group, written, chance = 7, 0, random.Random(5)
    for _ in range(6):
        process = run_writer(tmp_path, written, group, 1_000_000)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        returned = written
        for _ in range(chance.randrange(1, 120)):
            returned = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        returned = max([returned, *(int(line) for line in process.stdout.read().splitlines() if line)])
        process.wait()
        process.stdout.close()
        SegmentDirectory(tmp_path).repair()
        reader = SegmentReader(tmp_path)
        found = read_rows(reader)
        reader.close()
        assert found == list(range(len(found)))
        assert len(found) % group == 0
        assert returned <= len(found) <= returned + group
        written = len(found)


def test_reader_in_another_process_sees_every_record_once(tmp_path):
    """While the writer rotates hundreds of segments and the archive removes them, a reader misses and repeats nothing."""
    process = run_writer(tmp_path, 0, 11, 11_000)
    reader, store, after, found = SegmentReader(tmp_path), SegmentDirectory(tmp_path), START, []
    page, is_over = Page((), START), False
    while page.records or not is_over:
        is_over = process.poll() is not None
        page = reader.read("w0", after, limit=500)
        found += [record.row for _, record in page.records]
        after = page.next
        for segment in store.closed("w0"):
            if segment.next <= after:
                store.remove(segment)
    assert process.stdout is not None
    process.stdout.close()
    reader.close()
    assert process.returncode == 0
    assert found == list(range(11_000))
    assert len(files(tmp_path)) < 5


def test_removed_segments_are_refused(tmp_path, write):
    """Reading what was removed is an error, and `oldest` says where the log begins now."""
    writer = write(segment_bytes_max=1_000)
    for start in range(0, 50, 5):
        writer.append(rows(start, 5))
    store = SegmentDirectory(tmp_path)
    closed = store.closed("w0")
    store.remove(closed[0])
    store.remove(closed[0])
    reader = SegmentReader(tmp_path)
    with pytest.raises(LogFailed):
        reader.read("w0", START)
    assert reader.oldest("w0") == closed[1].first
    assert read_rows(reader, closed[1].first)[-1] == 49
    with pytest.raises(LogFailed):
        reader.read("w0", Offset(closed[1].first + 3))
    reader.close()


def test_writer_rotates_by_size_and_age(tmp_path, write):
    """A segment ends before it would grow over its size, or with the first append after its age; offsets go on."""
    timer = Timer()
    writer = write(segment_bytes_max=1_000, segment_age_s=60.0, clock=timer)
    for start in range(0, 40, 5):
        writer.append(rows(start, 5))
    assert all(path.stat().st_size <= 1_000 for path in files(tmp_path))
    before = len(files(tmp_path))
    timer.time_s = 61.0
    writer.append(rows(40, 1))
    assert len(files(tmp_path)) == before + 1
    store = SegmentDirectory(tmp_path).closed("w0")
    assert [segment.next for segment in store[:-1]] == [segment.first for segment in store[1:]]
    assert read_rows(SegmentReader(tmp_path)) == list(range(41))


def test_full_disk_leaves_the_log_as_it_was(tmp_path):
    """A write that finds no room raises `LogFull`, takes back what it wrote, and the next one that fits succeeds."""
    script = """
import resource, sys
from pathlib import Path
from adapters.clock import SystemClock
from adapters.logs.segments import SegmentWriter
from gateway.core.errors import LogFull
from gateway.core.records import GroundTruthRecord

resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
writer = SegmentWriter(
    Path(sys.argv[1]),
    "w0",
    segment_bytes_max=1 << 30,
    segment_age_s=1e9,
    bytes_max=1 << 40,
    free_bytes_min=0,
    clock=SystemClock(),
)
row = 0
try:
    while True:
        writer.append([GroundTruthRecord("p", 1.0, row + at, "x" * 100, 1.0) for at in range(20)])
        row += 20
except LogFull:
    writer.append([GroundTruthRecord("p", 1.0, row, "small", 1.0)])
print(row + 1)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    reader = SegmentReader(tmp_path)
    assert read_rows(reader) == list(range(int(done.stdout)))
    assert files(tmp_path)[0].read_bytes().endswith(b"}\n")
    reader.close()


def test_writer_refuses_when_its_own_room_is_used_up(tmp_path, write):
    """Beyond `bytes_max` appends are refused; what the archive removes makes room again within a second."""
    timer = Timer()
    writer = write(segment_bytes_max=2_000, bytes_max=6_000, clock=timer)
    with pytest.raises(LogFull):
        list(map(writer.append, [rows(start, 5) for start in range(0, 1_000, 5)]))
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 6_000
    store = SegmentDirectory(tmp_path)
    store.remove(store.closed("w0")[0])
    with pytest.raises(LogFull):
        writer.append(rows(0, 5))
    timer.time_s += 1.0
    writer.append(rows(0, 5))


def test_writer_refuses_below_the_free_space_wanted(write):
    """With less free space than `free_bytes_min` nothing is written."""
    with pytest.raises(LogFull, match="full"):
        write(free_bytes_min=1 << 60).append(rows(0, 1))


def test_second_writer_of_a_stream_is_refused(write):
    """Two writers of one stream would overwrite each other: the second one does not open."""
    write()
    with pytest.raises(LogFailed, match="another process"):
        write()


@given(hole=st.integers(0, 1_400), length=st.integers(1, 700), is_tail=st.booleans())
@settings(max_examples=60, deadline=None)
def test_repair_after_lost_power_keeps_every_other_append(tmp_path_factory, hole, length, is_tail):
    """Bytes that read as NUL cost the lines they touch; every offset stays, and what lies behind them is read."""
    directory = tmp_path_factory.mktemp("log") / "w0"
    directory.mkdir()
    appends = [encode(rows(start, 2)) for start in range(0, 16, 2)]
    whole = bytearray(b"".join(appends))
    end = len(whole) if is_tail else min(len(whole), hole + length)
    hole = min(hole, len(whole) - 1)
    whole[hole:end] = bytes(end - hole)
    (directory / f"{0:020d}.jsonl").write_bytes(whole)
    (directory / f"{len(whole):020d}.jsonl").write_bytes(encode(rows(16, 1)))
    lines = _lines(b"".join(appends))
    damaged = {row for row, (at, line) in enumerate(lines) if at <= end and at + len(line) > hole}  # `=`: its start is lost
    assert SegmentDirectory(directory.parent).repair()
    reader = SegmentReader(directory.parent)
    assert read_rows(reader) == [row for row in range(17) if row not in damaged]
    assert SegmentDirectory(directory.parent).repair() == []
    reader.close()


def test_repair_fills_a_closed_segment_that_lost_its_end(tmp_path, write):
    """A closed segment that is shorter than where the next one begins loses its torn line only, and no offset moves."""
    writer = write(segment_bytes_max=1_000)
    for start in range(0, 20, 5):
        writer.append(rows(start, 5))
    writer.close()
    first, second, *_ = files(tmp_path)
    length = first.stat().st_size
    os.truncate(first, length - 40)
    assert SegmentDirectory(tmp_path).repair()
    assert first.stat().st_size == length
    assert read_rows(SegmentReader(tmp_path)) == [row for row in range(20) if row != _last_row(second) - 1]


def test_repair_closes_every_stream(tmp_path, write):
    """After repair everything written so far is in closed segments, so that the archive takes it, and a new writer goes on."""
    writer = write()
    end = writer.append(rows(0, 3))
    writer.close()
    store = SegmentDirectory(tmp_path)
    assert store.closed("w0") == []
    store.repair()
    assert [(segment.first, segment.next) for segment in store.closed("w0")] == [(START, end)]
    write().append(rows(3, 1))
    assert len(files(tmp_path)) == 2
    assert read_rows(SegmentReader(tmp_path)) == [0, 1, 2, 3]


def test_repair_waits_for_no_writer(write, tmp_path):
    """Repair refuses a stream that somebody writes."""
    write().append(rows(0, 1))
    with pytest.raises(LogFailed):
        SegmentDirectory(tmp_path).repair()


def test_reader_takes_appends_of_any_length(tmp_path, write):
    """A line longer than a page is read whole, forwards and backwards."""
    write().append([*rows(0, 2), *rows(2, 1, width=3 * 2**20), *rows(3, 2)])
    reader = SegmentReader(tmp_path)
    assert read_rows(reader) == [0, 1, 2, 3, 4]
    found, before = [], reader.end("w0")
    while (page := reader.read_before("w0", before, limit=2)).next != before:
        found += [record.row for _, record in reversed(page.records)]
        before = page.next
    assert found == [4, 3, 2, 1, 0]
    reader.close()


def test_damaged_line_in_the_middle_is_an_error(tmp_path, write):
    """A line that is no record stops the reader with the stream and offset in the message; it is never skipped silently."""
    writer = write()
    middle = writer.append(rows(0, 1))
    writer.append(rows(1, 1))
    with files(tmp_path)[0].open("r+b") as file:
        file.seek(middle)
        file.write(b"#")
    reader = SegmentReader(tmp_path)
    with pytest.raises(LogFailed, match=f"offset {middle}"):
        reader.read("w0", START)
    reader.close()


def _lines(whole: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    for line in whole.splitlines(keepends=True):
        found.append((at, line))
        at += len(line)
    return found


def _last_row(following: Path) -> int:
    """Return the first row of a segment."""
    return int(following.read_bytes().split(b'"row":')[1].split(b",")[0])
