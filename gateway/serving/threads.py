"""A thread for an expensive version: it takes whatever waits whenever it is free (continuous batching).

It starts with the first job and ends after idling, so that a version nobody needs any more leaves no thread behind.
Copies for shadows are taken only when no live job waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from gateway.serving.batch import Job, Ran

_IDLE_S: Final = 5.0  # then the thread ends; starting another costs 0.1 ms

Execute = Callable[[Sequence[Job]], list[Ran]]
Deliver = Callable[[Sequence[Job], "list[Ran] | BaseException"], None]
Take = Callable[["deque[Job]"], list[Job]]


class PoolThread:
    """The queue of one version and the thread that empties it. Every method is called from the event loop."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._name = name
        self._loop = loop
        self._changed = threading.Condition()
        self._live: deque[Job] = deque()
        self._copies: deque[Job] = deque()
        self._is_running = False

    def put(self, job: Job, *, is_copy: bool, take: Take, execute: Execute, deliver: Deliver) -> None:
        """Queue a job.

        Args:
            take: Removes from a queue what one run may hold.
            execute: Runs it, in the thread.
            deliver: Gets what `execute` returned or raised, on the event loop.
        """
        with self._changed:
            (self._copies if is_copy else self._live).append(job)
            if self._is_running:
                self._changed.notify()
                return
            self._is_running = True
        threading.Thread(target=self._work, args=(take, execute, deliver), name=self._name, daemon=True).start()

    def _work(self, take: Take, execute: Execute, deliver: Deliver) -> None:
        while batch := self._next(take):
            result: list[Ran] | BaseException
            try:
                result = execute(batch)
            except Exception as error:  # noqa: BLE001  # the queue's drain; the loop counts it and fails the jobs
                result = error
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
                self._loop.call_soon_threadsafe(deliver, batch, result)

    def _next(self, take: Take) -> list[Job]:
        """Return the next batch, or nothing when the thread is to end."""
        with self._changed:
            while True:
                for queue in (self._live, self._copies):
                    while queue:
                        if batch := take(queue):
                            return batch
                if not self._changed.wait(_IDLE_S) and not self._live and not self._copies:
                    self._is_running = False
                    return []
