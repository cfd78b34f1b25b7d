"""The monitor's numbers: how far behind it is, and per route what a board shows. Never a gauge per feature."""

from __future__ import annotations

from gateway.metrics import (
    DRIFT_FEATURES_OVER,
    DRIFT_INCIDENTS,
    DRIFT_PSI_MAX,
    DRIFT_SAMPLED_RATE,
    MONITOR_CHANGES,
    MONITOR_LAG,
    MONITOR_POSITIONS_MOVED,
    MONITOR_RECORDS,
    MONITOR_TURN_FAILURES,
    QUALITY_CORRECTED,
    QUALITY_COVERAGE,
    QUALITY_DELAY,
    QUALITY_LOSS,
    ROLLOUT_BOUND,
    ROLLOUT_ESTIMATE,
    ROLLOUT_LOG_E,
    ROLLOUT_TRUTH_LOG_E,
    TRUTH_UNCOUNTED,
    TRUTH_WAITING,
    cell,
)
from gateway.monitor.fold import Fold, RouteState
from gateway.ports import MetricsBank


class Gauges:
    """Cells of the monitor's bank. Counters are set to what the fold counted, so that a repeated record is not counted twice."""

    def __init__(self, bank: MetricsBank) -> None:
        self._bank = bank
        self._lag = cell(bank, MONITOR_LAG)
        self._records = cell(bank, MONITOR_RECORDS)
        self._moved = cell(bank, MONITOR_POSITIONS_MOVED)
        self._failures = cell(bank, MONITOR_TURN_FAILURES)
        self._waiting = cell(bank, TRUTH_WAITING)

    def turn_failed(self) -> None:
        """Count a turn that failed."""
        self._failures.add(1.0)

    def positions_moved(self, count: int) -> None:
        """Count streams that were taken up elsewhere than where they were left."""
        self._moved.add(float(count))

    def count(self, fold: Fold, *, lag_s: float) -> None:
        """Show how far the monitor is; after each turn."""
        self._lag.set(lag_s)
        self._records.set(float(fold.records))

    def show(self, fold: Fold) -> None:
        """Show every route; with each picture."""
        self._waiting.set(float(fold.truth.rows_waiting))
        for reason, count in fold.truth.uncounted.items():
            cell(self._bank, TRUTH_UNCOUNTED, reason.value).set(float(count))
        cell(self._bank, TRUTH_UNCOUNTED, "not_comparable").set(float(fold.unscored))
        for name, state in fold.routes.items():
            self._show_rollout(name, state)
            self._show_drift(name, state)
            self._show_quality(name, state)

    def _show_rollout(self, route: str, state: RouteState) -> None:
        for finding in state.watch.findings() if state.watch else ():
            rail = finding.guardrail.name
            cell(self._bank, ROLLOUT_LOG_E, route, rail).set(finding.reading.log_e_best)
            cell(self._bank, ROLLOUT_BOUND, route, rail).set(finding.reading.bound)
            cell(self._bank, ROLLOUT_ESTIMATE, route, rail).set(finding.reading.estimate)
        if state.watch is not None:
            cell(self._bank, ROLLOUT_TRUTH_LOG_E, route).set(state.watch.arrivals.reading().log_e_best)
        for event, count in state.changes.items():
            cell(self._bank, MONITOR_CHANGES, route, event).set(float(count))

    def _show_drift(self, route: str, state: RouteState) -> None:
        if state.drift is None:
            return
        watches = state.drift.watches()
        cell(self._bank, DRIFT_PSI_MAX, route).set(max((watch.psi for watch in watches), default=0.0))
        cell(self._bank, DRIFT_FEATURES_OVER, route).set(float(sum(watch.is_breached for watch in watches)))
        cell(self._bank, DRIFT_INCIDENTS, route).set(float(state.incident_count))
        cell(self._bank, DRIFT_SAMPLED_RATE, route).set(state.drift.rate)

    def _show_quality(self, route: str, state: RouteState) -> None:
        for (variant, version, _), tally in state.tallies.items():
            if not tally.rows:
                continue
            cell(self._bank, QUALITY_COVERAGE, route, variant, version).set(tally.rows_known / tally.rows)
            cell(self._bank, QUALITY_CORRECTED, route, variant, version).set(float(tally.corrected))
            if (delay_s := tally.delays.quantile_s(0.5)) is not None:
                cell(self._bank, QUALITY_DELAY, route, variant, version).set(delay_s)
            if (mean_loss := tally.hour().mean_loss) is not None:
                cell(self._bank, QUALITY_LOSS, route, variant, version).set(mean_loss)
