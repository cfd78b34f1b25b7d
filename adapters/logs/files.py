"""The files of the log's segments: their names, their whole part, and what to do about a part that is not whole.

A segment's file is named after the offset of its first byte. Only complete appends count, and a repair never moves an offset.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adapters.durability import flush
from adapters.logs.codec import END_OF_APPEND
from gateway.core.errors import LogFailed, LogFull
from gateway.core.records import Offset

APPEND_BYTES_MAX: Final = 256 * 2**20  # of one append: four times the largest body that serving accepts by default
_READ_BYTES: Final = 2**20  # at once, when looking for the last complete append
_NAME: Final = re.compile(r"(\d{20})\.jsonl")
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Place:
    """A segment as found in its directory."""

    first: Offset
    path: Path


def cut_tail(path: Path) -> int:
    """Cut everything after the last complete append; return the bytes cut."""
    size = path.stat().st_size
    whole = whole_bytes(path)
    if whole < size:
        os.truncate(path, whole)
        flush(path)
    return size - whole


def whole_bytes(path: Path) -> int:
    """Return how much of a segment is complete appends, reading it from its end."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _READ_BYTES)
            file.seek(start)
            found = file.read(end - start).rfind(END_OF_APPEND)
            if found >= 0:
                return start + found + len(END_OF_APPEND)
            end = start + 1 if start else 0  # the mark may lie across the border
    return 0


def empty_holes(path: Path) -> int:
    """Replace lines that hold a NUL byte by empty objects of the same length, so that no offset moves; return the bytes lost.

    A file system that lost power may keep a file's length without its bytes; these read as NUL, which JSON never holds. The line
    after them goes as well when the newline before it is among them.
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


def places_of(directory: Path) -> list[Place]:
    """Return the segments of a stream, the oldest first; none when the directory does not exist."""
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - the order of names is what is wanted
    except FileNotFoundError:
        return []
    return [Place(Offset(int(found[1])), directory / name) for name in names if (found := _NAME.fullmatch(name))]


def streams_of(directory: Path) -> list[str]:
    """Return the names of a log's streams in order."""
    with log_errors(directory):
        return sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []


def end_of(places: Sequence[Place]) -> Offset:
    """Return the offset after the last segment's last byte."""
    return Offset(places[-1].first + places[-1].path.stat().st_size) if places else Offset(0)


def bytes_before(places: Sequence[Place], first: Offset) -> int:
    """Return the bytes of the segments before an offset; one that is being removed meanwhile counts nothing."""
    total = 0
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            total += place.path.stat().st_size if place.first < first else 0
    return total


def segment_name(first: int) -> str:
    """Return the name of the segment that begins at an offset."""
    return f"{first:020d}.jsonl"


def locked(directory: Path) -> int:
    """Return the lock of a stream's writer; the kernel lets go of it when the process dies."""
    fd = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise LogFailed(f"another process writes the log in {directory}") from error
    return fd


@contextlib.contextmanager
def log_errors(directory: Path) -> Iterator[None]:
    """Raise the port's errors instead of the operating system's."""
    try:
        yield
    except OSError as error:
        raise log_error(error, directory) from error


def log_error(error: OSError, directory: Path) -> LogFailed:
    """Return the port's error for the operating system's."""
    if error.errno in _NO_ROOM:
        return LogFull("the disk of the prediction log is full", hint=f"free space for {directory}")
    return LogFailed(f"{directory}: {error.strerror}")
