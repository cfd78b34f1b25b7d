"""E-detectors: their bound is kept, the signal that departed carries the average, and cutting changes nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.departures import SHIFTS, Departure, Departures, Ranges, ranges, stakes
from gateway.core.tensors import FloatArray


def allowed(signals: int, rows: float = 1e9) -> Ranges:
    return ranges(np.full(signals, 0.5), np.full(signals, 0.2887), rows)


def departures(signals: int, *, alarm_rows: float = 1e5, rises_only: bool = False, rows: float = 1e9) -> Departures:
    weights = np.full(signals, 1.0 / signals)
    return Departures(allowed(signals, rows), weights, rises_only=np.full(signals, rises_only), alarm_rows=alarm_rows)


def delay(watch: Departures, values: FloatArray) -> int:
    """Rows until the first departure; as many as there are when there is none."""
    for at in range(values.shape[1]):
        if watch.push(values[:, at : at + 1]) is not None:
            return at
    return values.shape[1]


def test_departures_keep_their_budget_however_many_signals() -> None:
    """Without a change one signal and fifty depart at most about once in `alarm_rows`; here in 3,000, over 100,000 rows."""
    for signals in (1, 50):
        watch, rng = departures(signals, alarm_rows=3_000.0), np.random.default_rng(signals)
        found = sum(watch.push(rng.random((signals, 10))) is not None for _ in range(10_000))
        assert 3 <= found <= 45


def test_departures_name_the_signal_that_moved() -> None:
    """A mean that moves either way is found, and its share of the average is nearly all."""
    for shift in (0.3, -0.3):
        watch, rng = departures(20), np.random.default_rng(1)
        values = rng.random((20, 400)) * 0.7
        values[:, :] += 0.15
        values[7] += shift * 0.5
        departure = watch.push(values)
        assert departure is not None
        assert departure.log_e >= watch.bound == math.log(1e5)
        assert departure.shares[7] > 0.99
        assert departure.shares.sum() == pytest.approx(1.0)


def test_departures_that_only_rise_do_not_mind_a_fall() -> None:
    """Fewer missing values than in training are no harm."""
    falling, watch = np.full((1, 50_000), 0.1), departures(1, rises_only=True)
    assert watch.push(falling) is None
    assert np.isfinite(watch.log_e)
    assert departures(1, rises_only=True).push(1.0 - falling) is not None
    assert departures(1).push(falling) is not None


def test_departures_allow_for_a_small_reference() -> None:
    """What a reference of 50 rows cannot know is no departure; of 50,000 rows the same mean is."""
    values = np.random.default_rng(2).random((1, 5_000)) * 0.9 + 0.1  # .17 standard deviations up
    assert departures(1, rows=50.0).push(values) is None
    assert departures(1, rows=50_000.0).push(values) is not None


def test_departures_take_nothing_from_rows_without_a_value() -> None:
    """A signal that is missing leaves its sums as they are, and the others go on."""
    rng = np.random.default_rng(3)
    values = rng.random((2, 600))
    values[1] = np.nan
    both, one = departures(2), departures(1)
    both.push(values)
    one.push(values[:1])
    assert both.state()[::2] == pytest.approx(one.state(), rel=1e-3)  # two signals have slightly wider ranges than one
    assert not both.state()[1::2].any()


@given(cuts=st.lists(st.integers(1, 200), min_size=1, max_size=8), shift=st.sampled_from([0.0, 0.25, 0.9]))
@settings(deadline=None, max_examples=40)
def test_departures_are_the_recursion_however_rows_are_cut(cuts: list[int], shift: float) -> None:
    """Many rows at once give M ← (1 + M)(1 + λ(x − m)), to the bit what they give singly, and a restored state goes on.

    By 0.9 they depart every few rows.
    """
    rng = np.random.default_rng(sum(cuts))
    values = (rng.random((2, sum(cuts))) + shift).clip(0.0, 1.0)
    watch, single, at = departures(2), departures(2), 0
    within = allowed(2)
    (up, down), sums = stakes(within), np.zeros((2, 2 * len(SHIFTS)))
    for cut in cuts:
        part = values[:, at : at + cut]
        at += cut
        again = departures(2)
        again.restore(watch.state())
        found, repeated = watch.push(part), again.push(part)
        assert type(found) is type(repeated)
        for x in part.T[:, :, None]:
            single.push(x)
        assert np.array_equal(watch.state(), again.state())
        assert np.array_equal(watch.state(), single.state())
        assert watch.log_e == single.log_e
        departed: Departure | bool = False
        for x in part.T[:, :, None]:
            factors = np.concatenate((1.0 + up * (x - within.high[:, None]), 1.0 - down * (x - within.low[:, None])), axis=1)
            sums = (1.0 + sums) * factors
            if sums.mean() >= 1e5:
                departed, sums = True, np.zeros_like(sums)
        by_bet = np.concatenate([side.T.ravel() for side in np.split(sums, 2, axis=1)])
        assert watch.state() == pytest.approx(by_bet, rel=1e-9)
        assert (found is not None) == departed


def test_ranges_are_wider_for_few_rows_many_signals_and_what_was_never_seen() -> None:
    """They hold the mean, never leave [0, 1], and a rate of zero in few rows may be more than zero."""
    few, many, rare = allowed(1, 100.0), allowed(1, 10_000.0), ranges(np.zeros(200), np.zeros(200), 100.0)
    assert few.low[0] < many.low[0] < 0.5 < many.high[0] < few.high[0]
    assert rare.low[0] == 0.0
    assert 0.0 < ranges(np.zeros(1), np.zeros(1), 100.0).high[0] < rare.high[0] < 0.2
    assert 0.005 < few.high[0] - many.high[0] < 0.1
