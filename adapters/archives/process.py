"""Starts the process that answers one question, and holds it to its bounds: a deadline, and an answer that can be read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final, assert_never

from adapters.child import NoAnswer, Why, answer_of
from gateway.core.errors import ArchiveFailed, GatewayError, NotValid
from gateway.core.fields import Fields
from gateway.ports.archive import QuestionLimits, Table

CHILD: Final = "adapters.archives.child"
HEAD_BYTES_MAX: Final = 16 * 2**20  # of an answer, beside its rows: names and types of columns
COLUMNS_MAX: Final = 100_000  # of one answer; DuckDB has a bound of its own below that


def check(sql: str, *, within: QuestionLimits) -> None:
    """Find out whether SQL may be run at all, which takes no file.

    Raises:
        NotValid: it is not one statement that selects.
        ArchiveFailed: the process did not start, or gave no answer.
    """
    _asked({"sql": sql, "predictions": [], "ground_truth": [], "is_check": True}, within)


def ask(sql: str, predictions: Sequence[str], ground_truth: Sequence[str], *, within: QuestionLimits) -> Table:
    """Return the answer to one question over Parquet files, run by a fresh process that sees nothing else.

    Raises:
        NotValid: the SQL is wrong, or needs more time or memory than it may have.
        ArchiveFailed: the process did not start, or gave no answer.
    """
    order = {"sql": sql, "predictions": list(predictions), "ground_truth": list(ground_truth)}
    fields = _asked(order, within)
    try:
        return _table(fields, rows_max=within.rows_max)
    except GatewayError as error:
        raise _unreadable(error) from error


def _asked(order: Mapping[str, object], within: QuestionLimits) -> Fields:
    """Return what the process answers to an order within bounds; raise what it refuses."""
    bounds = {name: getattr(within, name) for name in ("rows_max", "bytes_max", "memory_bytes", "timeout_s")}
    answer = _answer(json.dumps({**order, **bounds}).encode(), within)
    try:
        fields = Fields(json.loads(answer), "question")
        if not fields.has("error"):
            return fields
        reason, is_askers = fields.text("error"), fields.boolean("is_askers")
    except (ValueError, GatewayError) as error:
        raise _unreadable(error) from error
    raise NotValid(reason) if is_askers else ArchiveFailed(reason)


def _unreadable(error: Exception) -> ArchiveFailed:
    return ArchiveFailed(f"the question's process gave an answer that cannot be read: {error}")


def _table(fields: Fields, *, rows_max: int) -> Table:
    return Table(
        tuple(str(name) for name in fields.items("columns", COLUMNS_MAX)),
        tuple(str(name) for name in fields.items("types", COLUMNS_MAX)),
        tuple(tuple(row) for row in fields.items("rows", rows_max) if isinstance(row, list)),
        fields.boolean("is_cut"),
    )


def _answer(order: bytes, within: QuestionLimits) -> bytes:
    try:
        return answer_of(CHILD, order, timeout_s=within.timeout_s, bytes_max=within.bytes_max + HEAD_BYTES_MAX)
    except NoAnswer as error:
        raise _refusal(error, within.timeout_s) from error


def _refusal(error: NoAnswer, timeout_s: float) -> NotValid | ArchiveFailed:
    match error.why:
        case Why.NOT_STARTED:
            return ArchiveFailed(f"the question's process did not start: {error.ending}")
        case Why.LATE:
            return NotValid(
                f"the question was not answered within {timeout_s:g} s", hint="control.question_timeout_s is the bound"
            )
        case Why.TOO_LONG:
            return NotValid("the answer has too many columns", hint="name the columns that are needed")
        case Why.ENDED:
            return NotValid(f"the question ended its process ({error.ending})", hint="ask for less at once")
        case _:
            assert_never(error.why)
