"""The stability index against chance, block averages against correlation, and incidents."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.attribution import Attribution
from gateway.core.drift import (
    MERGE_S,
    PSI_BOUND,
    Alarm,
    BlockAverage,
    Incident,
    block_length,
    frozen_by,
    has_drifted,
    population_stability_index,
    psi_bound,
    spread,
    with_alarm,
)
from gateway.core.models import Column
from gateway.core.profiles import FeatureProfile, build_profile, cell_count, probability_integral_transform


def profile(rows: int, rng: np.random.Generator) -> FeatureProfile:
    return build_profile([Column("x")], {"x": rng.normal(size=rows)}).features[0]


def cells(feature: FeatureProfile, values: np.ndarray) -> tuple[int, ...]:
    cells = probability_integral_transform(feature, values).cells
    return tuple(np.bincount(cells, minlength=cell_count(feature)).tolist())


@pytest.mark.parametrize("rows", [100, 1_000, 5_000])
@pytest.mark.parametrize("reference_rows", [500, 5_000])
def test_index_breaches_by_chance_in_at_most_one_percent(rows: int, reference_rows: int) -> None:
    """Without drift, 1,000 windows of any size breach at most 10 times; a bound of .1 alone would far more often."""
    rng = np.random.default_rng([rows, reference_rows])
    breaches = bare = 0
    for _ in range(10):
        feature = profile(reference_rows, rng)
        for _ in range(100):
            current = cells(feature, rng.normal(size=rows))
            breaches += has_drifted(feature.rates, current, reference_rows=reference_rows)
            bare += population_stability_index(feature.rates, current, reference_rows=reference_rows) > PSI_BOUND
    assert breaches <= 10
    assert rows > 100 or bare > 100


def test_index_sees_a_shift_and_what_has_no_place() -> None:
    """One standard deviation, and a tenth of the rows missing, each breach at 500 rows."""
    rng = np.random.default_rng(2)
    feature = profile(5_000, rng)
    assert has_drifted(feature.rates, cells(feature, rng.normal(1.0, size=500)), reference_rows=5_000)
    gaps = np.where(rng.random(500) < 0.1, np.nan, rng.normal(size=500))
    assert has_drifted(feature.rates, cells(feature, gaps), reference_rows=5_000)


def test_index_says_nothing_of_few_rows() -> None:
    """Under a hundred rows there is no drift to speak of, however odd they look; without rows neither."""
    assert not has_drifted((0.5, 0.5), (99, 0), reference_rows=1_000)
    assert not has_drifted((0.5, 0.5), (0, 0), reference_rows=1_000)
    assert has_drifted((0.5, 0.5), (100, 0), reference_rows=1_000)


@given(
    st.lists(st.integers(0, 1_000), min_size=2, max_size=20).filter(lambda counts: sum(counts) > 0),
    st.integers(1, 10_000),
)
def test_index_is_finite_and_not_negative(counts: list[int], reference_rows: int) -> None:
    """Empty cells on either side never give an infinity."""
    reference = [1.0] + [0.0] * (len(counts) - 1)
    index = population_stability_index(reference, counts, reference_rows=reference_rows)
    assert 0.0 <= index < 1e6


def test_bound_falls_with_rows_to_its_floor() -> None:
    """More rows leave less to chance, but a small change of many rows is still no drift."""
    bounds = [psi_bound(15, rows=rows, reference_rows=5_000) for rows in (100, 300, 1_000, 10**6)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 0.25
    assert bounds[-1] == PSI_BOUND


def test_spread_is_scaled_and_moves_with_the_variance_alone() -> None:
    """It lies in [0, 1], is ⅓ on average for uniform values, and more when they spread."""
    u = np.linspace(0.0, 1.0, 10_001)
    assert spread(u).mean() == pytest.approx(1.0 / 3.0, abs=1e-3)
    assert spread(np.asarray([0.0, 0.5, 1.0])).tolist() == [1.0, 0.0, 1.0]


def autoregression(phi: float, count: int, seed: int) -> list[float]:
    rng = np.random.default_rng(seed)
    x, values = 0.0, []
    for step in rng.normal(size=count) * (1.0 - phi**2) ** 0.5:
        x = phi * x + float(step)
        values.append(min(1.0, max(0.0, 0.5 + x / 6.0)))
    return values


@pytest.mark.parametrize(("phi", "low", "high"), [(0.0, 1, 1), (0.5, 2, 16), (0.9, 16, 64)])
def test_blocks_grow_with_correlation_until_their_means_are_nearly_free_of_it(phi: float, low: int, high: int) -> None:
    """An independent signal passes as it is; a correlated one is averaged, and the means correlate by less than .2."""
    blocks = BlockAverage()
    means = [mean for value in autoregression(phi, 60_000, 4) if (mean := blocks.push(value)) is not None]
    assert low <= block_length(blocks.correlation) <= high
    later = np.asarray(means[len(means) // 2 :])
    assert abs(np.corrcoef(later[:-1], later[1:])[0, 1]) < 0.2


def test_blocks_do_not_take_a_shift_for_correlation() -> None:
    """When the level of an independent signal jumps, the values still pass one by one."""
    rng = np.random.default_rng(5)
    blocks = BlockAverage()
    for value in np.concatenate([rng.random(2_000) * 0.6, 0.4 + rng.random(500) * 0.6]).tolist():
        blocks.push(value)
        assert block_length(blocks.correlation) == 1


def test_blocks_go_on_exactly_after_json() -> None:
    """State survives a restart in the middle of a block."""
    values = autoregression(0.9, 3_000, 6)
    whole, part = BlockAverage(), BlockAverage()
    for at, value in enumerate(values):
        if at == 1_003:
            part = BlockAverage.restored(json.loads(json.dumps(part.state())))
        assert whole.push(value) == part.push(value)
    assert whole.state() == part.state()


def test_alarms_close_to_each_other_are_one_incident() -> None:
    """It latches, names each subject once, counts every alarm, and closes when they have been quiet."""
    incidents: tuple[Incident, ...] = ()
    for subject, time_s in (("a", 0.0), ("b", 100.0), ("a", 100.0 + MERGE_S - 1.0)):
        incidents = with_alarm(incidents, Alarm(subject, Attribution.WORLD, time_s))
    assert incidents == (Incident(Attribution.WORLD, ("a", "b"), 0.0, 100.0 + MERGE_S - 1.0, 3),)
    assert frozen_by(incidents, 100.0 + MERGE_S) is Attribution.WORLD
    assert frozen_by(incidents, 100.0 + 2 * MERGE_S) is Attribution.NONE
    assert Incident.from_body(json.loads(json.dumps(incidents[0].body()))) == incidents[0]


def test_alarms_of_another_kind_or_time_are_another_incident() -> None:
    """World and data do not mix, a later one begins anew, and the list is bounded."""
    incidents = with_alarm((), Alarm("a", Attribution.WORLD, 0.0))
    incidents = with_alarm(incidents, Alarm("a", Attribution.DATA, 1.0))
    incidents = with_alarm(incidents, Alarm("a", Attribution.WORLD, MERGE_S))
    assert [incident.attribution for incident in incidents] == [Attribution.WORLD, Attribution.DATA, Attribution.WORLD]
    assert frozen_by(incidents, MERGE_S) is Attribution.WORLD
    for at in range(300):
        incidents = with_alarm(incidents, Alarm("a", Attribution.WORLD, at * 2 * MERGE_S))
    assert len(incidents) == 100
