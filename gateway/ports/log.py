"""The prediction log: one end writes it, another reads it, and a third may remove what is closed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from gateway.core.records import Cursor, Offset, Page, Record


class PredictionLogWriter(Protocol):
    """One worker's end of the log. Used by one thread at a time; `append` is fast enough for an event loop."""

    @property
    def resumed_s(self) -> float:
        """The time of the stream's last record when it was opened, which no later record may precede; 0 without one."""

    def append(self, records: Sequence[Record]) -> Offset:
        """Write records in order, all of them or none, and return the offset after the last.

        When it returns they survive the death of this process; for power loss see `sync`.

        Raises:
            LogFull: no room (the disk, or the configured size); nothing of the call stays in the log.
            LogFailed: it could not be written; nothing of the call stays in the log.
        """

    def sync(self) -> None:
        """Make everything appended so far survive power loss. May take milliseconds."""

    def close(self) -> None:
        """Close the stream's open segment."""


class PredictionLogReader(Protocol):
    """The other end, from any process."""

    def streams(self) -> Sequence[str]:
        """Return the names of all streams, one per worker."""

    def read(self, stream: str, after: Offset, limit: int = 1000) -> Page:
        """Return the next records from an offset, at least once and in order; an empty page when there is nothing new.

        Raises:
            LogFailed: the offset is before the oldest segment kept, beyond the end or inside a line (a power loss can take
                records that a consumer has seen; it goes on from the next line, or from `end`), or a line in the middle cannot
                be read.
        """

    def read_before(self, stream: str, before: Offset, limit: int = 1000) -> Page:
        """Return the last records before an offset, in order; the page's `next` is what to read before in the next call.

        A page may hold fewer records than `limit`, even none; nothing older is kept when `next` is `before` itself.

        Raises:
            LogFailed: a line cannot be read.
        """

    def oldest(self, stream: str) -> Offset:
        """Return the first offset still kept."""

    def end(self, stream: str) -> Offset:
        """Return the offset after the last complete record."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed part of one stream that never changes again."""

    stream: str
    first: Offset
    next: Offset
    path: PurePath
    closed_at_s: float


class SegmentStore(Protocol):
    """The log seen by the archive: closed segments, and the right to remove them."""

    def closed(self, stream: str) -> Sequence[Segment]:
        """Return the closed segments of a stream, the oldest first."""

    def remove(self, segment: Segment) -> None:
        """Remove a segment; removing it again changes nothing."""

    def free_bytes(self) -> int:
        """Return how much may still be written to the file system that holds the log."""

    def repair(self) -> Sequence[tuple[str, int]]:
        """Cut a torn last line off every stream; return (stream, bytes cut). Only while no writer is open."""

    def backup(self, to: PurePath) -> Cursor:
        """Copy every segment up to its last complete append, while writers append; return where the copy of each stream begins.

        What a directory of that name held before is replaced. A segment removed meanwhile is left out, with all before it.
        """
