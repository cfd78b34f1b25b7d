"""Joins late ground truth to the predictions it speaks of, by prediction id and row.

Predictions wait, the oldest dropped first when there are too many; of each only what the loss needs is kept. Ground truth whose
prediction is not known waits too, since the merge may deliver it first; after a while it is sought in the archive, again and
again until it cannot be there any more. Of a row the value that the log has last stands, if it fits the answer: the same one
again is a repetition and counts for nothing, another one is a correction, told apart from a first value. So that corrections are
known, the predictions known in full are kept for a while, the oldest dropped first.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Final

import numpy as np

from gateway.core.losses import Truth
from gateway.core.tensors import NUMPY_DTYPES, Array, Datatype, Tensor

Packed = bytes | list[bytes]  # of numbers; of BYTES
_DTYPES: Final = {datatype.value: dtype for datatype, dtype in NUMPY_DTYPES.items()}  # to hash a text costs a tenth of an enum
EARLY_MAX: Final = 100_000  # values that wait for their prediction, 150 bytes each, the oldest dropped first
EARLY_S: Final = 5.0  # until the archive is asked; workers' clocks differ by less
SOUGHT_MAX: Final = 2_000  # predictions asked for at once: about 0.2 s of the monitor's turn
SOUGHT_EVERY_S: Final = 10.0  # or as soon as so many are due, but at most once a second of the log's time
RETRY_S: Final = 600.0  # a prediction that memory dropped may lie in a segment that is still open…
RETRIED_S: Final = 7_200.0  # …for an hour by default, and then waits for the archive
SETTLED_ROWS_MAX: Final = 50_000  # kept for corrections: 50 ms of each checkpoint
LEFT_MAX: Final = 500_000  # predictions of other processes remembered, twice, 75 bytes each; older ones are looked for in vain


class Uncounted(enum.Enum):
    """Why a value of ground truth was dropped.

    `UNKNOWN`: its prediction never came and is not in the archive. `NO_ROW`: the prediction has no such row.
    `REPEATED`: the row was known by the same value, or its prediction had not come yet and a newer value took its place.
    `NOT_SAMPLED`: its prediction is not in the share that is looked at, or may not have been.
    """

    UNKNOWN = "unknown"
    NO_ROW = "no_row"
    REPEATED = "repeated"
    NOT_SAMPLED = "not_sampled"


@dataclass(frozen=True, slots=True)
class Place:
    """What a waiting prediction is charged to, and the form of its answer; shared by all of one revision and variant.

    Attributes:
        variant, version: What answered.
        rollout: Whose evidence the answer is, or empty: no rollout, or not the assigned variant's own answer.
        share: The challenger's share in the revision that decided; 0 without a rollout.
        row_shape: Of the answer's rows.
    """

    route: str
    model: str
    version: str
    variant: str
    rollout: str
    share: float
    datatype: Datatype
    row_shape: tuple[int, ...]


@dataclass(slots=True)
class Waiting:
    """A prediction whose ground truth is not known yet. Never changed once it waits; not frozen, since every answer makes two.

    Attributes:
        key: The hashed assignment key.
        rows: Of the request.
        answer: What the tensor with the answer holds (see `packed`).
        time_s: When it was answered, in the log's time.
        estimate: The loss expected of it then, a row, or None.
    """

    place: Place
    key: str
    rows: int
    answer: Packed
    time_s: float
    estimate: float | None = None


@dataclass(slots=True)
class Joined:
    """One row of a prediction and its ground truth. Never changed; not frozen, as above.

    Attributes:
        time_s: When the value came, in the log's time.
        corrects: The value that stood until now and when that came, or None: this is the row's first.
    """

    waiting: Waiting
    row: int
    value: Truth
    time_s: float
    corrects: tuple[Truth, float] | None = None


def packed(data: Array) -> Packed:
    """Return the elements of an answer: a tenth of an array's memory and of the time to save it."""
    return data.ravel().tolist() if data.dtype.kind == "O" else data.tobytes()


def unpacked(place: Place, answer: Packed, name: str) -> Tensor:
    """Return an answer as the tensor it was, under a name."""
    flat = np.array(answer, np.object_) if isinstance(answer, list) else np.frombuffer(answer, _DTYPES[place.datatype._value_])
    return Tensor(name, place.datatype, flat.reshape(-1, *place.row_shape))


_Known = tuple[tuple[int, Truth, float], ...]  # row, value, when it came
_Early = tuple[float, float, _Known]  # when the first value came, when the archive is asked, the values
Entry = tuple[
    Place, str, int, Packed, float, _Known, float | None
]  # a `Waiting` and what is known; a plain tuple is saved five times as fast


class TruthJoin:
    """Predictions that wait for ground truth, those known in full, and ground truth that waits for its prediction.

    Attributes:
        dropped_count: Predictions that waited too long; the archive knows them.
        recalled_count: Predictions that were found there.
        uncounted: Values dropped, by reason.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._waiting: dict[str, Entry] = {}
        self._rows = 0
        self._settled: dict[str, Entry] = {}
        self._settled_rows = 0
        self._early: dict[str, _Early] = {}  # never looked for
        self._missed: dict[str, _Early] = {}  # looked for and not found
        self._early_values = 0
        self._sought_s = 0.0
        self._left: set[bytes] = set()  # predictions that other processes handle, hashed: those met last…
        self._left_before: set[bytes] = set()  # …and as many before them
        self.dropped_count = 0
        self.recalled_count = 0
        self.uncounted = dict.fromkeys(Uncounted, 0)

    @classmethod
    def handed_over(cls, joins: Sequence[TruthJoin], has: Callable[[str], bool], *, is_counting: bool) -> TruthJoin:
        """Return what one process gets of what others knew.

        Args:
            has: Whether a route is its own.
            is_counting: Whether it goes on with the counts of all.
        """
        join = cls(joins[0]._rows_max)  # noqa: SLF001 - of its own kind
        waiting = sorted((one for old in joins for one in old._waiting.items()), key=_answered_s)  # noqa: SLF001
        settled = sorted((one for old in joins for one in old._settled.items()), key=_answered_s)  # noqa: SLF001
        join._waiting = {id: entry for id, entry in waiting if has(entry[0].route)}
        join._settled = {id: entry for id, entry in settled if has(entry[0].route)}
        join._rows = sum(entry[2] for entry in join._waiting.values())
        join._settled_rows = sum(entry[2] for entry in join._settled.values())
        join._left = {_hashed(id) for id, entry in (*waiting, *settled) if not has(entry[0].route)}
        known = {id for id, _ in (*waiting, *settled)}
        join._early = _unknown([old._early for old in joins], known)  # noqa: SLF001
        join._missed = _unknown([old._missed for old in joins], known)  # noqa: SLF001
        join._early_values = sum(len(values) for _, _, values in (*join._early.values(), *join._missed.values()))
        join._sought_s = min(old._sought_s for old in joins)  # noqa: SLF001
        if is_counting:
            join.dropped_count = sum(old.dropped_count for old in joins)
            join.recalled_count = sum(old.recalled_count for old in joins)
            join.uncounted = {reason: sum(old.uncounted[reason] for old in joins) for reason in Uncounted}
        return join

    @property
    def rows_max(self) -> int:
        """Of all waiting predictions."""
        return self._rows_max

    @property
    def unmatched_count(self) -> int:
        """Values dropped, for whatever reason."""
        return sum(self.uncounted.values())

    @property
    def rows_waiting(self) -> int:
        """Rows of all waiting predictions."""
        return self._rows

    def expect(self, prediction_id: str, waiting: Waiting) -> list[Joined]:
        """Let a prediction wait, and return what was known of it already."""
        if prediction_id in self._waiting or prediction_id in self._settled:
            return []
        self._wait(prediction_id, entry_of(waiting))
        return self._join_early(prediction_id)

    def is_new(self, prediction_id: str) -> bool:
        """Return whether nothing at all is known of a prediction, nor of its ground truth."""
        if prediction_id in self._waiting or prediction_id in self._settled:
            return False
        return prediction_id not in self._early and prediction_id not in self._missed

    def waiting(self, prediction_id: str) -> Entry | None:
        """Return a prediction that waits."""
        return self._waiting.get(prediction_id)

    def first_out(self, count: int) -> frozenset[str]:
        """Return the predictions that may have to make room when so many rows more wait."""
        return frozenset(islice(self._waiting, count)) if self._rows + count > self._rows_max else frozenset()

    def take(self, entries: Iterable[tuple[str, Entry]]) -> None:
        """Take predictions of one row, new ones to wait and those that wait with what is known of them, in order."""
        for id, entry in entries:
            if entry[5]:
                del self._waiting[id]
                self._rows -= 1
                self._settle(id, entry)
            else:
                self._wait(id, entry)

    def leave(self, prediction_id: str) -> None:
        """Take that another process handles a prediction, so that its ground truth is nobody's concern here."""
        if len(self._left) >= LEFT_MAX:
            self._left, self._left_before = set(), self._left
        self._left.add(_hashed(prediction_id))
        early = self._early.pop(prediction_id, None) or self._missed.pop(prediction_id, None)
        if early is not None:
            self._early_values -= len(early[2])

    def is_left(self, prediction_id: str) -> bool:
        """Return whether another process handles a prediction."""
        if not self._left:
            return False
        hashed = _hashed(prediction_id)
        return hashed in self._left or hashed in self._left_before

    def route_of(self, prediction_id: str) -> str:
        """Return the route of a prediction known here; empty for another."""
        entry = self._waiting.get(prediction_id) or self._settled.get(prediction_id)
        return entry[0].route if entry is not None else ""

    def recall(self, prediction_id: str, waiting: Waiting, known: Iterable[tuple[int, Truth, float]]) -> list[Joined]:
        """Take up a prediction that the archive knows, with the (row, value, time) known there, and return what is new.

        Of those only what came before anything that waits here was counted; the rest is among what waits.
        """
        first_s, _, _ = self._early.get(prediction_id) or self._missed[prediction_id]
        counted = {row: (row, value, time_s) for row, value, time_s in known if time_s < first_s}
        self.recalled_count += 1
        self._settle(prediction_id, entry_of(waiting, tuple(counted.values())))
        return self._join_early(prediction_id)

    def sought(self, now_s: float) -> list[str]:
        """Return the predictions to look for now, oldest ids first; call it once in each second of the log's time."""
        due = [id for among in (self._missed, self._early) for id in _due(among, now_s)]
        if not due or (len(due) < SOUGHT_MAX and now_s - self._sought_s < SOUGHT_EVERY_S):
            return []
        self._sought_s = now_s
        return sorted(due)[:SOUGHT_MAX]

    def miss(self, prediction_id: str, now_s: float, *, for_good: bool = False) -> None:
        """Take that a prediction was not found; it is looked for again later, unless it cannot be found any more."""
        early = self._early.pop(prediction_id, None) or self._missed.pop(prediction_id)
        first_s, _, known = early
        if for_good or now_s - first_s >= RETRIED_S:
            self._early_values -= len(known)
            self.uncounted[Uncounted.UNKNOWN] += len(known)
        else:
            self._missed[prediction_id] = (first_s, now_s + RETRY_S, known)

    def learn(self, prediction_id: str, row: int, value: Truth, time_s: float, *, is_missing: bool = False) -> Joined | None:
        """Take one value that came at a time of the log, and return it with its prediction if that is known.

        Args:
            is_missing: Whether a prediction that is not known was passed over, so that nothing waits for it.
        """
        entry = self._waiting.get(prediction_id)
        if entry is not None:
            return self._joined(prediction_id, entry, row, (value, time_s))
        entry = self._settled.get(prediction_id)
        if entry is not None:
            return self._joined(prediction_id, entry, row, (value, time_s))
        if is_missing:
            self.uncounted[Uncounted.NOT_SAMPLED] += 1
        else:
            self._keep_early(prediction_id, row, value, time_s)
        return None

    def refuse(self, prediction_id: str, joined: Joined) -> None:
        """Take that a joined value fits no answer: what stood before it stands on, or nothing."""
        among = self._waiting if prediction_id in self._waiting else self._settled
        if (entry := among.get(prediction_id)) is None:
            return
        place, key, rows, answer, since_s, known, estimate = entry
        stood = () if joined.corrects is None else ((joined.row, *joined.corrects),)
        others = tuple(one for one in known if one[0] != joined.row)
        among[prediction_id] = (place, key, rows, answer, since_s, (*others, *stood), estimate)

    def _joined(self, prediction_id: str, entry: Entry, row: int, came: tuple[Truth, float]) -> Joined | None:
        place, key, rows, answer, since_s, known, estimate = entry
        if not 0 <= row < rows:
            self.uncounted[Uncounted.NO_ROW] += 1
            return None
        corrects = next(((before, then_s) for at, before, then_s in known if at == row), None) if known else None
        if corrects is not None:
            if corrects[0] == came[0]:
                self.uncounted[Uncounted.REPEATED] += 1
                return None
            known = tuple(one for one in known if one[0] != row)
        entry = (place, key, rows, answer, since_s, (*known, (row, *came)), estimate)
        if prediction_id in self._settled:
            self._settled[prediction_id] = entry
        elif len(known) + 1 == rows:
            del self._waiting[prediction_id]
            self._rows -= rows
            self._settle(prediction_id, entry)
        else:
            self._waiting[prediction_id] = entry
        return Joined(Waiting(place, key, rows, answer, since_s, estimate), row, *came, corrects)

    def _wait(self, prediction_id: str, entry: Entry) -> None:
        self._waiting[prediction_id] = entry
        self._rows += entry[2]
        while self._rows > self._rows_max:
            rows = self._waiting.pop(next(iter(self._waiting)))[2]
            self._rows -= rows
            self.dropped_count += 1

    def _settle(self, prediction_id: str, entry: Entry) -> None:
        self._settled[prediction_id] = entry
        self._settled_rows += entry[2]
        while self._settled_rows > SETTLED_ROWS_MAX:
            rows = self._settled.pop(next(iter(self._settled)))[2]
            self._settled_rows -= rows

    def _join_early(self, prediction_id: str) -> list[Joined]:
        if not self._early and not self._missed:
            return []
        early = self._early.pop(prediction_id, None) or self._missed.pop(prediction_id, None)
        if early is None:
            return []
        self._early_values -= len(early[2])
        return [one for known in early[2] if (one := self.learn(prediction_id, *known)) is not None]

    def _keep_early(self, prediction_id: str, row: int, value: Truth, time_s: float) -> None:
        among = self._missed if prediction_id in self._missed else self._early
        first_s, next_s, known = among.get(prediction_id, (time_s, time_s + EARLY_S, ()))
        others = tuple(one for one in known if one[0] != row)
        among[prediction_id] = (first_s, next_s, (*others, (row, value, time_s)))
        if len(others) < len(known):
            self.uncounted[Uncounted.REPEATED] += 1
            return
        self._early_values += 1
        while self._early_values > EARLY_MAX:
            self.miss(next(iter(self._missed or self._early)), time_s, for_good=True)


def _answered_s(one: tuple[str, Entry]) -> float:
    return one[1][4]


def _unknown(kept: Sequence[dict[str, _Early]], known: set[str]) -> dict[str, _Early]:
    """Return the values whose predictions nobody knew, in the order in which they become due."""
    values = {id: early for among in kept for id, early in among.items() if id not in known}
    return dict(sorted(values.items(), key=lambda one: one[1][1]))


def _hashed(prediction_id: str) -> bytes:
    return blake2b(prediction_id.encode(), digest_size=8).digest()


def entry_of(waiting: Waiting, known: _Known = ()) -> Entry:
    """Return what waits with what is known of it, as it is kept."""
    return waiting.place, waiting.key, waiting.rows, waiting.answer, waiting.time_s, known, waiting.estimate


def _due(among: dict[str, _Early], now_s: float) -> Iterator[str]:
    """Yield what is due; values stand in the order in which they become so."""
    for id, (_, next_s, _) in among.items():
        if next_s > now_s:
            return
        yield id
