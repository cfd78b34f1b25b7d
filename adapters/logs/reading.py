"""The reader of the log's segments, from any process: forwards from an offset, or backwards from the end."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.logs.codec import END_OF_APPEND, Wants, decode
from adapters.logs.files import APPEND_BYTES_MAX, Place, log_error, log_errors, places_of, segment_name, streams_of, whole_bytes
from gateway.core.errors import LogFailed
from gateway.core.records import Offset, Page, Record

PAGE_BYTES: Final = 2**20  # of one read, unless a single append is longer; about 1,000 records of 20 features
RECORD_BYTES_USUAL: Final = 2_048  # how much to read for a page of few records


@dataclass(frozen=True, slots=True)
class _Opened:
    """The segment of a stream that a reader read last."""

    first: Offset
    fd: int


class SegmentReader:
    """The other end, from any process. A `PredictionLogReader`. Keeps one file open per stream.

    Args:
        wants: Of which routes predictions are read; `Elsewhere` stands for the others.
    """

    def __init__(self, directory: Path, wants: Wants | None = None) -> None:
        self._directory = directory
        self._wants = wants
        self._opened: dict[str, _Opened] = {}

    def streams(self) -> Sequence[str]:
        """Return the stream directories' names in order."""
        return streams_of(self._directory)

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
            raise log_error(error, self._directory / stream) from error
        return _page(lines, after, limit, stream, self._wants)

    def read_before(self, stream: str, before: Offset, limit: int = 1000) -> Page:
        """Return the last records before an offset, in order; see `PredictionLogReader.read_before`."""
        with log_errors(self._directory / stream):
            places = places_of(self._directory / stream)
            at = bisect_right(places, before - 1, key=lambda place: place.first) - 1
            if at < 0:
                return Page((), before)
            try:
                lines, start = _lines_before(places[at], before, limit)
            except FileNotFoundError:  # removed since it was listed
                return Page((), before)
        return Page(_page(lines, start, limit, stream).records, start)

    def oldest(self, stream: str) -> Offset:
        """Return the first offset still kept."""
        with log_errors(self._directory / stream):
            places = places_of(self._directory / stream)
        return places[0].first if places else Offset(0)

    def end(self, stream: str) -> Offset:
        """Return the offset after the last complete append."""
        with log_errors(self._directory / stream):
            places = places_of(self._directory / stream)
            return Offset(places[-1].first + whole_bytes(places[-1].path)) if places else Offset(0)

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
        places = places_of(self._directory / stream)
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
            fd = os.open(self._directory / stream / segment_name(first), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        if (before := self._opened.get(stream)) is not None:
            os.close(before.fd)
        self._opened[stream] = _Opened(first, fd)
        return self._opened[stream]


def _page(lines: bytes, after: Offset, limit: int, stream: str, wants: Wants | None = None) -> Page:
    """Return at most `limit` records of complete lines that begin at `after`."""
    records: list[tuple[Offset, Record]] = []
    at = after
    pieces = lines.split(b"\n", limit)
    pieces.pop()
    for line in pieces:
        try:
            records.append((at, decode(line, wants)))
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


def _lines_before(place: Place, before: Offset, limit: int) -> tuple[bytes, Offset]:
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
