"""Numbers that outlive their process, and everybody's numbers for whoever shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Sample:
    """One counter or gauge of one process."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A traced request that a histogram counted.

    Attributes:
        name, labels: Of the histogram.
        le: The bucket's upper bound, as its label says it.
        value: What was counted.
        time_s: When, seconds since the epoch.
    """

    name: str
    labels: tuple[tuple[str, str], ...]
    le: str
    trace_id: str
    value: float
    time_s: float


class Cell(Protocol):
    """A number that outlives its process. Never blocks."""

    def add(self, amount: float) -> None:
        """Add to it."""

    def set(self, value: float) -> None:
        """Replace it."""

    def raise_to(self, value: float) -> None:
        """Replace it if it is less: for a count that somebody else keeps and may have gone on with from an older state."""


class MetricsBank(Protocol):
    """One process's numbers. `cell` is called when something is bound, never per request."""

    def cell(self, name: str, labels: Sequence[tuple[str, str]] = ()) -> Cell:
        """Return the cell of a name and labels, the same one each time; it keeps its value across restarts of the process.

        When the bank is full it returns the cell `gateway_metrics_overflow_total`, so that the loss itself is counted.
        """

    @property
    def share_taken(self) -> float:
        """How much of the bank is taken, in [0, 1]."""

    def exemplify(self, exemplars: Sequence[Exemplar]) -> None:
        """Replace what the process shows as examples of its histograms. Blocks for a millisecond; never called on a loop.

        Raises:
            StoreFailed: those before may still be shown.
        """

    def forget(self, is_unwanted: Callable[[Sample], bool]) -> None:
        """Give back the room of every cell that is unwanted; one that is still bound counts nowhere from then on.

        Called by whoever counts, between two counts. A reader sees all of what was there before, or all of what is left.

        Raises:
            StoreFailed: what is left could not be written; nothing was forgotten.
        """


class MetricsSnapshots(Protocol):
    """Every process's numbers, for the control plane to show."""

    def latest(self) -> Mapping[str, Sequence[Sample]]:
        """Return process name → its samples."""

    def exemplars(self) -> Mapping[str, Sequence[Exemplar]]:
        """Return process name → its exemplars; a process without any may be left out."""
