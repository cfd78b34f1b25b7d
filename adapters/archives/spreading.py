"""Writes parts of the log as Parquet files: one for each route, day and form of tensors, for each day's ground truth and anchors.

Knows nothing of the archive's manifest: it says what it wrote, under a root that the caller names.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any, Final

import duckdb

from adapters.archives import queries
from adapters.archives.columns import ANCHOR, GROUND_TRUTH, PREDICTION, TENSOR, WIDTH_MAX, rows_query
from adapters.archives.manifest import ANCHORS, File, encoded
from adapters.archives.plain import Part

FORMS_MAX: Final = 100  # of tensors in one part that get columns; variable widths could make one file per record
ROW_GROUP_ROWS: Final = 20_480  # what a look-up of one prediction has to unpack
ROW_GROUP_BYTES: Final = 32 * 2**20  # of wide rows likewise; a group is held in memory until it is whole
_LINE_BYTES_MIN: Final = 2**20


def spread(cursor: duckdb.DuckDBPyConnection, parts: Iterable[Part], root: Path, name: str) -> tuple[list[File], int]:
    """Write parts under a root, in files whose names begin with `name`; return them and how many predictions lost tensors."""
    stems = (f"{name}-{number}" for number in itertools.count())
    files: list[File] = []
    shortened = 0
    for part in parts:
        _load(cursor, part)
        for copied in (_predictions, _ground_truth, _anchors):
            files += copied(cursor, root, stems)
        shortened += part.shortened
    return files, shortened


def write(rows: duckdb.DuckDBPyRelation, path: PurePath) -> None:
    """Write rows to a Parquet file."""
    rows.write_parquet(str(path), compression="zstd", row_group_size=ROW_GROUP_ROWS, row_group_size_bytes=ROW_GROUP_BYTES)


def write_empty(cursor: duckdb.DuckDBPyConnection, root: Path) -> tuple[str, str]:
    """Write a file of no predictions and one of no ground truth, each with every fixed column, and return their paths."""
    predictions, truths = root / "no-predictions.parquet", root / "no-ground-truth.parquet"
    write(cursor.sql(rows_query([[], []]), params={"route": "", "date": "", "form": ""}), predictions)
    write(cursor.sql(queries.TRUTH, params={"date": ""}), truths)
    return str(predictions), str(truths)


def _load(cursor: duckdb.DuckDBPyConnection, part: Part) -> None:
    """Read a part into the temporary tables `line` and `prediction`."""
    cursor.execute(
        queries.LOAD,
        {
            "path": str(part.path),
            "offsets": part.offsets,
            "records": part.records,
            "line_bytes_max": max(part.longest, _LINE_BYTES_MIN),
            "fields": json.dumps(
                {"type": "VARCHAR", **PREDICTION, **GROUND_TRUTH, **ANCHOR, "inputs": [TENSOR], "outputs": [TENSOR]}
            ),
        },
    )
    cursor.execute(queries.FORM, {"width_max": WIDTH_MAX})
    cursor.execute(queries.RARE_FORMS, {"forms_max": FORMS_MAX})


def _predictions(cursor: duckdb.DuckDBPyConnection, root: Path, stems: Iterator[str]) -> Iterator[File]:
    for route, date, form, *facts in cursor.execute(queries.GROUPS).fetchall():
        path = PurePath(f"route={encoded(route)}", f"date={date}", f"{next(stems)}.parquet")
        rows = cursor.sql(rows_query(json.loads(form)), params={"route": route, "date": date, "form": form})
        yield _written(rows, root, path, route, facts, form=sha256(form.encode()).hexdigest()[:12])


def _ground_truth(cursor: duckdb.DuckDBPyConnection, root: Path, stems: Iterator[str]) -> Iterator[File]:
    for date, *facts in cursor.execute(queries.TRUTH_GROUPS).fetchall():
        path = PurePath("ground_truth", f"date={date}", f"{next(stems)}.parquet")
        yield _written(cursor.sql(queries.TRUTH, params={"date": date}), root, path, None, facts)


def _anchors(cursor: duckdb.DuckDBPyConnection, root: Path, stems: Iterator[str]) -> Iterator[File]:
    for date, *facts in cursor.execute(queries.ANCHOR_GROUPS).fetchall():
        path = PurePath(ANCHORS, f"date={date}", f"{next(stems)}.parquet")
        yield _written(cursor.sql(queries.ANCHOR, params={"date": date}), root, path, None, facts)


def _written(
    rows: duckdb.DuckDBPyRelation, root: Path, path: PurePath, route: str | None, facts: Sequence[Any], *, form: str = ""
) -> File:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    write(rows, root / path)
    records, first_s, last_s, first_id, last_id, *record_bytes = facts
    return File(str(path), route, records, first_s, last_s, first_id, last_id, form, *map(int, record_bytes))
