"""The queue of a version whose work other processes do, emptied from the event loop: no thread waits for their answers.

Whatever waits when a process is free begins together, at the end of the loop's turn. What cannot be done without blocking (a
large message, an answer that is none, a process that is late or gone) goes to a thread, where the runtime's own bounds hold.

A process is watched from its first batch until it ends, and not anew for each: to begin and end a watch takes six system calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.core.errors import ModelFault
from gateway.ports.clock import Clock
from gateway.ports.runtimes import BoundedInstance, RemoteInstance, RemoteRun
from gateway.serving.batch import Job, Predict, Ran, ended, enqueue, execute, joined, joint_s
from gateway.serving.checking import Checker
from gateway.serving.notes import RunNotes
from gateway.serving.threads import Deliver, Execute, Take, Wait, rows_of, taken


@dataclass(frozen=True, slots=True)
class _Pool:
    """What a pool does with a batch; held only while there is one, so that a pool that nobody needs goes at once."""

    rows_full: int
    take: Take
    execute: Execute
    deliver: Deliver


@dataclass(slots=True)
class _Going:
    """A batch under way in another process."""

    batch: Sequence[Job]
    pool: _Pool
    notes: Sequence[int]
    run: RemoteRun
    began_s: float


class _Watch:
    """A process' connection under a descriptor of our own, whose number is nobody else's while the event loop knows it."""

    def __init__(self, run: RemoteRun) -> None:
        self.descriptor = os.dup(run.fileno())
        self.close = weakref.finalize(self, os.close, self.descriptor)


class RemoteQueue:
    """Does what `PoolThreads` does. Every method is called from the event loop."""

    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        *,
        instance: RemoteInstance,
        checker: Checker,
        notes: RunNotes,
        clock: Clock,
        runs_max: int,
    ) -> None:
        """Take what runs batches.

        Args:
            name: Of its threads.
            runs_max: At once.
        """
        self._name = name
        self._loop = loop
        self._instance = instance
        self._checker = checker
        self._notes = notes
        self._clock = clock
        self._runs_max = runs_max
        self._live: deque[Job] = deque()
        self._copies: deque[Job] = deque()
        self._busy = 0  # batches under way
        self._busy_rows = 0  # of those
        self._due: asyncio.TimerHandle | None = None
        self._is_due_now = False
        self._going: dict[int, _Going] = {}  # by process
        self._watches: dict[int, _Watch] = {}
        self._late: asyncio.TimerHandle | None = None  # for the first that may be

    def put(self, job: Job, *, is_copy: bool, rows: int, rows_full: int, take: Take, execute: Execute, deliver: Deliver) -> None:
        """Queue a job; as of `PoolThreads.put`."""
        enqueue(self._copies if is_copy else self._live, job)
        if self._busy == self._runs_max or self._is_due_now or (self._busy and rows - self._busy_rows < rows_full):
            return  # whoever is done first takes it
        self._look_at(_Pool(rows_full, take, execute, deliver))

    def withdraw(self, job: Job) -> bool:
        """Remove a job that has not begun; return whether that was so."""
        if job.begun_s:
            return False
        for queue in (self._live, self._copies):
            with contextlib.suppress(ValueError):
                queue.remove(job)
        return True

    def _look_at(self, pool: _Pool, wait_s: float = 0.0) -> None:
        """Begin what waits at the end of this turn, or later."""
        if self._due is not None:
            self._due.cancel()
        self._is_due_now = wait_s <= 0.0
        self._due = self._loop.call_later(wait_s, self._begin_waiting, pool)

    def _begin_waiting(self, pool: _Pool) -> None:
        self._due, self._is_due_now = None, False
        while self._busy < self._runs_max and (not self._busy or self._waiting_rows() >= pool.rows_full):
            found = taken((self._live, self._copies), pool.take, is_part_enough=not self._busy)
            if isinstance(found, Wait):
                if self._live or self._copies:
                    self._look_at(pool, found.within_s)
                return
            self._busy += 1
            self._busy_rows += rows_of(found)
            self._begin(found, pool)

    def _waiting_rows(self) -> int:
        return rows_of(self._live) + rows_of(self._copies)

    def _begin(self, batch: Sequence[Job], pool: _Pool) -> None:
        began_s = self._clock.monotonic_s()
        try:
            run = self._instance.begin(joined(self._checker, batch, self._clock), within_s=joint_s(batch, began_s))
        except Exception as error:  # noqa: BLE001 - the queue's drain; the pool counts it and fails the jobs
            self._loop.call_soon(self._over, batch, pool, error)
            return
        if run is None:
            self._wait_for(batch, pool, lambda: pool.execute(batch))
            return
        going = _Going(batch, pool, self._notes.enter(batch), run, began_s)
        if run.process not in self._watches:
            try:
                self._watch(run)
            except OSError:  # no descriptor is left
                self._wait_for(batch, pool, lambda: self._finished(going))
                return
        self._going[run.process] = going
        self._look_when_late(max(run.deadline_s - began_s, 0.0))

    def _watch(self, run: RemoteRun) -> None:
        watch = self._watches[run.process] = _Watch(run)
        self._loop.add_reader(watch.descriptor, self._end, run.process)

    def _unwatch(self, process: int) -> None:
        if (watch := self._watches.pop(process, None)) is not None:
            self._loop.remove_reader(watch.descriptor)
            watch.close()

    def _end(self, process: int) -> None:
        """End a process' batch, which was answered or is late; without one, the process has ended, or a thread asked it."""
        going = self._going.pop(process, None)
        result = None if going is None else self._result(going)
        if result is None:
            self._unwatch(process)  # what comes now is not for the event loop
        if going is None:
            return
        if result is None:
            self._wait_for(going.batch, going.pool, lambda: self._finished(going))
            return
        self._notes.leave(going.notes)
        self._over(going.batch, going.pool, result)

    def _end_late(self) -> None:
        """End the batches whose time is over, and look again when that of the next is."""
        now_s, self._late = self._clock.monotonic_s(), None
        for process in [process for process, going in self._going.items() if going.run.deadline_s <= now_s]:
            self._end(process)
        if self._going:
            next_s = min(going.run.deadline_s for going in self._going.values())
            self._look_when_late(max(next_s - now_s, 0.0))

    def _look_when_late(self, within_s: float) -> None:
        """Look for late batches then, or before; the runs of joined rows have less time than others."""
        if self._late is not None:
            if self._late.when() <= self._loop.time() + within_s:
                return
            self._late.cancel()
        self._late = self._loop.call_later(within_s, self._end_late)

    def _result(self, going: _Going) -> list[Ran] | BaseException | None:
        """Return how a batch ended; None where that has to be waited for, or its jobs run again one by one."""
        try:
            outputs = going.run.answer()
            if outputs is None:
                return None
            return ended(self._checker, going.batch, outputs, self._clock, began_s=going.began_s)
        except ModelFault:
            return None
        except Exception as error:  # noqa: BLE001 - the queue's drain; the pool counts it and fails the jobs
            return error

    def _finished(self, going: _Going) -> list[Ran]:
        """Return how a batch ended; blocks."""
        try:
            return executed_apart(self._instance, self._checker, going.batch, self._clock, going=(going.run, going.began_s))
        finally:
            self._notes.leave(going.notes)

    def _wait_for(self, batch: Sequence[Job], pool: _Pool, work: Callable[[], list[Ran]]) -> None:
        threading.Thread(target=self._work, args=(batch, pool, work), name=self._name, daemon=True).start()

    def _work(self, batch: Sequence[Job], pool: _Pool, work: Callable[[], list[Ran]]) -> None:
        result: list[Ran] | BaseException
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - the queue's drain; the pool counts it and fails the jobs
            result = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            self._loop.call_soon_threadsafe(self._over, batch, pool, result)

    def _over(self, batch: Sequence[Job], pool: _Pool, result: list[Ran] | BaseException) -> None:
        self._busy -= 1
        self._busy_rows -= rows_of(batch)
        if self._live or self._copies:
            self._begin_waiting(pool)  # before the answers, so that the process is at work meanwhile
        pool.deliver(batch, result)


def executed_apart(
    instance: BoundedInstance,
    checker: Checker,
    batch: Sequence[Job],
    clock: Clock,
    *,
    going: tuple[RemoteRun, float] | None = None,
) -> list[Ran]:
    """Return how each job of a batch ended in another process; blocks.

    Args:
        going: The run that was begun for the batch, and when; None where none could be.
    """

    def again(within_s: float) -> Predict:
        return lambda inputs: instance.predict_within(inputs, within_s, is_again=True)

    if going is not None:
        run, began_s = going
        return execute(lambda _: run.finish(), checker, batch, clock, began_s=began_s, again=again)
    within_s = joint_s(batch, clock.monotonic_s())
    return execute(lambda inputs: instance.predict_within(inputs, within_s, is_again=False), checker, batch, clock, again=again)
