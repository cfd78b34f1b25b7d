"""The classification of an output."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.core.errors import MalformedRequest
from gateway.core.tensors import Datatype, Tensor
from gateway.serving.classes import classified


@pytest.mark.parametrize(
    ("values", "count", "labels", "has_rows", "expected"),
    [
        ([[0.1, 0.7, 0.2]], 2, (), True, [["0.7:1", "0.2:2"]]),
        ([[0.1, 0.7], [0.6, 0.4]], 1, ("no", "yes"), True, [["0.7:1:yes"], ["0.6:0:no"]]),
        ([[0.1, 0.7]], 9, ("one label too few",), True, [["0.7:1", "0.1:0"]]),
        ([0.5, 0.5, 1.0], 3, (), False, ["1.0:2", "0.5:0", "0.5:1"]),
        ([[np.nan, 1.0, -np.inf, np.inf]], 4, (), True, [["inf:3", "1.0:1", "-inf:2", "nan:0"]]),
        ([0.5, 0.25], 1, (), True, [["0.5:0"], ["0.25:0"]]),
        (0.5, 1, (), False, ["0.5:0"]),
        (np.empty((0, 3)), 2, (), True, np.empty((0, 2)).tolist()),
    ],
)
def test_classified_names_the_highest_values(values, count, labels, has_rows, expected):
    """Highest first, of equal ones the lower index, NaN last; the count is capped; labels only where all are known."""
    tensor = classified(Tensor("y", Datatype.FP32, np.array(values, np.float32)), count, labels, has_rows=has_rows)
    texts = np.vectorize(bytes.decode, otypes=[object])(tensor.data) if tensor.data.size else tensor.data
    assert (tensor.datatype, texts.tolist()) == (Datatype.BYTES, expected)


def test_classified_integers_keep_their_digits():
    """Integers print as such, also beyond what a float holds."""
    tensor = classified(Tensor("y", Datatype.UINT64, np.array([[2**64 - 1, 2**64 - 2]], np.uint64)), 1, (), has_rows=True)
    assert tensor.data.tolist() == [[b"18446744073709551615:0"]]


@pytest.mark.parametrize("data", [np.array([True]), np.array([b"a"], object)])
def test_classified_refuses_what_has_no_order(data):
    """Text and booleans have no highest value."""
    datatype = Datatype.BOOL if data.dtype == np.bool_ else Datatype.BYTES
    with pytest.raises(MalformedRequest):
        classified(Tensor("y", datatype, data), 1, (), has_rows=False)
