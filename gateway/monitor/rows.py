"""Takes the features and the answer of logged predictions out of their tensors, as columns of values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from gateway.core.models import Column, ColumnKind, Target, Version
from gateway.core.records import PredictionRecord
from gateway.core.tensors import Array, Tensor

RECORD_ROWS_MAX: Final = 1_000  # of one record looked at for drift: a request may have millions, and all routes would wait for it
ANSWER: Final = "answer"  # the column made of a version's output
_NUMBERS: Final = Column(ANSWER)
_CLASSES: Final = Column(ANSWER, ColumnKind.CATEGORICAL)
Features = Array | list[Array]  # of some rows: wide, of shape (rows, columns), or one array of shape (rows,) for each column


def row_count(record: PredictionRecord) -> int:
    """Return the rows of a request: the first dimension of its first input, 1 when that has none."""
    return record.inputs[0].data.shape[0] if record.inputs and record.inputs[0].data.ndim else 1


def thinned(rows: int) -> slice:
    """Return which rows of a record are looked at: all, or the first of every so many where it has over `RECORD_ROWS_MAX`."""
    return slice(None, None, max(1, -(-rows // RECORD_ROWS_MAX)))


def hidden_names(record: PredictionRecord) -> tuple[str, ...]:
    """Return the inputs, columns and outputs of which the log does not have the values."""
    return (*record.dropped, *record.hashed)


def feature_values(columns: Sequence[Column], inputs: Sequence[Tensor], *, hidden: Collection[str] = ()) -> Features | None:
    """Return the values of the columns, in the form in which they came; None when the inputs do not have those columns.

    The features are one wide tensor [rows, columns], or named inputs of shape [rows] or [rows, 1].

    Args:
        hidden: Names of columns to leave out.
    """
    if len(inputs) == 1 and not hidden and inputs[0].data.ndim == 2 and inputs[0].data.shape[1] == len(columns):
        return inputs[0].data
    kept = [at for at, column in enumerate(columns) if column.name not in hidden]
    if len(inputs) == 1 and inputs[0].name in hidden:
        return None
    if len(inputs) == 1 and inputs[0].data.ndim == 2 and inputs[0].data.shape[1] == len(columns):
        return inputs[0].data[:, kept]
    by_name = {tensor.name: tensor.data for tensor in inputs}
    found = [by_name.get(columns[at].name) for at in kept]
    arrays = [array.ravel() for array in found if array is not None]
    if len(arrays) != len(kept) or len({array.size for array in arrays}) != 1:
        return None
    return arrays


def joined_columns(parts: Sequence[Features]) -> Sequence[Array]:
    """Return one array of shape (rows,) for each column, over all parts in their order."""
    wide = [part for part in parts if not isinstance(part, list)]
    if len(wide) == len(parts):
        return list(np.concatenate(wide).T)
    return [
        np.concatenate(column) for column in zip(*(part if isinstance(part, list) else part.T for part in parts), strict=True)
    ]


def answer_tensor(target: Target, outputs: Sequence[Tensor]) -> Tensor | None:
    """Return the output that the target names, or the first; None when it is not there, or nothing of it is in the log."""
    for tensor in outputs:
        if not target.output or tensor.name == target.output:
            return tensor if tensor.data.size else None
    return None


def answer_column(version: Version | None, outputs: Sequence[Tensor]) -> tuple[Column, Array] | None:
    """Return a version's answers as a column of shape (rows,); None when they are not tabular.

    One number a row stands as it is, of two (the probabilities of a pair of labels) the last; of more the index of the highest.
    """
    tensor = outputs[0] if version is None and outputs else answer_tensor(version.target, outputs) if version else None
    if tensor is None or tensor.data.ndim not in (1, 2) or tensor.data.size == 0:
        return None
    data = tensor.data if tensor.data.ndim == 2 else tensor.data.reshape(-1, 1)
    if data.dtype.kind == "O":
        return (_CLASSES, data[:, 0]) if data.shape[1] == 1 else None
    if data.shape[1] <= 2:
        return _NUMBERS, data[:, -1]
    return _CLASSES, np.argmax(data, axis=1)
