"""Waiting for the serving workers: to prepare for a change before it is committed, and to answer with it afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from gateway.control.calls import Control
from gateway.core.changes import WorkerStatus
from gateway.core.errors import NotReady
from gateway.core.fields import Json

SETTLE_S: Final = 5.0  # for workers to answer with a table that needs nothing new: five times the promise of 1 s
_LOOK_S: Final = 0.5  # the longest time between two looks, should a wake-up be lost


@contextlib.contextmanager
def prepared(control: Control, needs: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Have every worker hold (model, version) pairs warm for the block, which commits the table that needs them.

    One change at a time, until the workers answer with what it committed: a worker drops what neither its table nor the newest
    proposal needs.

    Raises:
        NotReady: a worker could not, or did not in time; the block did not run.
    """
    if not needs:
        yield
        return
    timeout_s = control.settings.prepare_timeout_s
    if not control.preparing.acquire(timeout=timeout_s):
        raise NotReady("another change is being prepared", hint="try again when it is done")
    try:
        _prepare(control, needs, timeout_s)
        yield
        settled(control, control.registry.table().revision)
    finally:
        control.preparing.release()


def _prepare(control: Control, needs: Sequence[tuple[str, str]], timeout_s: float) -> None:
    proposal = control.registry.propose(needs)
    statuses = _wait(control, timeout_s, lambda worker: worker.prepared >= proposal.id)
    wanted = ", ".join(f"{model}:{version}" for model, version in needs)
    for worker in control.workers:
        status = statuses.get(worker)
        if status is not None and status.prepared == proposal.id and status.failure:
            raise NotReady(f"worker {worker} could not warm {wanted}: {status.failure}; nothing was changed")
        if status is None or status.prepared < proposal.id:
            raise NotReady(
                f"worker {worker} did not warm {wanted} within {timeout_s:g} s; nothing was changed",
                hint="see /health/ready, or raise control.prepare_timeout_s",
            )


def settled(control: Control, table_revision: int, *, timeout_s: float = SETTLE_S) -> Json:
    """Wait until every worker answers with the table of that revision; return the revision each one runs, by worker.

    A worker swaps tables at once. What a change brings was prepared first; where a worker lost it since, the route's fallback
    answers (docs/decisions/0006). A worker that is slower, or down, stands there with the revision it reported last.
    """
    statuses = _wait(control, timeout_s, lambda worker: worker.revision >= table_revision)
    return revisions(control, statuses)


def revisions(control: Control, statuses: Mapping[str, WorkerStatus]) -> Json:
    """Return the revision of the table that each worker runs; 0 for one that has not reported."""
    return {name: int(statuses[name].revision) if name in statuses else 0 for name in control.workers}


def statuses_of(control: Control) -> dict[str, WorkerStatus]:
    """Return the last report of each worker."""
    return {status.worker: status for status in control.registry.workers()}


def _wait(control: Control, timeout_s: float, is_done: Callable[[WorkerStatus], bool]) -> dict[str, WorkerStatus]:
    deadline_s = control.clock.monotonic_s() + timeout_s
    seen = control.registry.follow(-1, 0.0)
    while True:
        statuses = statuses_of(control)
        left_s = deadline_s - control.clock.monotonic_s()
        if left_s <= 0 or all(name in statuses and is_done(statuses[name]) for name in control.workers):
            return statuses
        seen = control.registry.follow(seen, min(left_s, _LOOK_S))
