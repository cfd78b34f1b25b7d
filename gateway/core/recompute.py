"""Running logged inputs again: the batch that the runtime saw, the rows of it that were a record's own, how far answers differ.

A runtime's answer to a row may depend on how many rows it is given (a matrix product takes another path), not on what the others
hold. So a record's rows go to their recorded place in a batch of the recorded size, and rows that are not known are filled up.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.core.fields import Json
from gateway.core.models import Target, Task
from gateway.core.records import PredictionRecord
from gateway.core.tensors import Array, Datatype, Tensor


@dataclass(frozen=True, slots=True)
class Difference:
    """One output, as recorded and as computed again.

    Attributes:
        elements: Of the recorded output.
        unequal: Elements that differ in any bit; all of them when datatype or shape differ.
        largest, total: Of the absolute differences of numbers; infinite where only one is finite, 0 for equal ones; None for
            text and where datatype or shape differ.
    """

    name: str
    elements: int
    unequal: int
    largest: float | None
    total: float | None

    def body(self) -> Json:
        """Return the difference as it is shown; what JSON cannot hold as text."""
        largest = self.largest if self.largest is None or np.isfinite(self.largest) else str(self.largest)
        return {"name": self.name, "elements": self.elements, "unequal": self.unequal, "largest_difference": largest}


def joined(records: Sequence[PredictionRecord]) -> dict[str, Array]:
    """Return one batch of the recorded size with each record's rows at its place.

    Args:
        records: At least one; of equal `batch_rows` and with places that do not overlap, in order of their places.
    """
    first = records[0]
    if len(records) == 1 and first.batch_rows <= rows_of(first):
        return {tensor.name: tensor.data for tensor in first.inputs}
    batch: dict[str, Array] = {}
    for at, tensor in enumerate(first.inputs):
        filled = np.repeat(tensor.data[:1], first.batch_rows, axis=0)  # a row that the model takes
        for record in records:
            filled[record.batch_position : record.batch_position + rows_of(record)] = record.inputs[at].data
        batch[tensor.name] = filled
    return batch


def rows_of(record: PredictionRecord) -> int:
    """Return the rows of a record of a version that joins rows."""
    return int(record.inputs[0].data.shape[0]) if record.inputs and record.inputs[0].data.ndim else 1


def own_rows(outputs: Mapping[str, Array], record: PredictionRecord, *, is_batched: bool) -> dict[str, Array]:
    """Return a record's part of what a batch gave."""
    if not is_batched:
        return dict(outputs)
    begin = record.batch_position if record.batch_rows > rows_of(record) else 0
    return {name: data[begin : begin + rows_of(record)] for name, data in outputs.items()}


def difference(recorded: Tensor, again: Array | None) -> Difference:
    """Compare one output to the bit, and by how much its numbers differ."""
    was, count = recorded.data, int(recorded.data.size)
    if again is None or again.dtype != was.dtype or again.shape != was.shape:
        return Difference(recorded.name, count, max(count, 1), None, None)
    if recorded.datatype is Datatype.BYTES:
        unequal = sum(one != other for one, other in zip(was.ravel().tolist(), again.ravel().tolist(), strict=True))
        return Difference(recorded.name, count, unequal, None, None)
    width = was.dtype.itemsize
    bits = np.ascontiguousarray(was).view(np.uint8) != np.ascontiguousarray(again).view(np.uint8)
    unequal = int(bits.reshape(-1, width).any(axis=1).sum())
    if not unequal:
        return Difference(recorded.name, count, 0, 0.0, 0.0)
    apart = _apart(was.astype(np.float64).ravel(), again.astype(np.float64).ravel())
    return Difference(recorded.name, count, unequal, float(apart.max()), float(apart.sum()))


def _apart(
    one: np.ndarray[tuple[int, ...], np.dtype[np.float64]], other: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    with np.errstate(invalid="ignore"):
        apart = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart))


def said(target: Target, outputs: Mapping[str, Array]) -> Array | None:
    """Return what each row of an answer decides, in a form to compare: a side of the threshold, a label or its place.

    None for a regression, another task, or an answer of another form; see `guardrails.loss` for the forms.
    """
    answer = outputs.get(target.output) if target.output else next(iter(outputs.values()), None)
    if answer is None or answer.ndim not in (1, 2) or not answer.size or target.task not in (Task.BINARY, Task.MULTICLASS):
        return None
    rows = answer.reshape(len(answer), -1)
    if answer.dtype.kind != "f":
        return rows
    if target.task is Task.MULTICLASS:
        return np.asarray(np.argmax(rows, axis=1))
    if rows.shape[1] > 2:
        return None
    labels = target.labels or ("0", "1")
    at = labels.index(target.positive or labels[-1]) if rows.shape[1] == 2 else 0
    return np.asarray(rows[:, at].astype(np.float64) >= target.threshold)
