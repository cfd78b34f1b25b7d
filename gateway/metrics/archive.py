"""What the archive counts, and the segments of the log that it lets go."""

from __future__ import annotations

from typing import Final

from gateway.metrics.metric import Metric, Type

ARCHIVE_RECORDS: Final = Metric("gateway_archive_records_total", Type.COUNTER, "Predictions copied to the archive.")
ARCHIVE_SHORTENED_RECORDS: Final = Metric(
    "gateway_archive_shortened_records_total",
    Type.COUNTER,
    "Predictions archived without inputs and outputs, because their record was too long for archive.memory_bytes.",
)
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
LOG_FREE: Final = Metric("gateway_log_free_bytes", Type.GAUGE, "Room left on the file system of the prediction log.")
LOG_SEGMENTS_REMOVED: Final = Metric(
    "gateway_log_segments_removed_total", Type.COUNTER, "Segments removed after archive and monitor had passed them."
)
