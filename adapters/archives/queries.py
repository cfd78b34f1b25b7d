"""What the archive asks DuckDB, as text; every value is bound, and what is put together here are constants."""

from __future__ import annotations

from typing import Final

LOAD: Final = """
CREATE OR REPLACE TEMP TABLE line AS
SELECT coalesce(record, CAST(json AS VARCHAR)) AS record, log_offset,
    unnest(json_transform(json, $fields)),
FROM read_json_objects($path, format = 'newline_delimited', maximum_object_size = $line_bytes_max)
POSITIONAL JOIN (SELECT unnest(CAST($offsets AS BIGINT[])) AS log_offset)
POSITIONAL JOIN (SELECT unnest(CAST($records AS VARCHAR[])) AS record)
"""
FORM: Final = """
CREATE OR REPLACE TEMP TABLE prediction AS
SELECT *, CAST(to_json([
    [[t.name, t.datatype, CASE
        WHEN t.data IS NULL OR len(t.shape) NOT IN (1, 2) OR t.shape[1] <> rows THEN NULL
        WHEN coalesce(t.shape[2], 1) BETWEEN 1 AND $width_max THEN CAST(coalesce(t.shape[2], 1) AS VARCHAR) END]
     FOR t IN side]
    FOR side IN [inputs, outputs]
]) AS VARCHAR) AS form,
FROM (
    SELECT * EXCLUDE (type, row, value, observed_at, principal, seq, hash), coalesce(inputs[1].shape[1], 1) AS rows,
        strftime(make_timestamp(CAST(time * 1e6 AS BIGINT)), '%Y-%m-%d') AS date,
    FROM line WHERE type = 'prediction'
)
"""
RARE_FORMS: Final = """
UPDATE prediction SET form = '[[],[]]'
WHERE form NOT IN (SELECT form FROM prediction GROUP BY form ORDER BY count(*) DESC, form LIMIT $forms_max)
"""
GROUPS: Final = """
SELECT route, date, form, count(*), min(time), max(time), min(prediction_id), max(prediction_id), sum(strlen(record)),
FROM prediction GROUP BY route, date, form ORDER BY count(*) DESC, route, date, form
"""
TRUTH_GROUPS: Final = """
SELECT strftime(make_timestamp(CAST(time * 1e6 AS BIGINT)), '%Y-%m-%d'), count(*),
    min(time), max(time), min(prediction_id), max(prediction_id),
FROM line WHERE type = 'ground_truth' GROUP BY ALL ORDER BY 1
"""
TRUTH: Final = """
SELECT prediction_id, time, make_timestamp(CAST(time * 1e6 AS BIGINT)) AS time_utc, row, CAST(value AS VARCHAR) AS value,
    TRY_CAST(value AS DOUBLE) AS value_number, observed_at, principal, log_offset,
FROM line WHERE type = 'ground_truth' AND strftime(make_timestamp(CAST(time * 1e6 AS BIGINT)), '%Y-%m-%d') = $date
"""
ANCHOR_GROUPS: Final = """
SELECT strftime(make_timestamp(CAST(time * 1e6 AS BIGINT)), '%Y-%m-%d'), count(*), min(time), max(time), '', '',
FROM line WHERE type = 'anchor' GROUP BY ALL ORDER BY 1
"""
ANCHOR: Final = """
SELECT time, seq, hash, log_offset FROM line
WHERE type = 'anchor' AND strftime(make_timestamp(CAST(time * 1e6 AS BIGINT)), '%Y-%m-%d') = $date
"""
MATCHES: Final = """
    ($route = '' OR route = $route) AND ($version = '' OR version = $version)
    AND ($prediction_id = '' OR prediction_id = $prediction_id) AND time >= $since_s AND time < $until_s
"""
FILES: Final = "read_parquet($paths, union_by_name = true, hive_partitioning = false)"
QUERY: Final = f"""
SELECT record, prediction_id FROM {FILES} WHERE record IS NOT NULL AND {MATCHES}
ORDER BY time DESC, prediction_id DESC LIMIT $limit
"""  # noqa: S608 - composed of constants, as are the two below
TRUTH_OF: Final = f"""
SELECT prediction_id, row, value, observed_at, time, principal FROM {FILES}
WHERE prediction_id IN (SELECT unnest($ids)) ORDER BY time
"""  # noqa: S608
EXPORT: Final = f"""
SELECT prediction.*, truth.* EXCLUDE (prediction_id, row),
FROM (
    SELECT * FROM {FILES} WHERE {MATCHES} AND prediction_id IN (
        SELECT prediction_id FROM {FILES} WHERE record IS NOT NULL AND {MATCHES}
        ORDER BY time DESC, prediction_id DESC LIMIT $limit
    )
) AS prediction
LEFT JOIN (
    SELECT prediction_id, row, arg_max(value, time) AS ground_truth, arg_max(value_number, time) AS ground_truth_number,
        arg_max(observed_at, time) AS ground_truth_observed_at,
    FROM read_parquet($truth_paths, union_by_name = true, hive_partitioning = false) GROUP BY prediction_id, row
) AS truth ON prediction.prediction_id = truth.prediction_id AND prediction.row = truth.row
ORDER BY prediction.time DESC, prediction.prediction_id DESC, prediction.row
"""  # noqa: S608
EXPORTED: Final = f"""
SELECT * EXCLUDE (ground_truth, ground_truth_number, ground_truth_observed_at),
    ground_truth, ground_truth_number, ground_truth_observed_at,
FROM {FILES}
"""  # noqa: S608
LINES: Final = f"""
SELECT prediction_id, record FROM {FILES} WHERE record IS NOT NULL AND prediction_id IN (SELECT unnest($ids))
"""  # noqa: S608
NAMED: Final = "read_parquet($paths, union_by_name = true, hive_partitioning = false, filename = true)"
STREAM: Final = r"regexp_replace(parse_filename(filename), '(-\d{20}(-\d{1,10})?)+\.parquet$', '')"
ALL: Final = f"""
SELECT time, {STREAM} AS stream, log_offset, record FROM {NAMED} WHERE record IS NOT NULL AND {MATCHES}
ORDER BY time, stream, log_offset
"""  # noqa: S608
ALL_TRUTH: Final = f"""
SELECT time, {STREAM} AS stream, log_offset, prediction_id, row, value, observed_at, principal FROM {NAMED}
WHERE time >= $since_s AND time < $until_s ORDER BY time, stream, log_offset
"""  # noqa: S608
JOINED: Final = f"SELECT * FROM {FILES}"  # noqa: S608
ANCHORS_OF: Final = f"SELECT min(time), seq, hash FROM {FILES} GROUP BY seq, hash ORDER BY seq, hash"  # noqa: S608
