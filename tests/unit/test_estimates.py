"""Loss before its ground truth comes: what is taken at its word, what is learned, and how far off it was."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.estimates import KNOWN_MIN, LEARN_ROWS, LossEstimate
from gateway.core.losses import stated
from gateway.core.models import Target, Task
from gateway.core.tensors import Datatype, Tensor


def test_stated_probability_is_taken_at_its_word_until_it_is_found_wrong():
    """A probability implies its loss at first; the losses that become known in its cell correct it."""
    estimate = LossEstimate()
    assert estimate.expect((0.9, 0.1)) == pytest.approx(0.1)
    for _ in range(1_000):
        estimate.learn((0.9, 0.1), 0.5, 0.1)

    assert estimate.expect((0.93, 0.07)) == pytest.approx(0.5, abs=0.02)
    assert estimate.expect((0.2, 0.2)) == pytest.approx(0.2)
    assert estimate.bias == pytest.approx(-0.4)


def test_estimate_follows_the_answers_before_their_truth():
    """When answers move to cells that were wrong more often, the estimate rises with them, with no new ground truth."""
    random, estimate = np.random.default_rng(3), LossEstimate()
    for value in random.normal(size=5_000):
        estimate.learn((float(value), None), min(1.0, abs(value) / 3), None)
    near = np.mean([estimate.expect((float(value), None)) for value in random.normal(size=500)])
    far = np.mean([estimate.expect((float(value), None)) for value in random.normal(2.0, 1.0, size=500)])

    assert near == pytest.approx(0.26, abs=0.03)
    assert far > near + 0.15


def test_nothing_is_estimated_from_nothing():
    """Without a probability there is no estimate until a cell has seen enough, for numbers and for labels."""
    estimate = LossEstimate()
    for _ in range(KNOWN_MIN - 1):
        estimate.learn(("yes", None), 1.0, None)
    assert estimate.expect(("yes", None)) is None
    estimate.learn(("yes", None), 1.0, None)
    assert estimate.expect(("yes", None)) == 1.0
    assert estimate.expect(("no", None)) is None
    for number in range(LEARN_ROWS):
        estimate.learn((float(number), None), 0.0, None)
    assert estimate.expect((3.0, None)) is None
    assert estimate.bias is None


@pytest.mark.parametrize(
    ("target", "answer", "expected"),
    [
        (Target(Task.BINARY, "y", ("no", "yes"), "yes"), np.array([[0.8]], np.float32), (0.8, 0.2)),
        (Target(Task.BINARY, "y", ("no", "yes"), "yes"), np.array([[0.7, 0.3]], np.float32), (0.3, 0.3)),
        (Target(Task.BINARY, "y", ("no", "yes"), "yes"), np.array([[1]], np.int64), None),
        (Target(Task.BINARY, "y"), np.array([[1]], np.int64), ("1", None)),
        (Target(Task.MULTICLASS, "y", ("a", "b", "c")), np.array([[0.1, 0.7, 0.2]], np.float32), (0.7, 0.3)),
        (Target(Task.MULTICLASS, "y", ("a", "b", "c")), np.array([[-3.0, 4.0, 0.0]], np.float32), ("b", None)),
        (Target(Task.REGRESSION, "y"), np.array([[12.5]], np.float32), (12.5, None)),
        (Target(Task.OTHER, "y"), np.array([[12.5]], np.float32), None),
    ],
)
def test_statement_of_an_answer(target, answer, expected):
    """Probabilities imply a loss, labels and numbers do not, and what cannot be compared states nothing."""
    datatype = Datatype.INT64 if answer.dtype.kind == "i" else Datatype.FP32
    found = stated(target, (Tensor("y", datatype, answer),), 0)

    if expected is None or isinstance(expected[0], str) or expected[1] is None:
        assert found == expected
    else:
        assert found == pytest.approx(expected)
