"""How wrong an answer is, and how sure it was, once the truth is known.

What cannot be scored (an unknown label, a NaN, an answer of another form) has no loss, neither a good one nor a bad one. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, assert_never

from gateway.core.models import Target, Task
from gateway.core.tensors import Array, Tensor

Truth = str | float | int | bool
Statement = tuple[float | str, float | None]  # a number or a label, and the loss that it implies if it is a probability


class Answered(NamedTuple):
    """One row of an answer as plain values: of so few, arrays would take ten times as long.

    Attributes:
        kind: Of the dtype, in one letter as NumPy has it.
        numbers: Its elements; of BYTES, bytes.
    """

    kind: str
    numbers: list[float]


def loss(target: Target, outputs: Sequence[Tensor], row: int, truth: Truth) -> float | None:
    """Return how wrong one row of an answer is: 0 or 1 for classes, min(|error| / loss_max, 1) for numbers.

    The answer is the output named by the target, or the first.

    - binary: floats [n] or [n,1] are the probability of the positive label, [n,2] those of the labels in order, compared with the
      threshold; integers, booleans and bytes [n] or [n,1] are the label itself. Without labels the positive is 1.
    - multiclass: floats [n,c] are scores of the labels in order, of which the highest counts; integers, booleans and bytes [n]
      or [n,1] are the label itself. Without labels they are 0, 1, 2….
    - regression: numbers [n] or [n,1].

    None when the output or the row is missing, a number is not finite, or the truth is not one of the labels.
    """
    answer = _row(target, outputs, row)
    return None if answer is None else loss_of(target, answer, truth)


def scored(target: Target, outputs: Sequence[Tensor], row: int, truth: Truth) -> tuple[float, Statement | None] | None:
    """Return what `loss` and `stated` return of one row; None where there is no loss."""
    answer = _row(target, outputs, row)
    wrong = None if answer is None else loss_of(target, answer, truth)
    return None if answer is None or wrong is None else (wrong, statement_of(target, answer))


def loss_of(target: Target, answer: Answered, truth: Truth) -> float | None:
    """Return what `loss` does of a row."""
    match target.task:
        case Task.BINARY:
            return _binary_loss(target, answer, truth)
        case Task.MULTICLASS:
            return _multiclass_loss(target, answer, truth)
        case Task.REGRESSION:
            return _regression_loss(target, answer, truth)
        case Task.OTHER:
            return None
        case _:
            assert_never(target.task)


def decided(target: Target, outputs: Sequence[Tensor], row: int) -> str | float | None:
    """Return what one row of an answer comes to: a label of a class, a number of a regression or of another task.

    A target without labels counts its classes 0, 1, 2…. None where `loss` says nothing.
    """
    answer = _row(target, outputs, row)
    return None if answer is None else _decided(target, answer)


def stated(target: Target, outputs: Sequence[Tensor], row: int) -> Statement | None:
    """Return what one row of an answer states before its truth is known, and the loss that it implies, if it is a probability.

    binary: the probability of the positive label, or the label; multiclass: the highest probability, or the label; regression:
    the number. None where `loss` says nothing.
    """
    answer = _row(target, outputs, row)
    return None if answer is None else statement_of(target, answer)


def statement_of(target: Target, answer: Answered) -> Statement | None:
    """Return what `stated` does of a row."""
    if target.task is Task.BINARY and answer.kind == "f" and len(answer.numbers) == 1 and 0.0 <= answer.numbers[0] <= 1.0:
        highest = answer.numbers[0]
        return highest, 1.0 - highest if highest >= target.threshold else highest
    said = _decided(target, answer)
    if said is None or target.task is Task.OTHER:
        return None
    if target.task is Task.REGRESSION or answer.kind != "f":
        return said, None
    highest = max(answer.numbers) if target.task is Task.MULTICLASS else _positive_probability(target, answer)
    if not (0.0 <= highest <= 1.0 and min(answer.numbers) >= 0.0):
        return said, None
    is_sure = target.task is Task.MULTICLASS or highest >= target.threshold
    return highest, 1.0 - highest if is_sure else highest


def confidence(target: Target, outputs: Sequence[Tensor], row: int, truth: Truth) -> tuple[float, float] | None:
    """Return the probability that one row of an answer stated, and 1 if it came true, else 0.

    binary: that of the positive label; multiclass: the highest, of the label that has it. None when the answer states no
    probability in [0, 1], or where `loss` says nothing.
    """
    answer = _row(target, outputs, row)
    if answer is None or answer.kind != "f" or not (min(answer.numbers) >= 0.0 and max(answer.numbers) <= 1.0):
        return None
    wrong = loss(target, outputs, row, truth)
    if wrong is None:
        return None
    match target.task:
        case Task.BINARY:
            labels = target.labels or ("0", "1")
            positive = target.positive or labels[-1]
            return _positive_probability(target, answer), float(_label(truth, labels) == positive)
        case Task.MULTICLASS:
            return max(answer.numbers), 1.0 - wrong
        case Task.REGRESSION | Task.OTHER:
            return None
        case _:
            assert_never(target.task)


def _row(target: Target, outputs: Sequence[Tensor], row: int) -> Answered | None:
    """Return one row of the answer; None when there is none or a number in it is not finite."""
    tensor = None
    for output in outputs:
        if not target.output or output.name == target.output:
            tensor = output
            break
    if tensor is None or tensor.data.ndim not in (1, 2) or not 0 <= row < tensor.data.shape[0]:
        return None
    return answered(tensor.data, row)


def answered(data: Array, row: int) -> Answered | None:
    """Return one row of an answer of one or two dimensions that has it; None when a number in it is not finite."""
    kind, numbers = data.dtype.kind, [data.item(row)] if data.size == data.shape[0] else data[row].tolist()
    if not numbers or (kind == "f" and not all(map(math.isfinite, numbers))):
        return None
    return Answered(kind, numbers)


def _decided(target: Target, answer: Answered) -> str | float | None:
    match target.task:
        case Task.BINARY:
            return _binary_label(target, answer)
        case Task.MULTICLASS:
            return _class_label(target, answer)
        case Task.REGRESSION | Task.OTHER:
            if len(answer.numbers) != 1:
                return None
            return float(answer.numbers[0]) if answer.kind in "fiub" else _label(answer.numbers[0], ())
        case _:
            assert_never(target.task)


def _binary_loss(target: Target, answer: Answered, truth: Truth) -> float | None:
    labels = target.labels or ("0", "1")
    true_label, said = _label(truth, labels), _binary_label(target, answer)
    if true_label is None or said is None:
        return None
    positive = target.positive or labels[-1]
    return float((said == positive) != (true_label == positive))


def _binary_label(target: Target, answer: Answered) -> str | None:
    labels = target.labels or ("0", "1")
    positive = target.positive or labels[-1]
    if answer.kind != "f":
        return _label(answer.numbers[0], labels) if len(answer.numbers) == 1 else None
    if len(answer.numbers) > 2 or (len(answer.numbers) == 2 and positive not in labels):
        return None
    if _positive_probability(target, answer) >= target.threshold:
        return positive
    return labels[0] if labels[0] != positive else labels[1] if len(labels) > 1 else ""


def _positive_probability(target: Target, answer: Answered) -> float:
    """Return the probability that a binary answer of floats gives its positive label."""
    if len(answer.numbers) != 2:
        return answer.numbers[0]
    labels = target.labels or ("0", "1")
    return answer.numbers[labels.index(target.positive or labels[-1])]


def _multiclass_loss(target: Target, answer: Answered, truth: Truth) -> float | None:
    labels = target.labels or tuple(str(index) for index in range(len(answer.numbers) if answer.kind == "f" else 0))
    said, true_label = _class_label(target, answer), _label(truth, labels)
    return None if said is None or true_label is None else float(said != true_label)


def _class_label(target: Target, answer: Answered) -> str | None:
    if answer.kind != "f":
        return _label(answer.numbers[0], target.labels) if len(answer.numbers) == 1 else None
    labels = target.labels or tuple(str(index) for index in range(len(answer.numbers)))
    return labels[answer.numbers.index(max(answer.numbers))] if len(answer.numbers) == len(labels) else None


def _regression_loss(target: Target, answer: Answered, truth: Truth) -> float | None:
    if len(answer.numbers) != 1 or answer.kind not in "fiu" or isinstance(truth, str):
        return None
    error = abs(float(answer.numbers[0]) - float(truth))
    return min(error / target.loss_max, 1.0) if math.isfinite(error) else None


def _label(value: object, labels: Sequence[str]) -> str | None:
    """Return the label that a truth or an answer means; None when it is none of `labels` (any will do when there are none)."""
    spellings: tuple[str, ...]
    if isinstance(value, str):
        return value if not labels or value in labels else None
    match value:
        case bool():
            spellings = ("1", "true", "True") if value else ("0", "false", "False")
        case int() | float() if math.isfinite(value):
            spellings = (str(int(value)), f"{int(value)}.0") if value == int(value) else (str(value),)
        case bytes():
            spellings = (value.decode("utf-8", "replace"),)
        case _:
            return None
    if not labels:
        return spellings[0]
    return next((label for label in spellings if label in labels), None)
