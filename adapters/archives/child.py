"""One question to the archive, in a process of its own: an order on standard input, one line of JSON on standard output.

The SQL is somebody's, so the process gives up what it could do harm with before it is looked at: address space, processor time,
writing files, and, inside DuckDB, every file but those that the order names. Only one statement that selects is run.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import duckdb

THREADS: Final = 2  # a mean over 5 million records takes 0.7 s with them; niced, they take nothing from serving
ADDRESS_SPACE_BYTES: Final = 2 * 2**30  # beyond DuckDB's own bound: 0.8 to start, the rest for values that it does not count
FETCHED_ROWS: Final = 1_000
REASON_LENGTH_MAX: Final = 1_000
INTEGER_MAX: Final = 2**63  # beyond it JSON's readers lose digits, and it is text
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_VIEWS: Final = (
    "CREATE VIEW predictions AS SELECT * FROM read_parquet({predictions}, union_by_name = true, hive_partitioning = false)",
    "CREATE VIEW ground_truth AS SELECT prediction_id, row, arg_max(value, time) AS value,"
    " arg_max(value_number, time) AS value_number, arg_max(observed_at, time) AS observed_at, max(time) AS time"
    " FROM read_parquet({ground_truth}, union_by_name = true, hive_partitioning = false) GROUP BY prediction_id, row",
)


def main() -> None:
    """Read the order, answer."""
    order = json.loads(sys.stdin.buffer.read())
    _give_up(order)
    print(json.dumps(answer_to(order), allow_nan=False))  # noqa: T201  # the answer


def answer_to(order: Mapping[str, Any]) -> Mapping[str, object]:
    """Return `{"columns", "types", "rows", "is_cut"}`, or `{"error", "is_askers"}`: the SQL is at fault, or the archive.

    Where an order says `is_check`, the SQL is read and not run, no file is opened, and what passes has an empty answer.
    """
    database = _connected(order)
    try:
        statements = database.extract_statements(order["sql"])
    except (duckdb.Error, MemoryError) as error:
        return _refused(str(error), order)
    if len(statements) != 1 or statements[0].type is not duckdb.StatementType.SELECT:
        return _refused("expected one statement that selects", order)
    if order.get("is_check"):
        return {}
    try:
        _show(database, order)
    except duckdb.Error as error:
        return _refused(str(error), order, is_askers=False)
    try:
        return _answered(database.execute(statements[0]), order)
    except (duckdb.OutOfMemoryException, MemoryError):
        return _refused(f"the question needs more than its {order['memory_bytes'] / 2**20:,.0f} MiB of memory", order)
    except duckdb.IOException as error:
        return _refused(str(error), order, is_askers=False)
    except duckdb.Error as error:
        return _refused(str(error), order)


def _give_up(order: Mapping[str, Any]) -> None:
    """Lower this process's own limits, for good."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    space = order["memory_bytes"] + ADDRESS_SPACE_BYTES
    seconds = THREADS * (math.ceil(order["timeout_s"]) + 1)
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # pipes are not files: the answer still leaves
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)  # serving goes first


def _connected(order: Mapping[str, Any]) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "memory_limit": f"{order['memory_bytes']}B",
            "temp_directory": "",  # nothing is spilled: what does not fit is refused
            "threads": THREADS,
        }
    )


def _show(database: duckdb.DuckDBPyConnection, order: Mapping[str, Any]) -> None:
    """Let a database have two views, and reach no file but theirs."""
    files = {side: order[side] for side in ("predictions", "ground_truth")}
    for view in _VIEWS:
        database.execute(view.format(**{side: _listed(paths) for side, paths in files.items()}))
    database.execute(f"SET allowed_paths = {_listed([*files['predictions'], *files['ground_truth']])}")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")


def _listed(paths: Sequence[str]) -> str:
    """Return paths as a list in SQL; a view cannot be bound to parameters."""
    return "[" + ", ".join("'" + path.replace("'", "''") + "'" for path in paths) + "]"


def _answered(found: duckdb.DuckDBPyConnection, order: Mapping[str, Any]) -> Mapping[str, object]:
    """Return as many rows as the bounds let through, and whether there were more; a refusal where not even one fits."""
    columns, types = zip(*((column[0], str(column[1])) for column in found.description or ()), strict=True)
    rows: list[Sequence[object]] = []
    left = order["bytes_max"]
    is_cut = False
    for row in _rows(found):
        plain = [_plain(value) for value in row]
        left -= len(json.dumps(plain))
        if left < 0 and not rows:
            return _refused(f"a row of the answer is larger than its {order['bytes_max'] / 2**20:,.0f} MiB", order)
        if left < 0 or len(rows) == order["rows_max"]:
            is_cut = True
            break
        rows.append(plain)
    return {"columns": columns, "types": types, "rows": rows, "is_cut": is_cut}


def _rows(found: duckdb.DuckDBPyConnection) -> Iterator[Sequence[object]]:
    while page := found.fetchmany(FETCHED_ROWS):
        yield from page


def _plain(value: object) -> object:
    """Return a value as JSON has it; times, decimals, bytes, NaN and very large integers become text."""
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -INTEGER_MAX <= value < INTEGER_MAX else str(value)
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return value.hex()
        case list() | tuple():
            return [_plain(item) for item in value]
        case dict():
            return {str(name): _plain(item) for name, item in value.items()}
        case _:
            return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _refused(reason: str, order: Mapping[str, Any], *, is_askers: bool = True) -> Mapping[str, object]:
    """Return a refusal that does not say where the files lie."""
    for path in (*order["predictions"], *order["ground_truth"]):
        reason = reason.replace(path, "a file of the archive")
    return {"error": reason[:REASON_LENGTH_MAX], "is_askers": is_askers}


if __name__ == "__main__":
    main()
