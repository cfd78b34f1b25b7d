"""Joins late ground truth to the predictions it speaks of, by prediction id and row.

Predictions wait, the oldest dropped first when there are too many; of each only what the loss needs is kept. Ground truth that
the merge delivers before its prediction waits too. The first value of a row counts, a repeated one is ignored.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.core.guardrails import Truth
from gateway.core.tensors import NUMPY_DTYPES, Array, Datatype, Tensor

Packed = bytes | list[bytes]  # of numbers; of BYTES
EARLY_MAX: Final = 10_000  # values that wait for their prediction; workers' clocks differ by far less than that takes


class Uncounted(enum.Enum):
    """Why a value of ground truth was dropped.

    `UNKNOWN`: its prediction never came, or was known in full or dropped before. `NO_ROW`: the prediction has no such row.
    `REPEATED`: the row was known already, whether or not by the same value.
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
    """

    place: Place
    key: str
    rows: int
    answer: Packed


@dataclass(frozen=True, slots=True)
class Joined:
    """One row of a prediction and its ground truth."""

    waiting: Waiting
    row: int
    value: Truth


def packed(data: Array) -> Packed:
    """Return the elements of an answer: a tenth of an array's memory and of the time to save it."""
    return data.ravel().tolist() if data.dtype.kind == "O" else data.tobytes()


def unpacked(waiting: Waiting, name: str) -> Tensor:
    """Return the answer as the tensor it was, under a name."""
    place, answer = waiting.place, waiting.answer
    flat = np.array(answer, np.object_) if isinstance(answer, list) else np.frombuffer(answer, NUMPY_DTYPES[place.datatype])
    return Tensor(name, place.datatype, flat.reshape(-1, *place.row_shape))


_Entry = tuple[
    Place, str, int, Packed, int
]  # a `Waiting` and the bits of the rows known; a plain tuple is saved five times as fast


class TruthJoin:
    """Predictions that wait for ground truth, and ground truth that waits for its prediction.

    Attributes:
        dropped_count: Predictions that waited too long.
        uncounted: Values dropped, by reason.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._waiting: dict[str, _Entry] = {}
        self._rows = 0
        self._early: dict[tuple[str, int], Truth] = {}
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
        if prediction_id in self._waiting:
            return []
        self._waiting[prediction_id] = (waiting.place, waiting.key, waiting.rows, waiting.answer, 0)
        self._rows += waiting.rows
        while self._rows > self._rows_max:
            _, _, rows, _, _ = self._waiting.pop(next(iter(self._waiting)))
            self._rows -= rows
            self.dropped_count += 1
        found = [(row, self._early.pop((prediction_id, row))) for row in self._early_rows.pop(prediction_id, ())]
        return [joined for row, value in found if (joined := self.learn(prediction_id, row, value)) is not None]

    def learn(self, prediction_id: str, row: int, value: Truth) -> Joined | None:
        """Take one value, and return it with its prediction if that waits for it."""
        entry = self._waiting.get(prediction_id)
        if entry is None:
            self._keep_early(prediction_id, row, value)
            return None
        place, key, rows, answer, known = entry
        if not 0 <= row < rows or known >> row & 1:
            self.uncounted[Uncounted.REPEATED if 0 <= row < rows else Uncounted.NO_ROW] += 1
            return None
        known |= 1 << row
        if known == (1 << rows) - 1:
            del self._waiting[prediction_id]
            self._rows -= rows
        else:
            self._waiting[prediction_id] = (place, key, rows, answer, known)
        return Joined(Waiting(place, key, rows, answer), row, value)

    def _keep_early(self, prediction_id: str, row: int, value: Truth) -> None:
        if (prediction_id, row) in self._early:
            self.uncounted[Uncounted.REPEATED] += 1
            return
        self._early[prediction_id, row] = value
        self._early_rows.setdefault(prediction_id, []).append(row)
        if len(self._early) > EARLY_MAX:
            oldest = next(iter(self._early))
            del self._early[oldest]
            rows = self._early_rows[oldest[0]]
            rows.remove(oldest[1])
            if not rows:
                del self._early_rows[oldest[0]]
            self.uncounted[Uncounted.UNKNOWN] += 1
