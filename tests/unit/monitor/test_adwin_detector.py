"""Each trap of River's ADWIN that the `Detector` port and the way a feature is fed keep away from the monitor."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest

from adapters.detectors.river import AdwinDetector
from gateway.core.models import Column
from gateway.core.profiles import Apart, build_profile
from gateway.monitor.columns import Budget, ColumnsWatch

REFERENCE_ROWS = 5_000


def _watch(values: np.ndarray) -> ColumnsWatch:
    return ColumnsWatch(build_profile([Column("x")], {"x": values}), AdwinDetector, Budget(3e5, 1e-4))


def _fed(watch: ColumnsWatch, values: np.ndarray) -> ColumnsWatch:
    for at in range(0, len(values), 128):
        watch.feed((values[at : at + 128],))
    return watch


def _shown(watch: ColumnsWatch) -> dict[str, Any]:
    (reading,) = watch.readings()
    return reading.body()


def _normal(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=rows)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.01, 1.01])
def test_detector_refuses_what_the_port_promises_away(value):
    """A NaN or an unscaled value is our own mistake and stops there, instead of silencing the detector for good."""
    with pytest.raises(AssertionError):
        AdwinDetector().update([0.5, value])


def test_detector_alarm_holds_for_one_update():
    """The reading says that this update raised the alarm; the next one says nothing of it."""
    detector, random = AdwinDetector(), np.random.default_rng(1)
    values = [*random.random(1_000) * 0.2, *(0.8 + random.random(500) * 0.2)]
    alarms = [detector.update([value]).alarm_count for value in values]

    first = alarms.index(1)
    assert first > 1_000
    assert alarms[first + 1] == 0


def test_detector_takes_values_together_as_one_by_one():
    """However a signal is cut, the alarms and the last reading are the same to the bit."""
    random = np.random.default_rng(4)
    values = np.concatenate([random.random(700) * level for level in (1.0, 0.3, 0.9)]).tolist()
    single, together = AdwinDetector(), AdwinDetector()
    singles = [single.update([value]) for value in values]
    groups = [together.update(values[at : at + 300]) for at in range(0, len(values), 300)]

    assert sum(reading.alarm_count for reading in singles) == sum(reading.alarm_count for reading in groups) >= 2
    assert groups[-1].value == singles[-1].value


def test_detector_state_goes_on_exactly():
    """A detector restored from its state gives the same readings to the last bit, and the state is small."""
    values = np.random.default_rng(2).random(20_000)
    detector, restored = AdwinDetector(), AdwinDetector()
    detector.update(values.tolist())
    state = detector.state()
    restored.restore(state)

    assert len(state) < 4_096
    following = np.concatenate([values[:500], values[:500] * 0.3])
    assert [detector.update([value]) for value in following] == [restored.update([value]) for value in following]


def test_detector_refuses_the_state_of_another_kind():
    """A state that is not ADWIN's is not taken for one."""
    with pytest.raises(AssertionError):
        AdwinDetector().restore(pickle.dumps("page-hinkley"))


def test_detector_raises_no_false_alarm_on_stationary_values():
    """200,000 independent uniform values raise none; the budget is one per 100,000 rows of a whole model."""
    detector = AdwinDetector()

    assert detector.update(np.random.default_rng(3).random(200_000).tolist()).alarm_count == 0


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e4])
def test_feature_alarms_do_not_depend_on_scale(sigma):
    """A shift by one standard deviation gives the very same alarm whatever the unit is."""
    drifted = np.concatenate([_normal(2_000, 5), _normal(600, 6) + 1.0])

    shown = [_shown(_fed(_watch(_normal(REFERENCE_ROWS, 4) * scale), drifted * scale)) for scale in (1.0, sigma)]

    assert shown[0]["alarms"] == shown[1]["alarms"] >= 1
    assert shown[0]["psi"] == pytest.approx(shown[1]["psi"])


def test_feature_with_missing_values_still_alarms():
    """NaN, infinities and values out of range are counted apart, reach no detector, and a later shift is found."""
    odd = np.where(np.arange(2_000) % 10 == 0, np.nan, _normal(2_000, 8))
    odd[5], odd[15], odd[25] = np.inf, 1e9, -1e9
    watch = _fed(_watch(_normal(REFERENCE_ROWS, 7)), odd)
    apart = _shown(watch)["apart"]
    assert all(apart[reason.value] > 0 for reason in (Apart.MISSING, Apart.INFINITE, Apart.ABOVE, Apart.BELOW))
    assert _shown(watch)["alarms"] == 0

    _fed(watch, _normal(600, 9) + 1.0)

    assert _shown(watch)["alarms"] >= 1


def test_feature_spread_signal_sees_variance():
    """Four times the variance about the same mean raises the spread signal's alarm, which the mean alone misses."""
    watch = _fed(_watch(_normal(REFERENCE_ROWS, 10)), _normal(2_000, 11))
    assert _shown(watch)["alarms"] == 0

    _fed(watch, _normal(1_000, 12) * 2.0)

    assert _shown(watch)["alarms"] >= 1


def _autoregressive(rows: int, phi: float, seed: int) -> np.ndarray:
    noise, values = _normal(rows, seed), np.empty(rows)
    values[0] = noise[0]
    for at in range(1, rows):
        values[at] = phi * values[at - 1] + math.sqrt(1.0 - phi**2) * noise[at]
    return values


def test_feature_that_resembles_its_neighbours_raises_few_false_alarms():
    """At AR(1) with φ = .9 a bare ADWIN raises dozens in 30,000 rows; averaged over blocks hardly any is left."""
    reference, values = _autoregressive(REFERENCE_ROWS, 0.9, 13), _autoregressive(30_000, 0.9, 14)
    watch = _fed(_watch(reference), values)
    bare, placed = AdwinDetector(), np.clip((values + 4.0) / 8.0, 0.0, 1.0)

    assert bare.update(placed.tolist()).alarm_count > 30
    assert _shown(watch)["alarms"] <= 3
    assert _shown(watch)["correlation"] > 0.8


def test_feature_stays_breached_after_detectors_have_forgotten():
    """A detector takes the drifted values for normal after its alarm; the index against training keeps saying so."""
    watch = _fed(_watch(_normal(REFERENCE_ROWS, 15)), _normal(2_000, 16))
    _fed(watch, _normal(5_000, 17) + 1.0)
    alarms = _shown(watch)["alarms"]

    _fed(watch, _normal(5_000, 18) + 1.0)

    shown = _shown(watch)
    assert shown["alarms"] == alarms
    assert shown["is_breached"]
    assert shown["psi"] > 5 * shown["psi_bound"]
    assert watch.is_departed


def test_index_is_judged_once_it_was_looked_at():
    """Before a slot is full, and while an index is over its bound that nobody looked at since, nothing says that it is not."""
    watch = _watch(_normal(REFERENCE_ROWS, 15))
    usual = [_shown(_fed(watch, _normal(128, seed))) for seed in range(16)]
    assert [one["is_judged"] for one in usual] == [False] * 2 + [True] * 14
    far = [_shown(_fed(watch, _normal(128, seed) + 4.0)) for seed in range(2)]
    assert [(one["psi"] > one["psi_bound"], one["is_breached"], one["is_judged"]) for one in far] == [
        (True, False, False),
        (True, True, True),
    ]


def test_departure_is_said_once_while_it_lasts():
    """Thousands of drifted rows are one departure, however often the average would reach its bound again."""
    watch, drifted, said = _watch(_normal(REFERENCE_ROWS, 19)), _normal(6_400, 20) + 0.5, []
    for at in range(0, len(drifted), 32):
        said += [moved.why for moved in watch.feed((drifted[at : at + 32],)) if "log e" in moved.why]

    assert len(said) == 1
    assert "x 100% (place)" in said[0]


def test_rows_that_resemble_their_neighbours_breach_nothing_at_first():
    """Before it is known how much neighbours resemble each other, an index of a few hundred rows raises no alarm."""
    for seed in range(30):
        watch, values = _watch(_autoregressive(REFERENCE_ROWS, 0.9, 100 + seed)), _autoregressive(256, 0.9, 200 + seed)

        assert [moved for at in range(0, 256, 32) for moved in watch.feed((values[at : at + 32],))] == []
