"""What a pool counts of its runs. Cells are taken with the first run: of a thousand versions most never have one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Final

from gateway.core.models import Version
from gateway.metrics.metric import Histogram, Metric, cell, histogram
from gateway.metrics.serving import (
    BATCH_ROWS,
    BATCHES,
    LAST_RUN,
    QUEUE_WAIT,
    RUN_DURATION,
    RUN_INPUT_DURATION,
    RUN_OUTPUT_DURATION,
)
from gateway.ports.clock import Clock
from gateway.ports.metrics import Cell, MetricsBank
from gateway.serving.batch import Fired, Job, Ran

_LAST_RUN_S: Final = 1.0  # between two notes of when a version last ran; statistics ask for no more


class RunCounts:
    """One version's, on this worker."""

    def __init__(self, version: Version, metrics: MetricsBank, clock: Clock) -> None:
        self._names = (version.model, version.version)
        self._metrics = metrics
        self._clock = clock
        self._last_run_s = -math.inf  # as last noted, on the clock's monotonic time

    def ran(self, batch: Sequence[Job], first: Ran) -> None:
        """Count a run that is over.

        Args:
            first: How the first of the batch ended.
        """
        job, now_s, run_s = batch[0], self._clock.monotonic_s(), first.duration_us / 1e6
        self._batch_rows.observe(first.batch_rows)
        self._fired[job.fired._value_].add(1.0)
        self._queue_wait.observe(max(now_s - job.queued_s - run_s, 0.0))
        self._run.add(run_s)
        if job.input_s:
            self._run_input.add(job.input_s)
        self._run_output.add(job.output_s)
        if now_s - self._last_run_s >= _LAST_RUN_S:
            self._last_run_s = now_s
            self._last_run.set(self._clock.now_s())

    @cached_property
    def _batch_rows(self) -> Histogram:
        return histogram(self._metrics, BATCH_ROWS, *self._names)

    @cached_property
    def _fired(self) -> dict[str, Cell]:
        return {reason.value: cell(self._metrics, BATCHES, *self._names, reason.value) for reason in Fired}

    @cached_property
    def _queue_wait(self) -> Histogram:
        return histogram(self._metrics, QUEUE_WAIT, *self._names)

    @cached_property
    def _run(self) -> Cell:
        return self._cell(RUN_DURATION)

    @cached_property
    def _run_input(self) -> Cell:
        return self._cell(RUN_INPUT_DURATION)

    @cached_property
    def _run_output(self) -> Cell:
        return self._cell(RUN_OUTPUT_DURATION)

    @cached_property
    def _last_run(self) -> Cell:
        return self._cell(LAST_RUN)

    def _cell(self, metric: Metric) -> Cell:
        return cell(self._metrics, metric, *self._names)
