"""The archive: closed segments of the log as Parquet files, written and asked through DuckDB.

`route=<name>/date=<UTC day>/<stream>-<offset>-<n>.parquet` holds predictions, one row per row of a prediction, each feature in a
typed column of its own; the first row of a prediction also holds the record's own line, so that nothing is lost.
`ground_truth/date=…/` holds outcomes, `anchors/date=…/` where the audit log stood. DuckDB never downloads anything here, and what
is asked for is always bound.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any, Final
from urllib.parse import quote, unquote

import duckdb

from adapters.archives import queries
from adapters.archives.backup import copied_archive
from adapters.archives.columns import ANCHOR, GROUND_TRUTH, PREDICTION, TENSOR, WIDTH_MAX, rows_query
from adapters.archives.manifest import ANCHORS, File, Manifest, load_manifest, manifest_age, swap_manifest
from adapters.archives.merging import due, joined
from adapters.archives.plain import holds_raw, line_starts, longest_line, write_plain
from adapters.archives.process import ask
from adapters.archives.spans import falling_spans, holding, parameters, rising_spans, within
from adapters.durability import flush
from gateway.core.errors import ArchiveFailed
from gateway.core.fields import Json
from gateway.core.records import Anchor, Cursor, GroundTruthRecord, Offset, Record
from gateway.ports.archive import Filter, QuestionLimits, Table, Timed
from gateway.ports.log import Segment

FORMS_MAX: Final = 100  # of tensors in one segment that get columns; variable widths could make one file per record
ROW_GROUP_ROWS: Final = 20_480  # what a look-up of one prediction has to unpack
PAGE_PREDICTIONS: Final = 1_000  # held at once by a query
LOOKED_FILES_MAX: Final = 64  # opened by one look-up of predictions by id, about 3 ms each
_LINE_BYTES_MIN: Final = 2**20


class DuckArchive:
    """Parquet under `directory`. An `Archive`; safe to share between threads.

    Args:
        memory_bytes: DuckDB's bound; beyond it, it spills to the system's temporary directory.
    """

    def __init__(self, directory: Path, *, memory_bytes: int) -> None:
        self._directory = directory.absolute()
        self._is_clean = False
        self._dropped: list[str] = []
        self._replaced: list[str] = []
        self._read: tuple[tuple[int, int, int], Manifest] = ((-1, 0, 0), Manifest())
        self._spill = tempfile.TemporaryDirectory(prefix="headgate-archive-")
        with _archive_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._database = duckdb.connect(
                config={
                    "autoinstall_known_extensions": False,
                    "autoload_known_extensions": False,
                    "memory_limit": f"{memory_bytes}B",
                    "temp_directory": self._spill.name,
                    "threads": 1,  # the archive never takes more than one core from serving
                }
            )

    def take(self, segment: Segment) -> int:
        """Copy a segment to Parquet and list it; see `Archive.take`."""
        with _archive_errors(self._directory):
            manifest = self._manifest()
            self._sweep(manifest)
            if segment.next <= manifest.taken.get(segment.stream, 0):
                return 0
            flush(Path(segment.path))  # a log that lost power must never go on before an offset that was taken
            files = self._copied(segment)
            taken = {**manifest.taken, segment.stream: int(segment.next)}
            swap_manifest(self._directory, replace(manifest, taken=taken, files=(*manifest.files, *files)))
        return sum(file.records for file in files if file.route is not None)

    def taken(self, stream: str) -> Offset:
        """Return the offset up to which a stream is in the archive."""
        with _archive_errors(self._directory):
            return Offset(self._manifest().taken.get(stream, 0))

    def query(self, wanted: Filter) -> Iterator[Json]:
        """Yield the matching predictions, the newest first; see `Archive.query`."""
        with _archive_errors(self._directory):
            files = holding(self._manifest().predictions(), wanted)
        left = wanted.limit
        for since_s, until_s in falling_spans(files, wanted):
            for page in self._pages(files, replace(wanted, since_s=since_s, until_s=until_s, limit=left)):
                left -= len(page)
                yield from page
            if left <= 0:
                return

    def lines(self, prediction_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the archived lines of predictions; see `Archive.lines`."""
        ids = sorted(prediction_ids)
        with _archive_errors(self._directory), self._cursor() as cursor:
            files = sorted(self._manifest().predictions(), key=lambda file: file.last_s, reverse=True)
            paths = self._paths(itertools.islice((file for file in files if _may_hold(file, ids)), LOOKED_FILES_MAX))
            return dict(cursor.execute(queries.LINES, {"paths": paths, "ids": ids}).fetchall() if paths else ())

    def ground_truth(self, prediction_ids: Sequence[str]) -> Mapping[str, Sequence[Json]]:
        """Return the archived ground truth of predictions."""
        found: dict[str, list[Json]] = {}
        if not prediction_ids:
            return found
        first, last = min(prediction_ids), max(prediction_ids)
        with _archive_errors(self._directory), self._cursor() as cursor:
            files = self._manifest().ground_truth()
            paths = self._paths(file for file in files if file.first_id <= last and file.last_id >= first)
            rows = cursor.execute(queries.TRUTH_OF, {"paths": paths, "ids": list(prediction_ids)}).fetchall() if paths else []
        for prediction_id, row, value, observed_at, time_s, principal in rows:
            truth = {"row": row, "value": json.loads(value), "observed_at": observed_at, "time": time_s, "principal": principal}
            found.setdefault(prediction_id, []).append(truth)
        return found

    def export(self, wanted: Filter, to: PurePath, *, tail: Callable[[Cursor], Iterable[Json]] = lambda _taken: ()) -> int:
        """Write the matching predictions to one new Parquet file; see `Archive.export`."""
        with _archive_errors(self._directory), self._cursor() as cursor, self._staging() as staged:
            manifest = self._manifest()
            open_paths, open_truth_paths = self._staged(cursor, tail(_cursor(manifest)), staged)
            bound = {
                "paths": [*open_paths, *self._paths(holding(manifest.predictions(), wanted))],
                "truth_paths": [*open_truth_paths, *self._paths(manifest.ground_truth())],
                **parameters(wanted),
            }
            found = cursor.sql(queries.EXPORT, params=bound)
            found.write_parquet(str(to), compression="zstd", row_group_size=ROW_GROUP_ROWS)
            counted = cursor.execute("SELECT count(record) FROM read_parquet($path)", {"path": str(to)}).fetchone()
        assert counted is not None
        return int(counted[0])

    def ask(self, sql: str, *, within: QuestionLimits, tail: Callable[[Cursor], Iterable[Json]] = lambda _taken: ()) -> Table:
        """Answer a question in a process of its own; see `Archive.ask`."""
        with _archive_errors(self._directory), self._cursor() as cursor, self._staging() as staged:
            manifest = self._manifest()
            open_paths, open_truth_paths = self._staged(cursor, tail(_cursor(manifest)), staged)
            paths = [*open_paths, *self._paths(manifest.predictions())]
            truth_paths = [*open_truth_paths, *self._paths(manifest.ground_truth())]
            return ask(sql, paths, truth_paths, within=within)

    def drop(self, before_s: float) -> int:
        """Remove every file that holds nothing newer; see `Archive.drop`."""
        with _archive_errors(self._directory):
            manifest = self._manifest()
            self._remove_dropped()
            kept = tuple(file for file in manifest.files if file.last_s >= before_s)
            if gone := [file for file in manifest.files if file.last_s < before_s]:
                dropped_s = max(manifest.dropped_s, *(file.last_s for file in gone))
                swap_manifest(self._directory, replace(manifest, files=kept, dropped_s=dropped_s))
                self._dropped += [file.path for file in gone]
        return len(manifest.files) - len(kept)

    def backup(self, to: PurePath) -> Cursor:
        """Copy the files that the manifest names, then the manifest; see `Archive.backup`."""
        with _archive_errors(self._directory):
            return _cursor(copied_archive(self._directory, Path(to)))

    def merge(self, now_s: float) -> int:
        """Join one run of small files; see `Archive.merge`."""
        with _archive_errors(self._directory), self._cursor() as cursor:
            manifest = self._manifest()
            self._sweep(manifest)
            small = due(manifest.files, now_s=now_s)
            if not small:
                return 0
            file = joined(small)
            rows = cursor.sql(queries.JOINED, params={"paths": self._paths(small)})
            self._write(rows, self._directory / file.path)
            self._flush([file])
            kept = tuple(one for one in manifest.files if one not in small)
            swap_manifest(self._directory, replace(manifest, files=(*kept, file)))
            self._replaced += [one.path for one in small]
        return len(small)

    def in_order(self, wanted: Filter, *, decode: Callable[[str], Record]) -> tuple[Cursor, Iterator[Timed]]:
        """Return how far the streams are taken, and the records, the oldest first; see `Archive.in_order`."""
        with _archive_errors(self._directory):
            manifest = self._manifest()
        return _cursor(manifest), self._in_order(manifest, wanted, decode)

    def anchors(self) -> Sequence[Anchor]:
        """Return the anchors, each number and hash once."""
        with _archive_errors(self._directory), self._cursor() as cursor:
            paths = self._paths(self._manifest().anchors())
            rows = cursor.execute(queries.ANCHORS_OF, {"paths": paths}).fetchall() if paths else []
        return [Anchor(time_s, seq, hash) for time_s, seq, hash in rows]

    def dropped_s(self) -> float:
        """Return the time of the newest record that was dropped; 0 when none was."""
        with _archive_errors(self._directory):
            return self._manifest().dropped_s

    def close(self) -> None:
        """Close the database and remove what it spilled."""
        self._database.close()
        self._spill.cleanup()

    def _manifest(self) -> Manifest:
        """Return the manifest as it is now, reading it only when it was swapped."""
        age = manifest_age(self._directory)
        if age != self._read[0]:
            self._read = (age, load_manifest(self._directory))
        return self._read[1]

    def _copied(self, segment: Segment) -> list[File]:
        """Write a segment's Parquet files, durable but listed nowhere yet."""
        name = f"{_encoded(segment.stream)}-{segment.first:020d}"
        with self._cursor() as cursor, self._staging() as staged:
            self._load(cursor, Path(segment.path), staged, first=segment.first)
            copied = (self._copied_predictions, self._copied_ground_truth, self._copied_anchors)
            files = [file for copy in copied for file in copy(cursor, name)]
        self._flush(files)
        return files

    def _flush(self, files: Iterable[File]) -> None:
        paths = [self._directory / file.path for file in files]
        for place in {*paths, *(path.parent for path in paths), *(path.parent.parent for path in paths), self._directory}:
            flush(place)

    def _load(self, cursor: duckdb.DuckDBPyConnection, segment: Path, staged: Path, *, first: int = 0) -> None:
        """Read a segment into the temporary tables `line` and `prediction`."""
        path = segment
        if holds_raw(segment):
            path = staged / "plain.jsonl"
            write_plain(segment, path)
        cursor.execute(
            queries.LOAD,
            {
                "path": str(path),
                "offsets": line_starts(segment, first),
                "line_bytes_max": max(longest_line(path), _LINE_BYTES_MIN),
                "scalars": json.dumps({"type": "VARCHAR", **PREDICTION, **GROUND_TRUTH, **ANCHOR}),
                "tensors": json.dumps({"inputs": [TENSOR], "outputs": [TENSOR]}),
            },
        )
        cursor.execute(queries.FORM, {"width_max": WIDTH_MAX})
        cursor.execute(queries.RARE_FORMS, {"forms_max": FORMS_MAX})

    def _copied_predictions(self, cursor: duckdb.DuckDBPyConnection, name: str) -> Iterator[File]:
        for number, (route, date, form, *facts) in enumerate(cursor.execute(queries.GROUPS).fetchall()):
            path = self._directory / f"route={_encoded(route)}" / f"date={date}" / f"{name}-{number}.parquet"
            rows = cursor.sql(rows_query(json.loads(form)), params={"route": route, "date": date, "form": form})
            yield self._written(rows, path, route, facts, form=sha256(form.encode()).hexdigest()[:12])

    def _copied_ground_truth(self, cursor: duckdb.DuckDBPyConnection, name: str) -> Iterator[File]:
        for date, *facts in cursor.execute(queries.TRUTH_GROUPS).fetchall():
            path = self._directory / "ground_truth" / f"date={date}" / f"{name}.parquet"
            yield self._written(cursor.sql(queries.TRUTH, params={"date": date}), path, None, facts)

    def _copied_anchors(self, cursor: duckdb.DuckDBPyConnection, name: str) -> Iterator[File]:
        for date, *facts in cursor.execute(queries.ANCHOR_GROUPS).fetchall():
            path = self._directory / ANCHORS / f"date={date}" / f"{name}.parquet"
            yield self._written(cursor.sql(queries.ANCHOR, params={"date": date}), path, None, facts)

    def _written(
        self, rows: duckdb.DuckDBPyRelation, path: Path, route: str | None, facts: Sequence[Any], *, form: str = ""
    ) -> File:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(rows, path)
        records, first_s, last_s, first_id, last_id = facts
        return File(str(path.relative_to(self._directory)), route, records, first_s, last_s, first_id, last_id, form)

    def _write(self, rows: duckdb.DuckDBPyRelation, path: Path) -> None:
        rows.write_parquet(str(path), compression="zstd", row_group_size=ROW_GROUP_ROWS)

    def _pages(self, files: Sequence[File], wanted: Filter) -> Iterator[list[Json]]:
        """Yield pages of the matching predictions of one span of time."""
        bound = parameters(wanted)
        paths = self._paths(file for file in files if file.last_s >= bound["since_s"] and file.first_s < bound["until_s"])
        with _archive_errors(self._directory), self._cursor() as cursor:
            cursor.execute(queries.QUERY, {"paths": paths, **bound})
            while found := cursor.fetchmany(PAGE_PREDICTIONS):
                truths = self.ground_truth([prediction_id for _, prediction_id in found])
                yield [{**json.loads(record), "ground_truth": truths.get(name, [])} for record, name in found]

    def _in_order(self, manifest: Manifest, wanted: Filter, decode: Callable[[str], Record]) -> Iterator[Timed]:
        predictions, truths = holding(manifest.predictions(), wanted), within(manifest.ground_truth(), wanted)
        for since_s, until_s in rising_spans([*predictions, *truths], wanted):
            span = replace(wanted, since_s=since_s, until_s=until_s)
            found = self._told(queries.ALL, within(predictions, span), span)
            told = self._told(queries.ALL_TRUTH, within(truths, span), span)
            yield from heapq.merge(
                ((time_s, unquote(stream), offset, decode(record)) for time_s, stream, offset, record in found),
                ((row[0], unquote(row[1]), row[2], _truth(row)) for row in told),
                key=_place,
            )

    def _told(self, query: str, files: Sequence[File], wanted: Filter) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query over files, fetched a page at a time."""
        if not files:
            return
        bound = {name: value for name, value in parameters(wanted).items() if f"${name}" in query}
        with _archive_errors(self._directory), self._cursor() as cursor:
            cursor.execute(query, {"paths": self._paths(files), **bound})
            while page := cursor.fetchmany(PAGE_PREDICTIONS):
                yield from page

    def _paths(self, files: Iterable[File]) -> list[str]:
        return [str(self._directory / file.path) for file in files]

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection for one thread; its temporary tables go with it."""
        cursor = self._database.cursor()
        try:
            yield cursor
        finally:
            cursor.close()

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._spill.name) as staged:
            yield Path(staged)

    def _staged(self, cursor: duckdb.DuckDBPyConnection, bodies: Iterable[Json], staged: Path) -> tuple[list[str], list[str]]:
        """Write the log's objects to Parquet and return the paths of predictions and of ground truth.

        There is always one file of each that holds every fixed column, so that an export of nothing has columns too.
        """
        lines = staged / "tail.jsonl"
        with lines.open("w") as file:
            file.writelines(json.dumps(body) + "\n" for body in bodies)
        self._load(cursor, lines, staged)
        groups = [("", "", "[[],[]]"), *(group[:3] for group in cursor.execute(queries.GROUPS).fetchall())]
        paths = [str(staged / f"{number}.parquet") for number in range(len(groups))]
        for path, (route, date, form) in zip(paths, groups, strict=True):
            rows = cursor.sql(rows_query(json.loads(form)), params={"route": route, "date": date, "form": form})
            rows.write_parquet(path, row_group_size=ROW_GROUP_ROWS)
        truths = [("",), *(group[:1] for group in cursor.execute(queries.TRUTH_GROUPS).fetchall())]
        truth_paths = [str(staged / f"truth-{number}.parquet") for number in range(len(truths))]
        for path, (date,) in zip(truth_paths, truths, strict=True):
            cursor.sql(queries.TRUTH, params={"date": date}).write_parquet(path)
        return paths, truth_paths

    def _sweep(self, manifest: Manifest) -> None:
        """Remove what a crash left behind: files that the manifest does not name. Once, before the first write."""
        if self._is_clean:
            return
        named = {self._directory / file.path for file in manifest.files}
        for path in self._directory.rglob("*.parquet"):
            if path not in named:
                path.unlink()
        self._is_clean = True

    def _remove_dropped(self) -> None:
        """Remove what the call before dropped, and what was replaced before that; a query that began earlier had until now."""
        for path in self._dropped:
            (self._directory / path).unlink(missing_ok=True)
        self._dropped, self._replaced = self._replaced, []


def _may_hold(file: File, ids: Sequence[str]) -> bool:
    """Return whether any of the ids, in order, lies between the file's first and last."""
    at = bisect_left(ids, file.first_id)
    return at < len(ids) and ids[at] <= file.last_id


def _cursor(manifest: Manifest) -> Cursor:
    return {stream: Offset(taken) for stream, taken in manifest.taken.items()}


def _truth(row: Sequence[Any]) -> GroundTruthRecord:
    time_s, _, _, prediction_id, number, value, observed_at, principal = row
    return GroundTruthRecord(prediction_id, time_s, number, json.loads(value), observed_at, principal)


def _place(timed: Timed) -> tuple[float, str, Offset]:
    return timed[:3]


def _encoded(name: str) -> str:
    """Return a name as part of a path, percent-encoded; a very long one ends in its digest, for a path's part has 255 bytes."""
    encoded = quote(name, safe="")
    return encoded if len(encoded) <= 200 else f"{encoded[:150]}~{sha256(name.encode()).hexdigest()[:32]}"


@contextlib.contextmanager
def _archive_errors(directory: Path) -> Iterator[None]:
    """Raise the port's error instead of the driver's."""
    try:
        yield
    except (duckdb.Error, OSError, ValueError, KeyError) as error:
        raise ArchiveFailed(f"archive in {directory}: {error}") from error
