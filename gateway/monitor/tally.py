"""What one version did on one route, told by windows of a minute, and how much of its ground truth is known. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.core.delays import Delays
from gateway.core.estimates import LossEstimate
from gateway.core.losses import stated
from gateway.core.models import Target
from gateway.core.tensors import Tensor
from gateway.core.windows import Window, merge

WINDOW_S: Final = 60.0
WINDOWS_MAX: Final = 60  # so that readings speak of the last hour
ESTIMATED_ROWS_MAX: Final = 20  # of one answer, 3 µs each; the others of a large one are taken to be like them


@dataclass(slots=True)
class VersionTally:
    """What one version did on one route: windows of a minute over the last hour, and how much of its truth is known.

    Attributes:
        rows, rows_known: Answered, and those of them whose ground truth came.
        corrected: Values that a later one contradicted.
        delays: From the answer to its first ground truth.
        estimate: What its loss probably is until that comes.
    """

    windows: dict[int, Window] = field(default_factory=dict)
    rows: int = 0
    rows_known: int = 0
    corrected: int = 0
    delays: Delays = field(default_factory=Delays)
    estimate: LossEstimate = field(default_factory=LossEstimate)

    def window(self, time_s: float) -> Window:
        """Return the window of a time's minute."""
        minute = int(time_s // WINDOW_S)
        found = self.windows.get(minute)
        if found is None:
            found = self.windows[minute] = Window()
            for old in [one for one in self.windows if max(self.windows) - one >= WINDOWS_MAX]:
                del self.windows[old]
        return found

    def estimated(self, target: Target, outputs: Sequence[Tensor], rows: int) -> float | None:
        """Return the loss to expect of an answer's rows on average; None while nothing is known of some."""
        total, count = 0.0, min(rows, ESTIMATED_ROWS_MAX)
        for row in range(count):
            statement = stated(target, outputs, row)
            if statement is None or (expected := self.estimate.expect(statement)) is None:
                return None
            total += expected
        return total / count if count else None

    @property
    def is_scored(self) -> bool:
        """Whether there is anything to say of its ground truth."""
        return bool(self.rows or self.rows_known or self.corrected)

    @property
    def coverage(self) -> float | None:
        """The share of the rows that is known; None without rows. What the archive recalls may have been counted elsewhere."""
        return min(1.0, self.rows_known / self.rows) if self.rows else None

    def correct(self, counted_s: float, before: float, after: float) -> None:
        """Let a loss stand for another in the window that counted it; evidence cannot un-see the one before."""
        self.corrected += 1
        window = self.windows.get(int(counted_s // WINDOW_S))
        if window is not None:
            window.correct_truth(before, after)

    def hour(self) -> Window:
        """Return the last hour's window."""
        whole = Window()
        for window in self.windows.values():
            whole = merge(whole, window)
        return whole
