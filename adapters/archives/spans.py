"""Which of the archive's files a question touches, and in which spans of time it is answered. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

from adapters.archives.manifest import File
from gateway.ports.archive import Filter

SPAN_RECORDS: Final = 20_000  # sorted at once when read in order: some 20 MB of lines, and few queries for many small files


def holding(files: Sequence[File], wanted: Filter) -> list[File]:
    """Return the files that may hold matching predictions."""
    bound = parameters(wanted)
    return [
        file
        for file in files
        if wanted.route in ("", file.route)
        and file.last_s >= bound["since_s"]
        and file.first_s < bound["until_s"]
        and (not wanted.prediction_id or file.first_id <= wanted.prediction_id <= file.last_id)
    ]


def within(files: Sequence[File], wanted: Filter) -> list[File]:
    """Return the files with records in a filter's time, whatever else it asks for."""
    bound = parameters(wanted)
    return [file for file in files if file.last_s >= bound["since_s"] and file.first_s < bound["until_s"]]


def falling_spans(files: Sequence[File], wanted: Filter) -> Iterator[tuple[float, float]]:
    """Yield spans of time [since, until) that cover the files, the newest first, each begun by one file's first record.

    Files of different streams overlap, so the newest predictions are spread over several; one span at a time bounds how many
    files a query touches before it has enough.
    """
    bound = parameters(wanted)
    until_s = bound["until_s"]
    for first_s in sorted({file.first_s for file in files}, reverse=True):
        since_s = max(first_s, bound["since_s"])
        if since_s < until_s:
            yield since_s, until_s
            until_s = since_s


def rising_spans(files: Sequence[File], wanted: Filter) -> Iterator[tuple[float, float]]:
    """Yield spans of time [since, until) that cover the files, the oldest first, each with some `SPAN_RECORDS` records."""
    bound = parameters(wanted)
    since_s, records = bound["since_s"], 0
    for file in sorted(files, key=lambda file: file.first_s):
        if records >= SPAN_RECORDS and file.first_s > since_s:
            yield since_s, file.first_s
            since_s, records = file.first_s, 0
        records += file.records
    yield since_s, bound["until_s"]


def parameters(wanted: Filter) -> dict[str, Any]:
    """Return a filter as the parameters of a query."""
    return {
        "route": wanted.route,
        "version": wanted.version,
        "prediction_id": wanted.prediction_id,
        "since_s": -math.inf if wanted.since_s is None else wanted.since_s,
        "until_s": math.inf if wanted.until_s is None else wanted.until_s,
        "limit": wanted.limit,
    }
