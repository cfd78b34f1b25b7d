"""The share that is looked at follows from the log alone, and shares are nested."""

from __future__ import annotations

import pytest

from gateway.core.sampling import FORGET_S, Sampling, share_shown

IDS = [f"018bcfe5-6800-7000-8000-{number:012x}" for number in range(4_000)]


def _after_a_busy_second(times: float) -> Sampling:
    sampling = Sampling(events_per_s_max=1_000.0)
    for _ in range(100):
        sampling.count(10.0 * times, 1.5)
    sampling.count(1.0, 2.5)
    return sampling


@pytest.mark.parametrize(("rate", "shown"), [(1.0, "100.0%"), (0.99999, "99.9%"), (0.998, "99.8%"), (0.25, "25.0%")])
def test_share_below_the_whole_is_never_shown_as_the_whole(rate, shown):
    """Who reads 100 % may rely on it that everything is looked at."""
    assert share_shown(rate) == shown


def test_sampling_takes_a_stated_share_of_too_much():
    """Above the budget the next second's predictions are chosen by their ids, at the rate that is shown."""
    sampling = _after_a_busy_second(4.0)
    taken = [id for id in IDS if sampling.takes(id)]

    assert sampling.rate == pytest.approx(0.25)
    assert len(taken) == pytest.approx(1_000, abs=150)
    assert taken == [id for id in IDS if sampling.takes(id)]


def test_sampling_within_the_budget_takes_everything():
    """As much as the budget, or a busy second long ago, passes nothing over."""
    sampling = _after_a_busy_second(1.0)
    assert all(sampling.takes(id) and sampling.has_taken(id) for id in IDS)

    late = _after_a_busy_second(40.0)
    late.count(1.0, 60.0)
    assert late.rate == 1.0


def test_sampling_bounds_a_burst_after_a_quiet_second():
    """Within the second in which more than the budget comes the share falls, and what was passed over is known as such."""
    sampling, taken = Sampling(events_per_s_max=1_000.0), 0
    for number in range(20_000):
        sampling.count(10.0, 1.5)
        taken += sampling.takes(IDS[number % len(IDS)])

    assert taken * 10.0 < 1_000.0 * 7.5  # the budget, and 1/x of it from there on: 1 + log 200
    assert sampling.rate == pytest.approx(0.005)
    assert sum(sampling.has_taken(id) for id in IDS) == pytest.approx(0.005 * len(IDS), abs=15)


def test_sampling_knows_what_it_may_have_passed_over():
    """What was taken at the least rate of late was taken at every other; after two hours nothing is in doubt any more."""
    sampling = _after_a_busy_second(10.0)
    few = {id for id in IDS if sampling.takes(id)}
    sampling.count(2_000.0, 3.5)
    sampling.count(1.0, 4.5)
    more = {id for id in IDS if sampling.takes(id)}

    assert few < more
    assert {id for id in IDS if sampling.has_taken(id)} == few
    sampling.count(1.0, 5.5)
    assert {id for id in IDS if sampling.has_taken(id)} == few
    sampling.count(1.0, 5.5 + FORGET_S + 1.0)
    assert all(sampling.has_taken(id) for id in IDS)
