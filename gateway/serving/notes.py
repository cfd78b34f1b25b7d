"""What a pool runs, noted in the in-flight file while it goes on, so that it can be blamed for the death of its process."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.ports.inflight import InFlight
from gateway.serving.batch import UNNOTED, Job
from gateway.serving.poison import Poison


class RunNotes:
    """The notes of one pool's runs."""

    def __init__(self, in_flight: InFlight, poison: Poison) -> None:
        self._in_flight = in_flight
        self._poison = poison

    def enter(self, batch: Sequence[Job]) -> list[int]:
        """Note that a batch runs; return its runs, one for each place."""
        if len(batch) > 1:
            return [self._enter(place, jobs) for place, jobs in _by_place(batch).items() if place != UNNOTED]
        place = batch[0].place
        return [self._enter(place, batch)] if place != UNNOTED else []

    def leave(self, runs: Sequence[int]) -> None:
        """Note that it is over."""
        for run in runs:
            self._in_flight.leave(run)

    def forget(self, job: Job) -> None:
        """Note that a job that runs is answered otherwise."""
        if job.run != UNNOTED:
            self._in_flight.forget(job.run, _id_bytes(job))

    def _enter(self, place: int, jobs: Sequence[Job]) -> int:
        noted = [one for job in jobs for one in job.fingerprints] if self._poison.watches else ()
        run = self._in_flight.enter(place, [_id_bytes(job) for job in jobs], noted)
        for job in jobs:
            job.run = run
            if job.future.done():  # it expired before it had a run; the pool sets the future first and looks at the run then
                self._in_flight.forget(run, _id_bytes(job))
        return run


def _by_place(batch: Sequence[Job]) -> dict[int, list[Job]]:
    found: dict[int, list[Job]] = {}
    for job in batch:
        found.setdefault(job.place, []).append(job)
    return found


def _id_bytes(job: Job) -> bytes:
    return bytes.fromhex(job.prediction_id.replace("-", ""))
