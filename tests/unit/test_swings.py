"""How far training swings: by chance alone it does not, by the hour it does, and only then is less said of it."""

from __future__ import annotations

import numpy as np
import pytest

from adapters.detectors.river import AdwinDetector
from gateway.core.models import Column
from gateway.core.profile_bodies import profile_body, profile_from_body
from gateway.core.profiles import build_profile
from gateway.core.swings import levels, slowest_swing, swing
from gateway.monitor.columns import ColumnsWatch
from gateway.monitor.drifting import BATCH_ROWS, INPUTS_SHARE, budget_of

DAY = 900  # rows


def _days(rows, seed, *, phase=0):
    """Return values that rise and fall once a day, with noise."""
    at = np.arange(phase, phase + rows)
    return np.sin(2.0 * np.pi * at / DAY) + np.random.default_rng(seed).normal(scale=0.3, size=rows)


def _watch(reference):
    profile = build_profile([Column("x")], {"x": reference})
    return ColumnsWatch(profile_from_body(profile_body(profile)), AdwinDetector, budget_of(100_000.0, INPUTS_SHARE, 1))


def _said(watch, values):
    """Return why each alarm was raised, batch after batch."""
    return [
        moved.why for first in range(0, len(values), BATCH_ROWS) for moved in watch.feed([values[first : first + BATCH_ROWS]])
    ]


@pytest.mark.parametrize("rows", [100, 500, 5_000, 50_000])
def test_independent_rows_do_not_swing(rows):
    """In 200 references of any size chance is taken for a swing in at most one of a hundred."""
    rng = np.random.default_rng(1)
    assert sum(slowest_swing(rng.random(rows)) > 0.0 for _ in range(200)) <= 2


def test_swing_of_an_autoregression_is_its_correlation():
    """Neighbours that resemble each other by .9 swing by about that."""
    rng, values = np.random.default_rng(1), np.zeros(50_000)
    for at, noise in enumerate(rng.normal(size=len(values))):
        values[at] = 0.9 * values[at - 1] + noise
    assert 0.8 < swing(values) < 0.95


@pytest.mark.parametrize("span", [200, 1_000, 5_000])
def test_swing_that_is_slower_than_a_level_is_seen(span):
    """What stays where it is for a thousand rows and then goes elsewhere resembles its neighbours by more than .98."""
    values = np.repeat(np.random.default_rng(1).random(40_000 // span), span) + np.random.default_rng(2).normal(
        scale=0.02, size=40_000
    )
    assert slowest_swing(values) > (span / 2.0 - 1.0) / (span / 2.0 + 1.0) - 0.01


def test_weekday_of_one_day_is_no_news():
    """Weeks of a column that changes once a day make no index and no departure of the week that follows; a ninth day does."""
    watch = _watch((np.arange(28 * DAY) // DAY % 7).astype(float))
    assert _said(watch, (np.arange(7 * DAY) // DAY % 7).astype(float)) == []
    assert "out of range" in " ".join(_said(watch, np.full(1_500, 9.0)))


def test_levels_of_few_rows_are_their_mean():
    """A reference that is shorter than one level has one."""
    assert levels(np.array([0.2, 0.4])) == pytest.approx((0.3, 0.3))


def test_profile_keeps_how_far_training_swings():
    """A day's rise and fall spans nearly all places and makes the reference worth a fraction of its rows; shuffled, neither."""
    values = _days(5 * DAY, 1)
    ordered, shuffled = (
        build_profile([Column("x")], {"x": one}).features[0] for one in (values, np.random.default_rng(1).permutation(values))
    )
    spans = [one.place_levels[1] - one.place_levels[0] for one in (ordered, shuffled)]
    assert spans[0] > 0.6
    assert spans[1] < 0.25
    assert ordered.swing >= ordered.correlation > 0.9
    assert shuffled.swing < 0.2


def test_change_that_training_knows_is_not_said():
    """A week like the week of training is no news; the first value beyond it is, and the same again is not."""
    watch = _watch(_days(7 * DAY, 1))
    assert [why for why in _said(watch, _days(7 * DAY, 2)) if "lately" in why] == []
    higher = np.random.default_rng(3).normal(loc=1.6, scale=0.1, size=400)  # above every level, within the range of values
    first = [why for why in _said(watch, higher) if "lately" in why]
    assert first
    _said(watch, _days(2 * DAY, 4))
    again = [why for why in _said(watch, higher) if "lately" in why]
    assert len(again) < len(first)


def test_what_was_said_is_remembered_across_a_restart():
    """A watch that goes on from its state says and keeps silent as one that was never away."""
    reference, later = _days(7 * DAY, 1), np.concatenate((_days(DAY, 2), _days(DAY, 3) + 1.5, _days(DAY, 4), _days(DAY, 5) + 1.5))
    whole, first = _watch(reference), _watch(reference)
    half = len(later) // 2 // BATCH_ROWS * BATCH_ROWS
    said = _said(first, later[:half])
    second = _watch(reference)
    second.restore(first.state())
    assert said + _said(second, later[half:]) == _said(whole, later)
