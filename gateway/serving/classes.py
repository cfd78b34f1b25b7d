"""The classification extension: an output as its highest values, each with the index of its class and, if known, its label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from gateway.core.errors import MalformedRequest
from gateway.core.tensors import Datatype, Tensor


def classified(tensor: Tensor, count: int, labels: Sequence[str], *, has_rows: bool) -> Tensor:
    """Return BYTES `<value>:<index>[:<label>]`, highest value first; of equal ones the lower index, and NaN last.

    Args:
        count: Of classes to name; capped at those there are.
        labels: Of the classes in their order; left out when they are not as many.
        has_rows: Whether the first dimension counts rows, each with classes of its own.

    Raises:
        MalformedRequest: the tensor does not hold numbers.
    """
    if tensor.datatype in (Datatype.BYTES, Datatype.BOOL):
        raise MalformedRequest(f"output {tensor.name!r}: classification needs numbers, not {tensor.datatype.value}")
    values = cast("NDArray[np.number[Any]]", tensor.data)
    rows = values.shape[0] if has_rows else 1
    values = values.reshape(rows, math.prod(values.shape[1:] if has_rows else values.shape))
    classes = values.shape[1]
    names = [f":{label}" for label in labels] if len(labels) == classes else [""] * classes
    texts = [f"{value}:{index}{names[index]}".encode() for row in values for index, value in _highest(row, min(count, classes))]
    found = np.empty(len(texts), np.object_)
    found[:] = texts
    shape = (rows, min(count, classes)) if has_rows else (min(count, classes),)
    return Tensor(tensor.name, Datatype.BYTES, found.reshape(shape))


def _highest(row: NDArray[np.number[Any]], count: int) -> list[tuple[int, str]]:
    """Return index and value, printed so that it reads back the same; sorted from the back, so that it is stable downwards."""
    order = np.argsort(row[::-1], kind="stable")
    numbers = (len(row) - 1 - order)[::-1]
    if row.dtype.kind == "f":  # NaN sorts above all
        is_number = ~np.isnan(row[numbers])
        numbers = np.concatenate([numbers[is_number], numbers[~is_number]])
    return [(int(index), str(row[index])) for index in numbers[:count]]
