"""A process's numbers in a mapped file: they outlive it, its successor counts on, and another process reads them at any time.

Layout, little-endian: a header, `CELLS` float64 values, then the entries that name them in order. An entry is a length, a
checksum and JSON; it is written before the count of cells that publishes it, and a reader stops at one whose checksum is wrong,
so that nobody sees half a name. A value is eight aligned bytes, which the processor stores at once. One process writes a file.
What is forgotten is left out of a new file that takes the old one's place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from gateway.core.errors import StoreFailed
from gateway.ports.metrics import Cell, Exemplar, Sample

MAGIC: Final = b"hgmetrics2\0\0\0\0\0\0"  # 16 bytes; another layout gets another number
COUNT_AT: Final = 2  # in words of eight bytes, after the magic
WRITTEN_AT: Final = 3  # when the file was made, in ns: tells it from another that had its inode before
VALUES_AT: Final = 64  # bytes; a cache line of its own for the header
CELLS: Final = 40_000  # 1,000 called routes × 30 cells and what other versions left; beyond it the loss is counted
NAMES_BYTES: Final = 8 * 2**20  # 200 bytes a cell
NAMES_AT: Final = VALUES_AT + 8 * CELLS
FILE_BYTES: Final = NAMES_AT + NAMES_BYTES
OVERFLOW: Final = "gateway_metrics_overflow_total"
EXEMPLARS: Final = ".exemplars.json"  # instead of `.bin`
ENTRY: Final = struct.Struct("<II")  # length and checksum of the JSON that follows
Labels = tuple[tuple[str, str], ...]
Place: TypeAlias = "memoryview[float]"  # of one float64


class MappedCell:
    """One number of the file.

    `add` reads and writes within one bytecode sequence that CPython does not interrupt (it looks for another thread only at
    calls and jumps back), so that two threads lose nothing.

    Attributes:
        place: Where it is counted; another one once the file was written anew.
    """

    __slots__ = ("place",)

    def __init__(self, place: Place) -> None:
        self.place = place

    def add(self, amount: float) -> None:
        """Add to it."""
        self.place[0] += amount

    def set(self, value: float) -> None:
        """Replace it."""
        self.place[0] = value

    def raise_to(self, value: float) -> None:
        """Replace it if it is less."""
        self.place[0] = max(self.place[0], value)


class OverflowCell(MappedCell):
    """Stands for every cell that found no room: it counts the updates that were lost."""

    __slots__ = ()

    def add(self, amount: float) -> None:  # noqa: ARG002  # the amounts belong to different numbers and have no sum
        """Count a loss."""
        self.place[0] += 1.0

    def set(self, value: float) -> None:  # noqa: ARG002
        """Count a loss."""
        self.place[0] += 1.0

    def raise_to(self, value: float) -> None:  # noqa: ARG002
        """Count a loss."""
        self.place[0] += 1.0


class MetricsFile:
    """A `MetricsBank` in one file, made when it is missing."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._path = path
        with _storing(path):
            if not _is_bank(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_empty(path)
            self._file = _Mapped(path)
        self._cells = {(name, labels): _bound(name, place) for name, labels, place in self._file.entries()}
        self._overflow = self.cell(OVERFLOW)

    def cell(self, name: str, labels: Sequence[tuple[str, str]] = ()) -> Cell:
        """Return the cell; a new one is written to the file first."""
        key = (name, tuple(labels))
        with self._lock:
            return self._cells.get(key) or self._register(*key)

    @property
    def share_taken(self) -> float:
        """How much of the file is taken: of its cells, or of the room for their names."""
        return self._file.share_taken

    def exemplify(self, exemplars: Sequence[Exemplar]) -> None:
        """Replace the file beside the numbers' own."""
        with _storing(self._path):
            path = self._path.with_suffix(EXEMPLARS)
            partial = path.with_name(path.name + ".partial")
            partial.write_text(json.dumps([dataclasses.asdict(one) for one in exemplars]))
            partial.replace(path)

    def forget(self, is_unwanted: Callable[[Sample], bool]) -> None:
        """Write the wanted cells to a new file, put that in the old one's place, and bind them there."""
        with self._lock, _storing(self._path):
            unwanted = {
                key for key, cell in self._cells.items() if key[0] != OVERFLOW and is_unwanted(Sample(*key, cell.place[0]))
            }
            if not unwanted:
                return
            partial = self._path.with_name(self._path.name + ".partial")
            _write_empty(partial)
            fresh = _Mapped(partial)
            places = {key: fresh.add(*key, self._cells[key].place[0]) for key in self._cells if key not in unwanted}
            partial.replace(self._path)
            self._file = fresh
            for key in unwanted:
                self._cells.pop(key).place = memoryview(bytearray(8)).cast("d")
            for key, place in places.items():
                cell = self._cells[key]
                assert place is not None, "what is left fits"
                place[0] = cell.place[0]
                cell.place = place

    def _register(self, name: str, labels: Labels) -> Cell:
        place = self._file.add(name, labels)
        if place is None:
            return self._overflow
        cell = self._cells[name, labels] = _bound(name, place)
        return cell


class _Mapped:
    """One file, mapped for writing."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), FILE_BYTES)
        self._words = memoryview(self._map).cast("Q")[: VALUES_AT // 8]
        self._values = memoryview(self._map)[VALUES_AT:NAMES_AT].cast("d")
        self._count = 0
        self._names_end = NAMES_AT

    @property
    def share_taken(self) -> float:
        return max(self._count / CELLS, (self._names_end - NAMES_AT) / NAMES_BYTES)

    def entries(self) -> Iterator[tuple[str, Labels, Place]]:
        """Yield what is there; once, before the first `add`."""
        for name, labels, end in _entries(self._map, NAMES_AT, self._words[COUNT_AT]):
            yield name, labels, self._taken(end)

    def add(self, name: str, labels: Labels, value: float = 0.0) -> Place | None:
        """Return the place of a new number, or None when there is no room."""
        text = json.dumps([name, labels], separators=(",", ":")).encode()
        end = self._names_end + ENTRY.size + len(text)
        if self._count >= CELLS or end > FILE_BYTES:
            return None
        self._values[self._count] = value  # before its name is published; a crash may have left another one there
        self._map[self._names_end : end] = ENTRY.pack(len(text), zlib.crc32(text)) + text
        place = self._taken(end)
        self._words[COUNT_AT] = self._count
        return place

    def _taken(self, end: int) -> Place:
        self._names_end = end
        self._count += 1
        return self._values[self._count - 1 : self._count]


def _bound(name: str, place: Place) -> MappedCell:
    return OverflowCell(place) if name == OVERFLOW else MappedCell(place)


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

    def exemplars(self) -> Mapping[str, Sequence[Exemplar]]:
        """Read every process's file."""
        found = {}
        for path in sorted(self._directory.glob(f"*{EXEMPLARS}")):
            with _storing(path):
                try:
                    bodies = json.loads(path.read_bytes())
                except ValueError as error:  # after power loss
                    raise StoreFailed(f"{path}: {error}") from error
            labelled = [{**one, "labels": tuple((name, value) for name, value in one["labels"])} for one in bodies]
            found[path.name.removesuffix(EXEMPLARS)] = [Exemplar(**one) for one in labelled]
        return found

    def _samples(self, path: Path) -> list[Sample]:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size != FILE_BYTES or file.read(len(MAGIC)) != MAGIC:
                return []
            mapped = mmap.mmap(file.fileno(), FILE_BYTES, access=mmap.ACCESS_READ)
        written_ns = memoryview(mapped)[:VALUES_AT].cast("Q")[WRITTEN_AT]
        if (seen := self._seen.get(path.stem)) is None or seen.file != (status.st_ino, written_ns):
            seen = self._seen[path.stem] = _Seen((status.st_ino, written_ns))
        seen.read(mapped)
        values = memoryview(mapped)[VALUES_AT:NAMES_AT].cast("d")[: len(seen.names)].tolist()
        return [Sample(name, labels, value) for (name, labels), value in zip(seen.names, values, strict=True)]


@dataclass(slots=True)
class _Seen:
    """What a reader knows of one file: names are only ever added, so each is parsed once."""

    file: tuple[int, int]  # its inode, and when it was made
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


def _write_empty(path: Path) -> None:
    """Put an empty file in place, whole."""
    partial = path.with_name(path.name + ".empty")
    with partial.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, FILE_BYTES)  # a write to a mapped hole of a full disk would kill the process
        file.write(MAGIC + bytes(8) + time.time_ns().to_bytes(8, "little"))
    partial.replace(path)


@contextlib.contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}", hint="make room on the file system") from error


def _is_bank(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC and path.stat().st_size == FILE_BYTES
    except FileNotFoundError:
        return False
