"""A version's warm instance and the jobs that wait for it.

Cheap versions collect for one turn of the event loop and run inline, all that wait at once; expensive ones run in threads of
their own. Which it is was measured while the version warmed. The queue is bounded in rows, and in time: a job that would wait for
too much of its deadline is refused at once. What expired while it waited, or whose caller left, is dropped before it runs. A pool
that nobody refers to any more closes its instance.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from gateway.core.errors import Busy, DeadlineExceeded, Overloaded, PoolSaturated, PredictFailed
from gateway.core.records import Outcome
from gateway.core.tensors import Shape, Tensor
from gateway.metrics.metric import cell
from gateway.metrics.process import UNEXPECTED_ERRORS
from gateway.metrics.serving import REJECTED, RESTS
from gateway.ports.clock import Clock
from gateway.ports.inflight import InFlight
from gateway.ports.metrics import MetricsBank
from gateway.ports.runtimes import BoundedInstance, HoldsElsewhere, RemoteInstance
from gateway.serving.batch import LAST, Caller, Fired, Job, Ran, enqueue, execute, rows_waiting
from gateway.serving.checking import Checker
from gateway.serving.counts import RunCounts
from gateway.serving.faults import FaultWindow
from gateway.serving.gathering import Gathering
from gateway.serving.notes import RunNotes
from gateway.serving.pace import Pace
from gateway.serving.poison import Poison
from gateway.serving.remote import RemoteQueue, executed_apart
from gateway.serving.threads import IDLE, PoolThreads, Wait, cores_for_threads, rows_of
from gateway.serving.turn import Turn
from gateway.serving.warming import Warm
from gateway.settings import ServingSettings

_JOBS_MAX: Final = 64  # in a run, which is what the in-flight file names of one
_OVERRUNS_MAX: Final = 3  # runs over the turn's budget, less those within it, after which a version leaves the loop
_NONE_ENDED: Final = (0, 0.0)  # rows of the batch that ended last, and when, until a thread has looked what waits since then
_RUN_SHARE: Final = 0.5  # of a job's time that its own run may take: a larger batch would leave too little for its wait
_UNLOOKED_US: Final = 1_000.0  # of waiting rows below which nobody asks how long they take; no deadline is that short
_OTHERS_MAX: Final = 256  # jobs of other shapes that one batch looks past
_RANK_MAX: Final = 16  # of priorities told apart
_FREE, _FULL, _DELAY = Fired.FREE, Fired.FULL, Fired.DELAY  # names of the module are found faster than those of a class
_OWN_SHARE: Final = 0.5  # of an attempt's time that must have passed inside predict for its end to be the version's fault


class Pool:
    """One version on this worker. Everything but a run in the pool's thread happens on the event loop."""

    def __init__(
        self,
        warm: Warm,
        *,
        turn: Turn,
        settings: ServingSettings,
        in_flight: InFlight,
        poison: Poison,
        metrics: MetricsBank,
        clock: Clock,
    ) -> None:
        version = warm.version
        self.version = version
        self.runtime_version = warm.instance.runtime_version
        self.provider = warm.provider
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
        self._is_apart = is_apart = version.has_pickle  # its process may stand still, and the loop must not stand with it
        self._delay_s = version.batching.delay_ms / 1000.0
        self._is_expensive = is_apart or self._delay_s > 0.0 or warm.cost.first_us > settings.inline_us_max
        # On the loop, what is left of its turn bounds a run.
        learned = warm.cost.best_rows(settings.batch_rows_max) if self._is_expensive else settings.queue_rows_max
        self._rows_max = version.batching.rows_max or learned
        threads_max = settings.threads_max or cores_for_threads(settings.workers)
        threads = warm.instance.concurrency if is_apart else min(warm.instance.concurrency, threads_max)
        self._pace = Pace(warm.cost, rows_at_once=self._rows_max if self.checker.is_batched else 1, threads=threads)
        self._gathering = Gathering(warm.cost, rows_max=self._rows_max if self.checker.is_batched and not is_apart else 1)
        self._ended = _NONE_ENDED
        self._room = 0 if self._is_expensive else int(min(settings.queue_rows_max, warm.cost.rows_within(_UNLOOKED_US)))
        self._overruns = 0
        self._turn = turn
        self._settings = settings
        self._poison = poison
        self._clock = clock
        self._waiting: deque[Job] = deque()
        self._rows = 0  # waiting or running
        self._ranked_rows = [0] * (_RANK_MAX + 1)  # of them, those of jobs with a priority, by it
        self._jobs_in_thread = 0
        self._notes = notes = RunNotes(in_flight, poison)
        name, instance = f"pool {version.model} {version.version}", warm.instance
        self._queue: PoolThreads | RemoteQueue
        self._bounded = instance if is_apart and isinstance(instance, BoundedInstance) else None
        if isinstance(instance, RemoteInstance):
            self._queue = RemoteQueue(
                name, turn.loop, instance=instance, checker=self.checker, notes=notes, clock=clock, runs_max=threads
            )
        else:
            self._queue = PoolThreads(name, turn.loop, threads_max=threads)
        self._metrics = metrics
        self._counts = RunCounts(version, metrics, clock)
        self._unexpected = cell(metrics, UNEXPECTED_ERRORS, "queue")
        weakref.finalize(self, warm.instance.close)

    @property
    def outside_bytes(self) -> int:
        """What its instance holds in processes of its own now."""
        return self._instance.outside_bytes if isinstance(self._instance, HoldsElsewhere) else 0

    def submit(
        self,
        prediction_id: str,
        place: int,
        inputs: tuple[Tensor, ...],
        rows: int,
        *,
        deadline_s: float,
        is_copy: bool = False,
        priority: int = 0,
        caller: Caller | None = None,
    ) -> asyncio.Future[Ran]:
        """Queue a job and return its future, which gets how it ended, or `DeadlineExceeded` when it never began.

        Args:
            place: Of the in-flight file.
            deadline_s: On the clock's monotonic time.
            is_copy: Whether it is a shadow's; in a thread it lets every live job go first.
            priority: 1 goes first, then 2 and so on to 16; 0 is the default and goes last.
            caller: Is told how to withdraw the job while it waits for a thread; then the future is cancelled.

        Raises:
            PoolSaturated: as many rows as may wait are waiting.
            Overloaded: what waits before it takes more than `queue_wait_share` of the time until its deadline.
            PoisonousInput: a process died of one of its rows.
        """
        now_s = self._clock.monotonic_s()
        if self._rows and self._rows + rows > self._room:
            self.refuse_late(rows, priority, deadline_s - now_s)
        shapes: tuple[Shape, ...] = ()
        if self.checker.has_open_shapes:
            shapes = tuple([tensor.data.shape[1:] for tensor in inputs])
        job = Job(prediction_id, place, inputs, rows, shapes, deadline_s, now_s, self._turn.loop.create_future())
        if self._poison.watches:
            self._poison.look_at(job, self.checker)
        self._rows += rows
        if priority > 0:
            job.rank = min(priority, _RANK_MAX)
            self._ranked_rows[job.rank] += rows
        if self._runs_inline(rows):
            enqueue(self._waiting, job)
            self._turn.add(self)
        else:
            self._put(job, is_copy=is_copy)
            if caller is not None:
                caller.on_gone = partial(self._withdraw, job)
        return job.future

    def _put(self, job: Job, *, is_copy: bool) -> None:
        """Queue a job for the threads."""
        self._jobs_in_thread += 1
        job.timer = self._turn.loop.call_later(max(job.deadline_s - job.queued_s, 0.0), self._expire, job)
        self._queue.put(
            job,
            is_copy=is_copy,
            rows=self._rows,
            rows_full=self._rows_max if self.checker.is_batched else 1,
            take=self._take_for_thread,
            execute=self._execute_in_thread,
            deliver=self._deliver,
        )

    def refuse_late(self, rows: int, priority: int, allowed_s: float) -> None:
        """Refuse a job that finds no room, or would wait too long; rows of lesser priority do not stand before it.

        Raises:
            PoolSaturated, Overloaded: as of `submit`.
        """
        ahead = self._rows
        if priority > 0:  # what runs now cannot be passed
            ahead = min(ahead, sum(self._ranked_rows[: min(priority, _RANK_MAX) + 1]) + self._rows_max)
        wait_s = self._pace.wait_s(ahead)
        if ahead and ahead + rows > self._settings.queue_rows_max:
            raise self._busy(PoolSaturated, "has a full queue", wait_s)
        if wait_s > allowed_s * self._settings.queue_wait_share:
            raise self._busy(Overloaded, f"is expected to begin in {wait_s:.3g} s, which is too late", wait_s)

    def _busy(self, kind: type[Busy], what: str, wait_s: float) -> Busy:
        return kind(f"version {self.version.version!r} of {self.version.model!r} {what}", retry_after_s=wait_s)

    def _withdraw(self, job: Job) -> bool:
        """End a job whose caller left, unless it has begun: then it leaves its record like any other."""
        if job.future.done() or not self._queue.withdraw(job):
            return False
        self._forget(job)
        job.future.cancel()
        cell(self._metrics, REJECTED, "", "CallerLeft").add(1.0)
        return True

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
        return self._cost.of(rows_of(batch)), bool(self._waiting)

    def _runs_inline(self, rows: int) -> bool:
        """Return whether a job may run on the loop; not while the thread has jobs, which came first."""
        return not self._jobs_in_thread and not self._is_expensive and self._cost.of(rows) <= self._settings.inline_turn_us_max

    def _watch_overruns(self, result: list[Ran] | BaseException) -> None:
        """Leave the loop for good when more runs are over its budget than within: real rows may cost more than made-up ones."""
        if isinstance(result, list) and result[0].duration_us > self._settings.inline_turn_us_max:
            self._overruns += 1
            if self._overruns >= _OVERRUNS_MAX:
                self._is_expensive, self._room = True, 0
                self._rows_max = min(self._rows_max, self._settings.batch_rows_max)
        elif self._overruns:
            self._overruns -= 1

    def _take_for_thread(self, queue: deque[Job], is_part_enough: bool) -> list[Job] | Wait:
        """Remove from the threads' queue what one run may hold, or return how long to wait for more."""
        now_s, first, rows = self._clock.monotonic_s(), queue[0], rows_waiting(queue, self._rows_max)
        (ended_rows, ended_s), self._ended = self._ended, _NONE_ENDED
        if ended_rows:
            self._gathering.ended(ended_rows, waiting=rows_waiting(queue, self._rows_max, since_s=ended_s), now_s=ended_s)
        if self.checker.is_batched and rows < self._rows_max:  # else a run is full
            wait = self._wait_for_more(first, rows, now_s) if is_part_enough else IDLE
            if wait.within_s > 0.0:
                return wait
        batch = self._take(queue, (first.deadline_s - first.queued_s) * _RUN_SHARE * 1e6, _leave_to_timer)
        for job in batch:
            job.begun_s = now_s
        if batch:
            self._gathering.began(rows)
            if self._delay_s and is_part_enough and batch[0].fired is _FREE:
                batch[0].fired = _DELAY
        return batch

    def _wait_for_more(self, first: Job, rows: int, now_s: float) -> Wait:
        """Return how long a batch waits: for its delay or for who comes back, while its first job can be answered in time."""
        in_time_s = first.deadline_s - self._pace.wait_s(self._rows_max) - now_s
        if self._delay_s:
            return Wait(min(first.queued_s + self._delay_s - now_s, in_time_s), self._rows_max)
        wait = self._gathering.wait(rows, now_s)
        return Wait(min(wait.within_s, in_time_s), wait.rows)

    def _take(self, queue: deque[Job], budget_us: float, drop: Callable[[Job], None]) -> list[Job]:
        """Remove from a queue what one run may hold: living jobs with rows of equal shapes, in order, within the bounds."""
        now_s = self._clock.monotonic_s()
        if len(queue) == 1:
            return self._take_only(queue, now_s, drop)
        batch: list[Job] = []
        others: list[Job] = []
        fired, left = _FREE, self._rows_at_once(budget_us)
        while queue:
            job = queue[0]
            if job.future.done() or now_s > job.deadline_s:
                drop(queue.popleft())
                continue
            if batch:
                if not 0 < job.rows <= left or job.is_alone or len(batch) == _JOBS_MAX:
                    fired = _FULL
                    break
                if job.shapes != batch[0].shapes:
                    if len(others) == _OTHERS_MAX:
                        break
                    others.append(queue.popleft())
                    continue
            batch.append(queue.popleft())
            left = left - job.rows if job.rows and not job.is_alone else 0  # a runtime may refuse a job without rows
        queue.extendleft(reversed(others))
        if batch:
            batch[0].fired = fired if left > 0 else _FULL
        return batch

    def _take_only(self, queue: deque[Job], now_s: float, drop: Callable[[Job], None]) -> list[Job]:
        """Remove the only job, as `_take` would, without working out what might be joined with it: versions are many.

        That it fills what is left of a turn is not worked out either; it then counts as run because the version was free.
        """
        job = queue.popleft()
        if job.future.done() or now_s > job.deadline_s:
            drop(job)
            return []
        job.fired = _FREE if 0 < job.rows < self._rows_max and self.checker.is_batched and not job.is_alone else _FULL
        return [job]

    def _rows_at_once(self, budget_us: float) -> float:
        """Return how many rows may be joined; the first job runs whatever it has."""
        return min(self._rows_max, self._cost.rows_within(budget_us)) if self.checker.is_batched else 0

    def _execute(self, batch: Sequence[Job]) -> list[Ran]:
        runs = self._notes.enter(batch)
        try:
            if (bounded := self._bounded) is None:
                return execute(self._instance.predict, self.checker, batch, self._clock)
            return executed_apart(bounded, self.checker, batch, self._clock)
        finally:
            self._notes.leave(runs)

    def _execute_in_thread(self, batch: Sequence[Job]) -> list[Ran]:
        try:
            return self._execute(batch)
        finally:
            self._ended = rows_of(batch), self._clock.monotonic_s()

    def _deliver(self, batch: Sequence[Job], result: list[Ran] | BaseException) -> None:
        if isinstance(result, BaseException):
            self._unexpected.add(1.0)
            fault = PredictFailed(f"the runtime failed unexpectedly: {type(result).__name__}")
            result = [Ran(Outcome.FAILED, job.rows, 0, 0, fault=fault) for job in batch]
        if self._is_apart or batch[0].is_alone:
            self._poison.learn(batch, result, self.checker)
        for job, ran in zip(batch, result, strict=True):
            self._forget(job)
            if not (future := job.future).done():
                future.set_result(ran)
        self._counts.ran(batch, result[0])
        if self._is_expensive:
            self._pace.note(result[0].batch_rows, result[0].duration_us)

    def _expire(self, job: Job) -> None:
        """End a job whose deadline passed; if it is running, the run goes on and its result is dropped.

        It counts against the version only when most of the attempt's time passed inside predict rather than in the queue.
        """
        if not job.begun_s:
            self._forget(job)
            if job.timer is not None:
                self._queue.withdraw(job)
        if job.future.done():
            return
        if not job.begun_s:
            job.future.set_exception(DeadlineExceeded("the deadline passed before the request was executed"))
            return
        run_s = self._clock.monotonic_s() - job.begun_s
        is_own = run_s >= (job.deadline_s - job.queued_s) * _OWN_SHARE
        fault = PredictFailed("the deadline passed while the version was running")
        outcome = Outcome.TIMED_OUT if is_own else Outcome.ABANDONED
        job.future.set_result(Ran(outcome, job.rows, 0, int(run_s * 1e6), (), fault, job.queued_s, job.begun_s))
        self._notes.forget(job)

    def _forget(self, job: Job) -> None:
        """Stop counting a job; once."""
        if job.is_counted:
            job.is_counted = False
            self._rows -= job.rows
            if job.rank != LAST:
                self._ranked_rows[job.rank] -= job.rows
            if job.timer is not None:
                job.timer.cancel()
                self._jobs_in_thread -= 1


def _leave_to_timer(job: Job) -> None:
    """Drop nothing: a thread must not touch a future; the job's own timer ends it on the loop."""
