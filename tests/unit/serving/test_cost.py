"""What runs are expected to take, from what was measured while a version warmed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serving.pace import Pace
from gateway.serving.warming import Cost

CURVE = Cost(7_000.0, 600.0, ((4, 8_000.0), (16, 12_000.0), (64, 40_000.0)))
steps = st.lists(st.floats(1.0, 1e5), min_size=4, max_size=4)


def test_cost_is_linear_between_what_was_measured():
    """The curve's points are met, what lies between them is in proportion, and beyond them each row costs as stated."""
    assert [CURVE.of(rows) for rows in (0, 1, 4, 10, 16, 64, 74)] == [7e3, 7e3, 8e3, 10e3, 12e3, 40e3, 46e3]


@given(steps, st.integers(1, 300))
def test_cost_and_rows_within_it_agree(more, rows):
    """As many rows fit into a budget as cost it."""
    first, *sums = [sum(more[: at + 1]) for at in range(4)]
    cost = Cost(first, more[-1] / 48, tuple(zip((4, 16, 64), sums, strict=True)))
    assert cost.rows_within(cost.of(rows)) == pytest.approx(rows)
    assert cost.rows_within(first * 0.99) == 0.0


def test_cost_without_a_curve_is_its_first_and_further_rows():
    """A version whose made-up rows failed has only its cost at validation."""
    assert Cost(10.0, 2.0).of(5) == 18.0
    assert Cost(10.0, 0.0).rows_within(10.0) == math.inf
    assert Cost(10.0, 2.0).best_rows(64) == 64


@pytest.mark.parametrize(
    ("cost", "rows"),
    [
        (CURVE, 64),  # 1,600 rows a second against 1,333 at 16
        (Cost(7_000.0, 7_000.0, ((4, 28_000.0), (16, 112_000.0))), 1),  # joining rows gains nothing
        (Cost(7_000.0, 1_000.0, ((4, 8_000.0), (16, 16_000.0), (64, 62_000.0))), 16),  # 1,000 against 1,032
    ],
)
def test_batch_is_the_least_with_nearly_the_best_throughput(cost, rows):
    """Larger batches are chosen only while they gain a tenth."""
    assert cost.best_rows(64) == rows


def test_pace_counts_full_batches_and_threads():
    """130 rows are two full batches and one of two; two threads take half as long; slower runs stretch both."""
    assert Pace(CURVE, rows_at_once=64, threads=1).wait_s(130) == pytest.approx(0.087333, abs=1e-5)
    pace = Pace(CURVE, rows_at_once=64, threads=2)
    assert pace.wait_s(128) == pytest.approx(0.04)
    for _ in range(100):
        pace.note(64, 120_000.0)
    assert pace.wait_s(128) == pytest.approx(0.12, rel=0.01)
