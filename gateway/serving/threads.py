"""Threads for an expensive version: they take whatever waits whenever one is free (continuous batching).

One thread takes what there is. Another joins only while what waits fills a whole batch of its own, so that more threads never
mean smaller batches, which cost more a row. They start with the first job and end after idling, so that a version nobody needs
any more leaves no thread behind. Copies for shadows are taken only when no live job waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.serving.batch import Job, Ran, enqueue

IDLE_S: Final = 5.0  # then the thread ends; starting another costs 0.1 ms

Execute = Callable[[Sequence[Job]], list[Ran]]
Deliver = Callable[[Sequence[Job], "list[Ran] | BaseException"], None]


@dataclass(frozen=True, slots=True)
class Wait:
    """What a thread does instead of running what waits.

    Attributes:
        within_s: How long at most.
        rows: Waiting, before which it is not worth looking again.
    """

    within_s: float
    rows: int


IDLE: Final = Wait(IDLE_S, 0)
Take = Callable[["deque[Job]", bool], "list[Job] | Wait"]


def cores_for_threads(workers: int) -> int:
    """Return how many of this machine's cores one of `workers` processes may use for runs; its event loop needs one too."""
    return max(len(os.sched_getaffinity(0)) // workers - 1, 1)


class PoolThreads:
    """The queue of one version and the threads that empty it. Every method is called from the event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, *, threads_max: int) -> None:
        self._name = name
        self._loop = loop
        self._threads_max = threads_max
        self._changed = threading.Condition()
        self._live: deque[Job] = deque()
        self._copies: deque[Job] = deque()
        self._running = 0
        self._busy = 0  # of the running: those that execute a batch
        self._busy_rows = 0  # of those batches
        self._awaited = IDLE  # what the thread that looked last waits for

    def put(self, job: Job, *, is_copy: bool, rows: int, rows_full: int, take: Take, execute: Execute, deliver: Deliver) -> None:
        """Queue a job.

        Args:
            rows: Of all jobs, this one and the running ones included.
            rows_full: Of a full batch.
            take: Removes from a queue what one run may hold now; told whether less than a full batch will do. Returns it, or
                how long the batch should wait for more.
            execute: Runs it, in a thread.
            deliver: Gets what `execute` returned or raised, on the event loop.
        """
        with self._changed:
            enqueue(self._copies if is_copy else self._live, job)
            if self._busy and rows - self._busy_rows < rows_full:
                return  # whoever is done first takes it
            if self._busy < self._running:
                if rows - self._busy_rows >= self._awaited.rows:
                    self._changed.notify()
                return
            if self._running >= self._threads_max:
                return
            self._running += 1
        threading.Thread(target=self._work, args=(take, execute, deliver), name=self._name, daemon=True).start()

    def withdraw(self, job: Job) -> bool:
        """Remove a job that has not begun; return whether that was so."""
        with self._changed:
            if job.begun_s:
                return False
            for queue in (self._live, self._copies):
                with contextlib.suppress(ValueError):
                    queue.remove(job)
            return True

    def _work(self, take: Take, execute: Execute, deliver: Deliver) -> None:
        while batch := self._next(take):
            result: list[Ran] | BaseException
            try:
                result = execute(batch)
            except Exception as error:  # noqa: BLE001  # the queue's drain; the loop counts it and fails the jobs
                result = error
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                self._loop.call_soon_threadsafe(deliver, batch, result)
            with self._changed:
                self._busy -= 1
                self._busy_rows -= rows_of(batch)

    def _next(self, take: Take) -> list[Job]:
        """Return the next batch, or nothing when the thread is to end."""
        with self._changed:
            while True:
                found = taken((self._live, self._copies), take, is_part_enough=not self._busy)
                if not isinstance(found, Wait):
                    self._busy += 1
                    self._busy_rows += rows_of(found)
                    self._awaited = IDLE
                    return found
                self._awaited = found
                if not self._changed.wait(found.within_s) and found is IDLE and (self._busy or not (self._live or self._copies)):
                    self._running -= 1
                    return []


def taken(queues: Sequence[deque[Job]], take: Take, *, is_part_enough: bool) -> list[Job] | Wait:
    """Return a batch from the first queue that has one, or how long to wait."""
    for queue in queues:
        while queue:
            if found := take(queue, is_part_enough):  # nothing: it dropped what was there
                return found
    return IDLE


def rows_of(batch: Iterable[Job]) -> int:
    """Return how many rows jobs have."""
    return sum([job.rows for job in batch])
