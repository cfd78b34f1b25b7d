"""Which columns the archive's files have, as SQL text. Pure; no value of a record ever becomes part of the text.

Each row of a prediction becomes a row. A tensor is spread into columns when it is a table: its first dimension counts the
request's rows and its second, if any, is at most `WIDTH_MAX`. The names of tensors come from models, and a column's name cannot
be bound as a parameter, so one function quotes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WIDTH_MAX: Final = 1_000  # columns of one tensor; a wider one is found in the record alone
ROWS_MAX: Final = 2**20  # of a prediction that get a row each; one of more is found in its record alone
PREDICTION: Final = {
    "prediction_id": "VARCHAR",
    "time": "DOUBLE",
    "kind": "VARCHAR",
    "model": "VARCHAR",
    "route": "VARCHAR",
    "revision": "BIGINT",
    "assigned": "VARCHAR",
    "variant": "VARCHAR",
    "version": "VARCHAR",
    "digest": "VARCHAR",
    "runtime_version": "VARCHAR",
    "outcome": "VARCHAR",
    "assignment_key": "VARCHAR",
    "is_keyed": "BOOLEAN",
    "batch_rows": "BIGINT",
    "batch_position": "BIGINT",
    "latency_us": "BIGINT",
    "shadow_of": "VARCHAR",
    "trace_id": "VARCHAR",
}
GROUND_TRUTH: Final = {"row": "BIGINT", "value": "JSON", "observed_at": "DOUBLE", "principal": "VARCHAR"}
ANCHOR: Final = {"seq": "BIGINT", "hash": "VARCHAR"}
TENSOR: Final = {"name": "VARCHAR", "datatype": "VARCHAR", "shape": ["BIGINT"], "data": "JSON"}
_TYPES: Final = {
    "BOOL": "BOOLEAN",
    "UINT8": "UTINYINT",
    "UINT16": "USMALLINT",
    "UINT32": "UINTEGER",
    "UINT64": "UBIGINT",
    "INT8": "TINYINT",
    "INT16": "SMALLINT",
    "INT32": "INTEGER",
    "INT64": "BIGINT",
    "FP16": "FLOAT",
    "BF16": "FLOAT",
    "FP32": "FLOAT",
    "FP64": "DOUBLE",
    "BYTES": "VARCHAR",
}

Form = Sequence[Sequence[tuple[str, str, str | None]]]  # of inputs and outputs: each tensor's name, datatype, width if a table


@dataclass(frozen=True, slots=True)
class Column:
    """Element `at` (from 1) of every row of a tensor (from 1) of a side, and the name it has in a file."""

    side: str
    tensor: int
    datatype: str
    width: int
    at: int
    name: str


def columns(form: Form) -> list[Column]:
    """Return a form's columns: `in_<tensor>` or `in_<tensor>_<position from 0>`, and `out_…`; a taken name gets a number."""
    found: list[Column] = []
    taken: set[str] = set()
    for side, prefix, tensors in zip(("inputs", "outputs"), ("in", "out"), form, strict=True):
        for number, (name, datatype, wide) in enumerate(tensors, 1):
            width = int(wide or 0)
            for at in range(1, width + 1):
                plain = f"{prefix}_{name}" if width == 1 else f"{prefix}_{name}_{at - 1}"
                found.append(Column(side, number, datatype, width, at, _free(plain, taken)))
    return found


def rows_query(form: Form) -> str:
    """Return the query that spreads the table `prediction` into rows; its parameters are route, date and form.

    The record itself stands in a prediction's first row alone; a prediction of no rows has one row, without features.
    """
    spread = columns(form)
    parsed = {(column.side, column.tensor): _TYPES[column.datatype] for column in spread}
    lists = [f"from_json({side}[{at}].data, '[\"{type_}\"]') AS {side}_{at}" for (side, at), type_ in parsed.items()]
    shown = [
        *PREDICTION,
        "make_timestamp(CAST(time * 1e6 AS BIGINT)) AS time_utc",
        "log_offset",
        "rows",
        f"unnest(range(CASE WHEN rows BETWEEN 1 AND {ROWS_MAX} THEN rows ELSE 1 END)) AS row",
        "unnest([record]) AS record",
        *(f"unnest({c.side}_{c.tensor}[{c.at}:-:{c.width}]) AS {_quoted(c.name)}" for c in spread),
    ]
    inner = f"SELECT {', '.join(['*', *lists])} FROM prediction WHERE route = $route AND date = $date AND form = $form"  # noqa: S608
    return f"SELECT {', '.join(shown)} FROM ({inner})"  # noqa: S608 - columns, each quoted; values are bound


def _free(name: str, taken: set[str]) -> str:
    """Return a name that no other column has; to SQL, names that differ only in case are the same."""
    free, number = name, 2
    while free.lower() in taken:
        free, number = f"{name}__{number}", number + 1
    taken.add(free.lower())
    return free


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""').replace("\0", "") + '"'
