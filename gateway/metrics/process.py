"""What any process counts."""

from __future__ import annotations

from typing import Final

from gateway.metrics.metric import Metric, Type

UNEXPECTED_ERRORS: Final = Metric(
    "gateway_unexpected_errors_total",
    Type.COUNTER,
    "Errors that the program has no name for, by the loop that met them.",
    ("loop",),
)
METRICS_OVERFLOW: Final = Metric("gateway_metrics_overflow_total", Type.COUNTER, "What was counted after the bank was full.")
