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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Final
from urllib.parse import unquote

import duckdb

from adapters.archives import queries
from adapters.archives.backup import copied_archive
from adapters.archives.manifest import File, Manifest, encoded, load_manifest, manifest_age, swap_manifest
from adapters.archives.merging import due, joined
from adapters.archives.plain import parts
from adapters.archives.process import ask, check
from adapters.archives.spans import falling_spans, full_spans, holding, may_hold, overlaps, parameters, rising_spans, within
from adapters.archives.spreading import spread, write, write_empty
from adapters.durability import flush
from gateway.core.errors import ArchiveFailed
from gateway.core.fields import Json
from gateway.core.records import Anchor, Cursor, GroundTruthRecord, Offset, Record
from gateway.ports.archive import Filter, QuestionLimits, Table, Taken, Timed
from gateway.ports.log import Segment

PAGE_PREDICTIONS: Final = 1_000  # held at once by a query
LINE_SHARE: Final = 6  # of the memory, for one record: 89 MB at the default, a body of 60 MiB in base64 and some outputs
LOOKED_FILES_MAX: Final = 64  # opened by one look-up of predictions by id, about 3 ms each


class DuckArchive:
    """Parquet under `directory`. An `Archive`; safe to share between threads.

    Args:
        memory_bytes: DuckDB's bound. Sorts and tables beyond it are spilled to the system's temporary directory, but never what
            it works on at once: hence the bounds on parts, spans and groups of rows.
    """

    def __init__(self, directory: Path, *, memory_bytes: int) -> None:
        self._directory = directory.absolute()
        self._line_bytes_max = memory_bytes // LINE_SHARE
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
                    "threads": 1,  # the archive never takes more than one core from serving, and rows stay in order
                    "preserve_insertion_order": False,  # which one thread does; said, groups of rows may be bounded by bytes
                }
            )

    def take(self, segment: Segment, *, is_stopped: Callable[[], bool] = lambda: False) -> Taken:
        """Copy a segment to Parquet and list it; see `Archive.take`."""
        with _archive_errors(self._directory):
            manifest = self._manifest()
            self._sweep(manifest)
            if segment.next <= manifest.taken.get(segment.stream, 0):
                return Taken()
            flush(Path(segment.path))  # a log that lost power must never go on before an offset that was taken
            files, shortened = self._copied(segment, is_stopped)
            if is_stopped():
                return Taken()
            taken = {**manifest.taken, segment.stream: int(segment.next)}
            swap_manifest(self._directory, replace(manifest, taken=taken, files=(*manifest.files, *files)))
        return Taken(sum(file.records for file in files if file.route is not None), shortened)

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
            paths = self._paths(itertools.islice((file for file in files if may_hold(file, ids)), LOOKED_FILES_MAX))
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
            empty, tail_files = self._staged(cursor, tail(_cursor(manifest)), staged)
            files = [*tail_files.predictions(), *holding(manifest.predictions(), wanted)]
            truths = [*tail_files.ground_truth(), *manifest.ground_truth()]
            left, paths = wanted.limit, []
            for number, (since_s, until_s) in enumerate(full_spans(files, wanted)):
                span = replace(wanted, since_s=since_s, until_s=until_s, limit=left)
                touched = within(files, span)
                bound = {
                    "paths": [empty[0], *self._paths(touched)],
                    "truth_paths": [empty[1], *self._paths(truth for truth in truths if overlaps(truth, touched))],
                    **parameters(span),
                }
                path = staged / f"span-{number}.parquet"
                write(cursor.sql(queries.EXPORT, params=bound), path)
                paths.append(str(path))
                left -= _counted(cursor, paths[-1])
                if left <= 0:
                    break
            write(cursor.sql(queries.EXPORTED, params={"paths": paths}), to)
        return wanted.limit - left

    def ask(self, sql: str, *, within: QuestionLimits, tail: Callable[[Cursor], Iterable[Json]] = lambda _taken: ()) -> Table:
        """Answer a question in a process of its own; see `Archive.ask`."""
        check(sql, within=within)
        with _archive_errors(self._directory), self._cursor() as cursor, self._staging() as staged:
            manifest = self._manifest()
            empty, tail_files = self._staged(cursor, tail(_cursor(manifest)), staged)
            paths = [empty[0], *self._paths([*tail_files.predictions(), *manifest.predictions()])]
            truth_paths = [empty[1], *self._paths([*tail_files.ground_truth(), *manifest.ground_truth()])]
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
            write(rows, self._directory / file.path)
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

    def _copied(self, segment: Segment, is_stopped: Callable[[], bool]) -> tuple[list[File], int]:
        """Write a segment's Parquet files, durable but listed nowhere yet; return them and the predictions that lost tensors."""
        name = f"{encoded(segment.stream)}-{segment.first:020d}"
        with self._cursor() as cursor, self._staging() as staged, Path(segment.path).open("rb") as lines:
            cut = parts(lines, staged / "part.jsonl", first=segment.first, line_bytes_max=self._line_bytes_max)
            files, shortened = spread(cursor, itertools.takewhile(lambda _: not is_stopped(), cut), self._directory, name)
        self._flush(files)
        return files, shortened

    def _flush(self, files: Iterable[File]) -> None:
        paths = [self._directory / file.path for file in files]
        for place in {*paths, *(path.parent for path in paths), *(path.parent.parent for path in paths), self._directory}:
            flush(place)

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

    def _staged(
        self, cursor: duckdb.DuckDBPyConnection, bodies: Iterable[Json], staged: Path
    ) -> tuple[tuple[str, str], Manifest]:
        """Write the log's objects to Parquet and return two empty files, of predictions and of ground truth, and what holds them.

        The empty ones have every fixed column, so that an export of nothing has columns too.
        """
        lines = (json.dumps(body, separators=(",", ":")).encode() + b"\n" for body in bodies)  # as logged, without blanks
        files, _ = spread(cursor, parts(lines, staged / "part.jsonl", line_bytes_max=self._line_bytes_max), staged, "tail")
        return write_empty(cursor, staged), Manifest(files=tuple(replace(file, path=str(staged / file.path)) for file in files))

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


def _counted(cursor: duckdb.DuckDBPyConnection, path: str) -> int:
    """Return the predictions of a file."""
    ((counted,),) = cursor.execute("SELECT count(record) FROM read_parquet($path)", {"path": path}).fetchall()
    return int(counted)


def _cursor(manifest: Manifest) -> Cursor:
    return {stream: Offset(taken) for stream, taken in manifest.taken.items()}


def _truth(row: Sequence[Any]) -> GroundTruthRecord:
    time_s, _, _, prediction_id, number, value, observed_at, principal = row
    return GroundTruthRecord(prediction_id, time_s, number, json.loads(value), observed_at, principal)


def _place(timed: Timed) -> tuple[float, str, Offset]:
    return timed[:3]


@contextlib.contextmanager
def _archive_errors(directory: Path) -> Iterator[None]:
    """Raise the port's error instead of the driver's."""
    try:
        yield
    except (duckdb.Error, OSError, ValueError, KeyError) as error:
        raise ArchiveFailed(f"archive in {directory}: {error}") from error
