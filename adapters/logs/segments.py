"""The prediction log as files: `log/<stream>/<offset of its first byte, 20 digits>.jsonl`, one directory per worker.

A stream is one long sequence of bytes, cut into segments; an offset is a position in it. Only the last segment grows, by one
`write` per append, and nothing that a reader may have seen is ever changed: the last line of an append ends in `}` and a
newline, every other line in `}`, a blank and a newline, and a reader goes no further than the last complete append.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

from adapters.durability import flush
from adapters.logs.codec import encode
from adapters.logs.files import (
    APPEND_BYTES_MAX,
    bytes_before,
    cut_tail,
    empty_holes,
    end_of,
    locked,
    log_error,
    log_errors,
    places_of,
    segment_name,
    streams_of,
)
from adapters.logs.reading import SegmentReader
from adapters.logs.times import resumed_s
from gateway.core.errors import LogFailed, LogFull
from gateway.core.records import Cursor, Offset, Record
from gateway.ports.clock import Clock
from gateway.ports.log import Segment

LOOK_S: Final = 1.0  # between two looks at the file system's free space
WRITEBACK_S: Final = 60.0  # twice the age at which Linux writes dirty pages: what is older survived a power loss


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
        self._segment_bytes_max = min(segment_bytes_max, bytes_max // 4)  # a full log has closed segments to give up
        self._segment_age_s = segment_age_s
        self._bytes_max = bytes_max
        self._free_bytes_min = free_bytes_min
        self._clock = clock
        self._is_torn = False
        self._looked_s = -LOOK_S
        self._disk_room_to = 0  # what this segment may grow to, by the file system's room when it was last looked at
        self._free_to = 0  # what this segment may grow to without another look at anything…
        self._free_until_s = -math.inf  # …until then
        with log_errors(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self._directory)
            segments = places_of(self._directory)
            if segments:
                cut_tail(segments[-1].path)
            self._first = self._unsynced = end_of(segments)
            self._kept = bytes_before(segments, self._first)
            self._fd = self._created(self._first)
        self._size = 0
        self._is_new = True
        self._since_s = clock.monotonic_s()
        self.resumed_s = resumed_s(SegmentReader(directory), stream)

    def append(self, records: Sequence[Record]) -> Offset:
        """Write records in one `write`; see `PredictionLogWriter.append`."""
        if not records:
            return Offset(self._first + self._size)
        lines = encode(records)
        wanted, now_s = len(lines), self._clock.monotonic_s()
        try:
            if self._size + wanted > self._free_to or wanted > APPEND_BYTES_MAX or now_s >= self._free_until_s:
                self._make_room(wanted, now_s)
            self._write(lines, wanted)
        except OSError as error:
            raise log_error(error, self._directory) from error
        return Offset(self._first + self._size)

    def sync(self) -> None:
        """Flush everything written since the last call; see `PredictionLogWriter.sync`."""
        with log_errors(self._directory):
            if self._is_new:
                for place in places_of(self._directory):
                    if self._unsynced <= place.first < self._first:
                        flush(place.path)
                flush(self._directory)
                flush(self._directory.parent)
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
        self._disk_room_to -= self._size
        self._size = self._free_to = 0
        self._is_new = True

    def _created(self, first: Offset) -> int:
        return os.open(self._directory / segment_name(first), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _make_room(self, wanted: int, now_s: float) -> None:
        """See to it that so much can be appended, and note until when and how far nothing of this need be asked again.

        Raises:
            LogFull: there is no room; the file system is looked at at most once in `LOOK_S`.
            LogFailed: it is more than one append may hold.
        """
        self._mend()
        if wanted > APPEND_BYTES_MAX:
            raise LogFailed(f"{wanted:,} bytes in one append; at most {APPEND_BYTES_MAX:,} fit")
        if self._size and (self._size + wanted > self._segment_bytes_max or now_s - self._since_s >= self._segment_age_s):
            self._rotate()
        if not self._size:
            self._since_s = now_s
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            disk = os.statvfs(self._directory)
            self._disk_room_to = self._size + disk.f_bavail * disk.f_frsize - self._free_bytes_min
            if wanted > self._own_room():  # the archive may have removed segments meanwhile
                self._kept = bytes_before(places_of(self._directory), self._first)
        room_to = min(self._disk_room_to, self._size + self._own_room())
        if self._size + wanted > room_to:
            raise LogFull(
                "the prediction log is full",
                hint="free disk space, raise log.bytes_max or lower log.free_bytes_min",
            )
        self._free_to = min(room_to, self._segment_bytes_max)
        self._free_until_s = min(self._looked_s + LOOK_S, self._since_s + self._segment_age_s)

    def _own_room(self) -> int:
        return self._bytes_max - self._kept - self._size

    def _write(self, lines: bytes, wanted: int) -> None:
        try:
            written = os.pwrite(self._fd, lines, self._size)
            while written < wanted:  # a second turn finds out why the first one was short
                written += os.pwrite(self._fd, lines[written:], self._size + written)
        except OSError:
            self._is_torn = True
            self._free_until_s = -math.inf
            self._mend()
            raise
        self._size += wanted

    def _mend(self) -> None:
        """Cut what a failed write left behind; while that fails nothing can be appended."""
        if self._is_torn:
            os.ftruncate(self._fd, self._size)
            self._is_torn = False


class SegmentDirectory:
    """The log as the archive and the supervisor see it. A `SegmentStore`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def closed(self, stream: str) -> Sequence[Segment]:
        """Return every segment but the last, the oldest first."""
        with log_errors(self._directory / stream):
            places = places_of(self._directory / stream)
            return [
                Segment(stream, place.first, following.first, place.path, place.path.stat().st_mtime)
                for place, following in itertools.pairwise(places)
            ]

    def remove(self, segment: Segment) -> None:
        """Remove a segment's file."""
        with log_errors(self._directory / segment.stream):
            Path(segment.path).unlink(missing_ok=True)

    def free_bytes(self) -> int:
        """Return what the file system has left for this user."""
        with log_errors(self._directory):
            disk = os.statvfs(self._directory)
        return disk.f_bavail * disk.f_frsize

    def repair(self) -> Sequence[tuple[str, int]]:
        """Cut torn tails, empty the lines that a power loss took, and close every stream's last segment."""
        return [(stream, damage) for stream in streams_of(self._directory) if (damage := self._repair(stream))]

    def backup(self, to: PurePath) -> Cursor:
        """Copy the segments, stream after stream, and cut what is not a complete append; see `SegmentStore.backup`."""
        with log_errors(self._directory):
            shutil.rmtree(to, ignore_errors=True)
            Path(to).mkdir(mode=0o700, parents=True)
            return {stream: _copied(self._directory / stream, Path(to) / stream) for stream in streams_of(self._directory)}

    def _repair(self, stream: str) -> int:
        with log_errors(self._directory / stream):
            places = places_of(self._directory / stream)
            if not places:
                return 0
            os.close(locked(self._directory / stream))
            newest_s = places[-1].path.stat().st_mtime
            recent = [place for place in places if newest_s - place.path.stat().st_mtime <= WRITEBACK_S]
            for place, following in itertools.pairwise(places):
                if place in recent:  # its length may be lost too; what is missing reads as NUL
                    os.truncate(place.path, following.first - place.first)
            damage = cut_tail(places[-1].path) + sum(empty_holes(place.path) for place in recent)
            (self._directory / stream / segment_name(end_of(places))).touch(0o640)
        return damage


def _copied(stream: Path, to: Path) -> Offset:
    """Copy a stream and return where its copy begins."""
    to.mkdir()
    for place in places_of(stream):
        try:
            shutil.copy2(place.path, to / place.path.name)
        except FileNotFoundError:  # removed since it was listed, and with it everything older
            for older in places_of(to):
                older.path.unlink()
    copied = places_of(to)
    if copied:
        cut_tail(copied[-1].path)
    return copied[0].first if copied else Offset(0)
