"""Every logged prediction, wherever it lies: the archive, and the end of the log that is not in it yet.

Reads both through their ports, the newest first, and holds only a page of predictions and the outcomes of the log's end.
A segment may move from the log to the archive while this reads; nothing is then shown twice and nothing is missed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final, cast

from gateway.core.errors import NotReady
from gateway.core.fields import Json
from gateway.core.record_bodies import ground_truth_body, prediction_body
from gateway.core.records import Anchor, Cursor, GroundTruthRecord, Offset, PredictionRecord, Record
from gateway.ports.archive import Archive, Filter, QuestionLimits, Table, Timed
from gateway.ports.log import PredictionLogReader

PAGE: Final = 100  # records read, and predictions joined with their ground truth, at once
TAIL_MAX: Final = 250_000  # records at the end of the log that one question makes ready, some 10 s of work
CLOCK_STEP_S: Final = 60.0  # how far a clock may have stepped back between a prediction's id and its record
Truths = dict[str, list[Json]]


def predictions(wanted: Filter, *, archive: Archive, log: PredictionLogReader) -> Iterator[Json]:
    """Yield the matching predictions as `docs/log-format.md` has them, each with its `ground_truth`, the newest first.

    Raises:
        ArchiveFailed, LogFailed: it could not be read.
    """
    truths: Truths = {}
    tails = [_backwards(log, stream, archive.taken(stream)) for stream in log.streams()]
    recent = _recent(heapq.merge(*tails, key=_age), wanted, truths)
    merged = heapq.merge(recent, archive.query(wanted), key=lambda body: -cast("float", body["time"]))
    newest = itertools.islice(_once(merged), wanted.limit)
    while page := list(itertools.islice(newest, PAGE)):
        yield from _with_ground_truth(page, truths, archive)


def export(wanted: Filter, to: PurePath, *, archive: Archive, log: PredictionLogReader) -> int:
    """Write the matching predictions to one new Parquet file, and return their number.

    Raises:
        ArchiveFailed, LogFailed: the file is not complete.
    """
    return archive.export(wanted, to, tail=lambda taken: _bodies_after(taken, log))


def ask(sql: str, *, within: QuestionLimits, archive: Archive, log: PredictionLogReader, is_archived_only: bool = False) -> Table:
    """Return the answer to a question in SQL over every logged prediction, or over those that are archived.

    Raises:
        NotValid: the SQL is wrong, or needs more than it may have.
        NotReady: the archive is too far behind for the end of the log to be asked.
        ArchiveFailed, LogFailed: it could not be read.
    """
    if is_archived_only:
        return archive.ask(sql, within=within)
    return archive.ask(sql, within=within, tail=lambda taken: _bounded(_bodies_after(taken, log)))


def in_order(wanted: Filter, *, archive: Archive, log: PredictionLogReader, decode: Callable[[str], Record]) -> Iterator[Timed]:
    """Yield matching predictions and all ground truth of the same time, by (time, stream, offset): the monitor's own order.

    What is written after the call is not seen, nor are heartbeats, which the archive does not keep. A filter's limit is not
    looked at.

    Args:
        decode: Reads an archived prediction's line.

    Raises:
        ArchiveFailed, LogFailed: it could not be read.
    """
    ends = {stream: log.end(stream) for stream in log.streams()}
    taken, archived = archive.in_order(wanted, decode=decode)
    tails = [_forwards(log, stream, max(taken.get(stream, Offset(0)), log.oldest(stream)), end) for stream, end in ends.items()]
    wanted_tails = (_wanted(tail, wanted) for tail in tails)
    return heapq.merge(archived, *wanted_tails, key=lambda timed: timed[:3])


def anchors(*, archive: Archive, log: PredictionLogReader) -> list[Anchor]:
    """Return every anchor of the audit log that archive and open log hold, each number and hash once, by number.

    Raises:
        ArchiveFailed, LogFailed: it could not be read.
    """
    tails = [_forwards(log, one, max(archive.taken(one), log.oldest(one)), log.end(one)) for one in log.streams()]
    recent = [record for *_, record in itertools.chain(*tails) if isinstance(record, Anchor)]
    found: dict[tuple[int, str], Anchor] = {}
    for anchor in (*archive.anchors(), *sorted(recent, key=lambda one: one.time_s)):
        found.setdefault((anchor.seq, anchor.hash), anchor)
    return [found[place] for place in sorted(found)]


@dataclass(frozen=True, slots=True)
class Recalled:
    """An archived prediction, and its archived ground truth, the oldest first."""

    record: PredictionRecord
    ground_truth: tuple[GroundTruthRecord, ...]


def recalled(ids: Sequence[str], *, archive: Archive, decode: Callable[[str], Record]) -> Mapping[str, Recalled]:
    """Return those of some predictions that the archive holds and that could be looked for now.

    Raises:
        ArchiveFailed, LogFailed: it could not be read.
    """
    lines = archive.lines(ids)
    truths = archive.ground_truth(list(lines))
    found: dict[str, Recalled] = {}
    for id, line in lines.items():
        record = decode(line)
        assert isinstance(record, PredictionRecord), "the archive keeps lines of predictions only"
        found[id] = Recalled(record, tuple(_truth_record(id, truth) for truth in truths.get(id, ())))
    return found


def _truth_record(id: str, truth: Json) -> GroundTruthRecord:
    row, value, time_s, observed_at_s, principal = (truth[name] for name in ("row", "value", "time", "observed_at", "principal"))
    return GroundTruthRecord(
        id,
        cast("float", time_s),
        cast("int", row),
        cast("str | float | bool", value),
        cast("float", observed_at_s),
        str(principal),
    )


def _bounded(bodies: Iterator[Json]) -> Iterator[Json]:
    """Yield the end of the log unless it is too long to be made ready for a question."""
    yield from itertools.islice(bodies, TAIL_MAX)
    if next(bodies, None) is not None:
        raise NotReady(
            f"more than {TAIL_MAX:,} records wait for the archive", hint="ask for what is archived only, or again in a minute"
        )


def _forwards(log: PredictionLogReader, stream: str, after: Offset, end: Offset) -> Iterator[Timed]:
    while after < end and (page := log.read(stream, after)).next != after:
        for offset, record in page.records:
            if offset < end:
                yield record.time_s, stream, offset, record
        after = page.next


def _wanted(tail: Iterator[Timed], wanted: Filter) -> Iterator[Timed]:
    for timed in tail:
        match timed[3]:
            case PredictionRecord() if _matches(timed[3], wanted) and timed[0] >= (wanted.since_s or 0.0):
                yield timed
            case GroundTruthRecord() if (wanted.since_s or 0.0) <= timed[0] < (wanted.until_s or math.inf):
                yield timed
            case _:
                pass


def _backwards(log: PredictionLogReader, stream: str, down_to: Offset) -> Iterator[Record]:
    """Yield a stream's records from its end down to an offset."""
    before = log.end(stream)
    while before > down_to:
        page = log.read_before(stream, before, PAGE)
        for offset, record in reversed(page.records):
            if offset < down_to:
                return
            yield record
        if page.next == before:
            return
        before = page.next


def _age(record: Record) -> float:
    return -record.time_s


def _recent(records: Iterator[Record], wanted: Filter, truths: Truths) -> Iterator[Json]:
    """Yield the matching predictions among records, the newest first, and gather ground truth on the way.

    Ground truth is newer than its prediction, so whoever has a prediction from here has seen all of its ground truth.
    """
    since_s = max(wanted.since_s or 0.0, _made_after_s(wanted.prediction_id))
    for record in records:
        if record.time_s < since_s:
            return
        match record:
            case PredictionRecord() if _matches(record, wanted):
                yield prediction_body(record)
            case GroundTruthRecord() if wanted.prediction_id in ("", record.prediction_id):
                truths.setdefault(record.prediction_id, []).append(_truth(record))
            case _:
                pass


def _made_after_s(prediction_id: str) -> float:
    """Return a time that is surely before the prediction's record, from the milliseconds in its id; 0 when it holds none."""
    try:
        id = uuid.UUID(prediction_id)
    except ValueError:
        return 0.0
    return (id.int >> 80) / 1e3 - CLOCK_STEP_S if id.version == 7 else 0.0


def _matches(record: PredictionRecord, wanted: Filter) -> bool:
    return (
        wanted.route in ("", record.route)
        and wanted.version in ("", record.version)
        and wanted.prediction_id in ("", record.prediction_id)
        and (wanted.until_s is None or record.time_s < wanted.until_s)
    )


def _truth(record: GroundTruthRecord) -> Json:
    body = ground_truth_body(record)
    return {name: body[name] for name in ("row", "value", "observed_at", "time", "principal")}


def _once(bodies: Iterator[Json]) -> Iterator[Json]:
    """Yield each prediction once: equal times are neighbours, and so are the two copies of a record that just moved."""
    now: object = None
    seen: set[object] = set()
    for body in bodies:
        if body["time"] != now:
            now = body["time"]
            seen.clear()
        if body["prediction_id"] not in seen:
            seen.add(body["prediction_id"])
            yield body


def _with_ground_truth(page: Sequence[Json], truths: Truths, archive: Archive) -> Iterator[Json]:
    """Yield predictions with what the archive and the log's end know of their outcome, the oldest first."""
    archived: Mapping[str, Sequence[Json]] = archive.ground_truth(
        [cast("str", body["prediction_id"]) for body in page if "ground_truth" not in body]
    )
    for body in page:
        id = cast("str", body["prediction_id"])
        known = list(cast("Sequence[Json]", body.get("ground_truth", archived.get(id, ()))))
        fresh = [truth for truth in reversed(truths.pop(id, [])) if truth not in known]
        yield {**body, "ground_truth": known + fresh}


def _bodies_after(taken: Cursor, log: PredictionLogReader) -> Iterator[Json]:
    """Yield the object of every prediction and ground truth after a cursor."""
    for stream in log.streams():
        after = max(taken.get(stream, Offset(0)), log.oldest(stream))
        while (page := log.read(stream, after)).next != after:
            for _, record in page.records:
                match record:
                    case PredictionRecord():
                        yield prediction_body(record)
                    case GroundTruthRecord():
                        yield ground_truth_body(record)
                    case _:
                        pass
            after = page.next
