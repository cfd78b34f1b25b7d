"""A version's warm instance and the jobs that wait for it.

Cheap versions collect for one turn of the event loop and run inline, all that wait at once; expensive ones run in a thread of
their own. Which it is was measured while the version warmed. The queue is bounded in rows; what expired or was cancelled while
it waited is dropped before it runs. A pool that nobody refers to any more closes its instance.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

from gateway.core.errors import DeadlineExceeded, PoolSaturated, PredictFailed
from gateway.core.models import Runtime
from gateway.core.records import Outcome
from gateway.core.tensors import Shape, Tensor
from gateway.metrics import (
    BATCH_ROWS,
    LAST_RUN,
    QUEUE_WAIT,
    RESTS,
    RUN_DURATION,
    UNEXPECTED_ERRORS,
    Histogram,
    cell,
    histogram,
)
from gateway.ports import Cell, Clock, InFlight, MetricsBank
from gateway.serving.batch import UNNOTED, Job, Ran, execute
from gateway.serving.checking import Checker
from gateway.serving.faults import FaultWindow
from gateway.serving.threads import PoolThread
from gateway.serving.turn import Turn
from gateway.serving.warming import Warm
from gateway.settings import ServingSettings

_OVERRUNS_MAX: Final = 3  # runs over the turn's budget, less those within it, after which a version leaves the loop
_LAST_RUN_S: Final = 1.0  # between two notes of when a version last ran; statistics ask for no more
_OWN_SHARE: Final = 0.5  # of an attempt's time that must have passed inside predict for its end to be the version's fault


class Pool:
    """One version on this worker. Everything but a run in the pool's thread happens on the event loop."""

    def __init__(
        self, warm: Warm, *, turn: Turn, settings: ServingSettings, in_flight: InFlight, metrics: MetricsBank, clock: Clock
    ) -> None:
        version = warm.version
        self.version = version
        self.runtime_version = warm.instance.runtime_version
        self.checker = Checker(version)
        self.faults = FaultWindow(
            window=settings.fault_window,
            faults_max=settings.faults_max,
            rest_first_s=settings.fault_rest_first_s,
            rest_s=settings.fault_rest_s,
            rested=lambda: cell(metrics, RESTS, version.model, version.version).add(1.0),
        )
        self._instance = warm.instance
        self._cost = warm.cost
        is_apart = version.runtime is Runtime.PICKLED  # its process may stand still, and the loop must not stand with it
        self._is_expensive = is_apart or warm.cost.first_us > settings.inline_us_max
        self._overruns = 0
        self._turn = turn
        self._settings = settings
        self._in_flight = in_flight
        self._clock = clock
        self._waiting: deque[Job] = deque()
        self._rows = 0  # waiting or running
        self._jobs_in_thread = 0
        self._thread = PoolThread(f"pool {version.model} {version.version}", turn.loop)
        self._metrics = metrics
        self._last_run_s = -math.inf  # as last noted, on the clock's monotonic time
        self._unexpected = cell(metrics, UNEXPECTED_ERRORS, "queue")
        weakref.finalize(self, warm.instance.close)

    def submit(
        self, prediction_id: str, place: int, inputs: tuple[Tensor, ...], rows: int, *, deadline_s: float, is_copy: bool = False
    ) -> asyncio.Future[Ran]:
        """Queue a job and return its future, which gets how it ended, or `DeadlineExceeded` when it never began.

        Args:
            place: Of the in-flight file.
            deadline_s: On the clock's monotonic time.
            is_copy: Whether it is a shadow's; in a thread it lets every live job go first.

        Raises:
            PoolSaturated: as many rows as may wait are waiting.
        """
        if self._rows and self._rows + rows > self._settings.queue_rows_max:
            raise PoolSaturated(f"version {self.version.version!r} of {self.version.model!r} has a full queue")
        shapes: tuple[Shape, ...] = ()
        if self.checker.has_open_shapes:
            shapes = tuple([tensor.data.shape[1:] for tensor in inputs])
        now_s = self._clock.monotonic_s()
        job = Job(prediction_id, place, inputs, rows, shapes, deadline_s, now_s, self._turn.loop.create_future())
        self._rows += rows
        if self._runs_inline(rows):
            self._waiting.append(job)
            self._turn.add(self)
        else:
            self._jobs_in_thread += 1
            job.timer = self._turn.loop.call_later(max(deadline_s - now_s, 0.0), self._expire, job)
            self._thread.put(job, is_copy=is_copy, take=self._take_for_thread, execute=self._execute, deliver=self._deliver)
        return job.future

    @cached_property
    def _batch_rows(self) -> Histogram:
        return histogram(self._metrics, BATCH_ROWS, self.version.model, self.version.version)

    @cached_property
    def _queue_wait(self) -> Histogram:
        return histogram(self._metrics, QUEUE_WAIT, self.version.model, self.version.version)

    @cached_property
    def _run_duration(self) -> Cell:
        return cell(self._metrics, RUN_DURATION, self.version.model, self.version.version)

    @cached_property
    def _last_run(self) -> Cell:
        return cell(self._metrics, LAST_RUN, self.version.model, self.version.version)

    def run_inline(self, budget_us: float) -> tuple[float, bool]:
        """Run one batch of what waits; return its cost by measure, in µs, and whether more is waiting.

        Args:
            budget_us: What is left of this turn; one job runs in any case.
        """
        batch = self._take(self._waiting, budget_us, self._expire)
        if not batch:
            return 0.0, False
        result: list[Ran] | BaseException
        try:
            result = self._execute(batch)
        except Exception as error:  # noqa: BLE001 - the drain of a queue; counted, and the jobs fail
            result = error
        self._deliver(batch, result)
        self._watch_overruns(result)
        return self._cost.of(sum([job.rows for job in batch])), bool(self._waiting)

    def _runs_inline(self, rows: int) -> bool:
        """Return whether a job may run on the loop; not while the thread has jobs, which came first."""
        return not self._jobs_in_thread and not self._is_expensive and self._cost.of(rows) <= self._settings.inline_turn_us_max

    def _watch_overruns(self, result: list[Ran] | BaseException) -> None:
        """Leave the loop for good when more runs are over its budget than within: real rows may cost more than made-up ones."""
        if isinstance(result, list) and result[0].duration_us > self._settings.inline_turn_us_max:
            self._overruns += 1
            self._is_expensive = self._overruns >= _OVERRUNS_MAX
        elif self._overruns:
            self._overruns -= 1

    def _take_for_thread(self, queue: deque[Job]) -> list[Job]:
        batch = self._take(queue, math.inf, _leave_to_timer)
        now_s = self._clock.monotonic_s()
        for job in batch:
            job.begun_s = now_s
        return batch

    def _take(self, queue: deque[Job], budget_us: float, drop: Callable[[Job], None]) -> list[Job]:
        """Remove from a queue what one run may hold: living jobs with rows of equal shapes, in order, within the bounds."""
        batch: list[Job] = []
        now_s, left = self._clock.monotonic_s(), self._rows_at_once(budget_us)
        while queue:
            job = queue[0]
            if job.future.done() or now_s > job.deadline_s:
                drop(queue.popleft())
                continue
            if batch and not (0 < job.rows <= left and job.shapes == batch[0].shapes):
                break
            batch.append(queue.popleft())
            left = left - job.rows if job.rows else 0  # a job without rows runs alone: a runtime may refuse it
        return batch

    def _rows_at_once(self, budget_us: float) -> float:
        """Return how many rows may be joined; the first job runs whatever it has."""
        return min(self._settings.batch_rows_max, self._cost.rows_within(budget_us)) if self.checker.is_batched else 0

    def _execute(self, batch: Sequence[Job]) -> list[Ran]:
        runs = [self._enter(place, jobs) for place, jobs in _by_place(batch).items() if place != UNNOTED]
        try:
            return execute(self._instance, self.checker, batch, self._clock)
        finally:
            for run in runs:
                self._in_flight.leave(run)

    def _enter(self, place: int, jobs: Sequence[Job]) -> int:
        run = self._in_flight.enter(place, [_id_bytes(job) for job in jobs])
        for job in jobs:
            job.run = run
            if job.future.done():  # it expired before it had a run; `_expire` sets the future first and looks at the run then
                self._in_flight.forget(run, _id_bytes(job))
        return run

    def _deliver(self, batch: Sequence[Job], result: list[Ran] | BaseException) -> None:
        if isinstance(result, BaseException):
            self._unexpected.add(1.0)
            fault = PredictFailed(f"the runtime failed unexpectedly: {type(result).__name__}")
            result = [Ran(Outcome.FAILED, job.rows, 0, 0, fault=fault) for job in batch]
        for job, ran in zip(batch, result, strict=True):
            self._forget(job)
            if not (future := job.future).done():
                future.set_result(ran)
        self._batch_rows.observe(result[0].batch_rows)
        now_s, run_s = self._clock.monotonic_s(), result[0].duration_us / 1e6
        self._queue_wait.observe(max(now_s - batch[0].queued_s - run_s, 0.0))
        self._run_duration.add(run_s)
        if now_s - self._last_run_s >= _LAST_RUN_S:
            self._last_run_s = now_s
            self._last_run.set(self._clock.now_s())

    def _expire(self, job: Job) -> None:
        """End a job whose deadline passed; if it is running, the run goes on and its result is dropped.

        It counts against the version only when most of the attempt's time passed inside predict rather than in the queue.
        """
        if not job.begun_s:
            self._forget(job)
        if job.future.done():
            return
        if not job.begun_s:
            job.future.set_exception(DeadlineExceeded("the deadline passed before the request was executed"))
            return
        run_s = self._clock.monotonic_s() - job.begun_s
        is_own = run_s >= (job.deadline_s - job.queued_s) * _OWN_SHARE
        fault = PredictFailed("the deadline passed while the version was running")
        outcome = Outcome.TIMED_OUT if is_own else Outcome.ABANDONED
        job.future.set_result(Ran(outcome, job.rows, 0, int(run_s * 1e6), fault=fault))
        if job.run != UNNOTED:
            self._in_flight.forget(job.run, _id_bytes(job))

    def _forget(self, job: Job) -> None:
        """Stop counting a job; once."""
        if job.is_counted:
            job.is_counted = False
            self._rows -= job.rows
            if job.timer is not None:
                job.timer.cancel()
                self._jobs_in_thread -= 1


def _leave_to_timer(job: Job) -> None:
    """Drop nothing: a thread must not touch a future; the job's own timer ends it on the loop."""


def _by_place(batch: Sequence[Job]) -> dict[int, list[Job]]:
    found: dict[int, list[Job]] = {}
    for job in batch:
        found.setdefault(job.place, []).append(job)
    return found


def _id_bytes(job: Job) -> bytes:
    return bytes.fromhex(job.prediction_id.replace("-", ""))
