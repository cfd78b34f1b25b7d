"""A process's numbers in a mapped file: they outlive it, its successor counts on, and another process reads them at any time.

Layout, little-endian: a header, `CELLS` float64 values, then the entries that name them in order. An entry is a length, a
checksum and JSON; it is written before the count of cells that publishes it, and a reader stops at one whose checksum is wrong,
so that nobody sees half a name. A value is eight aligned bytes, which the processor stores at once. One process writes a file.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.core.errors import StoreFailed
from gateway.ports import Cell, Sample

MAGIC: Final = b"hgmetrics1\0\0\0\0\0\0"  # 16 bytes; another layout gets another number
COUNT_AT: Final = 2  # in words of eight bytes, after the magic
VALUES_AT: Final = 64  # bytes; a cache line of its own for the header
CELLS: Final = 20_000  # 1,000 routes × 20 cells; beyond it the loss is counted
NAMES_BYTES: Final = 4 * 2**20  # 200 bytes a cell
NAMES_AT: Final = VALUES_AT + 8 * CELLS
FILE_BYTES: Final = NAMES_AT + NAMES_BYTES
OVERFLOW: Final = "gateway_metrics_overflow_total"
ENTRY: Final = struct.Struct("<II")  # length and checksum of the JSON that follows
Labels = tuple[tuple[str, str], ...]


class MappedCell:
    """One number of the file.

    `add` reads and writes within one bytecode sequence that CPython does not interrupt (it looks for another thread only at
    calls and jumps back), so that two threads lose nothing.
    """

    __slots__ = ("_value",)

    def __init__(self, value: memoryview[float]) -> None:
        self._value = value  # one float64

    def add(self, amount: float) -> None:
        """Add to it."""
        self._value[0] += amount

    def set(self, value: float) -> None:
        """Replace it."""
        self._value[0] = value

    def raise_to(self, value: float) -> None:
        """Replace it if it is less."""
        self._value[0] = max(self._value[0], value)


class OverflowCell:
    """Stands for every cell that found no room: it counts the updates that were lost."""

    __slots__ = ("_value",)

    def __init__(self, value: memoryview[float]) -> None:
        self._value = value

    def add(self, amount: float) -> None:  # noqa: ARG002  # the amounts belong to different numbers and have no sum
        """Count a loss."""
        self._value[0] += 1.0

    def set(self, value: float) -> None:  # noqa: ARG002
        """Count a loss."""
        self._value[0] += 1.0

    def raise_to(self, value: float) -> None:  # noqa: ARG002
        """Count a loss."""
        self._value[0] += 1.0


class MetricsFile:
    """A `MetricsBank` in one file, made when it is missing."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._map = _mapped(path)
        except OSError as error:
            raise StoreFailed(f"{path}: {error.strerror}", hint="make room on the file system") from error
        self._words = memoryview(self._map).cast("Q")[: VALUES_AT // 8]
        self._values = memoryview(self._map)[VALUES_AT:NAMES_AT].cast("d")
        self._names_end = NAMES_AT
        self._cells: dict[tuple[str, Labels], Cell] = {}
        for name, labels, end in _entries(self._map, NAMES_AT, self._words[COUNT_AT]):
            self._adopt(name, labels, end)
        self._overflow = self.cell(OVERFLOW)

    def cell(self, name: str, labels: Sequence[tuple[str, str]] = ()) -> Cell:
        """Return the cell; a new one is written to the file first."""
        key = (name, tuple(labels))
        with self._lock:
            return self._cells.get(key) or self._register(*key)

    def _register(self, name: str, labels: Labels) -> Cell:
        text = json.dumps([name, labels], separators=(",", ":")).encode()
        end = self._names_end + ENTRY.size + len(text)
        if len(self._cells) >= CELLS or end > FILE_BYTES:
            return self._overflow
        self._values[len(self._cells)] = 0.0  # a crash may have left a value without a name
        self._map[self._names_end : end] = ENTRY.pack(len(text), zlib.crc32(text)) + text
        cell = self._adopt(name, labels, end)
        self._words[COUNT_AT] = len(self._cells)
        return cell

    def _adopt(self, name: str, labels: Labels, end: int) -> Cell:
        at = len(self._cells)
        kind = OverflowCell if name == OVERFLOW else MappedCell
        cell = self._cells[name, labels] = kind(self._values[at : at + 1])
        self._names_end = end
        return cell


class MetricsDirectory:
    """A `MetricsSnapshots` over every `*.bin` of one directory; a process's name is its file's stem."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}

    def latest(self) -> Mapping[str, Sequence[Sample]]:
        """Read every file as it stands; one of another layout shows nothing."""
        found = {}
        with self._lock:
            for path in sorted(self._directory.glob("*.bin")):
                try:
                    found[path.stem] = self._samples(path)
                except FileNotFoundError:  # removed since it was listed
                    continue
                except OSError as error:
                    raise StoreFailed(f"{path}: {error.strerror}") from error
        return found

    def _samples(self, path: Path) -> list[Sample]:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size != FILE_BYTES or file.read(len(MAGIC)) != MAGIC:
                return []
            mapped = mmap.mmap(file.fileno(), FILE_BYTES, access=mmap.ACCESS_READ)
        if (seen := self._seen.get(path.stem)) is None or seen.inode != status.st_ino:
            seen = self._seen[path.stem] = _Seen(status.st_ino)
        seen.read(mapped)
        values = memoryview(mapped)[VALUES_AT:NAMES_AT].cast("d")[: len(seen.names)].tolist()
        return [Sample(name, labels, value) for (name, labels), value in zip(seen.names, values, strict=True)]


@dataclass(slots=True)
class _Seen:
    """What a reader knows of one file: names are only ever added, so each is parsed once."""

    inode: int
    names: list[tuple[str, Labels]] = field(default_factory=list)
    end: int = NAMES_AT

    def read(self, mapped: mmap.mmap) -> None:
        """Parse the names that were published since the last time."""
        count = memoryview(mapped)[:VALUES_AT].cast("Q")[COUNT_AT]
        for name, labels, end in _entries(mapped, self.end, count - len(self.names)):
            self.names.append((name, labels))
            self.end = end


def _entries(mapped: mmap.mmap, at: int, count: int) -> Iterator[tuple[str, Labels, int]]:
    """Yield at most `count` names with their labels and the place after each, up to the first that is not whole."""
    for _ in range(count):
        start = at + ENTRY.size
        if start > FILE_BYTES:
            return
        length, checksum = ENTRY.unpack_from(mapped, at)
        text = mapped[start : start + length]
        if not length or zlib.crc32(text) != checksum:
            return
        at = start + length
        name, labels = json.loads(text)
        yield name, tuple((key, value) for key, value in labels), at


def _mapped(path: Path) -> mmap.mmap:
    """Map the file for writing; a missing one, or one of another layout, is made anew and put in place whole."""
    if not _is_bank(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, FILE_BYTES)  # a write to a mapped hole of a full disk would kill the process
            file.write(MAGIC)
        partial.replace(path)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), FILE_BYTES)


def _is_bank(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC and path.stat().st_size == FILE_BYTES
    except FileNotFoundError:
        return False
