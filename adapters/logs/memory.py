"""The prediction log in memory, for tests, simulations and programs that hold every plane in one process.

Keeps the same promises as the files while the process lives. An offset is a record's number here.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from adapters.logs.times import resumed_s
from gateway.core.errors import LogFailed, LogFull
from gateway.core.records import Offset, Page, Record


class MemoryLog:
    """Every stream. A `PredictionLogReader`; safe to share between threads.

    Args:
        records_max: Of one stream; beyond it the stream is full.
    """

    def __init__(self, *, records_max: int = 1_000_000) -> None:
        self._records_max = records_max
        self._streams: dict[str, list[Record]] = {}
        self._lock = threading.Lock()

    def writer(self, stream: str) -> MemoryWriter:
        """Return a stream's writer; the stream begins with its first record."""
        return MemoryWriter(self, stream)

    def append(self, stream: str, records: Sequence[Record]) -> Offset:
        """Append for a writer."""
        with self._lock:
            kept = self._streams.get(stream, [])
            if len(kept) + len(records) > self._records_max:
                raise LogFull("the prediction log in memory is full")
            kept.extend(records)
            self._streams[stream] = kept
            return Offset(len(kept))

    def streams(self) -> Sequence[str]:
        """Return the names of all streams in order."""
        with self._lock:
            return sorted(self._streams)

    def read(self, stream: str, after: Offset, limit: int = 1000) -> Page:
        """Return the next records; see `PredictionLogReader.read`."""
        with self._lock:
            kept = self._streams.get(stream, [])
            if after > len(kept):
                raise LogFailed(f"offset {after} is beyond the end of stream {stream!r}")
            return _page(kept, after, min(after + limit, len(kept)))

    def read_before(self, stream: str, before: Offset, limit: int = 1000) -> Page:
        """Return the last records before an offset; see `PredictionLogReader.read_before`."""
        with self._lock:
            kept = self._streams.get(stream, [])
            start = Offset(max(0, before - limit))
            return Page(_page(kept, start, min(before, len(kept))).records, start)

    def oldest(self, stream: str) -> Offset:  # noqa: ARG002 - every stream keeps everything
        """Return zero: nothing is ever removed."""
        return Offset(0)

    def end(self, stream: str) -> Offset:
        """Return the offset after the last record."""
        with self._lock:
            return Offset(len(self._streams.get(stream, [])))


class MemoryWriter:
    """One worker's end. A `PredictionLogWriter`."""

    def __init__(self, log: MemoryLog, stream: str) -> None:
        self._log = log
        self._stream = stream
        self.resumed_s = resumed_s(log, stream)

    def append(self, records: Sequence[Record]) -> Offset:
        """Write records, all of them or none."""
        return self._log.append(self._stream, records)

    def sync(self) -> None:
        """Do nothing: memory survives no power loss, and nobody who asks for that uses it."""

    def close(self) -> None:
        """Do nothing."""


def _page(kept: Sequence[Record], start: Offset, end: int) -> Page:
    return Page(tuple((Offset(at), kept[at]) for at in range(start, end)), Offset(max(start, end)))
