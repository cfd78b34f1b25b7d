"""Joins late ground truth to the predictions it speaks of, by prediction id and row.

Predictions wait, the oldest dropped first when there are too many; of each only what the loss needs is kept. Ground truth that
the merge delivers before its prediction waits too. Of a row the value that the log has last stands: the same one again is a
repetition and counts for nothing, another one is a correction, told apart from a first value. So that corrections are known, the
predictions known in full are kept for a while, the oldest dropped first.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.core.losses import Truth
from gateway.core.tensors import NUMPY_DTYPES, Array, Datatype, Tensor

Packed = bytes | list[bytes]  # of numbers; of BYTES
EARLY_MAX: Final = 10_000  # values that wait for their prediction; workers' clocks differ by far less than that takes
SETTLED_ROWS_MAX: Final = 50_000  # kept for corrections: 50 ms of each checkpoint


class Uncounted(enum.Enum):
    """Why a value of ground truth was dropped.

    `UNKNOWN`: its prediction never came, or was known in full or dropped before. `NO_ROW`: the prediction has no such row.
    `REPEATED`: the row was known by the same value, or its prediction had not come yet and a newer value took its place.
    """

    UNKNOWN = "unknown"
    NO_ROW = "no_row"
    REPEATED = "repeated"


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


@dataclass(frozen=True, slots=True)
class Waiting:
    """A prediction whose ground truth is not known yet.

    Attributes:
        key: The hashed assignment key.
        rows: Of the request.
        answer: What the tensor with the answer holds (see `packed`).
        time_s: When it was answered, in the log's time.
    """

    place: Place
    key: str
    rows: int
    answer: Packed
    time_s: float


@dataclass(frozen=True, slots=True)
class Joined:
    """One row of a prediction and its ground truth.

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


def unpacked(waiting: Waiting, name: str) -> Tensor:
    """Return the answer as the tensor it was, under a name."""
    place, answer = waiting.place, waiting.answer
    flat = np.array(answer, np.object_) if isinstance(answer, list) else np.frombuffer(answer, NUMPY_DTYPES[place.datatype])
    return Tensor(name, place.datatype, flat.reshape(-1, *place.row_shape))


_Known = tuple[tuple[int, Truth, float], ...]  # row, value, when it came
_Entry = tuple[Place, str, int, Packed, float, _Known]  # a `Waiting` and what is known; a plain tuple is saved five times as fast


class TruthJoin:
    """Predictions that wait for ground truth, those known in full, and ground truth that waits for its prediction.

    Attributes:
        dropped_count: Predictions that waited too long.
        uncounted: Values dropped, by reason.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._waiting: dict[str, _Entry] = {}
        self._rows = 0
        self._settled: dict[str, _Entry] = {}
        self._settled_rows = 0
        self._early: dict[tuple[str, int], tuple[Truth, float]] = {}
        self._early_rows: dict[str, list[int]] = {}
        self.dropped_count = 0
        self.uncounted = dict.fromkeys(Uncounted, 0)

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
        entry = (waiting.place, waiting.key, waiting.rows, waiting.answer, waiting.time_s, ())
        self._waiting[prediction_id] = entry
        self._rows += waiting.rows
        while self._rows > self._rows_max:
            _, _, rows, _, _, _ = self._waiting.pop(next(iter(self._waiting)))
            self._rows -= rows
            self.dropped_count += 1
        if prediction_id not in self._early_rows:
            return []
        found = [(row, *self._early.pop((prediction_id, row))) for row in self._early_rows.pop(prediction_id)]
        return [joined for known in found if (joined := self.learn(prediction_id, *known)) is not None]

    def learn(self, prediction_id: str, row: int, value: Truth, time_s: float) -> Joined | None:
        """Take one value that came at a time of the log, and return it with its prediction if that is known."""
        entry = self._waiting.get(prediction_id)
        if entry is not None:
            return self._joined(prediction_id, entry, row, (value, time_s))
        entry = self._settled.get(prediction_id)
        if entry is not None:
            return self._joined(prediction_id, entry, row, (value, time_s))
        self._keep_early(prediction_id, row, value, time_s)
        return None

    def _joined(self, prediction_id: str, entry: _Entry, row: int, came: tuple[Truth, float]) -> Joined | None:
        place, key, rows, answer, since_s, known = entry
        if not 0 <= row < rows:
            self.uncounted[Uncounted.NO_ROW] += 1
            return None
        corrects = next(((before, then_s) for at, before, then_s in known if at == row), None) if known else None
        if corrects is not None:
            if corrects[0] == came[0]:
                self.uncounted[Uncounted.REPEATED] += 1
                return None
            known = tuple(one for one in known if one[0] != row)
        entry = (place, key, rows, answer, since_s, (*known, (row, *came)))
        if prediction_id in self._settled:
            self._settled[prediction_id] = entry
        elif len(known) + 1 == rows:
            del self._waiting[prediction_id]
            self._rows -= rows
            self._settle(prediction_id, entry)
        else:
            self._waiting[prediction_id] = entry
        return Joined(Waiting(place, key, rows, answer, since_s), row, *came, corrects)

    def _settle(self, prediction_id: str, entry: _Entry) -> None:
        self._settled[prediction_id] = entry
        self._settled_rows += entry[2]
        while self._settled_rows > SETTLED_ROWS_MAX:
            _, _, rows, _, _, _ = self._settled.pop(next(iter(self._settled)))
            self._settled_rows -= rows

    def _keep_early(self, prediction_id: str, row: int, value: Truth, time_s: float) -> None:
        if (prediction_id, row) in self._early:
            self._early[prediction_id, row] = (value, time_s)
            self.uncounted[Uncounted.REPEATED] += 1
            return
        self._early[prediction_id, row] = (value, time_s)
        self._early_rows.setdefault(prediction_id, []).append(row)
        if len(self._early) > EARLY_MAX:
            oldest = next(iter(self._early))
            del self._early[oldest]
            rows = self._early_rows[oldest[0]]
            rows.remove(oldest[1])
            if not rows:
                del self._early_rows[oldest[0]]
            self.uncounted[Uncounted.UNKNOWN] += 1
