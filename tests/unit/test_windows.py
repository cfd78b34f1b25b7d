"""Windows merge in any grouping, to the bit."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.windows import Window, merge


def of_prediction(time_s: float, *, is_fault: bool, latency_us: int) -> Window:
    """Return the window of one prediction."""
    window = Window()
    window.count_prediction(time_s, is_fault=is_fault, latency_us=latency_us)
    return window


def of_truth(time_s: float, loss: float) -> Window:
    """Return the window of one row's ground truth."""
    window = Window()
    window.count_truth(time_s, loss)
    return window


times = st.floats(0.0, 1e9)
one = st.one_of(
    st.builds(lambda t, f, us: of_prediction(t, is_fault=f, latency_us=us), times, st.booleans(), st.integers(0, 10**9)),
    st.builds(of_truth, times, st.floats(0.0, 1.0)),
)
windows = st.lists(one, max_size=6).map(lambda parts: reduce(merge, parts, Window()))


@given(windows, windows, windows)
def test_merge_is_associative_and_commutative_and_the_empty_window_changes_nothing(a: Window, b: Window, c: Window) -> None:
    """However a log is cut into windows, the fold is the same to the bit."""
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, b) == merge(b, a)
    assert merge(a, Window()) == a == merge(Window(), a)


def test_window_tells_no_data_from_zero() -> None:
    """A rate of nothing is None, neither good nor bad."""
    assert Window().error_rate is None
    assert Window().mean_loss is None
    filled = merge(of_prediction(1.0, is_fault=True, latency_us=5), of_prediction(2.0, is_fault=False, latency_us=7))
    assert filled.error_rate == 0.5
    assert (filled.since_s, filled.until_s, filled.latency_us) == (1.0, 2.0, 12)
    assert merge(of_truth(0.0, 0.25), of_truth(0.0, 0.75)).mean_loss == 0.5


def test_window_refuses_a_loss_that_is_none() -> None:
    """A NaN never enters a sum."""
    with pytest.raises(AssertionError):
        of_truth(0.0, float("nan"))
