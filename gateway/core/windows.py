"""Windows: a fold of one version's records over a span, which merges with any other in any grouping, to the bit.

All sums are integers (fractions count in 2⁻³²), because float addition is not associative and the same log must give the same
figures however it was cut. Pure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

UNIT: Final = 1 << 32  # of summed losses: 2e-10 of rounding a row


@dataclass(slots=True)
class Window:
    """What happened to one version over a span. Grows in place, because every record of the log is counted in one.

    Attributes:
        since_s, until_s: Of the first and the last record; inf and -inf when there is none.
        predictions, faults: Own attempts of the version but for abandoned ones, and those that failed.
        latency_us: Summed.
        truths, loss_units: Rows with ground truth, and their summed loss in units of 2⁻³².
        estimates, estimate_units: Answers whose loss was estimated, and the estimates, summed alike.
    """

    since_s: float = math.inf
    until_s: float = -math.inf
    predictions: int = 0
    faults: int = 0
    latency_us: int = 0
    truths: int = 0
    loss_units: int = 0
    estimates: int = 0
    estimate_units: int = 0

    def count_prediction(self, time_s: float, *, is_fault: bool, latency_us: int) -> None:
        """Count one attempt."""
        if self.since_s <= self.until_s <= time_s:  # nearly always
            self.until_s = time_s
        else:
            self._stretch(time_s)
        self.predictions += 1
        self.faults += is_fault
        self.latency_us += latency_us

    def count_truth(self, time_s: float, loss: float) -> None:
        """Count one row's ground truth; the loss is in [0, 1]."""
        assert 0.0 <= loss <= 1.0, "a loss lies in [0, 1]"
        if self.since_s <= self.until_s <= time_s:  # nearly always
            self.until_s = time_s
        else:
            self._stretch(time_s)
        self.truths += 1
        self.loss_units += round(loss * UNIT)

    def count_estimate(self, estimate: float) -> None:
        """Count an answer whose ground truth is to come; the loss expected of it is in [0, 1]."""
        self.estimates += 1
        self.estimate_units += round(estimate * UNIT)

    def correct_truth(self, before: float, after: float) -> None:
        """Let a row that was counted with one loss count with another."""
        self.loss_units += round(after * UNIT) - round(before * UNIT)

    def _stretch(self, time_s: float) -> None:
        self.since_s = min(self.since_s, time_s)
        self.until_s = max(self.until_s, time_s)

    @property
    def error_rate(self) -> float | None:
        """Faults a prediction; None without predictions."""
        return self.faults / self.predictions if self.predictions else None

    @property
    def mean_loss(self) -> float | None:
        """In [0, 1]; None without ground truth."""
        return self.loss_units / UNIT / self.truths if self.truths else None


def estimated_loss(window: Window) -> float | None:
    """Return the mean estimate of a window's answers, in [0, 1]; None without any."""
    return window.estimate_units / UNIT / window.estimates if window.estimates else None


def merge(one: Window, other: Window) -> Window:
    """Return the window over both. Associative and commutative; `Window()` changes nothing."""
    return Window(
        since_s=min(one.since_s, other.since_s),
        until_s=max(one.until_s, other.until_s),
        predictions=one.predictions + other.predictions,
        faults=one.faults + other.faults,
        latency_us=one.latency_us + other.latency_us,
        truths=one.truths + other.truths,
        loss_units=one.loss_units + other.loss_units,
        estimates=one.estimates + other.estimates,
        estimate_units=one.estimate_units + other.estimate_units,
    )
