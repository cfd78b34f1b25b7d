"""One run: jobs of one version joined row by row, executed, checked against the version's own signature and taken apart.

Blocking and without an event loop; called from the loop for cheap versions and from a pool's thread for expensive ones.
A batch that fails is run again member by member, so that a bad member never harms its neighbours. Where a process may hang, the
joint run has half of its members' time, and then each of them its part of what is left: whoever hangs uses up no more than that.
"""

from __future__ import annotations

import asyncio
import enum
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from gateway.core.errors import ModelFault, OutputMismatch, PredictFailed
from gateway.core.records import Outcome
from gateway.core.tensors import FLOATS, Array, Shape, Tensor
from gateway.ports.clock import Clock
from gateway.serving.checking import Checker

UNNOTED: Final = -1  # a place or a run that the in-flight file does not hold
_OK: Final = Outcome.OK  # a name of the module is found faster than one of a class
LAST: Final = 1 << 30  # the rank of jobs without a priority
_JOINT_SHARE: Final = 0.5  # of the time of a batch's members that their joint run may take; the rest is for running them again
_AGAIN_S: Final = 0.05  # that a member run again has at least: less would kill what is sound on a busy machine
Predict = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Fired(enum.Enum):
    """Why a batch ran when it did."""

    FREE = "free"  # there was an instance for it
    FULL = "full"  # no more rows may be joined
    DELAY = "delay"  # it had waited for more as long as it may


class Caller(Protocol):
    """Who waits for a job.

    Attributes:
        on_gone: Called when the caller left; returns whether its job was withdrawn.
    """

    on_gone: Callable[[], bool] | None


@dataclass(slots=True, eq=False)
class Job:
    """One attempt of one request on one version, waiting for its run.

    Attributes:
        inputs: In the signature's order.
        shapes: What must be equal to join; empty when all tensors that fit can be joined.
        place: Number of the route, variant and version in the in-flight file.
        future: Gets a `Ran`, or `DeadlineExceeded` when it did not begin in time.
        begun_s: When a thread took it for execution, on the clock's monotonic time; 0 before.
        run: Its number in the in-flight file while it runs in a thread, or `UNNOTED`.
        is_counted: Whether the pool still counts its rows.
        timer: Ends it at its deadline; only in a thread's queue.
        rank: Its priority, from 1, which goes first, or `LAST`.
        fired: Why its batch ran; of the batch's first job only, as are the two that follow.
        input_s, output_s: How long the batch's rows were joined, 0 where there was nothing to join, and its answer checked and
            taken apart.
        fingerprints: Of its rows, where they are watched.
        is_alone: Whether no other job may run with it: one of its inputs is suspect.
    """

    prediction_id: str
    place: int
    inputs: tuple[Tensor, ...]
    rows: int
    shapes: tuple[Shape, ...]
    deadline_s: float
    queued_s: float
    future: asyncio.Future[Ran]
    begun_s: float = 0.0
    run: int = UNNOTED
    is_counted: bool = True
    timer: asyncio.TimerHandle | None = None
    rank: int = LAST
    fired: Fired = Fired.FREE
    input_s: float = 0.0
    output_s: float = 0.0
    fingerprints: tuple[bytes, ...] = ()
    is_alone: bool = False


@dataclass(slots=True)
class Ran:
    """How an attempt ended.

    Attributes:
        outputs: In the signature's order; empty unless `outcome` is ok.
        duration_us: Of the run it was part of.
        queued_s, began_s: When it was queued and when its run began, on the clock's monotonic time; 0 when it did not run.
        before: The request's attempt before it, whose failure it makes good.
    """

    outcome: Outcome
    batch_rows: int
    batch_position: int
    duration_us: int
    outputs: tuple[Tensor, ...] = ()
    fault: ModelFault | None = None
    queued_s: float = 0.0
    began_s: float = 0.0
    before: Ran | None = None


def enqueue(queue: deque[Job], job: Job) -> None:
    """Put a job behind those of its rank and of all before it; what has no priority is in the order in which it came."""
    if job.rank == LAST:
        queue.append(job)
    else:
        queue.insert(bisect_right(queue, job.rank, key=_rank), job)


def rows_waiting(queue: Iterable[Job], rows_max: int, *, since_s: float = math.inf) -> int:
    """Return how many rows a queue has held since then; that they fill a run of `rows_max` is all there is to know beyond."""
    rows = 0
    for job in queue:
        if job.queued_s <= since_s:
            rows += job.rows
        if rows >= rows_max:
            break
    return rows


def execute(
    predict: Predict,
    checker: Checker,
    jobs: Sequence[Job],
    clock: Clock,
    *,
    began_s: float | None = None,
    again: Callable[[float], Predict] | None = None,
) -> list[Ran]:
    """Return how each job ended; never raises for what a version does wrong.

    Args:
        jobs: With equal `shapes`; only one when the version does not batch.
        began_s: On the clock's monotonic time; None for now.
        again: Returns what predicts for so long at most, for members of a batch that failed; None where that has no bound.
    """
    began_s = clock.monotonic_s() if began_s is None else began_s
    try:
        return ended(checker, jobs, predict(joined(checker, jobs, clock)), clock, began_s=began_s)
    except ModelFault as fault:
        if len(jobs) == 1:
            outcome = Outcome.INVALID if isinstance(fault, OutputMismatch) else Outcome.FAILED
            return [Ran(outcome, jobs[0].rows, 0, micros(clock, began_s), (), fault, jobs[0].queued_s, began_s)]
    if again is None:
        return [ran for job in jobs for ran in execute(predict, checker, [job], clock)]
    return [_ran_again(again, checker, job, len(jobs) - at, clock) for at, job in enumerate(jobs)]


def joint_s(jobs: Sequence[Job], now_s: float) -> float:
    """Return how long a run may take so that its members could be run again by themselves; one alone has no such bound."""
    return math.inf if len(jobs) == 1 else max(min([job.deadline_s for job in jobs]) - now_s, 0.0) * _JOINT_SHARE


def _ran_again(again: Callable[[float], Predict], checker: Checker, job: Job, waiting: int, clock: Clock) -> Ran:
    """Return how a member ended that was run by itself; `waiting` of its batch, itself included, share the time left."""
    now_s = clock.monotonic_s()
    left_s = job.deadline_s - now_s
    if left_s <= 0.0:
        fault = PredictFailed("the deadline passed before it was run again by itself")
        return Ran(Outcome.ABANDONED, job.rows, 0, 0, (), fault, job.queued_s, now_s)
    (ran,) = execute(again(max(left_s / waiting, _AGAIN_S)), checker, [job], clock, began_s=now_s)
    return ran


def ended(checker: Checker, jobs: Sequence[Job], outputs: Mapping[str, Array], clock: Clock, *, began_s: float) -> list[Ran]:
    """Return how each job of a run ended that has just answered.

    Raises:
        OutputMismatch: the answer is not what was registered.
    """
    answered_s = clock.monotonic_s()
    rans = _taken_apart(checker, jobs, outputs, began_s=began_s, duration_us=int((answered_s - began_s) * 1e6))
    jobs[0].output_s = clock.monotonic_s() - answered_s
    return rans


def _taken_apart(
    checker: Checker, jobs: Sequence[Job], outputs: Mapping[str, Array], *, began_s: float, duration_us: int
) -> list[Ran]:
    rows = sum([job.rows for job in jobs])
    found = checker.checked_outputs(outputs, rows)
    is_finite = all(map(_is_finite, found))
    if is_finite and len(jobs) == 1:
        whole = tuple([Tensor(spec.name, spec.datatype, data) for spec, data in zip(checker.outputs, found, strict=True)])
        return [Ran(_OK, rows, 0, duration_us, whole, None, jobs[0].queued_s, began_s)]
    specs = [(spec.name, spec.datatype, data) for spec, data in zip(checker.outputs, found, strict=True)]
    is_batched = checker.is_batched
    rans: list[Ran] = []
    position = 0
    for job in jobs:
        end = position + job.rows
        mine = tuple([Tensor(name, datatype, data[position:end] if is_batched else data) for name, datatype, data in specs])
        if is_finite or not _makes_infinities(job, mine, is_batched):
            rans.append(Ran(_OK, rows, position, duration_us, mine, None, job.queued_s, began_s))
        else:
            fault = OutputMismatch("an output is NaN or infinite where the inputs are finite")
            rans.append(Ran(Outcome.INVALID, rows, position, duration_us, (), fault, job.queued_s, began_s))
        position = end
    return rans


def _rank(job: Job) -> int:
    return job.rank


def joined(checker: Checker, jobs: Sequence[Job], clock: Clock) -> Mapping[str, Array]:
    """Return the inputs of a run, by name."""
    if len(jobs) == 1:
        return {tensor.name: tensor.data for tensor in jobs[0].inputs}
    began_s = clock.monotonic_s()
    inputs = {spec.name: np.concatenate([job.inputs[at].data for job in jobs]) for at, spec in enumerate(checker.inputs)}
    jobs[0].input_s = clock.monotonic_s() - began_s
    return inputs


def _is_finite(data: Array) -> bool:
    """Return whether an array holds neither NaN nor infinity.

    The product with itself is three times as fast, and can only overflow; `vdot`, because `dot` would warn of that on stderr.
    """
    if data.dtype.kind != "f":
        return True
    numbers = cast("NDArray[np.floating[Any]]", data.ravel())
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


def _makes_infinities(job: Job, outputs: Sequence[Tensor], is_batched: bool) -> bool:
    """Return whether a row (or, without rows, the whole) of an output is not finite although the inputs are."""
    bad = _rows_not_finite(outputs, is_batched)
    return bool((bad & ~_rows_not_finite(job.inputs, is_batched)).any())


def _rows_not_finite(tensors: Sequence[Tensor], is_batched: bool) -> NDArray[np.bool_]:
    found = np.zeros(len(tensors[0].data) if is_batched else 1, np.bool_)
    for tensor in tensors:
        if tensor.datatype in FLOATS:
            numbers = cast("NDArray[np.floating[Any]]", tensor.data)
            found |= ~np.isfinite(numbers.reshape(len(found), -1)).all(axis=1)
    return found


def micros(clock: Clock, since_s: float) -> int:
    """Return what has passed since, in µs."""
    return int((clock.monotonic_s() - since_s) * 1e6)
