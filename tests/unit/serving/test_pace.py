"""How long rows are expected to wait."""

from __future__ import annotations

import pytest

from gateway.serving.pace import Pace
from gateway.serving.warming import Cost


@pytest.fixture
def pace() -> Pace:
    """Return the pace of a version that took 100 µs a run when it warmed."""
    return Pace(Cost(100.0, 0.0), rows_at_once=1, threads=1)


@pytest.mark.parametrize("times", [0.1, 5.0, 500.0, 5_000.0])
def test_pace_is_learned_however_far_it_is_from_warming(pace, times):
    """Made-up rows may cost a thousandth of real ones: after some sixty runs the wait is known to a tenth, both ways."""
    for _ in range(60):
        pace.note(1, 100.0 * times)
    assert pace.wait_s(1) == pytest.approx(100e-6 * times, rel=0.1)
    for _ in range(120):
        pace.note(1, 100.0)
    assert pace.wait_s(1) == pytest.approx(100e-6, rel=0.1)


def test_one_run_that_stood_still_moves_little(pace):
    """A run of ten seconds among many of 100 µs makes the next one expected to take eleven times as long, not ten thousand."""
    for _ in range(20):
        pace.note(1, 100.0)
    pace.note(1, 10e6)
    assert pace.wait_s(1) < 1.1e-3
