"""A clock, pictures, numbers and spans in memory, for one process: they die with it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from gateway.core.fields import Json
from gateway.core.traces import Span
from gateway.ports.metrics import Cell, Exemplar, Sample

OVERFLOW: Final = "gateway_metrics_overflow_total"
CELLS: Final = 20_000  # as many as the bank on disk holds
Labels = tuple[tuple[str, str], ...]


class ManualClock:
    """A `Clock` that a test moves."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self._now_s = now_s
        self._monotonic_s = 0.0

    def now_s(self) -> float:
        """Return the time that was set."""
        return self._now_s

    def monotonic_s(self) -> float:
        """Return the seconds moved since the start."""
        return self._monotonic_s

    def move(self, by_s: float) -> None:
        """Let time pass."""
        assert by_s >= 0, "time passes forwards; see `step`"
        self._now_s += by_s
        self._monotonic_s += by_s

    def step(self, by_s: float) -> None:
        """Set wall time forward or back; no time passes."""
        self._now_s += by_s


class MemoryReadings:
    """A `Readings`."""

    def __init__(self) -> None:
        self._picture: Json | None = None

    def publish(self, readings: Json) -> None:
        """Keep a copy."""
        self._picture = copy.deepcopy(readings)

    def latest(self) -> Json | None:
        """Return a copy."""
        return copy.deepcopy(self._picture)


class MemoryCell:
    """One number."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, amount: float) -> None:
        """Add to it."""
        self.value += amount

    def set(self, value: float) -> None:
        """Replace it."""
        self.value = value

    def raise_to(self, value: float) -> None:
        """Replace it if it is less."""
        self.value = max(self.value, value)


class MemoryOverflow(MemoryCell):
    """Counts the updates of every cell that found no room."""

    __slots__ = ()

    def add(self, amount: float) -> None:  # noqa: ARG002  # the amounts belong to different numbers and have no sum
        """Count a loss."""
        self.value += 1.0

    def set(self, value: float) -> None:  # noqa: ARG002
        """Count a loss."""
        self.value += 1.0

    def raise_to(self, value: float) -> None:  # noqa: ARG002
        """Count a loss."""
        self.value += 1.0


class MemoryBank:
    """A `MetricsBank`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._overflow = MemoryOverflow()
        self._cells: dict[tuple[str, Labels], MemoryCell] = {(OVERFLOW, ()): self._overflow}
        self.shown: tuple[Exemplar, ...] = ()

    def cell(self, name: str, labels: Sequence[tuple[str, str]] = ()) -> Cell:
        """Return the cell, a new one the first time."""
        key = (name, tuple(labels))
        with self._lock:
            if key not in self._cells and len(self._cells) >= CELLS:
                return self._overflow
            return self._cells.setdefault(key, MemoryCell())

    @property
    def share_taken(self) -> float:
        """How many of the cells are taken."""
        return len(self._cells) / CELLS

    def forget(self, is_unwanted: Callable[[Sample], bool]) -> None:
        """Leave the unwanted cells to whoever holds them."""
        unwanted = {(sample.name, sample.labels) for sample in self.samples() if is_unwanted(sample)}
        with self._lock:
            self._cells = {key: cell for key, cell in self._cells.items() if key not in unwanted or key[0] == OVERFLOW}

    def exemplify(self, exemplars: Sequence[Exemplar]) -> None:
        """Replace them."""
        self.shown = tuple(exemplars)

    def samples(self) -> Sequence[Sample]:
        """Return every number as it stands."""
        with self._lock:
            cells = list(self._cells.items())
        return [Sample(name, labels, cell.value) for (name, labels), cell in cells]


class MemoryMetrics:
    """A `MetricsSnapshots` over the banks of named processes, which live here as well."""

    def __init__(self) -> None:
        self._banks: dict[str, MemoryBank] = {}

    def bank(self, process: str) -> MemoryBank:
        """Return a process's bank, the same one each time."""
        return self._banks.setdefault(process, MemoryBank())

    def latest(self) -> Mapping[str, Sequence[Sample]]:
        """Read every bank."""
        return {process: bank.samples() for process, bank in sorted(self._banks.items())}

    def exemplars(self) -> Mapping[str, Sequence[Exemplar]]:
        """Return every bank's."""
        return {process: bank.shown for process, bank in sorted(self._banks.items()) if bank.shown}


class MemoryTraces:
    """A `Traces` that keeps what it was sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.is_closed = False

    def send(self, spans: Sequence[Span]) -> None:
        """Keep them."""
        self.spans.extend(spans)

    def close(self) -> None:
        """Note it."""
        self.is_closed = True
