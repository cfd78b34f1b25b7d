"""Starts the process that answers one question, and holds it to its bounds: a deadline, and an answer that can be read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from gateway.core.errors import ArchiveFailed, GatewayError, NotValid
from gateway.core.fields import Fields
from gateway.ports.archive import QuestionLimits, Table

CHILD: Final = "adapters.archives.child"
COLUMNS_MAX: Final = 100_000  # of one answer; DuckDB has a bound of its own below that


def ask(sql: str, predictions: Sequence[str], ground_truth: Sequence[str], *, within: QuestionLimits) -> Table:
    """Return the answer to one question over Parquet files, run by a fresh process that sees nothing else.

    Raises:
        NotValid: the SQL is wrong, or needs more time or memory than it may have.
        ArchiveFailed: the process did not start, or gave no answer.
    """
    order = {
        "sql": sql,
        "predictions": list(predictions),
        "ground_truth": list(ground_truth),
        "rows_max": within.rows_max,
        "bytes_max": within.bytes_max,
        "memory_bytes": within.memory_bytes,
        "timeout_s": within.timeout_s,
    }
    answer = _run(json.dumps(order).encode(), within.timeout_s)
    try:
        fields = Fields(json.loads(answer), "question")
        if not fields.has("error"):
            return _table(fields, rows_max=within.rows_max)
        reason, is_askers = fields.text("error"), fields.boolean("is_askers")
    except (ValueError, GatewayError) as error:
        raise ArchiveFailed(f"the question's process gave an answer that cannot be read: {error}") from error
    raise NotValid(reason) if is_askers else ArchiveFailed(reason)


def _table(fields: Fields, *, rows_max: int) -> Table:
    return Table(
        tuple(str(name) for name in fields.items("columns", COLUMNS_MAX)),
        tuple(str(name) for name in fields.items("types", COLUMNS_MAX)),
        tuple(tuple(row) for row in fields.items("rows", rows_max) if isinstance(row, list)),
        fields.boolean("is_cut"),
    )


def _run(order: bytes, timeout_s: float) -> bytes:
    try:
        child = subprocess.Popen(  # noqa: S603  # our own interpreter and module
            [sys.executable, "-m", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    except OSError as error:
        raise ArchiveFailed(f"the question's process did not start: {error}") from error
    with child:
        try:
            answer, _ = child.communicate(order, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise NotValid(
                f"the question was not answered within {timeout_s:g} s", hint="control.question_timeout_s is the bound"
            ) from None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
    if child.returncode != 0:
        raise NotValid(f"the question ended its process ({_ending(child.returncode)})", hint="ask for less at once")
    return answer


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
