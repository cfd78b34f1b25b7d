"""Records and a real log and archive on disk, for the tests of the archive."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from adapters.archives.duck import DuckArchive
from adapters.clock import SystemClock
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentDirectory, SegmentWriter
from gateway.core.records import PredictionRecord, Record
from gateway.core.tensors import Datatype, Tensor
from tests.records import prediction as recorded

NOON_S = 1_763_726_400.0  # 2025-11-21, 12:00 UTC


def prediction_id(number: int) -> str:
    """Return a UUIDv7 whose time is `number` seconds after noon."""
    return str(uuid.UUID(int=(int((NOON_S + number) * 1e3) << 80) | (7 << 76) | (2 << 62) | number))


def prediction_record(number: int, **changed: object) -> PredictionRecord:
    """Return the record of a prediction made `number` seconds after noon: one row of four FP32 features."""
    values: dict[str, object] = {
        "prediction_id": prediction_id(number),
        "time_s": NOON_S + number + 0.25,
        "model": "delay",
        "route": "delay",
        "inputs": (Tensor("x", Datatype.FP32, np.arange(4, dtype=np.float32).reshape(1, 4) / 7 + number),),
        "outputs": (Tensor("y", Datatype.FP32, np.array([[0.1]], np.float32)),),
    }
    return recorded(**(values | changed))


@dataclass
class House:
    """A log and an archive in one directory."""

    directory: Path
    archive: DuckArchive = field(init=False)
    reader: SegmentReader = field(init=False)
    store: SegmentDirectory = field(init=False)

    def __post_init__(self) -> None:
        self.archive = DuckArchive(self.directory / "archive", memory_bytes=512 * 2**20)
        self.reader = SegmentReader(self.directory / "log")
        self.store = SegmentDirectory(self.directory / "log")

    def write(self, *records: Record, stream: str = "w0") -> None:
        """Append records to a stream in a segment of their own, which stays open."""
        writer = SegmentWriter(
            self.directory / "log",
            stream,
            segment_bytes_max=1 << 30,
            segment_age_s=1e9,
            bytes_max=1 << 40,
            free_bytes_min=0,
            clock=SystemClock(),
        )
        writer.append(records)
        writer.close()

    def take(self) -> int:
        """Close and archive everything written so far; return the predictions that this added."""
        self.store.repair()
        segments = (segment for stream in self.reader.streams() for segment in self.store.closed(stream))
        return sum(self.archive.take(segment).predictions for segment in segments)

    def close(self) -> None:
        """Release everything."""
        self.archive.close()
        self.reader.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Return an empty log and archive."""
    built = House(tmp_path)
    yield built
    built.close()


@pytest.fixture(scope="session")
def prediction() -> Callable[..., PredictionRecord]:
    """Return the builder of predictions."""
    return prediction_record
