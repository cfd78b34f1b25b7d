"""What the monitor counts of its own work, its drills, and of ground truth."""

from __future__ import annotations

from typing import Final

from gateway.metrics.metric import Metric, Type

MONITOR_LAG: Final = Metric("gateway_monitor_lag_seconds", Type.GAUGE, "How far the merged log is behind the clock.")
MONITOR_RECORDS: Final = Metric("gateway_monitor_records_total", Type.COUNTER, "Records of the log folded by the monitor.")
MONITOR_TURN_FAILURES: Final = Metric(
    "gateway_monitor_turn_failures_total", Type.COUNTER, "Turns of the monitor that failed and were tried again."
)
MONITOR_POSITIONS_MOVED: Final = Metric(
    "gateway_monitor_positions_moved_total", Type.COUNTER, "Streams taken up elsewhere, because power loss took the log's end."
)
MONITOR_ROUTES: Final = Metric("gateway_monitor_routes", Type.GAUGE, "Routes that the monitor has seen records of.")
MONITOR_SAMPLED: Final = Metric(
    "gateway_monitor_sampled_ratio", Type.GAUGE, "Share of the predictions, and of their keys, that is looked at."
)
MONITOR_PASSED_OVER: Final = Metric(
    "gateway_monitor_passed_over_records_total", Type.COUNTER, "Predictions that a monitor over its budget did not look at."
)
MONITOR_DRILLS: Final = Metric(
    "gateway_monitor_drills_total",
    Type.COUNTER,
    "Drills on made-up traffic that ended: aa must be quiet, drift and harm must be detected.",
    ("drill", "ending"),
)
MONITOR_DRILL_DETECTION: Final = Metric(
    "gateway_monitor_drill_detection_requests",
    Type.GAUGE,
    "Requests that the last drill with made-up harm took until it was found.",
    ("drill",),
)
MONITOR_DRILL_DURATION: Final = Metric("gateway_monitor_drill_seconds_total", Type.COUNTER, "Time that drills took.")
MONITOR_LATE: Final = Metric(
    "gateway_monitor_late_records_total", Type.COUNTER, "Records that came out of the merge after one that is newer."
)
MONITOR_UNPLACED: Final = Metric(
    "gateway_monitor_unplaced_records_total",
    Type.COUNTER,
    "Live records of a route's revision that is not known; they are no evidence.",
)
MONITOR_CHANGES: Final = Metric(
    "gateway_monitor_changes_total", Type.COUNTER, "Route changes that the monitor made by itself.", ("route", "event")
)
TRUTH_WAITING: Final = Metric("gateway_ground_truth_waiting_rows", Type.GAUGE, "Answered rows that wait for their ground truth.")
TRUTH_DROPPED: Final = Metric(
    "gateway_ground_truth_dropped_predictions_total",
    Type.COUNTER,
    "Predictions that waited for ground truth until others needed their room.",
)
TRUTH_UNCOUNTED: Final = Metric(
    "gateway_ground_truth_uncounted_total",
    Type.COUNTER,
    "Ground truth that was accepted and counts for nothing: unknown prediction, no such row, repeated, or not comparable.",
    ("reason",),
)
TRUTH_RECALLED: Final = Metric(
    "gateway_ground_truth_recalled_total", Type.COUNTER, "Predictions found in the archive because ground truth came for them."
)
