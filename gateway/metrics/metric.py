"""What a metric is, and the cells that a process counts it in."""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.ports.metrics import Cell, MetricsBank


class Type(enum.Enum):
    """What a metric's number means."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `bounds` are a histogram's upper bounds, ascending, without the last (infinity)."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


PLACE: Final = ("route", "variant", "version")  # labels of what speaks of a variant


class Histogram:
    """A histogram over cells: one count per bucket, not cumulative, and the sum.

    A bucket takes a cell with its first value: most versions fill few of theirs, and there may be a thousand versions.
    """

    __slots__ = ("_bind", "_bounds", "_buckets", "_sum")

    def __init__(self, bounds: Sequence[float], bind: Callable[[int], Cell], total: Cell) -> None:
        self._bounds = bounds
        self._bind = bind
        self._buckets: list[Cell | None] = [None] * (len(bounds) + 1)
        self._sum = total

    def observe(self, value: float) -> None:
        """Count one value."""
        at = bisect_left(self._bounds, value)
        bucket = self._buckets[at]
        if bucket is None:
            bucket = self._buckets[at] = self._bind(at)
        bucket.add(1.0)
        self._sum.add(value)


def cell(bank: MetricsBank, metric: Metric, *values: str) -> Cell:
    """Return the cell of a counter or gauge for label values in the metric's order."""
    return bank.cell(metric.name, tuple(zip(metric.labels, values, strict=True)))


def histogram(bank: MetricsBank, metric: Metric, *values: str) -> Histogram:
    """Return the histogram for label values in the metric's order."""
    labels = tuple(zip(metric.labels, values, strict=True))
    names = bucket_names(metric)

    def bind(at: int) -> Cell:
        return bank.cell(f"{metric.name}_bucket", (*labels, ("le", names[at])))

    return Histogram(metric.bounds, bind, bank.cell(f"{metric.name}_sum", labels))


def bucket_names(metric: Metric) -> tuple[str, ...]:
    """Return a histogram's upper bounds as their labels say them, infinity last."""
    return (*(str(bound) for bound in metric.bounds), "+Inf")
