"""Every metric of the program, once: name, type, labels, help. A name that is not here is not shown.

A process counts in the cells of its `MetricsBank`, which outlive it; cells are bound when something changes, never per request.
The control plane's scrape (`gateway/exposition.py`) turns all processes' cells into Prometheus series with the label `process`.
Labels come from bounded sets (routes, variants, versions, outcomes), never a key, an id or a message; the one exception is the
`audit_entry` of the last changes of a route. A gauge that says nothing now is NaN, and not shown.
"""

from __future__ import annotations

import enum
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.routes import RouteTable
from gateway.ports.metrics import Cell, MetricsBank, Sample


class Type(enum.Enum):
    """What a metric's number means."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


ROOM_SHARE: Final = 0.5  # of a bank; above it what is not shown any more is forgotten
Place = tuple[str, str]  # a route or model, and a version of it or nothing
_OWNERS: Final = frozenset({"route", "model"})  # always a metric's first label


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `bounds` are a histogram's upper bounds, ascending, without the last (infinity)."""

    name: str
    type: Type
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # up to the default deadline
_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0)  # powers of two up to the default batch bound, and above
_PLACE: Final = ("route", "variant", "version")

PREDICTIONS: Final = Metric(
    "gateway_predictions_total", Type.COUNTER, "Predictions with a record, by how they ended.", (*_PLACE, "kind", "outcome")
)
PREDICTION_DURATION: Final = Metric(
    "gateway_prediction_duration_seconds",
    Type.HISTOGRAM,
    "From the last byte of a live or pinned request to its record.",
    _PLACE,
    _SECONDS,
)
FAILED_DURATION: Final = Metric(
    "gateway_failed_predictions_seconds_total",
    Type.COUNTER,
    "The part of gateway_prediction_duration_seconds that belongs to predictions that failed.",
    _PLACE,
)
FAILOVERS: Final = Metric(
    "gateway_failovers_total", Type.COUNTER, "Requests answered by the fallback in place of the assigned variant.", _PLACE
)
BATCH_ROWS: Final = Metric("gateway_batch_rows", Type.HISTOGRAM, "Rows of each run.", ("model", "version"), _ROWS)
BATCHES: Final = Metric(
    "gateway_batches_total",
    Type.COUNTER,
    "Runs, by why each began: an instance was free, the batch was full, or its delay was over.",
    ("model", "version", "reason"),
)
QUEUE_WAIT: Final = Metric(
    "gateway_queue_wait_seconds",
    Type.HISTOGRAM,
    "From a request's arrival at a version to its run.",
    ("model", "version"),
    _SECONDS,
)
RUN_DURATION: Final = Metric(
    "gateway_run_seconds_total",
    Type.COUNTER,
    "Time of runs, joining their rows included.",
    ("model", "version"),
)
LAST_RUN: Final = Metric(
    "gateway_last_run_timestamp_seconds", Type.GAUGE, "When a version last ran, to the second before.", ("model", "version")
)
SHADOW_DROPPED: Final = Metric(
    "gateway_shadow_dropped_total", Type.COUNTER, "Copies for a shadow that were not run.", ("route", "variant")
)
REJECTED: Final = Metric(
    "gateway_rejected_requests_total", Type.COUNTER, "Requests answered with an error instead of a prediction.", ("reason",)
)
UNEXPECTED_ERRORS: Final = Metric(
    "gateway_unexpected_errors_total",
    Type.COUNTER,
    "Errors that the program has no name for, by the loop that met them.",
    ("loop",),
)
GROUND_TRUTH: Final = Metric("gateway_ground_truth_records_total", Type.COUNTER, "Ground truth records accepted.")
LOG_RECORDS: Final = Metric("gateway_log_records_total", Type.COUNTER, "Records appended to the prediction log.")
LOG_WRITE_FAILURES: Final = Metric(
    "gateway_log_write_failures_total", Type.COUNTER, "Groups of records that could not be written."
)
LOG_WRITES: Final = Metric("gateway_log_writes_total", Type.COUNTER, "Groups of records written, one write each.")
LOG_WRITE_DURATION: Final = Metric(
    "gateway_log_write_seconds_total", Type.COUNTER, "Time of those writes, and of making them durable where that is asked for."
)
UNLOGGED: Final = Metric(
    "gateway_unlogged_records_total", Type.COUNTER, "Records lost because the log could not take them (log.when_full = continue)."
)
LOOP_LAG: Final = Metric("gateway_loop_lag_seconds", Type.GAUGE, "How late the event loop was at its last regular turn.")
TABLE_REVISION: Final = Metric("gateway_table_revision", Type.GAUGE, "Revision of the route table a worker answers with.")
WARM_VERSIONS: Final = Metric("gateway_warm_versions", Type.GAUGE, "Versions a worker holds warm.")
WARM_BYTES: Final = Metric("gateway_warm_bytes", Type.GAUGE, "Memory of all versions that a worker holds warm, as measured.")
MODEL_MEMORY: Final = Metric(
    "gateway_model_memory_bytes",
    Type.GAUGE,
    "Memory that loading and warming a version took, at least its artifact's size; 0 once it is unloaded.",
    ("model", "version"),
)
EVICTIONS: Final = Metric(
    "gateway_evictions_total", Type.COUNTER, "Versions unloaded to stay within serving.model_memory_bytes_max."
)
LOAD_DURATION: Final = Metric(
    "gateway_load_duration_seconds", Type.HISTOGRAM, "Loading and warming one version, without its wait.", (), _SECONDS
)
RESTS: Final = Metric(
    "gateway_version_rests_total",
    Type.COUNTER,
    "Times a worker took a version out of rotation because it failed too often.",
    ("model", "version"),
)
LOAD_FAILURES: Final = Metric(
    "gateway_load_failures_total", Type.COUNTER, "Versions that did not load or warm.", ("model", "version")
)
REFUSED_INPUTS: Final = Metric(
    "gateway_poisonous_inputs", Type.GAUGE, "Inputs that a worker refuses because processes died of them."
)
PROVIDER_FALLBACKS: Final = Metric(
    "gateway_provider_fallbacks_total",
    Type.COUNTER,
    "Loads after which a version ran on another execution provider than the first that it names.",
    ("model", "version"),
)
REGISTRY_FAILURES: Final = Metric(
    "gateway_registry_failures_total", Type.COUNTER, "Readings of the registry that failed; serving goes on with the last table."
)
ROUTE_WEIGHT: Final = Metric("gateway_route_weight_ratio", Type.GAUGE, "Planned share of a route's requests.", _PLACE)
SHADOW_FRACTION: Final = Metric("gateway_shadow_ratio", Type.GAUGE, "Share of a route's requests copied to a shadow.", _PLACE)
ROUTE_HEALTH: Final = Metric(
    "gateway_route_health",
    Type.GAUGE,
    "A route's health, which is that of its worst part: 0 unknown, 1 good, 2 warning, 3 critical.",
    ("route",),
)
ROUTE_UNWELL: Final = Metric(
    "gateway_route_unwell", Type.GAUGE, "The parts of a route that are at warning (2) or critical (3).", ("route", "part")
)
ROUTE_INFO: Final = Metric(
    "gateway_route_info",
    Type.GAUGE,
    "1 for each route and its model; a champion answers under its model's name.",
    ("route", "model"),
)
ROUTE_REVISION: Final = Metric("gateway_route_revision", Type.GAUGE, "Revision of a route.", ("route",))
NEWEST_TABLE_REVISION: Final = Metric("gateway_newest_table_revision", Type.GAUGE, "Revision of the newest route table.")
REVISIONS_BEHIND: Final = Metric(
    "gateway_worker_revisions_behind", Type.GAUGE, "Table revisions that a worker is behind the newest.", ("worker",)
)
ROLLOUT_STATE: Final = Metric(
    "gateway_rollout_state", Type.GAUGE, "1 for the state of a route's newest rollout, 0 for the others.", ("route", "state")
)
ROUTE_CHANGE: Final = Metric(
    "gateway_route_change_timestamp_seconds",
    Type.GAUGE,
    "When a route was changed: the last 20 changes of each route, with their audit entries.",
    ("route", "action", "by", "audit_entry"),
)
AUDIT_ENTRIES: Final = Metric("gateway_audit_entries_total", Type.COUNTER, "Entries of the audit log.")
AUDIT_INTACT: Final = Metric(
    "gateway_audit_intact",
    Type.GAUGE,
    "Whether each of the newest audit entries followed from the one before it when the control plane read it.",
)
AUTOMATION_ON: Final = Metric("gateway_automation_on", Type.GAUGE, "Whether the gateway may change routes by itself.")
INCREASES_SUSPENDED: Final = Metric(
    "gateway_increases_suspended", Type.GAUGE, "Whether nothing is raised by itself because many routes were rolled back lately."
)
QUARANTINED: Final = Metric("gateway_quarantined_versions", Type.GAUGE, "Digests in quarantine now.")
VERSION_INFO: Final = Metric(
    "gateway_version_info",
    Type.GAUGE,
    "1 for each version that a route or a champion needs.",
    ("model", "version", "runtime", "runtime_version", "is_champion"),
)
MONITOR_TROUBLE: Final = Metric(
    "gateway_monitor_trouble",
    Type.GAUGE,
    "1 for what is wrong with the monitor, see `headgate monitor show`.",
    ("trouble",),
)
REGISTRY_UP: Final = Metric("gateway_registry_up", Type.GAUGE, "Whether the control plane can read the registry.")
ARCHIVE_RECORDS: Final = Metric("gateway_archive_records_total", Type.COUNTER, "Predictions copied to the archive.")
ARCHIVE_LAG: Final = Metric(
    "gateway_archive_lag_seconds", Type.GAUGE, "Age of the oldest closed segment that is not in the archive; 0 when all are."
)
ARCHIVE_FAILURES: Final = Metric(
    "gateway_archive_failures_total", Type.COUNTER, "Steps of the archive that failed and are tried again."
)
ARCHIVE_DROPPED_FILES: Final = Metric(
    "gateway_archive_dropped_files_total", Type.COUNTER, "Parquet files removed because they were older than archive.keep_s."
)
ARCHIVE_MERGED_FILES: Final = Metric(
    "gateway_archive_merged_files_total", Type.COUNTER, "Small Parquet files joined into larger ones."
)
LOG_SEGMENTS: Final = Metric("gateway_log_segments", Type.GAUGE, "Closed segments of the prediction log still kept.")
LOG_SEGMENTS_REMOVED: Final = Metric(
    "gateway_log_segments_removed_total", Type.COUNTER, "Segments removed after archive and monitor had passed them."
)
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
ROLLOUT_LOG_E: Final = Metric(
    "gateway_rollout_log_e", Type.GAUGE, "Highest natural log e-value against the challenger.", ("route", "guardrail")
)
ROLLOUT_BOUND: Final = Metric(
    "gateway_rollout_log_e_bound", Type.GAUGE, "The log e-value from which a rollout is rolled back.", ("route", "guardrail")
)
ROLLOUT_ESTIMATE: Final = Metric(
    "gateway_rollout_estimate_ratio", Type.GAUGE, "Challenger's mean less champion's, of one measure.", ("route", "guardrail")
)
ROLLOUT_LOWER: Final = Metric(
    "gateway_rollout_estimate_lower_ratio",
    Type.GAUGE,
    "Lower end of the interval of that difference, which holds at all times.",
    ("route", "guardrail"),
)
ROLLOUT_UPPER: Final = Metric(
    "gateway_rollout_estimate_upper_ratio", Type.GAUGE, "Upper end of that interval.", ("route", "guardrail")
)
ROLLOUT_MARGIN: Final = Metric(
    "gateway_rollout_margin_ratio",
    Type.GAUGE,
    "How much worse the challenger may be: a guardrail passes once the interval's upper end is below it.",
    ("route", "guardrail"),
)
ROLLOUT_KEYS: Final = Metric(
    "gateway_rollout_keys",
    Type.GAUGE,
    "Assignment keys that the estimate rests on, by variant.",
    ("route", "guardrail", "variant"),
)
ROLLOUT_VERDICT: Final = Metric(
    "gateway_rollout_verdict", Type.GAUGE, "1 for each guardrail's verdict, 0 for the others.", ("route", "guardrail", "verdict")
)
ROLLOUT_ATTRIBUTION: Final = Metric(
    "gateway_rollout_attribution",
    Type.GAUGE,
    "1 for where the last decision on a route's rollout says that a change comes from, 0 for the others.",
    ("route", "attribution"),
)
_SEGMENT: Final = ("route", "guardrail", "segment")  # at most eight of a guardrail, in a column that the plan names
FAIRNESS_MEAN: Final = Metric(
    "gateway_fairness_mean_ratio",
    Type.GAUGE,
    "Mean of what a fairness guardrail measures in one segment, by variant.",
    (*_SEGMENT, "variant"),
)
FAIRNESS_KEYS: Final = Metric(
    "gateway_fairness_keys", Type.GAUGE, "Assignment keys that this mean rests on.", (*_SEGMENT, "variant")
)
FAIRNESS_WIDENING: Final = Metric(
    "gateway_fairness_widening_ratio",
    Type.GAUGE,
    "How much further above the rest a segment lies with the challenger than with the champion.",
    _SEGMENT,
)
FAIRNESS_LOWER: Final = Metric(
    "gateway_fairness_widening_lower_ratio", Type.GAUGE, "Lower end of its interval, which holds at all times.", _SEGMENT
)
FAIRNESS_UPPER: Final = Metric("gateway_fairness_widening_upper_ratio", Type.GAUGE, "Upper end of that interval.", _SEGMENT)
DRIFT_EVIDENCE: Final = Metric(
    "gateway_drift_evidence_ratio",
    Type.GAUGE,
    "Log e-value against being like training over its bound: of the inputs, the answer, errors and losses; an alarm from 1 on.",
    ("route", "part"),
)
DRIFT_PSI_MAX: Final = Metric(
    "gateway_drift_psi_max", Type.GAUGE, "Highest population stability index of a feature or the answer.", ("route",)
)
DRIFT_FEATURES_OVER: Final = Metric(
    "gateway_drift_features_over_bound", Type.GAUGE, "Features, the answer among them, whose index is over its bound.", ("route",)
)
DRIFT_TOP: Final = Metric(
    "gateway_drift_top_psi_ratio",
    Type.GAUGE,
    "Stability index over its bound, of the five features that are furthest over it, or nearest to it.",
    ("route", "feature"),
)
DRIFT_ANSWERS: Final = Metric(
    "gateway_drift_answers_ratio",
    Type.GAUGE,
    "Share of the live version's last answers, by range or category: the nine that were most, and the rest as `other`.",
    ("route", "answer"),
)
DRIFT_APART: Final = Metric(
    "gateway_drift_apart_ratio",
    Type.GAUGE,
    "Highest share of a feature's last values that have no place in training, by why.",
    ("route", "reason"),
)
DRIFT_FROZEN: Final = Metric("gateway_drift_frozen", Type.GAUGE, "Whether a drift incident freezes a rollout.", ("route",))
DRIFT_UNREADABLE: Final = Metric(
    "gateway_drift_unreadable_records_total",
    Type.COUNTER,
    "Records whose inputs do not have the columns of the live version's training sample.",
    ("route",),
)
DRIFT_INCIDENTS: Final = Metric("gateway_drift_incidents_total", Type.COUNTER, "Drift incidents.", ("route",))
QUALITY_LOSS: Final = Metric("gateway_quality_loss_ratio", Type.GAUGE, "Mean loss against ground truth, last hour.", _PLACE)
QUALITY_KNOWN: Final = Metric(
    "gateway_quality_known_rows", Type.GAUGE, "Rows with ground truth that the mean loss of the last hour rests on.", _PLACE
)
QUALITY_COVERAGE: Final = Metric(
    "gateway_quality_coverage_ratio", Type.GAUGE, "Share of the answered rows whose ground truth is known.", _PLACE
)
QUALITY_DELAY: Final = Metric(
    "gateway_quality_delay_seconds",
    Type.GAUGE,
    "Median time from an answer to its ground truth, to a quarter of a decade.",
    _PLACE,
)
QUALITY_ESTIMATE: Final = Metric(
    "gateway_quality_estimated_loss_ratio",
    Type.GAUGE,
    "Estimated mean loss of the last hour's answers, before their ground truth; an estimate, no evidence.",
    _PLACE,
)
QUALITY_ESTIMATE_BIAS: Final = Metric(
    "gateway_quality_estimate_bias_ratio",
    Type.GAUGE,
    "Estimated loss less what came true, a row, over all answers whose ground truth came.",
    _PLACE,
)
QUALITY_CORRECTED: Final = Metric(
    "gateway_quality_corrected_total", Type.COUNTER, "Values of ground truth that a later one contradicted.", _PLACE
)
ROLLOUT_TRUTH_LOG_E: Final = Metric(
    "gateway_rollout_truth_log_e",
    Type.GAUGE,
    "Highest natural log e-value against ground truth that comes alike for both variants; from 6.91 its verdicts are void.",
    ("route",),
)
NOTICES_WAITING: Final = Metric("gateway_notices_waiting", Type.GAUGE, "Notices that a channel has not taken yet.", ("channel",))
NOTICES_DELIVERED: Final = Metric("gateway_notices_delivered_total", Type.COUNTER, "Notices that a channel took.", ("channel",))
NOTICES_LOST: Final = Metric(
    "gateway_notices_lost_total", Type.COUNTER, "Notices given up: a day old, or too many waited.", ("channel",)
)
METRICS_OVERFLOW: Final = Metric("gateway_metrics_overflow_total", Type.COUNTER, "What was counted after the bank was full.")

GAUGES: Final = frozenset(
    value.name for value in list(globals().values()) if isinstance(value, Metric) and value.type is Type.GAUGE
)
METRICS: Final[tuple[Metric, ...]] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def place_of(sample: Sample) -> Place | None:
    """Return the route or model that a sample speaks of, and the version or nothing; None when it speaks of neither."""
    if not sample.labels or sample.labels[0][0] not in _OWNERS:
        return None
    return sample.labels[0][1], next((value for name, value in sample.labels if name == "version"), "")


def places(table: RouteTable) -> set[Place]:
    """Return the places that a route table names; a champion answers under its model's name."""
    found: set[Place] = {(name, "") for name in (*table.routes, *table.champions)} | set(table.champions.items())
    for model, version in table.versions:
        found |= {(model, ""), (model, version)}
    for route in table.routes.values():
        found.update((route.name, version) for version in route.needs())
    return found


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
