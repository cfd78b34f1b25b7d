"""The stability index against chance, and incidents."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.attribution import Attribution
from gateway.core.drift import (
    MERGE_S,
    PSI_BOUND,
    Alarm,
    Incident,
    frozen_by,
    psi_bounds,
    stability_indices,
    with_alarm,
)
from gateway.core.models import Column
from gateway.core.profiles import FeatureMap, FeatureProfile, build_profile, cell_count


def profile(rows: int, rng: np.random.Generator) -> FeatureProfile:
    return build_profile([Column("x")], {"x": rng.normal(size=rows)}).features[0]


def cells(feature: FeatureProfile, values: np.ndarray) -> tuple[int, ...]:
    [[cells]] = FeatureMap((feature,)).rows((values,))[1:]
    return tuple(np.bincount(cells, minlength=cell_count(feature)).tolist())


def index_of(reference: Sequence[float], current: Sequence[int], *, reference_rows: int) -> float:
    first = np.zeros(1, np.int64)
    return float(stability_indices(np.asarray(reference), np.asarray(current), first, reference_rows=reference_rows)[0])


def bound_of(size: int, *, rows: float, reference_rows: int) -> float:
    return float(psi_bounds(np.asarray([size]), rows=rows, reference_rows=reference_rows)[0])


def has_drifted(reference: Sequence[float], current: Sequence[int], *, reference_rows: int) -> bool:
    index = index_of(reference, current, reference_rows=reference_rows)
    return index > bound_of(len(current), rows=sum(current), reference_rows=reference_rows)


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
            bare += index_of(feature.rates, current, reference_rows=reference_rows) > PSI_BOUND
    assert breaches <= 10
    assert rows > 100 or bare > 100


def test_index_sees_a_shift_and_what_has_no_place() -> None:
    """One standard deviation, and a tenth of the rows missing, each breach at 500 rows."""
    rng = np.random.default_rng(2)
    feature = profile(5_000, rng)
    assert has_drifted(feature.rates, cells(feature, rng.normal(1.0, size=500)), reference_rows=5_000)
    gaps = np.where(rng.random(500) < 0.1, np.nan, rng.normal(size=500))
    assert has_drifted(feature.rates, cells(feature, gaps), reference_rows=5_000)


def test_indices_of_several_features_are_those_of_each() -> None:
    """Side by side, with different numbers of cells, each feature has the index that it has alone."""
    rng = np.random.default_rng(3)
    rates = [rng.dirichlet(np.ones(size)) for size in (2, 7, 15)]
    counts = [rng.multinomial(500, one) for one in rates]
    together = stability_indices(np.concatenate(rates), np.concatenate(counts), np.asarray([0, 2, 9]), reference_rows=1_000)
    assert together.tolist() == [index_of(*pair, reference_rows=1_000) for pair in zip(rates, counts, strict=True)]


@given(
    st.lists(st.integers(0, 1_000), min_size=2, max_size=20).filter(lambda counts: sum(counts) > 0),
    st.integers(1, 10_000),
)
def test_index_is_finite_and_not_negative(counts: list[int], reference_rows: int) -> None:
    """Empty cells on either side never give an infinity."""
    reference = [1.0] + [0.0] * (len(counts) - 1)
    index = index_of(reference, counts, reference_rows=reference_rows)
    assert 0.0 <= index < 1e6


def test_bound_falls_with_rows_to_its_floor() -> None:
    """More rows leave less to chance, but a small change of many rows is still no drift."""
    bounds = [bound_of(15, rows=rows, reference_rows=5_000) for rows in (100, 300, 1_000, 10**6)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 0.25
    assert bounds[-1] == PSI_BOUND


def test_alarms_close_to_each_other_are_one_incident() -> None:
    """It latches, names each subject once, counts every alarm, and closes when they have been quiet."""
    incidents: tuple[Incident, ...] = ()
    for subject, time_s in (("a", 0.0), ("b", 100.0), ("a", 100.0 + MERGE_S - 1.0)):
        incidents = with_alarm(incidents, Alarm((subject,), Attribution.WORLD, time_s, f"{subject} moved"))
    assert incidents == (Incident(Attribution.WORLD, ("a", "b"), 0.0, 100.0 + MERGE_S - 1.0, 3, "a moved"),)
    assert frozen_by(incidents, 100.0 + MERGE_S) is Attribution.WORLD
    assert frozen_by(incidents, 100.0 + 2 * MERGE_S) is Attribution.NONE
    assert Incident.from_body(json.loads(json.dumps(incidents[0].body()))) == incidents[0]


def test_alarms_of_another_kind_or_time_are_another_incident() -> None:
    """World and data do not mix, a later one begins anew, and the list is bounded."""
    incidents = with_alarm((), Alarm(("a",), Attribution.WORLD, 0.0))
    incidents = with_alarm(incidents, Alarm(("a",), Attribution.DATA, 1.0))
    incidents = with_alarm(incidents, Alarm(("a",), Attribution.WORLD, MERGE_S))
    assert [incident.attribution for incident in incidents] == [Attribution.WORLD, Attribution.DATA, Attribution.WORLD]
    assert frozen_by(incidents, MERGE_S) is Attribution.WORLD
    for at in range(300):
        incidents = with_alarm(incidents, Alarm(("a",), Attribution.WORLD, at * 2 * MERGE_S))
    assert len(incidents) == 100
