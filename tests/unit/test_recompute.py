"""Logged rows go to their place in a batch of the recorded size, and answers are compared to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import typer

from gateway.commands.replay import plan_read
from gateway.core.models import Target, Task
from gateway.core.plans import Plan, Step
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


def test_plan_is_read_from_lines_or_json(tmp_path):
    """A plan's file is YAML or JSON; what is no plan is wrong usage."""
    file = tmp_path / "plan.yaml"
    file.write_text("---\nsteps: [100, 2000] # of 10,000\ndwell_s: 60\nadvances_itself: false\n")
    assert plan_read(file) == Plan(steps=(Step(100, 60.0), Step(2_000, 60.0)), advances_itself=False)
    file.write_text('{"samples_min": 7}')
    assert plan_read(file) == Plan(steps=(Step(1_000, samples_min=7), Step(5_000, samples_min=7)))
    for wrong in ("steps: [\n", "step: [1]\n", "[1]"):
        file.write_text(wrong)
        with pytest.raises(typer.BadParameter, match="plan"):
            plan_read(file)
