"""Logged rows go to their place in a batch of the recorded size, and answers are compared to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.models import Target, Task
from gateway.core.recompute import difference, said
from gateway.core.tensors import Datatype, Tensor


def _tensor(values: list[float]) -> Tensor:
    return Tensor("y", Datatype.FP32, np.array(values, np.float32))


@pytest.mark.parametrize(
    ("was", "now", "unequal", "largest"),
    [
        ([0.5, np.nan], [0.5, np.nan], 0, 0.0),
        ([0.0], [-0.0], 1, 0.0),
        ([1.0, 2.0], [1.0, 2.5], 1, 0.5),
        ([1.0, 2.0], [1.0, np.nan], 1, np.inf),
        ([np.inf], [np.inf], 0, 0.0),
        ([1.0], [1.0, 1.0], 1, None),
    ],
)
def test_difference_counts_bits_and_measures_numbers(was, now, unequal, largest):
    """NaN equals itself, the two zeros differ in a bit and by nothing, and another shape has no distance."""
    found = difference(_tensor(was), _tensor(now).data)
    assert (found.unequal, found.largest) == (unequal, largest)


def test_text_is_compared_by_element():
    """Labels differ or not; how far is no question."""
    was = Tensor("y", Datatype.BYTES, np.array([b"yes", b"no"], np.object_))
    found = difference(was, np.array([b"yes", b"yes"], np.object_))
    assert (found.unequal, found.largest) == (1, None)


def test_decision_is_the_side_of_the_threshold():
    """A probability decides by the target's threshold, scores by the highest, a regression not at all."""
    two = {"p": np.array([[0.7, 0.3], [0.2, 0.8]], np.float32)}
    binary = Target(Task.BINARY, "p", ("no", "yes"), "yes", threshold=0.5)
    assert said(binary, two).tolist() == [False, True]
    assert said(Target(Task.MULTICLASS, "p", ("a", "b")), two).tolist() == [0, 1]
    assert said(Target(Task.REGRESSION, "p"), two) is None
