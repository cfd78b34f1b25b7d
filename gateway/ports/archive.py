"""Columnar copies of the log, and what may be asked of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from gateway.core.fields import Json
from gateway.core.records import Anchor, Cursor, Offset, Record
from gateway.ports.log import Segment


@dataclass(frozen=True, slots=True)
class Filter:
    """Which predictions are asked for; empty strings and None ask for all.

    Attributes:
        since_s, until_s: Of the record's time, seconds since the epoch; since inclusive, until exclusive.
    """

    route: str = ""
    version: str = ""
    prediction_id: str = ""
    since_s: float | None = None
    until_s: float | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class QuestionLimits:
    """What one question in SQL may take.

    Attributes:
        rows_max, bytes_max: Of its answer, which is cut there.
        timeout_s: From the start of its process to its answer.
    """

    rows_max: int
    bytes_max: int
    memory_bytes: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Table:
    """The answer to a question: columns with their SQL types, and rows of what JSON can hold.

    Attributes:
        is_cut: Whether there was more than the limits let through.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Taken:
    """What taking a segment added.

    Attributes:
        shortened: Of the predictions, those whose record was too long to be kept with its inputs and outputs.
    """

    predictions: int = 0
    shortened: int = 0


Timed = tuple[float, str, Offset, Record]  # a record's time, its stream and offset, and the record


class Archive(Protocol):
    """Columnar copies of closed segments."""

    def take(self, segment: Segment, *, is_stopped: Callable[[], bool] = lambda: False) -> Taken:
        """Copy a segment and list it in the manifest; return the predictions that this added.

        Taking a segment again changes nothing and adds none. A crash at any point leaves the archive as it was before or after.
        Only one process takes and drops; any process queries meanwhile. A segment passes whatever its records weigh.

        Args:
            is_stopped: Asked every second or so; once it says so, the call ends soon and the archive is as it was before.

        Raises:
            ArchiveFailed: the segment could not be read or the archive not be written; nothing of it is listed.
        """

    def taken(self, stream: str) -> Offset:
        """Return the offset up to which a stream is in the archive."""

    def query(self, wanted: Filter) -> Iterator[Json]:
        """Yield the matching predictions, the newest first, with their ground truth under `ground_truth`, as JSON objects."""

    def lines(self, prediction_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the archived lines of predictions; those it does not hold are left out.

        Takes a bounded time: where the ids are spread over too many files, only those in the newest of them are looked for.
        """

    def ground_truth(self, prediction_ids: Sequence[str]) -> Mapping[str, Sequence[Json]]:
        """Return the archived ground truth of predictions, the oldest first; those without any are left out."""

    def in_order(self, wanted: Filter, *, decode: Callable[[str], Record]) -> tuple[Cursor, Iterator[Timed]]:
        """Return how far each stream is in the archive, and what is archived up to there, by (time, stream, offset).

        The matching predictions, and the ground truth of the same time, whosever it is; a filter's limit is not looked at.
        Holds some ten thousand records at once.

        Args:
            decode: Reads a prediction's line as the log's adapter does.
        """

    def anchors(self) -> Sequence[Anchor]:
        """Return the archived anchors of the audit log, each number and hash once with its earliest time, by number."""

    def dropped_s(self) -> float:
        """Return the time of the newest record that was ever dropped, seconds since the epoch; 0 when none was."""

    def export(self, wanted: Filter, to: PurePath, *, tail: Callable[[Cursor], Iterable[Json]] = lambda _taken: ()) -> int:
        """Write the matching predictions to one new Parquet file, one row per row of a prediction; return the predictions.

        Args:
            tail: Called once with how far each stream is in the archive; returns the log's objects after that, which are
                matched and written as well.
        """

    def ask(self, sql: str, *, within: QuestionLimits, tail: Callable[[Cursor], Iterable[Json]] = lambda _taken: ()) -> Table:
        """Return the answer of one statement that selects from `predictions` and `ground_truth`, and can reach nothing else.

        `predictions` has one row per row of a prediction, `ground_truth` the newest outcome of each row.

        Args:
            tail: As of `export`.

        Raises:
            NotValid: the SQL is wrong, or needs more time or memory than it may have.
        """

    def merge(self, now_s: float) -> int:
        """Join some small files of a stream into one, and return how many; 0 when nothing is due.

        A reader sees the small ones or the joined one, never both or neither, and so does whoever comes after a crash. Files
        that were joined stay until the second `drop` from then, for queries that began before.

        Args:
            now_s: Seconds since the epoch; a day that is over is joined more closely.
        """

    def backup(self, to: PurePath) -> Cursor:
        """Copy what the archive holds to a directory, while it is taken, merged and dropped; return how far each stream is.

        What an earlier call copied there is not copied again, and what is no longer held goes.
        """

    def drop(self, before_s: float) -> int:
        """Remove every file that holds nothing from `before_s` (seconds since the epoch) on; return the files removed."""
