"""The prediction log as files: `log/<stream>/<offset of its first byte, 20 digits>.jsonl`, one directory per worker.

A stream is one long sequence of bytes, cut into segments; an offset is a position in it. Only the last segment grows, by one
`write` per append, and nothing that a reader may have seen is ever changed: the last line of an append ends in `}` and a
newline, every other line in `}`, a blank and a newline, and a reader goes no further than the last complete append.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.logs.codec import END_OF_APPEND, decode, encode
from gateway.core.errors import LogFailed, LogFull
from gateway.core.records import Offset, Page, Record
from gateway.ports import Clock, Segment

APPEND_BYTES_MAX: Final = 256 * 2**20  # of one append: four times the largest body that serving accepts by default
PAGE_BYTES: Final = 2**20  # of one read, unless a single append is longer; about 1,000 records of 20 features
RECORD_BYTES_USUAL: Final = 2_048  # how much to read for a page of few records
LOOK_S: Final = 1.0  # between two looks at the file system's free space
WRITEBACK_S: Final = 60.0  # twice the age at which Linux writes dirty pages: what is older survived a power loss
_NAME: Final = re.compile(r"(\d{20})\.jsonl")
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SegmentWriter:
    """One worker's end of the log. A `PredictionLogWriter`.

    Args:
        directory: Of the whole log.
        segment_bytes_max, segment_age_s: A new segment begins beyond either.
        bytes_max: Of all segments of this stream.
        free_bytes_min: Of the file system.

    Raises:
        LogFailed: the directory cannot be written, or another process writes this stream.
    """

    def __init__(
        self,
        directory: Path,
        stream: str,
        *,
        segment_bytes_max: int,
        segment_age_s: float,
        bytes_max: int,
        free_bytes_min: int,
        clock: Clock,
    ) -> None:
        self._directory = directory / stream
        self._segment_bytes_max = segment_bytes_max
        self._segment_age_s = segment_age_s
        self._bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._clock = clock
        self._is_torn = False
        self._looked_s = -LOOK_S
        self._disk_room = 0
        with _log_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self._directory)
            segments = _segments(self._directory)
            if segments:
                _cut_tail(segments[-1].path)
            self._first = self._unsynced = _end(segments)
            self._kept = _bytes_before(segments, self._first)
            self._fd = self._created(self._first)
        self._size = 0
        self._is_new = True
        self._since_s = clock.monotonic_s()

    def append(self, records: Sequence[Record]) -> Offset:
        """Write records in one `write`; see `PredictionLogWriter.append`."""
        if not records:
            return Offset(self._first + self._size)
        lines = encode(records)
        now_s = self._clock.monotonic_s()
        try:
            self._mend()
            if self._size and (self._size + len(lines) > self._segment_bytes_max or now_s - self._since_s >= self._segment_age_s):
                self._rotate()
            self._refuse_when_full(len(lines), now_s)
            if not self._size:
                self._since_s = now_s
            self._write(lines)
        except OSError as error:
            raise _log_error(error, self._directory) from error
        return Offset(self._first + self._size)

    def sync(self) -> None:
        """Flush everything written since the last call; see `PredictionLogWriter.sync`."""
        with _log_errors(self._directory):
            if self._is_new:
                for place in _segments(self._directory):
                    if self._unsynced <= place.first < self._first:
                        _flush(place.path)
                _flush(self._directory)
                _flush(self._directory.parent)
                self._is_new = False
                self._unsynced = self._first
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the segment and let another writer have the stream; closing again changes nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            os.close(self._lock)
            self._fd = -1

    def _rotate(self) -> None:
        following = Offset(self._first + self._size)
        before, self._fd = self._fd, self._created(following)
        self._first = following
        os.close(before)
        self._kept += self._size
        self._size = 0
        self._is_new = True

    def _created(self, first: Offset) -> int:
        return os.open(self._directory / _name(first), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _refuse_when_full(self, wanted: int, now_s: float) -> None:
        """Raise `LogFull` when there is no room, looking at the file system at most once in `LOOK_S`."""
        if wanted > APPEND_BYTES_MAX:
            raise LogFailed(f"{wanted:,} bytes in one append; at most {APPEND_BYTES_MAX:,} fit")
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            disk = os.statvfs(self._directory)
            self._disk_room = disk.f_bavail * disk.f_frsize - self._free_bytes_min
            if wanted > self._own_room():  # the archive may have removed segments meanwhile
                self._kept = _bytes_before(_segments(self._directory), self._first)
        if wanted > min(self._disk_room, self._own_room()):
            raise LogFull(
                "the prediction log is full",
                hint="free disk space, raise log.bytes_max or lower log.free_bytes_min",
            )

    def _own_room(self) -> int:
        return self._bytes_max - self._kept - self._size

    def _write(self, lines: bytes) -> None:
        written = 0
        try:
            while written < len(lines):  # a second turn finds out why the first one was short
                written += os.pwrite(self._fd, lines[written:] if written else lines, self._size + written)
        except OSError:
            self._is_torn = True
            self._mend()
            raise
        self._size += len(lines)
        self._disk_room -= len(lines)

    def _mend(self) -> None:
        """Cut what a failed write left behind; while that fails nothing can be appended."""
        if self._is_torn:
            os.ftruncate(self._fd, self._size)
            self._is_torn = False


@dataclass(frozen=True, slots=True)
class _Place:
    """A segment as found in its directory."""

    first: Offset
    path: Path


@dataclass(frozen=True, slots=True)
class _Opened:
    """The segment of a stream that a reader read last."""

    first: Offset
    fd: int


class SegmentReader:
    """The other end, from any process. A `PredictionLogReader`. Keeps one file open per stream."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened: dict[str, _Opened] = {}

    def streams(self) -> Sequence[str]:
        """Return the stream directories' names in order."""
        return _streams(self._directory)

    def read(self, stream: str, after: Offset, limit: int = 1000) -> Page:
        """Return the next complete records; see `PredictionLogReader.read`. Costs two system calls when there is nothing new."""
        size = min(PAGE_BYTES, limit * RECORD_BYTES_USUAL)
        try:
            opened = self._at(stream, after)
            if opened is None:
                return Page((), after)
            lines = _whole_appends(opened.fd, after - opened.first, size)
            if not lines and (following := self._following(stream, after, opened)) is not None:
                lines = _whole_appends(following.fd, 0, size)
        except OSError as error:
            raise _log_error(error, self._directory / stream) from error
        return _page(lines, after, limit, stream)

    def read_before(self, stream: str, before: Offset, limit: int = 1000) -> Page:
        """Return the last records before an offset, in order; see `PredictionLogReader.read_before`."""
        with _log_errors(self._directory / stream):
            places = _segments(self._directory / stream)
            at = bisect_right(places, before - 1, key=lambda place: place.first) - 1
            if at < 0:
                return Page((), before)
            lines, start = _lines_before(places[at], before, limit)
        return Page(_page(lines, start, limit, stream).records, start)

    def oldest(self, stream: str) -> Offset:
        """Return the first offset still kept."""
        with _log_errors(self._directory / stream):
            places = _segments(self._directory / stream)
        return places[0].first if places else Offset(0)

    def end(self, stream: str) -> Offset:
        """Return the offset after the last complete append."""
        with _log_errors(self._directory / stream):
            places = _segments(self._directory / stream)
            return Offset(places[-1].first + _whole_bytes(places[-1].path)) if places else Offset(0)

    def close(self) -> None:
        """Close every file."""
        for opened in self._opened.values():
            os.close(opened.fd)
        self._opened.clear()

    def _at(self, stream: str, after: Offset) -> _Opened | None:
        """Return the segment in which `after` lies: the one at hand, or the one found in the directory."""
        opened = self._opened.get(stream)
        if opened is not None and opened.first <= after <= opened.first + os.fstat(opened.fd).st_size:
            return opened
        places = _segments(self._directory / stream)
        if not places and not after:
            return None
        at = bisect_right(places, after, key=lambda place: place.first) - 1
        if at < 0:
            raise LogFailed(f"offset {after} of stream {stream!r} is before the oldest segment kept")
        found = self._open(stream, places[at].first)
        if found is None:  # removed since it was listed
            raise LogFailed(f"offset {after} of stream {stream!r} is before the oldest segment kept")
        _refuse_no_line_start(found, after, stream)
        return found

    def _following(self, stream: str, after: Offset, opened: _Opened) -> _Opened | None:
        """Return the segment that begins at `after`, if there is one besides the one at hand."""
        return None if opened.first == after else self._open(stream, after)

    def _open(self, stream: str, first: Offset) -> _Opened | None:
        try:
            fd = os.open(self._directory / stream / _name(first), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if (before := self._opened.get(stream)) is not None:
            os.close(before.fd)
        self._opened[stream] = _Opened(first, fd)
        return self._opened[stream]


class SegmentDirectory:
    """The log as the archive and the supervisor see it. A `SegmentStore`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def closed(self, stream: str) -> Sequence[Segment]:
        """Return every segment but the last, the oldest first."""
        with _log_errors(self._directory / stream):
            places = _segments(self._directory / stream)
            return [
                Segment(stream, place.first, following.first, place.path, place.path.stat().st_mtime)
                for place, following in itertools.pairwise(places)
            ]

    def remove(self, segment: Segment) -> None:
        """Remove a segment's file."""
        with _log_errors(self._directory / segment.stream):
            Path(segment.path).unlink(missing_ok=True)

    def repair(self) -> Sequence[tuple[str, int]]:
        """Cut torn tails, empty the lines that a power loss took, and close every stream's last segment."""
        return [(stream, damage) for stream in _streams(self._directory) if (damage := self._repair(stream))]

    def _repair(self, stream: str) -> int:
        with _log_errors(self._directory / stream):
            places = _segments(self._directory / stream)
            if not places:
                return 0
            os.close(_locked(self._directory / stream))
            newest_s = places[-1].path.stat().st_mtime
            recent = [place for place in places if newest_s - place.path.stat().st_mtime <= WRITEBACK_S]
            for place, following in itertools.pairwise(places):
                if place in recent:  # its length may be lost too; what is missing reads as NUL
                    os.truncate(place.path, following.first - place.first)
            damage = _cut_tail(places[-1].path) + sum(_blank_holes(place.path) for place in recent)
            (self._directory / stream / _name(_end(places))).touch(0o640)
        return damage


def _page(lines: bytes, after: Offset, limit: int, stream: str) -> Page:
    """Return at most `limit` records of complete lines that begin at `after`."""
    records: list[tuple[Offset, Record]] = []
    at = after
    pieces = lines.split(b"\n", limit)
    pieces.pop()
    for line in pieces:
        try:
            records.append((at, decode(line)))
        except LogFailed as error:
            if line.strip(b"{} "):  # an empty object is what repair leaves of a damaged line
                raise LogFailed(f"stream {stream!r}, offset {at}: {error.message}", hint=error.hint) from error
        at = Offset(at + len(line) + 1)
    return Page(tuple(records), at)


def _whole_appends(fd: int, at: int, size: int) -> bytes:
    """Return the complete appends from a position, about `size` bytes of them, or more when the first is longer."""
    while True:
        read = os.pread(fd, size, at)
        if end := read.rfind(END_OF_APPEND) + 1:
            return read[: end + 1]
        if len(read) < size:
            return b""
        if size > APPEND_BYTES_MAX:
            raise LogFailed(f"an append of over {APPEND_BYTES_MAX:,} bytes")
        size *= 4


def _lines_before(place: _Place, before: Offset, limit: int) -> tuple[bytes, Offset]:
    """Return complete lines of a segment up to `before`, at least one and about `limit`, and where they start."""
    end = before - place.first
    size = min(PAGE_BYTES, limit * RECORD_BYTES_USUAL)
    fd = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        end = min(end, os.fstat(fd).st_size)
        while True:
            start = max(0, end - size)
            read = os.pread(fd, end - start, start)
            first = 0 if start == 0 else read.find(b"\n") + 1
            if start == 0 or 0 < first < len(read):
                return _last_lines(read[first:], Offset(place.first + start + first), limit)
            if size > APPEND_BYTES_MAX:
                raise LogFailed(f"an append of over {APPEND_BYTES_MAX:,} bytes")
            size *= 4
    finally:
        os.close(fd)


def _last_lines(lines: bytes, start: Offset, limit: int) -> tuple[bytes, Offset]:
    pieces = lines.rsplit(b"\n", limit + 1)
    skipped = len(pieces[0]) + 1 if len(pieces) == limit + 2 else 0
    return lines[skipped:], Offset(start + skipped)


def _refuse_no_line_start(opened: _Opened, after: Offset, stream: str) -> None:
    """Raise `LogFailed` unless a line begins or will begin at `after`: a power loss can take what a consumer has read."""
    at = after - opened.first
    if at > os.fstat(opened.fd).st_size:
        raise LogFailed(f"offset {after} is beyond the end of stream {stream!r}", hint="go on from the end of the stream")
    if at and os.pread(opened.fd, 1, at - 1) != b"\n":
        raise LogFailed(f"no line of stream {stream!r} begins at offset {after}", hint="go on from the end of the stream")


def _cut_tail(path: Path) -> int:
    """Cut everything after the last complete append; return the bytes cut."""
    size = path.stat().st_size
    whole = _whole_bytes(path)
    if whole < size:
        os.truncate(path, whole)
        _flush(path)
    return size - whole


def _whole_bytes(path: Path) -> int:
    """Return how much of a segment is complete appends, reading it from its end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - PAGE_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(END_OF_APPEND)
            if found >= 0:
                return start + found + len(END_OF_APPEND)
            end = start + 1 if start else 0  # the mark may lie across the border
    return 0


def _blank_holes(path: Path) -> int:
    """Replace lines that hold a NUL byte by empty objects of the same length, so that no offset moves; return the bytes lost.

    A file system that lost power may keep a file's length without its bytes; these read as NUL, which JSON never holds.
    """
    lost = 0
    with path.open("r+b") as file:
        read = file.read()
        hole = read.find(b"\0")
        while hole >= 0:
            start = read.rfind(b"\n", 0, hole) + 1
            end = read.find(b"\n", hole) + 1 or len(read)
            file.seek(start)
            file.write((b"{" + b" " * (end - start - 3) + END_OF_APPEND)[-(end - start) :])
            lost += end - start
            hole = read.find(b"\0", end)
        if lost:
            file.flush()
            os.fsync(file.fileno())
    return lost


def _segments(directory: Path) -> list[_Place]:
    """Return the segments of a stream, the oldest first; none when the directory does not exist."""
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - the order of names is what is wanted
    except FileNotFoundError:
        return []
    return [_Place(Offset(int(found[1])), directory / name) for name in names if (found := _NAME.fullmatch(name))]


def _streams(directory: Path) -> list[str]:
    with _log_errors(directory):
        return sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []


def _end(places: Sequence[_Place]) -> Offset:
    return Offset(places[-1].first + places[-1].path.stat().st_size) if places else Offset(0)


def _bytes_before(places: Sequence[_Place], first: Offset) -> int:
    return sum(place.path.stat().st_size for place in places if place.first < first)


def _name(first: int) -> str:
    return f"{first:020d}.jsonl"


def _locked(directory: Path) -> int:
    """Return the lock of a stream's writer; the kernel lets go of it when the process dies."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise LogFailed(f"another process writes the log in {directory}") from error
    return fd


def _flush(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _log_errors(directory: Path) -> Iterator[None]:
    """Raise the port's errors instead of the operating system's."""
    try:
        yield
    except OSError as error:
        raise _log_error(error, directory) from error


def _log_error(error: OSError, directory: Path) -> LogFailed:
    if error.errno in _NO_ROOM:
        return LogFull("the disk of the prediction log is full", hint=f"free space for {directory}")
    return LogFailed(f"{directory}: {error.strerror}")
