"""What survives a worker that dies: what it was running, whether its loop turned, and which inputs end processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.poison import DeadRun, Suspicions


@dataclass(frozen=True, slots=True)
class Place:
    """What a run is charged to when its process dies."""

    model: str
    route: str
    revision: int
    variant: str
    version: str
    digest: str
    runtime_version: str


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A prediction that was running when its worker died.

    Attributes:
        was_hung: Whether the watchdog killed the worker, rather than the worker dying by itself.
    """

    prediction_id: str
    place: Place
    was_hung: bool


class SuspicionStore(Protocol):
    """What all workers remember of inputs that end processes."""

    def news(self) -> Suspicions | None:
        """Return everything remembered, or None when that is what it was at the last call. Fast enough for an event loop.

        Raises:
            StoreFailed: it cannot be read.
        """

    def change(self, change: Callable[[Suspicions], Suspicions]) -> None:
        """Replace what is remembered, in one step among all processes; survives their death.

        Raises:
            StoreFailed: nothing was written.
        """


class InFlight(Protocol):
    """What a serving worker is running right now, kept where it outlives the worker. Never blocks."""

    def turned(self) -> None:
        """Say that the event loop turns; the supervisor's watchdog looks at this."""

    def bind(self, place: Place) -> int:
        """Return a number for a place, once for each, when the route table changes."""

    def enter(self, place: int, prediction_ids: Sequence[bytes], fingerprints: Sequence[bytes] = ()) -> int:
        """Say that a run begins; each id is a UUID's 16 bytes, of which the first 64 are kept. Return the run's number.

        Args:
            fingerprints: Of its inputs, 16 bytes each, of which the first 64 are kept; none unless they are watched.
        """

    def forget(self, run: int, prediction_id: bytes) -> None:
        """Say that one id of a run is answered otherwise: its record is no longer the successor's to write."""

    def leave(self, run: int) -> None:
        """Say that the run is over; its records are written next, before any of its answers leaves."""

    def oldest_s(self) -> float:
        """Return when the oldest run that goes on began, on the clock's monotonic time; infinity when none does."""

    def close(self) -> None:
        """Say that the worker stops in order: runs that still go on have nobody waiting, and none is noted any more."""

    def left_behind(self) -> Sequence[Interrupted]:
        """Return what the worker before this one was running when it died, once; empty after a clean stop."""

    def runs_left(self) -> Sequence[DeadRun]:
        """Return the runs that went on when the worker before this one died, once, also those whose ids were all forgotten."""


class LoopWatch(Protocol):
    """The supervisor's view of a worker's `InFlight`."""

    def last_turn_s(self) -> float:
        """Return the monotonic time at which the worker's event loop last turned; 0 when it never did."""

    def mark_hung(self) -> None:
        """Note, for the successor, that the worker is killed because its loop stood still."""
