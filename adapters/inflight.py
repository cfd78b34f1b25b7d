"""What a serving worker runs right now, in a small mapped file that outlives the worker.

The worker writes, nothing waits: a run is entered and left by a few bytes in shared memory. The supervisor's watchdog reads when
the event loop last turned; the worker's successor reads what was running and blames the version. The kernel keeps the pages when
a process dies; after power loss the file is empty or old, and the log's own repair is what counts.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from uuid import UUID

from gateway.core.errors import StoreFailed
from gateway.core.poison import DeadRun
from gateway.ports.inflight import Interrupted, Place

_RUNS_MAX: Final = 64  # runs at once in one worker: threads of expensive versions and the loop's own
_IDS_MAX: Final = 64  # ids kept of a run; equals the default batch bound
_FINGERPRINTS_MAX: Final = 64  # fingerprints of its inputs; a run that has more is too large to tell them apart
_PLACES_MAX: Final = 4_096  # the newest are kept; a place that many route changes ago is no longer noted
_PLACE_BYTES: Final = 1_280  # four names of 200 bytes, a digest and punctuation; only touched pages take memory
_HEADER: Final = struct.Struct("=dBxxxxxxx")  # when the loop last turned (monotonic s), killed as hung
_RUN: Final = struct.Struct("=IHH")  # 1 + slot of the place (0: no run), number of ids, number of fingerprints
_RUN_HEAD: Final = _RUN.size
_FINGERPRINTS_AT: Final = _RUN_HEAD + 16 * _IDS_MAX
_RUN_BYTES: Final = _FINGERPRINTS_AT + 16 * _FINGERPRINTS_MAX
_BLANK: Final = bytes(16)  # an id that was forgotten; no prediction has it
_RUNS_AT: Final = _HEADER.size + _PLACES_MAX * _PLACE_BYTES
_SIZE: Final = _RUNS_AT + _RUNS_MAX * _RUN_BYTES


class MappedInFlight:
    """The worker's side."""

    def __init__(self, path: Path) -> None:
        self._map = _mapped(path)
        self._turned = _turned_in(self._map)
        self._left, self._runs_left = _left_behind(self._map), _runs_left(self._map)
        self._places: dict[Place, int] = {}
        self._bound = 0  # places ever; a place's number, whose remainder is its slot
        self._free = list(range(_RUNS_MAX))
        self._began_s: dict[int, float] = {}  # by run, the oldest first
        self._is_closed = False
        self._lock = threading.Lock()  # of the runs: a loop forgets in what a thread leaves; held for a microsecond
        self._map[: _HEADER.size] = bytes(_HEADER.size)
        self._map[_RUNS_AT:] = bytes(_SIZE - _RUNS_AT)  # without runs, the places left there mean nothing
        self.turned()

    def turned(self) -> None:
        """Say that the event loop turns."""
        self._turned[0] = time.monotonic()

    def bind(self, place: Place) -> int:
        """Return the number of a place."""
        known = self._places.get(place)
        if known is not None:
            return known
        line = json.dumps([getattr(place, name) for name in Place.__slots__], ensure_ascii=False).encode() + b"\n"
        if len(line) > _PLACE_BYTES:
            raise StoreFailed("a place's names are too long for the in-flight file")
        number = self._bound
        self._bound += 1
        at = _HEADER.size + number % _PLACES_MAX * _PLACE_BYTES
        self._map[at : at + len(line)] = line
        self._places[place] = number
        if len(self._places) > _PLACES_MAX:
            del self._places[next(iter(self._places))]
        return number

    def enter(self, place: int, prediction_ids: Sequence[bytes], fingerprints: Sequence[bytes] = ()) -> int:
        """Say that a run begins."""
        ids = b"".join(prediction_ids[:_IDS_MAX])
        noted = b"".join(fingerprints[:_FINGERPRINTS_MAX]) if fingerprints else b""
        with self._lock:
            if not self._free or place < self._bound - _PLACES_MAX:
                return _RUNS_MAX  # more runs at once than room to note them, or an overwritten place: this one goes unnoted
            run = self._free.pop()
            self._began_s[run] = time.monotonic()
            at = _RUNS_AT + run * _RUN_BYTES
            ids_at = at + _RUN_HEAD
            self._map[ids_at : ids_at + len(ids)] = ids
            if noted:
                self._map[at + _FINGERPRINTS_AT : at + _FINGERPRINTS_AT + len(noted)] = noted
            _RUN.pack_into(self._map, at, place % _PLACES_MAX + 1, len(ids) // 16, len(noted) // 16)
        return run

    def forget(self, run: int, prediction_id: bytes) -> None:
        """Blank one id of a run, if the run still has it."""
        if run == _RUNS_MAX:
            return
        at = _RUNS_AT + run * _RUN_BYTES
        with self._lock:
            for place in range(at + _RUN_HEAD, at + _FINGERPRINTS_AT, 16):
                if self._map[place : place + 16] == prediction_id:
                    self._map[place : place + 16] = _BLANK

    def leave(self, run: int) -> None:
        """Say that the run is over."""
        if run == _RUNS_MAX:
            return
        with self._lock:
            _RUN.pack_into(self._map, _RUNS_AT + run * _RUN_BYTES, 0, 0, 0)
            self._began_s.pop(run, None)
            if not self._is_closed:
                self._free.append(run)

    def oldest_s(self) -> float:
        """Return when the oldest run that goes on began, on the system's monotonic clock."""
        with self._lock:
            return next(iter(self._began_s.values()), math.inf)

    def close(self) -> None:
        """Blank every run and note no other."""
        with self._lock:
            self._began_s.clear()
            self._is_closed = True
            self._free.clear()
            self._map[_RUNS_AT:_SIZE] = bytes(_SIZE - _RUNS_AT)

    def left_behind(self) -> Sequence[Interrupted]:
        """Return what the worker before was running when it died, once."""
        left, self._left = self._left, []
        return left

    def runs_left(self) -> Sequence[DeadRun]:
        """Return what ran in the worker before when it died, once."""
        left, self._runs_left = self._runs_left, []
        return left


class InFlightWatch:
    """The supervisor's side: when the loop last turned, and the mark that the watchdog killed it."""

    def __init__(self, path: Path) -> None:
        self._map = _mapped(path)
        self._turned = _turned_in(self._map)

    def last_turn_s(self) -> float:
        """Return the monotonic time of the last turn; 0 when there was none."""
        return self._turned[0]

    def mark_hung(self) -> None:
        """Note that the worker is killed because its loop stood still."""
        self._map[8] = 1


def _mapped(path: Path) -> mmap.mmap:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.truncate(_SIZE)
            return mmap.mmap(file.fileno(), _SIZE)
    except OSError as error:
        raise StoreFailed(f"the in-flight file {path} cannot be mapped: {error}") from error


def _turned_in(content: mmap.mmap) -> memoryview[float]:
    """Return the place of the time at which the loop last turned, which is read and written in one piece.

    `struct` writes zeros first and then byte by byte: who looks meanwhile sees a worker that never turned, and kills it.
    """
    return memoryview(content)[:8].cast("d")


def _left_behind(content: mmap.mmap) -> list[Interrupted]:
    _, was_hung = _HEADER.unpack_from(content)
    found: list[Interrupted] = []
    for at, place, count, _ in _runs(content):
        ids = _pieces(content, at + _RUN_HEAD, min(count, _IDS_MAX))
        found.extend(Interrupted(str(UUID(bytes=id)), place, bool(was_hung)) for id in ids if id != _BLANK)
    return found


def _runs_left(content: mmap.mmap) -> list[DeadRun]:
    runs = list(_runs(content))
    fingerprints = [_pieces(content, at + _FINGERPRINTS_AT, min(count, _FINGERPRINTS_MAX)) for at, _, _, count in runs]
    return [(place.digest, [one.hex() for one in noted]) for (_, place, _, _), noted in zip(runs, fingerprints, strict=True)]


def _runs(content: mmap.mmap) -> Iterator[tuple[int, Place, int, int]]:
    """Yield where each noted run begins, its place, and how many ids and fingerprints it has."""
    for at in range(_RUNS_AT, _SIZE, _RUN_BYTES):
        place, ids, fingerprints = _RUN.unpack_from(content, at)
        if 0 < place <= _PLACES_MAX:
            line = _HEADER.size + (place - 1) * _PLACE_BYTES
            yield at, Place(*json.loads(content[line : line + _PLACE_BYTES].partition(b"\n")[0])), ids, fingerprints


def _pieces(content: mmap.mmap, at: int, count: int) -> list[bytes]:
    return [content[place : place + 16] for place in range(at, at + 16 * count, 16)]
