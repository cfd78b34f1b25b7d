"""A version's errors and losses against its own first ones."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from gateway.core.outcomes import LEARN_OUTCOMES, RETURN_OUTCOMES, OutcomeWatch


def outcomes(rate: float, count: int, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(count) < rate).astype(float).tolist()


def alarms(watch: OutcomeWatch, values: list[float]) -> list[int]:
    return [at for at, value in enumerate(values) if watch.observe(value)]


def watch_of(rate: float, seed: int = 1) -> OutcomeWatch:
    watch = OutcomeWatch(alarm_rows=1e5)
    assert alarms(watch, outcomes(rate, LEARN_OUTCOMES, seed)) == []
    return watch


def test_outcomes_that_get_worse_alarm_once_and_stay_departed() -> None:
    """From 10 to 30 % is found within a few hundred, said once while it lasts, and over when it is."""
    watch = watch_of(0.1)
    found = alarms(watch, outcomes(0.3, 5_000, 2))
    assert len(found) == 1
    assert found[0] < 300
    assert watch.is_departed
    assert alarms(watch, outcomes(0.1, 2 * RETURN_OUTCOMES, 3)) == []
    assert not watch.is_departed
    assert len(alarms(watch, outcomes(0.3, 1_000, 4))) == 1


def test_outcomes_that_stay_or_improve_raise_nothing() -> None:
    """Neither the same rate, nor a better one, nor one that chance in the first outcomes explains."""
    for rate in (0.1, 0.02, 0.11):
        assert alarms(watch_of(0.1), outcomes(rate, 20_000, 5)) == []
    assert alarms(watch_of(0.0), outcomes(0.0, 20_000, 6)) == []


def test_outcomes_of_a_sound_version_that_begins_to_fail_are_seen() -> None:
    """A version that never failed and fails in every tenth answer departs, though its rate was zero."""
    found = alarms(watch_of(0.0), outcomes(0.1, 1_000, 7))
    assert found
    assert found[0] < 200


def test_outcomes_that_come_in_runs_are_averaged() -> None:
    """Failures that come fifty in a row at the same rate as ever are no departure, in 50,000 outcomes."""
    rng = np.random.default_rng(8)
    runs = np.repeat((rng.random(1_500) < 0.1).astype(float), 50).tolist()
    watch = OutcomeWatch(alarm_rows=1e5)
    assert len(alarms(watch, runs)) <= 1


def test_outcomes_restored_go_on_exactly() -> None:
    """Cut anywhere, the alarms and the figures are the same."""
    values = [*outcomes(0.1, 3_000, 9), *outcomes(0.3, 1_000, 10)]
    whole = OutcomeWatch(alarm_rows=1e5)
    expected = alarms(whole, values)
    for cut in (777, 2_500, 3_100):
        first, second = OutcomeWatch(alarm_rows=1e5), OutcomeWatch(alarm_rows=1e5)
        found = alarms(first, values[:cut])
        second.restore(pickle.loads(pickle.dumps(first.state())))
        found += [cut + at for at in alarms(second, values[cut:])]
        assert found == expected
        assert second.body() == whole.body()


def losses(rate: float, count: int, seed: int) -> list[float]:
    """Return losses of a regression: each of some size."""
    return np.random.default_rng(seed).beta(1.0, 1.0 / rate - 1.0, count).tolist()


@pytest.mark.parametrize(
    ("made", "before", "after"), [(outcomes, 0.0, 0.02), (outcomes, 0.1, 0.3), (losses, 0.05, 0.2), (losses, 0.4, 0.7)]
)
def test_outcomes_that_wait_for_each_other_are_betted_on_as_if_alone(
    made: Callable[[float, int, int], list[float]], before: float, after: float
) -> None:
    """Whether somebody looks after every outcome or only at the end: the same alarms with the same numbers, to the bit."""
    values = [*made(before, 4_000, 13), *made(after, 3_000, 14), *np.repeat(made(before or 0.1, 60, 15), 50).tolist()]
    together, alone = OutcomeWatch(alarm_rows=1e5), OutcomeWatch(alarm_rows=1e5)
    found = 0
    for at, value in enumerate(values):
        why = together.observe(value, float(at))
        assert why == alone.observe(value, float(at))
        assert together.departure == alone.departure
        found += bool(why)
        alone.body()
    assert found
    assert pickle.dumps(together.state()) == pickle.dumps(alone.state())


def test_departure_says_since_when_and_how_much() -> None:
    """What an alarm rests on begins near the change, also one so small that it takes hundreds of outcomes to see."""
    for rate, within in ((0.5, 15), (0.2, 150)):
        watch = watch_of(0.1)
        for at, value in enumerate([*outcomes(0.1, 3_000, 11), *outcomes(rate, 1_000, 12)]):
            if watch.observe(value, float(at)):
                break
        departure = watch.departure
        assert departure is not None
        assert departure.since_s == pytest.approx(3_000, abs=within)
        assert departure.mean == pytest.approx(rate, abs=0.2)
        assert departure.reference == pytest.approx(0.1, abs=0.03)
        assert departure.reference < departure.high < departure.mean
        assert departure.log_e >= departure.bound


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5])
def test_outcomes_taken_together_leave_the_watch_as_one_by_one_does(rate: float) -> None:
    """In parts of any size, up to an alarm, which is told by there being nothing; the watch before stays as it was."""
    alone, together = OutcomeWatch(alarm_rows=1e5), OutcomeWatch(alarm_rows=1e5)
    values, sizes, at = outcomes(rate, 6_000, 5), np.random.default_rng(6).integers(0, 300, 100), 0
    for size in sizes.tolist():
        part = values[at : at + size]
        times = [float(at + one) for one in range(len(part))]
        assert [alone.observe(value, time_s) for value, time_s in zip(part, times, strict=True)] == [""] * len(part)
        before = pickle.dumps(vars(together)) if size < 20 else b""
        after = together.with_all(part, times)
        assert not before or pickle.dumps(vars(together)) == before
        assert after is not None
        together, at = after, at + size
        if size % 2:
            assert pickle.dumps(together.state()) == pickle.dumps(alone.state())
    assert together.with_all([1.0] * 2_000, [0.0] * 2_000) is None
