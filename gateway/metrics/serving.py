"""What serving workers count."""

from __future__ import annotations

from typing import Final

from gateway.metrics.metric import PLACE, Metric, Type

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)  # up to the default deadline
_ROWS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 256.0, 1024.0)  # powers of two up to the default batch bound, and above
PREDICTIONS: Final = Metric(
    "gateway_predictions_total", Type.COUNTER, "Predictions with a record, by how they ended.", (*PLACE, "kind", "outcome")
)
PREDICTION_DURATION: Final = Metric(
    "gateway_prediction_duration_seconds",
    Type.HISTOGRAM,
    "From the last byte of a live or pinned request to its record.",
    PLACE,
    _SECONDS,
)
FAILED_DURATION: Final = Metric(
    "gateway_failed_predictions_seconds_total",
    Type.COUNTER,
    "The part of gateway_prediction_duration_seconds that belongs to predictions that failed.",
    PLACE,
)
FAILOVERS: Final = Metric(
    "gateway_failovers_total", Type.COUNTER, "Requests answered by the fallback in place of the assigned variant.", PLACE
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
RUN_INPUT_DURATION: Final = Metric(
    "gateway_run_input_seconds_total",
    Type.COUNTER,
    "The part of gateway_run_seconds_total in which rows of different requests were joined.",
    ("model", "version"),
)
RUN_OUTPUT_DURATION: Final = Metric(
    "gateway_run_output_seconds_total",
    Type.COUNTER,
    "Time after runs in which their answers were checked and taken apart.",
    ("model", "version"),
)
LAST_RUN: Final = Metric(
    "gateway_last_run_timestamp_seconds", Type.GAUGE, "When a version last ran, to the second before.", ("model", "version")
)
SHADOW_DROPPED: Final = Metric(
    "gateway_shadow_dropped_total", Type.COUNTER, "Copies for a shadow that were not run.", ("route", "variant")
)
REJECTED: Final = Metric(
    "gateway_rejected_requests_total",
    Type.COUNTER,
    "Requests answered with an error instead of a prediction, by the route that a live prediction was asked of.",
    ("route", "reason"),  # no route: it is not known, or the request names a version itself, or is no prediction
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
