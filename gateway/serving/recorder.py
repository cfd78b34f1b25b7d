"""Records → log, before their answers leave: all records of one turn of the event loop in one append.

With `durability = disk` a group's answers also wait for a sync in a thread, one group at a time; what comes meanwhile is the next
group. When the log has no room, a group is answered with the log's error (`when_full = reject`) or counted and answered without
records (`continue`). An idle stream gets heartbeats, so that the merge of all streams can move on. What the log may not hold is
taken out of a record here, which every record passes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from gateway.core.errors import LogFailed
from gateway.core.records import Anchor, Heartbeat, PredictionRecord, Record, StreamEnd
from gateway.metrics.metric import cell
from gateway.metrics.serving import LOG_RECORDS, LOG_WRITE_DURATION, LOG_WRITE_FAILURES, LOG_WRITES, UNLOGGED
from gateway.ports.clock import Clock
from gateway.ports.log import PredictionLogWriter
from gateway.ports.metrics import MetricsBank
from gateway.settings import Durability, LogSettings, WhenFull

ANCHOR_S: Final = 86_400.0  # between anchors of one audit entry: retention is counted in days, and one of them is always kept
_CATCH_UP: Final = 0.9  # of the real pace, while wall time lies behind; a step of a minute is made good in ten
Waiter = asyncio.Future[None]


class Recorder:
    """One worker's end of the log.

    Attributes:
        is_refusing: Whether the last write failed and answers need a record; an idle stream's heartbeats try again.
    """

    def __init__(
        self,
        log: PredictionLogWriter,
        *,
        settings: LogSettings,
        metrics: MetricsBank,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        redacted: Callable[[PredictionRecord], PredictionRecord] | None = None,
    ) -> None:
        """Write to `log`; `redacted` returns a prediction as the log may hold it, and None leaves all as they are."""
        self.is_refusing = False
        self._redacted = redacted
        self._log = log
        self._settings = settings
        self._clock = clock
        self._loop = loop
        self._records: list[Record] = []
        self._waiters: list[Waiter] = []
        self._is_scheduled = False
        self._is_syncing = False
        self._last_time_s = log.resumed_s
        self._last_look_s = clock.monotonic_s()
        self._written_s = 0.0
        self._anchored = (0, "")
        self._anchored_s = 0.0
        self._written = cell(metrics, LOG_RECORDS)
        self._writes = cell(metrics, LOG_WRITES)
        self._writing_s = cell(metrics, LOG_WRITE_DURATION)
        self._failures = cell(metrics, LOG_WRITE_FAILURES)
        self._unlogged = cell(metrics, UNLOGGED)

    def time_s(self) -> float:
        """Return the time of a record that is added at once: wall time, but it never falls and never stands still.

        When the clock is set back, records go on from where they were at `_CATCH_UP` of the real pace until it caught up, because
        the merge of all streams, and so the monitor, moves by these times.
        """
        now_s = self._clock.monotonic_s()
        least_s = self._last_time_s + _CATCH_UP * (now_s - self._last_look_s)
        self._last_time_s, self._last_look_s = max(least_s, self._clock.now_s()), now_s
        return self._last_time_s

    def add(self, *records: Record) -> Waiter:
        """Queue records for this turn's append and return a future that is done when they are as durable as configured.

        It ends with `LogFull` or `LogFailed` when answers need a record and these could not be written, or not be made durable;
        after a sync that failed they may be in the log all the same.
        """
        waiter: Waiter = self._loop.create_future()
        for record in records:
            self._queue(record)
        self._waiters.append(waiter)
        self._schedule()
        return waiter

    def add_unwaited(self, record: Record) -> None:
        """Queue a record that no answer waits for."""
        self._queue(record)
        self._schedule()

    def beat(self) -> None:
        """Write a heartbeat if nothing was written for a while; called regularly."""
        if not self._records and self._clock.monotonic_s() - self._written_s >= self._settings.heartbeat_s:
            self.add_unwaited(Heartbeat(self.time_s()))

    def anchor(self, seq: int, hash: str) -> None:
        """Write down the audit log's newest entry if it is another than the last time, or that was long ago."""
        now_s = self._clock.monotonic_s()
        if (seq, hash) != self._anchored or now_s - self._anchored_s >= ANCHOR_S:
            self._anchored, self._anchored_s = (seq, hash), now_s
            self.add_unwaited(Anchor(self.time_s(), seq, hash))

    async def close(self) -> None:
        """Write what is queued and the end of the stream."""
        with contextlib.suppress(LogFailed):  # counted; there is nobody left to tell
            await self.add(StreamEnd(self.time_s()))
        self._log.close()

    def _queue(self, record: Record) -> None:
        if self._redacted is not None and isinstance(record, PredictionRecord):
            record = self._redacted(record)
        self._records.append(record)

    def _schedule(self) -> None:
        if not self._is_scheduled and not self._is_syncing:
            self._is_scheduled = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_scheduled = False
        records, waiters = self._records, self._waiters
        self._records, self._waiters = [], []
        error = self._append(records)
        if error is None and self._settings.durability is Durability.DISK:
            self._is_syncing = True
            began_s = self._clock.monotonic_s()
            sync = self._loop.run_in_executor(None, self._sync)
            sync.add_done_callback(lambda done: self._synced(waiters, done, began_s))
        else:
            _finish(waiters, error)

    def _append(self, records: Sequence[Record]) -> LogFailed | None:
        """Return why the answers may not leave, or None."""
        began_s = self._clock.monotonic_s()
        try:
            self._log.append(records)
        except LogFailed as error:
            self._failures.add(1.0)
            return self._unless_continued(error, len(records))
        self._written.add(len(records))
        self.is_refusing = False
        self._written_s = self._clock.monotonic_s()
        self._writes.add(1.0)
        self._writing_s.add(self._written_s - began_s)
        return None

    def _sync(self) -> LogFailed | None:
        try:
            self._log.sync()
        except LogFailed as error:
            return error
        return None

    def _synced(self, waiters: Sequence[Waiter], done: asyncio.Future[LogFailed | None], began_s: float) -> None:
        self._is_syncing = False
        self._writing_s.add(self._clock.monotonic_s() - began_s)
        error = done.result()
        if error is not None:
            self._failures.add(1.0)
            error = self._unless_continued(error, len(waiters))
        _finish(waiters, error)
        if self._records:
            self._schedule()

    def _unless_continued(self, error: LogFailed, count: int) -> LogFailed | None:
        if self._settings.when_full is WhenFull.REJECT:
            self.is_refusing = True
            return error
        self._unlogged.add(count)
        return None


def _finish(waiters: Sequence[Waiter], error: LogFailed | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
