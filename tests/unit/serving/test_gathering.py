"""A thread waits for the callers it has just answered where that pays, and learns whether they come back."""

from __future__ import annotations

import pytest

from gateway.serving.gathering import Gathering
from gateway.serving.warming import Cost

CALL_US = 7_000.0  # of a run, whatever its rows; further rows cost 300 each
COST = Cost(CALL_US + 300.0, 300.0)
PROBE = 32


def gathering(cost: Cost = COST) -> Gathering:
    """Return one of batches of at most 64 rows."""
    return Gathering(cost, rows_max=64)


@pytest.mark.parametrize(
    ("ran", "waiting", "wanted"),
    [(32, 32, 64), (1, 1, 2), (64, 0, 64), (60, 20, 64)],
    ids=["two halves", "two callers", "all together", "more than fit"],
)
def test_rows_that_come_back_are_wanted(ran, waiting, wanted):
    """Until they are there, or until waiting has taken what joining them saves: the cost of one call."""
    gathered = gathering()
    gathered.ended(ran, waiting=waiting, now_s=5.0)
    wait = gathered.wait(max(waiting, 1), 5.0)
    assert wait.rows == wanted
    assert wait.within_s == pytest.approx(CALL_US / 1e6)
    assert gathered.wait(wanted, 5.0).within_s == 0.0
    assert gathered.wait(max(waiting, 1), 5.0 + CALL_US / 1e6).within_s <= 1e-9


@pytest.mark.parametrize(
    ("ran", "waiting", "cost"),
    [(1, 0, COST), (8, 64, COST), (32, 32, Cost(300.0, 300.0))],
    ids=["a lone caller", "a full batch waits", "rows cost the same alone"],
)
def test_nobody_is_waited_for_where_nothing_is_saved(ran, waiting, cost):
    """A batch that cannot become cheaper begins at once."""
    gathered = gathering(cost)
    gathered.ended(ran, waiting=waiting, now_s=5.0)
    assert gathered.wait(max(waiting, 1), 5.0).within_s <= 1e-9


def test_traffic_that_knows_no_answers_is_soon_not_held_up():
    """When nobody comes back, waits end after a few batches; one in a while looks again, and comes back to it."""
    gathered = gathering()
    waits = []
    for _ in range(3 * PROBE):
        gathered.ended(8, waiting=8, now_s=5.0)
        waits.append(gathered.wait(8, 5.0).within_s > 0.0)
        gathered.began(8)  # none came
    assert sum(waits[PROBE:]) == 2
    for _ in range(20 * PROBE):
        gathered.ended(8, waiting=8, now_s=5.0)
        gathered.began(16)  # all came
    gathered.ended(8, waiting=8, now_s=5.0)
    assert gathered.wait(8, 5.0).within_s > 0.0
