"""Ground truth finds its prediction by id and row, early or late, once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.detectors.river import AdwinDetector
from adapters.memory import MemoryBank
from gateway.core.tensors import Datatype, Tensor
from gateway.metrics.monitor import TRUTH_UNCOUNTED
from gateway.monitor.fold import Fold
from gateway.monitor.gauges import Gauges
from gateway.monitor.truth import (
    EARLY_MAX,
    SETTLED_ROWS_MAX,
    SOUGHT_MAX,
    Joined,
    Place,
    TruthJoin,
    Uncounted,
    Waiting,
    packed,
    unpacked,
)


def _waiting(rows: int = 1, tensor: Tensor | None = None) -> Waiting:
    answer = tensor or Tensor("y", Datatype.FP32, np.zeros((rows, 1), np.float32))
    place = Place("delays", "delays", "1", "champion", "", 0.0, answer.datatype, answer.shape[1:])
    return Waiting(place, "key", rows, packed(answer.data), 100.0)


@given(st.permutations([("p", None), ("t", 0), ("t", 1), ("t", 2), ("t", 1), ("t", 7)]))
def test_truth_join_gives_each_row_once_in_any_order(arrivals):
    """Whether it comes before or after its prediction, each row is joined once, and a row that does not exist never."""
    join = TruthJoin(100)
    joined: list[Joined] = []
    for what, row in arrivals:
        if what == "p":
            joined += join.expect("p", _waiting(3))
        else:
            joined += [found for found in [join.learn("p", row, "yes", 101.0)] if found is not None]

    assert sorted(found.row for found in joined) == [0, 1, 2]
    assert not any(found.corrects for found in joined)
    assert join.rows_waiting == 0


@pytest.mark.parametrize("rows", [1, 2])
def test_truth_join_tells_a_correction_from_a_repetition(rows):
    """The same value again counts for nothing; another one corrects the one that stood, whether or not all rows are known."""
    join = TruthJoin(100)
    join.expect("p", _waiting(rows))

    first, again = join.learn("p", 0, "yes", 101.0), join.learn("p", 0, "yes", 102.0)
    correction, second = join.learn("p", 0, "no", 103.0), join.learn("p", 0, "yes", 104.0)

    assert first is not None
    assert (first.value, first.corrects) == ("yes", None)
    assert again is None
    assert correction is not None
    assert (correction.value, correction.corrects) == ("no", ("yes", 101.0))
    assert second is not None
    assert second.corrects == ("no", 103.0)
    assert join.uncounted[Uncounted.REPEATED] == 1


def test_truth_join_keeps_what_is_known_in_bounds():
    """Of the predictions known in full the oldest go first, and their corrections are then of unknown predictions."""
    join = TruthJoin(10)
    for number in range(SETTLED_ROWS_MAX + 1):
        join.expect(f"p-{number}", _waiting())
        join.learn(f"p-{number}", 0, "yes", 101.0)

    assert join.learn("p-0", 0, "no", 102.0) is None
    assert join.learn("p-1", 0, "no", 102.0) is not None
    assert join.rows_waiting == 0


def test_truth_join_drops_the_oldest_prediction():
    """Beyond its rows the oldest prediction goes and is counted, so that memory is bounded."""
    join = TruthJoin(10)
    for number in range(6):
        join.expect(f"p-{number}", _waiting(2))

    assert join.rows_waiting == 10
    assert join.dropped_count == 1
    assert join.learn("p-0", 0, 1, 101.0) is None
    assert join.learn("p-1", 0, 1, 101.0) is not None


def test_truth_join_bounds_what_came_early():
    """Values for predictions that never come are dropped, the oldest first, and counted."""
    join = TruthJoin(10)
    for number in range(EARLY_MAX + 5):
        join.learn(f"p-{number}", 0, 1, 101.0)

    assert join.unmatched_count == 5
    assert join.expect("p-4", _waiting()) == []
    assert len(join.expect("p-5", _waiting())) == 1


def test_truth_join_seeks_what_it_does_not_know():
    """What waits without a prediction is sought after a while, some at once or when many are due, and again later."""
    join = TruthJoin(10)
    join.learn("p-1", 0, 1, 100.0)
    assert join.sought(104.0) == []
    assert join.sought(105.0) == ["p-1"]
    join.miss("p-1", 105.0)
    join.learn("p-0", 0, 1, 105.0)

    assert join.sought(111.0) == []
    assert join.sought(115.0) == ["p-0"]
    assert join.sought(705.0) == ["p-0", "p-1"]
    for number in range(SOUGHT_MAX):
        join.learn(f"q-{number:05d}", 0, 1, 706.0)
    assert len(join.sought(711.0)) == SOUGHT_MAX


def test_truth_join_recalls_a_prediction_with_what_was_counted_of_it():
    """Of a recalled prediction a value that waits is new, a correction or a repetition by what the archive had before."""
    join = TruthJoin(10)
    for row, value in ((0, "yes"), (1, "yes"), (2, "no")):
        join.learn("p", row, value, 200.0)

    joined = join.recall("p", _waiting(3), [(1, "yes", 150.0), (2, "yes", 150.0), (0, "no", 200.0)])

    assert [(one.row, one.corrects) for one in joined] == [(0, None), (2, ("yes", 150.0))]
    assert join.uncounted[Uncounted.REPEATED] == 1
    assert join.learn("p", 0, "no", 201.0).corrects == ("yes", 200.0)


def test_truth_join_counts_what_it_drops_by_reason():
    """A row that does not exist, a value that comes again, and a prediction that never came are told apart."""
    join = TruthJoin(10)
    join.expect("p", _waiting(2))
    for row, value in ((5, "yes"), (-1, "yes"), (0, "yes"), (0, "yes")):
        join.learn("p", row, value, 101.0)
    for number in range(EARLY_MAX + 1):
        join.learn(f"q-{number}", 0, 1, 101.0)

    join.learn("r", 0, 1, 101.0, is_missing=True)
    counted = {Uncounted.NO_ROW: 2, Uncounted.REPEATED: 1, Uncounted.UNKNOWN: 1, Uncounted.NOT_SAMPLED: 1}
    assert join.uncounted == counted
    assert join.unmatched_count == 5


def test_what_counts_for_nothing_is_shown_by_reason():
    """Each reason has its own series, values that fit no label among them."""
    fold = Fold(AdwinDetector, epoch_s=60.0, truth_rows_max=10, false_alarm_events=1e6)
    fold.truth.expect("p", _waiting(2))
    fold.truth.learn("p", 5, "yes", 101.0)
    fold.unscored = 3
    bank = MemoryBank()

    Gauges(bank).show(fold, late_count=0)

    shown = {dict(sample.labels)["reason"]: sample.value for sample in bank.samples() if sample.name == TRUTH_UNCOUNTED.name}
    assert shown == {"unknown": 0, "no_row": 1, "repeated": 0, "not_sampled": 0, "not_comparable": 3}


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("y", Datatype.FP32, np.array([[0.25], [np.nan]], np.float32)),
        Tensor("y", Datatype.INT64, np.array([3, 4])),
        Tensor("y", Datatype.BYTES, np.array([b"yes", b"\xff"], np.object_)),
    ],
)
def test_packed_answer_comes_back_to_the_bit(tensor):
    """What waits is the answer's own bits."""
    waiting = _waiting(2, tensor)

    again = unpacked(waiting.place, waiting.answer, "y")

    assert again.datatype is tensor.datatype
    assert again.shape == tensor.shape
    assert again.data.tolist() == tensor.data.tolist() or again.data.tobytes() == tensor.data.tobytes()
