"""Merges all streams of the log into one order: by (time, stream, offset), behind a watermark.

The order is a function of the streams alone, never of when a poll happened, so that whoever reads the same log folds the same
sequence. A record leaves the merge once nothing that sorts before it can still arrive: every open stream was read past it, and
streams that are closed or not born yet were found empty after a record at least `SETTLE_S` newer had been read.
Keeps positions and unmerged records only; it relies on times that never fall within a stream.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, NamedTuple

from gateway.core.errors import LogFailed
from gateway.core.records import Cursor, Offset, Page, Record, StreamEnd
from gateway.ports.log import PredictionLogReader

SETTLE_S: Final = 0.05  # from a record's time to its line being readable; one turn of a worker's loop takes a few ms
_NOTHING: Final = (-math.inf, "")
_journal = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Position:
    """How far a stream was merged.

    Attributes:
        next: The offset of its first record not merged yet.
        time_s: Of the last record merged; no later record of the stream is older.
        is_closed: Whether that record was a `StreamEnd`, or there was none.
    """

    next: Offset
    time_s: float = -math.inf
    is_closed: bool = True


class Merged(NamedTuple):
    """A record in its place. A tuple, because every record of the log is one, and those of two streams compare by their places.

    Attributes:
        time_s: The record's time, or its stream's latest before it if a clock stepped back.
        after: The offset that follows it in its stream.
    """

    time_s: float
    stream: str
    offset: Offset
    after: Offset
    record: Record


@dataclass(slots=True)
class _Stream:
    begun: Position
    read: Position  # of the last record read
    last: Merged | None = None  # merged since it was begun
    pending: list[Merged] = field(default_factory=list)  # read, and not yet in order with those of other streams
    is_at_end: bool = False  # the last read found nothing
    was_read: bool = False

    @property
    def merged(self) -> Position:
        """Of the last record merged."""
        last = self.last
        return self.begun if last is None else Position(last.after, last.time_s, isinstance(last.record, StreamEnd))


class Merge:
    """The merge's position in every stream, and what was read but not merged.

    Attributes:
        late_count: Records that came out after one that sorts behind them.
        moved_count: Streams whose position was lost and found anew.
    """

    def __init__(self, positions: Mapping[str, Position] | None = None) -> None:
        self._streams = {name: _Stream(position, position) for name, position in (positions or {}).items()}
        self._ready: deque[Merged] = deque()  # of all streams, in order: nothing can come before them any more
        self._newest_s = -math.inf
        self._bound = _NOTHING
        self._last: tuple[float, str, Offset] = (-math.inf, "", Offset(0))
        self.late_count = 0
        self.moved_count = 0

    @classmethod
    def after(cls, cursor: Cursor) -> Merge:
        """Return a merge that knows no more than where to go on."""
        return cls({name: Position(offset) for name, offset in cursor.items()})

    def positions(self) -> dict[str, Position]:
        """Return how far each stream was merged; a new merge goes on from there."""
        return {name: stream.merged for name, stream in self._streams.items()}

    def cursor(self) -> Cursor:
        """Return the offset of the first unmerged record of each stream."""
        return {name: stream.merged.next for name, stream in self._streams.items()}

    def names(self, *, closed: bool) -> list[str]:
        """Return the streams that were last seen closed, or open, in order of name."""
        return sorted(name for name, stream in self._streams.items() if stream.read.is_closed is closed)

    def knows(self, name: str) -> bool:
        """Return whether the stream was added."""
        return name in self._streams

    def add(self, name: str, oldest: Offset) -> None:
        """Take a stream up from its oldest record."""
        position = Position(oldest)
        self._streams[name] = _Stream(position, position)

    def skip_to(self, name: str, oldest: Offset) -> None:
        """Go on from a later offset where the records before it are no longer kept; only before the stream is first read."""
        stream = self._streams[name]
        if oldest > stream.read.next:
            stream.begun = stream.read = replace(stream.begun, next=oldest)

    def move_to(self, name: str, offset: Offset) -> None:
        """Go on from another offset, because no line begins at the present one; only before the stream is first read."""
        stream = self._streams[name]
        stream.begun = stream.read = replace(stream.begun, next=offset)
        self.moved_count += 1

    def forget(self, name: str) -> None:
        """Drop a stream that is no longer in the log, unless records of it wait."""
        if not self._streams[name].pending and not any(merged.stream == name for merged in self._ready):
            del self._streams[name]

    def was_read(self, name: str) -> bool:
        """Return whether the stream was read since this merge began."""
        return self._streams[name].was_read

    def next_offset(self, name: str) -> Offset:
        """Return where the stream's following read starts."""
        return self._streams[name].read.next

    def wants(self, name: str, limit: int) -> bool:
        """Return whether to read more of a stream: fewer than `limit` wait, or they are too close in time to leave the merge."""
        pending = self._streams[name].pending
        return len(pending) < limit or pending[-1].time_s - pending[0].time_s <= SETTLE_S

    def pass_over(self, name: str) -> None:
        """Note that a stream was not read this time: where it was last seen to end, it may have gone on."""
        self._streams[name].is_at_end = False

    def take(self, name: str, page: Page) -> int:
        """Append a page of a stream, read from `next_offset`, and return its new records; those read before are ignored."""
        stream = self._streams[name]
        fresh = page.records
        if fresh and fresh[0][0] < stream.read.next:
            fresh = tuple(entry for entry in fresh if entry[0] >= stream.read.next)
        if fresh:
            time_s, pending = stream.read.time_s, stream.pending
            for (offset, record), (after, _) in pairwise((*fresh, (page.next, fresh[-1][1]))):
                time_s = max(time_s, record.time_s)
                pending.append(Merged(time_s, name, offset, after, record))
            stream.read = Position(page.next, time_s, isinstance(fresh[-1][1], StreamEnd))
            self._newest_s = max(self._newest_s, time_s)
        stream.read = replace(stream.read, next=max(stream.read.next, page.next))
        stream.is_at_end = not fresh
        stream.was_read = True
        return len(fresh)

    def settle(self) -> None:
        """Move the watermark; call it after the streams were read, open ones first."""
        self._bound = min((self._limit(name, stream) for name, stream in self._streams.items()), default=_NOTHING)
        self._bound = min(self._bound, (self._newest_s - SETTLE_S, ""))

    def peek(self) -> Merged | None:
        """Return the next record in order, or None while an older one may still arrive."""
        if not self._ready:
            self._line_up()
        return self._ready[0] if self._ready else None

    @property
    def ready(self) -> Sequence[Merged]:
        """Everything that is in order, the next record first; look with `peek` before."""
        return self._ready

    def pass_by(self, count: int) -> None:
        """Move past so many of the records that `ready` shows."""
        last: dict[str, Merged] = {}
        for _ in range(count):
            merged = self._ready.popleft()
            last[merged.stream] = merged
        for name, merged in last.items():
            self._streams[name].last = merged

    def pop(self) -> Merged:
        """Return the record that `peek` showed and move past it."""
        merged = self._ready.popleft()
        self._streams[merged.stream].last = merged
        return merged

    def _line_up(self) -> None:
        """Put what the watermark lets go into one order: streams are in order themselves, so that sorting merges them."""
        found: list[Merged] = []
        for stream in self._streams.values():
            at = bisect_right(stream.pending, self._bound, key=_place)
            found += stream.pending[:at]
            del stream.pending[:at]
        if found:
            found.sort()
            self.late_count += bisect_left(found, self._last)
            self._last = max(self._last, found[-1][:3])
            self._ready = deque(found)

    @property
    def newest_s(self) -> float:
        """The time of the newest record read from any stream."""
        return self._newest_s

    def _limit(self, name: str, stream: _Stream) -> tuple[float, str]:
        """Return the least (time, stream) that can still arrive from a stream."""
        if not stream.was_read:
            return _NOTHING
        if stream.read.is_closed and stream.is_at_end:
            return (math.inf, name)
        return (stream.read.time_s, name)


def _place(merged: Merged) -> tuple[float, str]:
    return merged[:2]


def refill(merge: Merge, log: PredictionLogReader, limit: int) -> int:
    """Read a page of every stream that wants one, move the watermark, and return the number of records read.

    Open streams are read first, so that closed and new ones are looked at after the newest record was read.

    Raises:
        LogFailed: a stream cannot be read; what was read before it stays in the merge.
    """
    count = sum(_read(merge, log, name, limit) for name in merge.names(closed=False))
    listed = set(log.streams())
    for name in sorted(listed):
        if not merge.knows(name):
            merge.add(name, log.oldest(name))
    for name in set(merge.positions()) - listed:
        merge.forget(name)
    count += sum(_read(merge, log, name, limit) for name in merge.names(closed=True) if name in listed)
    merge.settle()
    return count


def _read(merge: Merge, log: PredictionLogReader, name: str, limit: int) -> int:
    if not merge.wants(name, limit):
        merge.pass_over(name)
        return 0
    if not merge.was_read(name):
        merge.skip_to(name, log.oldest(name))
        _find_place(merge, log, name, limit)
    return merge.take(name, log.read(name, merge.next_offset(name), limit))


def _find_place(merge: Merge, log: PredictionLogReader, name: str, limit: int) -> None:
    """Move to the next line where none begins at the position: a power loss took what a checkpoint had already counted."""
    lost = merge.next_offset(name)
    try:
        log.read(name, lost, 1)
    except LogFailed as error:
        found = _line_start(log, name, lost, limit)
        if found == lost:
            raise  # a line does begin there, and cannot be read
        merge.move_to(name, found)
        facts = {"action": "go on", "stream": name, "from": lost, "to": found, "reason": str(error)}
        _journal.warning("The log no longer has the place where the monitor was", extra=facts)


def _line_start(log: PredictionLogReader, name: str, after: Offset, limit: int) -> Offset:
    """Return where the first line at or behind an offset begins, or the stream's end."""
    found = before = log.end(name)
    while before > after:
        page = log.read_before(name, before, limit)
        found = min([found, *(offset for offset, _ in page.records if offset >= after)])
        if page.next == before:
            break
        before = page.next
    return found
