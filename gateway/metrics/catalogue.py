"""All metrics of the program: what is not here is not shown."""

from __future__ import annotations

from typing import Final

from gateway.metrics import archive, control, evidence, monitor, process, serving
from gateway.metrics.metric import Metric, Type

_FILES: Final = (serving, control, archive, monitor, evidence, process)
METRICS: Final[tuple[Metric, ...]] = tuple(value for file in _FILES for value in vars(file).values() if isinstance(value, Metric))
GAUGES: Final = frozenset(metric.name for metric in METRICS if metric.type is Type.GAUGE)
