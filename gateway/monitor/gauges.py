"""The monitor's numbers: how far behind it is, and per route what a board shows. Never a gauge per feature.

What a route stopped saying (a guardrail of an earlier rollout, a feature that is no more among the first five) becomes NaN, which
is not shown. Counters are raised to what the fold counted: a fold that goes on from its checkpoint counts some records again, and
a counter that fell would be taken for one that began anew.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from gateway.core.attribution import Attribution
from gateway.core.evidence.segments import SegmentReading
from gateway.core.guardrails import Finding, Verdict
from gateway.core.profiles import APART
from gateway.core.rollouts import CHALLENGER, CHAMPION
from gateway.core.windows import estimated_loss
from gateway.metrics.catalogue import GAUGES
from gateway.metrics.evidence import (
    DRIFT_ANSWERS,
    DRIFT_APART,
    DRIFT_EVIDENCE,
    DRIFT_FEATURES_OVER,
    DRIFT_FROZEN,
    DRIFT_INCIDENTS,
    DRIFT_PSI_MAX,
    DRIFT_TOP,
    DRIFT_UNREADABLE,
    FAIRNESS_KEYS,
    FAIRNESS_LOWER,
    FAIRNESS_MEAN,
    FAIRNESS_UPPER,
    FAIRNESS_WIDENING,
    QUALITY_CORRECTED,
    QUALITY_COVERAGE,
    QUALITY_DELAY,
    QUALITY_ESTIMATE,
    QUALITY_ESTIMATE_BIAS,
    QUALITY_KNOWN,
    QUALITY_LOSS,
    ROLLOUT_ATTRIBUTION,
    ROLLOUT_BOUND,
    ROLLOUT_ESTIMATE,
    ROLLOUT_KEYS,
    ROLLOUT_LOG_E,
    ROLLOUT_LOWER,
    ROLLOUT_MARGIN,
    ROLLOUT_TRUTH_LOG_E,
    ROLLOUT_UPPER,
    ROLLOUT_VERDICT,
)
from gateway.metrics.metric import Metric, cell
from gateway.metrics.monitor import (
    MONITOR_CHANGES,
    MONITOR_DRILL_DETECTION,
    MONITOR_DRILL_DURATION,
    MONITOR_DRILLS,
    MONITOR_LAG,
    MONITOR_LATE,
    MONITOR_PASSED_OVER,
    MONITOR_POSITIONS_MOVED,
    MONITOR_RECORDS,
    MONITOR_ROUTES,
    MONITOR_SAMPLED,
    MONITOR_TURN_FAILURES,
    MONITOR_UNPLACED,
    TRUTH_DROPPED,
    TRUTH_RECALLED,
    TRUTH_UNCOUNTED,
    TRUTH_WAITING,
)
from gateway.metrics.places import ROOM_SHARE
from gateway.monitor.exercise import Ending, Report
from gateway.monitor.fold import Fold
from gateway.monitor.state import RouteState
from gateway.ports.metrics import Cell, MetricsBank

TOP_FEATURES: Final = 5  # what a person looks at first; the rest is in the readings


class Gauges:
    """Cells of the monitor's bank."""

    def __init__(self, bank: MetricsBank) -> None:
        self._bank = bank
        bank.forget(lambda sample: sample.name in GAUGES)  # what an earlier process showed may be said by nobody any more
        self._lag = cell(bank, MONITOR_LAG)
        self._records = cell(bank, MONITOR_RECORDS)
        self._moved = cell(bank, MONITOR_POSITIONS_MOVED)
        self._failures = cell(bank, MONITOR_TURN_FAILURES)
        self._drilled = cell(bank, MONITOR_DRILL_DURATION)
        self._late = cell(bank, MONITOR_LATE)
        self._unplaced = cell(bank, MONITOR_UNPLACED)
        self._dropped = cell(bank, TRUTH_DROPPED)
        self._shown: set[Cell] = set()
        self._showing: set[Cell] = set()

    def turn_failed(self) -> None:
        """Count a turn that failed."""
        self._failures.add(1.0)

    def drilled(self, duration_s: float) -> None:
        """Count time spent on drills."""
        self._drilled.add(duration_s)

    def drill_ended(self, report: Report) -> None:
        """Count a drill that ended, and how soon it found what it should."""
        cell(self._bank, MONITOR_DRILLS, report.drill.value, report.ending.value).add(1.0)
        if report.ending is Ending.DETECTED:
            cell(self._bank, MONITOR_DRILL_DETECTION, report.drill.value).set(float(report.requests))

    def positions_moved(self, count: int) -> None:
        """Count streams that were taken up elsewhere than where they were left."""
        self._moved.add(float(count))

    def count(self, fold: Fold, *, lag_s: float) -> None:
        """Show how far the monitor is; after each turn."""
        self._lag.set(lag_s)
        self._records.raise_to(float(fold.records - fold.left))

    def show(self, fold: Fold, *, late_count: int) -> None:
        """Show every route; with each picture."""
        self._late.raise_to(float(late_count))
        self._unplaced.raise_to(float(fold.unplaced))
        self._count(MONITOR_PASSED_OVER, fold.sampling.passed_over)
        self._set(MONITOR_SAMPLED, fold.sampling.rate)
        self._dropped.raise_to(float(fold.truth.dropped_count))
        self._set(MONITOR_ROUTES, len(fold.routes))
        self._set(TRUTH_WAITING, fold.truth.rows_waiting)
        cell(self._bank, TRUTH_RECALLED).set(float(fold.truth.recalled_count))
        for reason, count in fold.truth.uncounted.items():
            self._count(TRUTH_UNCOUNTED, count, reason.value)
        self._count(TRUTH_UNCOUNTED, fold.unscored, "not_comparable")
        for name, state in fold.routes.items():
            self._show_rollout(name, state)
            self._show_drift(name, state, fold.now_s)
            self._show_quality(name, state)
        for gone in self._shown - self._showing:
            gone.set(math.nan)
        self._shown, self._showing = self._showing, set()
        if self._bank.share_taken > ROOM_SHARE:
            self._bank.forget(lambda sample: math.isnan(sample.value))

    def _show_rollout(self, route: str, state: RouteState) -> None:
        for finding in state.watch.findings() if state.watch else ():
            self._show_finding(route, finding)
        if state.watch is not None:
            for rail, segments in state.watch.segments().items():
                for reading in segments:
                    self._show_segment(route, rail, reading)
            self._set(ROLLOUT_TRUTH_LOG_E, state.watch.arrivals.reading().log_e_best, route)
        if decided := state.decision.get("attribution"):
            for attribution in Attribution:
                self._set(ROLLOUT_ATTRIBUTION, attribution.value == decided, route, attribution.value)
        for event, count in state.changes.items():
            self._count(MONITOR_CHANGES, count, route, event)

    def _show_finding(self, route: str, finding: Finding) -> None:
        rail, reading = finding.guardrail, finding.reading
        self._set(ROLLOUT_LOG_E, reading.log_e_best, route, rail.name)
        self._set(ROLLOUT_BOUND, reading.bound, route, rail.name)
        self._set(ROLLOUT_ESTIMATE, reading.estimate, route, rail.name)
        self._set(ROLLOUT_LOWER, reading.lower, route, rail.name)
        self._set(ROLLOUT_UPPER, reading.upper, route, rail.name)
        self._set(ROLLOUT_MARGIN, rail.margin, route, rail.name)
        self._set(ROLLOUT_KEYS, reading.champion_count, route, rail.name, CHAMPION)
        self._set(ROLLOUT_KEYS, reading.challenger_count, route, rail.name, CHALLENGER)
        for verdict in Verdict:
            self._set(ROLLOUT_VERDICT, verdict is finding.verdict, route, rail.name, verdict.value)

    def _show_segment(self, route: str, rail: str, reading: SegmentReading) -> None:
        place = (route, rail, reading.segment)
        self._set(FAIRNESS_MEAN, reading.champion_mean, *place, CHAMPION)
        self._set(FAIRNESS_MEAN, reading.challenger_mean, *place, CHALLENGER)
        self._set(FAIRNESS_KEYS, reading.champion_count, *place, CHAMPION)
        self._set(FAIRNESS_KEYS, reading.challenger_count, *place, CHALLENGER)
        if reading.widening is not None:
            self._set(FAIRNESS_WIDENING, reading.widening, *place)
            self._set(FAIRNESS_LOWER, reading.lower, *place)
            self._set(FAIRNESS_UPPER, reading.upper, *place)

    def _show_drift(self, route: str, state: RouteState, now_s: float) -> None:
        if state.drift is None:
            return
        readings = state.drift.readings()
        self._set(DRIFT_PSI_MAX, max((reading.psi for reading in readings), default=0.0), route)
        self._set(DRIFT_FEATURES_OVER, sum(reading.is_breached for reading in readings), route)
        self._count(DRIFT_INCIDENTS, state.incident_count, route)
        self._set(DRIFT_FROZEN, state.frozen_by(now_s) is not Attribution.NONE, route)
        self._count(DRIFT_UNREADABLE, state.drift.unreadable, route)
        for part, (log_e, bound) in state.drift.evidence().items():
            self._set(DRIFT_EVIDENCE, max(log_e, 0.0) / bound, route, part)
        over = [(reading.psi / reading.psi_bound, reading.feature) for reading in readings]
        for ratio, feature in sorted(over, reverse=True)[:TOP_FEATURES]:
            self._set(DRIFT_TOP, ratio, route, feature)
        for answer, share in state.drift.answers().items():
            self._set(DRIFT_ANSWERS, share, route, answer)
        if readings:
            apart = np.max([reading.apart for reading in readings], axis=0)
            for reason, share in zip(APART, apart.tolist(), strict=True):
                self._set(DRIFT_APART, share, route, reason.value)

    def _show_quality(self, route: str, state: RouteState) -> None:
        for (variant, version, _), tally in state.tallies.items():
            if not tally.is_scored:
                continue
            place, hour = (route, variant, version), tally.hour()
            if tally.coverage is not None:
                self._set(QUALITY_COVERAGE, tally.coverage, *place)
            self._set(QUALITY_KNOWN, hour.truths, *place)
            self._count(QUALITY_CORRECTED, tally.corrected, *place)
            if (delay_s := tally.delays.quantile_s(0.5)) is not None:
                self._set(QUALITY_DELAY, delay_s, *place)
            if (expected := estimated_loss(hour)) is not None:
                self._set(QUALITY_ESTIMATE, expected, *place)
            if tally.estimate.bias is not None:
                self._set(QUALITY_ESTIMATE_BIAS, tally.estimate.bias, *place)
            if hour.mean_loss is not None:
                self._set(QUALITY_LOSS, hour.mean_loss, *place)

    def _set(self, metric: Metric, value: float, *labels: str) -> None:
        gauge = cell(self._bank, metric, *labels)
        gauge.set(float(value))
        self._showing.add(gauge)

    def _count(self, metric: Metric, value: float, *labels: str) -> None:
        cell(self._bank, metric, *labels).raise_to(float(value))
