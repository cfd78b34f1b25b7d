"""Whether ground truth comes alike for both variants: the test's law, its power, and what it is not."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gateway.core.arrivals import CORRECTED_MIN, Arrivals
from gateway.core.delays import Delays
from gateway.core.evidence import Side


def _fed(sides: list[tuple[Side, float]], keys_max: int = 200_000) -> Arrivals:
    test = Arrivals(keys_max)
    for number, (side, share) in enumerate(sides):
        test.observe(f"k-{number}", side, share)
    return test


def test_arrivals_mean_is_one_over_all_splits():
    """Whatever the planned chances, the e-value's mean over every way in which the split could have gone is exactly 1."""
    shares = [0.1, 0.5, 0.5, 0.3, 0.05, 0.9]
    mean = 0.0
    for sides in itertools.product(Side, repeat=len(shares)):
        test = _fed(list(zip(sides, shares, strict=True)))
        log_es = test.state()["log_es"]
        e = sum(math.exp(one) for one in log_es) / len(log_es)
        chance = math.prod(share if side is Side.CHALLENGER else 1.0 - share for side, share in zip(sides, shares, strict=True))
        mean += chance * e

    assert mean == pytest.approx(1.0, abs=1e-12)


def test_arrivals_as_planned_raise_no_doubt():
    """With sides as the split gives them no run of many comes to doubt its ground truth, though one looks all the time."""
    random = np.random.default_rng(7)
    for _ in range(40):
        sides = [Side.CHALLENGER if one else Side.CHAMPION for one in random.random(2_000) < 0.1]
        assert not _fed([(side, 0.1) for side in sides]).reading().doubt


@pytest.mark.parametrize("kept_back", [0.5, 0.0])
def test_arrivals_that_differ_raise_doubt(kept_back):
    """A challenger whose ground truth comes half as often, or never, is found out, and the reading says by which numbers."""
    random, test = np.random.default_rng(7), Arrivals()
    for number in range(4_000):
        is_challenger = random.random() < 0.1
        if not is_challenger or random.random() < kept_back:
            test.observe(f"k-{number}", Side.CHALLENGER if is_challenger else Side.CHAMPION, 0.1)

    reading = test.reading()
    assert reading.doubt.startswith("ground truth comes unequally")
    assert reading.challenger_keys < reading.expected_keys


def test_arrivals_that_wait_for_each_other_are_taken_as_if_alone():
    """Whether somebody looks after every key or only at the end, over several stages: the same figures to the bit."""
    random, together, alone = np.random.default_rng(8), Arrivals(400), Arrivals(400)
    for number in range(2_000):
        side = Side.CHALLENGER if random.random() < 0.15 else Side.CHAMPION
        for test in (together, alone):
            test.observe(f"k-{number}", side, 0.1 if number < 700 else 0.2)
        alone.reading()

    assert together.state() == alone.state()


def test_arrivals_count_a_key_once():
    """A caller with many answers is one key, so that its own habits raise no doubt."""
    test = Arrivals()
    for _ in range(1_000):
        test.observe("k", Side.CHALLENGER, 0.1)

    reading = test.reading()
    assert (reading.keys, reading.values, reading.doubt) == (1, 1_000, "")


def test_corrections_raise_doubt_only_when_many():
    """A few values taken back change nothing; more than a share of them voids what rests on them."""
    test = _fed([(Side.CHALLENGER if number % 10 == 0 else Side.CHAMPION, 0.1) for number in range(300)])
    for _ in range(CORRECTED_MIN - 1):
        test.correct()
    assert not test.reading().doubt
    test.correct()
    assert test.reading().doubt == f"ground truth was corrected: {CORRECTED_MIN} of 300 values"


def test_arrivals_restored_go_on_exactly():
    """State and what follows it are those of a test that was never interrupted, over the end of a stage."""
    sides = [(Side.CHALLENGER if number % 3 else Side.CHAMPION, 0.4) for number in range(100)]
    whole, half = _fed(sides, 40), _fed(sides[:50], 40)

    half = Arrivals.restored(half.state(), 40)
    for number, (side, share) in list(enumerate(sides))[50:]:
        half.observe(f"k-{number}", side, share)

    assert half.state() == whole.state()
    assert half.reading().body() == whole.reading().body()


def test_delays_show_their_quantiles_from_above():
    """A quantile is never below the true one and at most 78 % above it; without any there is none."""
    delays = Delays()
    assert delays.quantile_s(0.5) is None
    for delay_s in range(1, 101):
        delays.count(float(delay_s))

    for share in (0.1, 0.5, 0.9):
        shown = delays.quantile_s(share)
        assert shown is not None
        assert 100.0 * share <= shown <= 178.0 * share
