"""What questions in SQL cost over an archive of millions: the answer's time, the process that gives it included, and disk.

`python -m loadtests.questions` makes up one worker's answers with 20 features over two days, writes them as the log's segments
and has the archive take them. The other workers' files are copies with other ids and other features. Then it asks, and prints.
Building takes most of the time; `--keep DIR` leaves the archive there for another run.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
from rich.console import Console
from rich.table import Table

from adapters.archives.duck import DuckArchive
from adapters.archives.manifest import load_manifest, swap_manifest
from adapters.archives.spreading import ROW_GROUP_ROWS
from adapters.clock import SystemClock
from adapters.logs.segments import SegmentDirectory, SegmentWriter
from gateway.core.records import Attempt, GroundTruthRecord, Kind, Outcome, PredictionRecord, Record
from gateway.core.split import hashed_key
from gateway.core.tensors import Datatype, Tensor
from gateway.ports.archive import QuestionLimits
from gateway.settings import ControlSettings

FEATURES: Final = 20
SEGMENT_RECORDS: Final = 100_000  # what a segment of 64 MiB holds
START_S: Final = 1_763_683_200.0  # 2025-11-21, 00:00 UTC
SPAN_S: Final = 2 * 86_400.0
TARGET_S: Final = 2.0  # for a mean by version and hour over five million
VERSIONS: Final = ("1", "2", "3")
QUESTIONS: Final = (
    ("mean of a feature by version and hour", "SELECT version, date_trunc('hour', time_utc) AS hour, avg(in_features_3) AS mean"
     " FROM predictions GROUP BY ALL ORDER BY ALL"),
    ("answers by version and outcome", "SELECT version, outcome, count(*) AS n FROM predictions WHERE row = 0 GROUP BY ALL"),
    ("p50 and p99 latency by version", "SELECT version, quantile_cont(latency_us, [0.5, 0.99]) FROM predictions GROUP BY ALL"),
    ("correlation of two features", "SELECT corr(in_features_0, in_features_1) FROM predictions"),
    ("accuracy by version, joined with ground truth", "SELECT version, avg(((out_y > 0.5)::INT = value_number)::INT) AS right"
     " FROM predictions JOIN ground_truth USING (prediction_id, row) GROUP BY ALL"),
    ("the last hour of one version", f"SELECT avg(in_features_3) FROM predictions WHERE version = '2'"
     f" AND time_utc >= make_timestamp({int((START_S + SPAN_S - 3_600) * 1e6)})"),
    ("one prediction by its id", "SELECT record FROM predictions WHERE prediction_id = '{id}'"),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Build, ask and print; return 1 when the first question takes longer than its target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=1_000_000, help="of each worker")
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="of each question; the median counts")
    parser.add_argument("--keep", type=Path, help="a directory for the archive, used again if it holds one")
    asked = parser.parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    with tempfile.TemporaryDirectory(prefix="headgate-questions-") as scratch:
        directory = asked.keep or Path(scratch)
        archive = DuckArchive(directory / "archive", memory_bytes=512 * 2**20)
        if not any((directory / "archive").glob("route=*")):
            _build(archive, directory, asked.records, console)
            _copy(directory / "archive", asked.workers)
        size = sum(path.stat().st_size for path in (directory / "archive").rglob("*.parquet"))
        files = len(list((directory / "archive").rglob("route=*/*/*.parquet")))
        count = asked.records * asked.workers
        console.print(f"{size / 1e6:,.0f} MB of Parquet in {files} files of {count:,} predictions, {size / count:.0f} bytes each")
        first_s = _ask_all(archive, asked.rounds, console)
        archive.close()
    return 0 if first_s <= TARGET_S else 1


def _build(archive: DuckArchive, directory: Path, count: int, console: Console) -> None:
    """Write segments, have each taken and removed, then join what is small."""
    segments = SegmentDirectory(directory / "log")
    began_s, log_bytes, taking_s = time.perf_counter(), 0, 0.0
    for first in range(0, count, SEGMENT_RECORDS):
        _write(directory / "log", first, min(SEGMENT_RECORDS, count - first), count)
        segments.repair()  # closes the segment
        for segment in segments.closed("w0"):
            log_bytes += segment.next - segment.first
            since_s = time.perf_counter()
            archive.take(segment)
            taking_s += time.perf_counter() - since_s
            segments.remove(segment)
        console.print(f"{min(count, first + SEGMENT_RECORDS):,} predictions after {time.perf_counter() - began_s:.0f} s")
    while archive.merge(START_S + SPAN_S + 2 * 86_400):
        pass
    console.print(
        f"{count:,} predictions and half as much ground truth: {log_bytes / count:.0f} bytes of log each,"
        f" archived in {taking_s:.0f} s ({taking_s / count * 1e6:.0f} µs each)"
    )


def _copy(archive: Path, workers: int) -> None:
    """Add the files of further workers."""
    manifest = load_manifest(archive)
    added = []
    with duckdb.connect() as database:
        for file in manifest.files:
            for worker in range(1, workers):
                path = file.path.replace("/w0-", f"/w{worker}-")
                changed = [f"prediction_id[:20] || '{worker:03x}' || prediction_id[24:] AS prediction_id"]
                if file.route is not None:
                    changed += [f"CAST(in_features_{at} + random() AS FLOAT) AS in_features_{at}" for at in range(FEATURES)]
                rows = database.sql(f"SELECT * REPLACE ({', '.join(changed)}) FROM read_parquet('{archive / file.path}')")
                rows.write_parquet(str(archive / path), compression="zstd", row_group_size=ROW_GROUP_ROWS)
                added.append(replace(file, path=path))
    swap_manifest(archive, replace(manifest, files=(*manifest.files, *added)))


def _write(log: Path, first: int, count: int, of: int) -> None:
    writer = SegmentWriter(
        log, "w0", segment_bytes_max=1 << 40, segment_age_s=1e9, bytes_max=1 << 42, free_bytes_min=0, clock=SystemClock()
    )
    for start in range(first, first + count, 1_000):
        writer.append(list(_records(start, min(1_000, first + count - start), of)))
    writer.close()


def _records(first: int, count: int, of: int) -> Iterator[Record]:
    """Yield predictions in the order of their time, every other one followed by its outcome."""
    random = np.random.default_rng(first)
    features = random.normal(size=(count, 1, FEATURES)).astype(np.float32)
    answers = random.random((count, 1, 1), np.float32)
    for at in range(count):
        number = first + at
        time_s = START_S + SPAN_S * number / of
        version = VERSIONS[number % 10 % len(VERSIONS)]
        yield PredictionRecord(
            prediction_id=prediction_id(number, time_s),
            time_s=time_s,
            kind=Kind.LIVE,
            model="delays",
            route="delays",
            revision=1,
            assigned="champion",
            variant="champion",
            version=version,
            digest="0" * 64,
            attempts=(Attempt("champion", version, Outcome.OK, 30),),
            assignment_key=hashed_key(f"key-{number % 5_000}"),
            is_keyed=True,
            inputs=(Tensor("features", Datatype.FP32, features[at]),),
            outputs=(Tensor("y", Datatype.FP32, answers[at]),),
            batch_rows=4,
            batch_position=number % 4,
            runtime_version="1.22.0",
            outcome=Outcome.OK,
            latency_us=int(400 + 100 * answers[at, 0, 0]),
        )
        if number % 2:
            yield GroundTruthRecord(prediction_id(number, time_s), time_s, 0, int(answers[at, 0, 0] > 0.4), time_s)


def prediction_id(number: int, time_s: float) -> str:
    """Return a UUIDv7 of a time."""
    return str(uuid.UUID(int=(int(time_s * 1e3) << 80) | (7 << 76) | (2 << 62) | number))


def _ask_all(archive: DuckArchive, rounds: int, console: Console) -> float:
    """Ask every question several times and return the first one's median time in seconds."""
    settings = ControlSettings()
    limits = QuestionLimits(
        settings.question_rows_max, settings.question_bytes_max, settings.question_memory_bytes, settings.question_timeout_s
    )
    table = Table("question", "rows", "median s", "slowest s", "CPU s")
    medians = []
    known = str(archive.ask("SELECT max(prediction_id) FROM predictions", within=limits).rows[0][0])
    for name, sql in QUESTIONS:
        took_s, rows, before_s = [], 0, _children_cpu_s()
        for _ in range(rounds):
            since_s = time.perf_counter()
            rows = len(archive.ask(sql.replace("{id}", known), within=limits).rows)
            took_s.append(time.perf_counter() - since_s)
        medians.append(float(np.median(took_s)))
        table.add_row(
            name, f"{rows:,}", f"{medians[-1]:.2f}", f"{max(took_s):.2f}", f"{(_children_cpu_s() - before_s) / rounds:.2f}"
        )
    console.print(table)
    return medians[0]


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
