"""Which of the archive's files a question touches, and in which spans of time it is answered. Pure."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, Final

from adapters.archives.manifest import File
from gateway.ports.archive import Filter

SPAN_RECORDS: Final = 20_000  # sorted at once when read in order: some 20 MB of lines, and few queries for many small files
SPAN_BYTES: Final = 32 * 2**20  # of wide records likewise


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
    since_s = bound["since_s"]
    for first_s in _borders(sorted(files, key=lambda file: file.first_s)):
        if first_s > since_s:
            yield since_s, first_s
            since_s = first_s
    yield since_s, bound["until_s"]


def full_spans(files: Sequence[File], wanted: Filter) -> Iterator[tuple[float, float]]:
    """Yield spans as `rising_spans` does, the newest first."""
    bound = parameters(wanted)
    until_s = bound["until_s"]
    for first_s in _borders(sorted(files, key=lambda file: -file.first_s)):
        if bound["since_s"] < first_s < until_s:
            yield first_s, until_s
            until_s = first_s
    yield bound["since_s"], until_s


def _borders(files: Sequence[File]) -> Iterator[float]:
    """Yield the first time of each file before which there was enough for a span."""
    records = size = 0
    for file in files:
        if records >= SPAN_RECORDS or size >= SPAN_BYTES:
            yield file.first_s
            records = size = 0
        records += file.records
        size += file.record_bytes


def may_hold(file: File, ids: Sequence[str]) -> bool:
    """Return whether any of the ids, in order, lies between the file's first and last."""
    at = bisect_left(ids, file.first_id)
    return at < len(ids) and ids[at] <= file.last_id


def overlaps(truth: File, predictions: Sequence[File]) -> bool:
    """Return whether a file of ground truth may tell of a prediction of other files."""
    return any(file.first_id <= truth.last_id and truth.first_id <= file.last_id for file in predictions)


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
