"""Summary statistics: one number a row of what has no columns, such as images, embeddings and texts.

A version names those that it is watched by, each of an input or an output. The first dimension of a tensor is the rows; the
others are taken as one. Pure.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json
from gateway.core.tensors import Array, FloatArray, Tensor

SUMMARIES_MAX: Final = 50  # of a version; each costs as much as a feature, and reading the tensor once more
DIRECTIONS_MAX: Final = 1_000_000  # numbers from which to choose a projection
_NUMERIC: Final = frozenset("biuf")


class Statistic(enum.Enum):
    """What is told of a row."""

    NORM = "norm"  # Euclidean
    MEAN = "mean"
    VARIANCE = "variance"
    SPARSITY = "sparsity"  # share of zeros
    PROJECTION = "projection"  # onto a fixed direction of ±1/√n, chosen by number
    LENGTH = "length"  # of a text, in characters
    NON_ASCII = "non_ascii"  # share of a text's characters
    BLANK = "blank"  # share of a text's characters that are white space


TEXT: Final = frozenset({Statistic.LENGTH, Statistic.NON_ASCII, Statistic.BLANK})


@dataclass(frozen=True, slots=True)
class Summary:
    """One statistic of one tensor.

    Attributes:
        tensor: Name of an input or an output.
        direction: Of a projection; 0 for the others.
    """

    tensor: str
    statistic: Statistic
    direction: int = 0

    @property
    def name(self) -> str:
        """What readings call it."""
        direction = f" {self.direction}" if self.statistic is Statistic.PROJECTION else ""
        return f"{self.statistic.value}{direction} of {self.tensor}"


def summaries_from_body(items: Sequence[object], where: str) -> tuple[Summary, ...]:
    """Read what a version is watched by.

    Raises:
        MalformedRequest: a field is wrong, or two are the same.
    """
    summaries = tuple(_summary(item, f"{where}[{at}]") for at, item in enumerate(items))
    if len(set(summaries)) != len(summaries):
        raise MalformedRequest(f"{where}: two summaries are the same")
    return summaries


def summary_body(summary: Summary) -> Json:
    """Return what `summaries_from_body` reads."""
    return {"tensor": summary.tensor, "statistic": summary.statistic.value, "direction": summary.direction}


def _summary(body: object, where: str) -> Summary:
    fields = Fields(body, where)
    summary = Summary(
        tensor=fields.text("tensor", length_max=200),
        statistic=fields.choice("statistic", Statistic),
        direction=fields.integer("direction", 0, DIRECTIONS_MAX, 0),
    )
    fields.done()
    if summary.direction and summary.statistic is not Statistic.PROJECTION:
        raise MalformedRequest(f"{where}.direction: only a projection has one")
    return summary


def summarised(summaries: Sequence[Summary], tensors: Sequence[Tensor]) -> list[FloatArray] | None:
    """Return each summary of the tensors' rows, shape (rows,) each; None when a tensor is missing or their rows differ in number.

    NaN where a row has no such number: of a row that is empty, not finite, or not of the statistic's kind.
    """
    by_name: Mapping[str, Array] = {tensor.name: tensor.data for tensor in tensors}
    found = [by_name.get(summary.tensor) for summary in summaries]
    arrays = [array for array in found if array is not None and array.ndim]
    if len(arrays) != len(summaries) or len({len(array) for array in arrays}) > 1:
        return None
    return [_of_rows(summary, array) for summary, array in zip(summaries, arrays, strict=True)]


def _of_rows(summary: Summary, array: Array) -> FloatArray:
    if summary.statistic in TEXT:
        return np.asarray([_of_text(summary.statistic, row) for row in array.reshape(len(array), -1)], np.float64)
    if array.dtype.kind not in _NUMERIC or not array.size:
        return np.full(len(array), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        values = _of_numbers(summary, array.reshape(len(array), -1).astype(np.float64))
    return np.where(np.isfinite(values), values, np.nan)


def _of_numbers(summary: Summary, rows: FloatArray) -> FloatArray:
    """Return the statistic of each row; sums without BLAS, whose last bit is its own."""
    match summary.statistic:
        case Statistic.NORM:
            return np.sqrt(_mean(rows * rows * rows.shape[1]))
        case Statistic.MEAN:
            return _mean(rows)
        case Statistic.VARIANCE:
            return _mean((rows - _mean(rows)[:, None]) ** 2)
        case Statistic.SPARSITY:
            return _mean((rows == 0.0).astype(np.float64))
        case Statistic.PROJECTION:
            return _mean(rows * signs(rows.shape[1], summary.direction) * math.sqrt(rows.shape[1]))
        case Statistic.LENGTH | Statistic.NON_ASCII | Statistic.BLANK:
            return np.full(len(rows), np.nan)
        case _:
            assert_never(summary.statistic)


def _mean(rows: FloatArray) -> FloatArray:
    means: FloatArray = np.add.reduce(rows, axis=1) / rows.shape[1]
    return means


def signs(count: int, direction: int) -> FloatArray:
    """Return the direction's ±1, the same on every machine: a bit of splitmix64 of each position."""
    with np.errstate(over="ignore"):
        mixed = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(direction << 32)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: FloatArray = np.where((mixed >> np.uint64(63)).astype(np.bool_), 1.0, -1.0)
    return found


def _of_text(statistic: Statistic, row: Array) -> float:
    value = row[0] if len(row) == 1 else None
    if not isinstance(value, bytes):
        return math.nan
    text = value.decode("utf-8", "replace")
    if statistic is Statistic.LENGTH:
        return float(len(text))
    if not text:
        return math.nan
    return sum(character.isspace() if statistic is Statistic.BLANK else not character.isascii() for character in text) / len(text)
