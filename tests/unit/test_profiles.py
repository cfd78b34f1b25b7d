"""Reference profiles: built once, read back to the bit, and never handing on what has no place."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import MalformedRequest
from gateway.core.models import Column, ColumnKind
from gateway.core.profile_bodies import profile_body, profile_from_body
from gateway.core.profiles import (
    APART,
    Apart,
    FeatureMap,
    FeatureProfile,
    Placed,
    build_profile,
    cell_count,
    cell_names,
    effective_rows,
    spread,
)
from gateway.core.tensors import Array


def numeric(values: object) -> FeatureProfile:
    return build_profile([Column("x")], {"x": np.asarray(values)}).features[0]


def categorical(values: list[object]) -> FeatureProfile:
    return build_profile([Column("x", ColumnKind.CATEGORICAL)], {"x": objects(values)}).features[0]


def objects(values: list[object]) -> Array:
    made = np.empty(len(values), dtype=object)
    made[:] = values
    return made


def placed_in(feature: FeatureProfile, values: Array) -> Placed:
    return FeatureMap((feature,)).place((values,))[0]


def apart_in(feature: FeatureProfile, cells: Array) -> dict[Apart, int]:
    counts = np.bincount(cells, minlength=cell_count(feature))[-len(APART) :]
    return dict(zip(APART, counts.tolist(), strict=True))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("shape", ["normal", "exponential", "heavy", "integers", "mostly one value"])
def test_transform_is_uniform_on_the_training_distribution(shape: str, scale: float) -> None:
    """Whatever the scale and shape, u has mean ½; without atoms its quantiles are the uniform's."""
    rng = np.random.default_rng(3)

    def draw(count: int) -> Array:
        match shape:
            case "normal":
                return rng.normal(5.0, 1.0, count) * scale
            case "exponential":
                return rng.exponential(1.0, count) * scale
            case "heavy":
                return rng.standard_t(2, count) * scale
            case "integers":
                return rng.integers(0, 7, count) * scale
            case _:
                return np.where(rng.random(count) < 0.8, 0.0, rng.normal(0.0, 1.0, count)) * scale

    feature = numeric(draw(20_000))
    u = placed_in(feature, draw(20_000)).u
    assert abs(u.mean() - 0.5) < 0.012  # four standard errors of both samples
    if shape in ("normal", "exponential", "heavy"):
        assert np.abs(np.quantile(u, np.linspace(0.05, 0.95, 19)) - np.linspace(0.05, 0.95, 19)).max() < 0.02


@given(
    reference=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=60),
    values=st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=60),
)
@settings(max_examples=200, deadline=None)
def test_transform_never_hands_on_what_has_no_place(reference: list[float], values: list[float]) -> None:
    """For any floats u is in [0, 1] and never NaN, and every value is either mapped or counted apart."""
    feature = numeric(np.asarray(reference, np.float64))
    placed = placed_in(feature, np.asarray(values, np.float64))
    assert np.isfinite(placed.u).all()
    assert ((placed.u >= 0.0) & (placed.u <= 1.0)).all()
    counts = apart_in(feature, placed.cells)
    assert len(placed.u) + sum(counts.values()) == len(values)
    assert counts[Apart.MISSING] == sum(map(math.isnan, values))
    assert counts[Apart.INFINITE] == sum(map(math.isinf, values))
    assert sum(feature.rates) == pytest.approx(1.0)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50))
@settings(deadline=None)
def test_transform_keeps_the_order(reference: list[float], values: list[float]) -> None:
    """A greater value never gets a smaller u."""
    placed = placed_in(numeric(np.asarray(reference)), np.sort(np.asarray(values)))
    assert (np.diff(placed.u) >= -1e-12).all()


def test_transform_counts_each_kind_apart() -> None:
    """Missing, infinite, below and above each have a cell of their own."""
    feature = numeric(np.arange(100.0))
    placed = placed_in(feature, np.asarray([math.nan, math.inf, -math.inf, -1.0, 100.0, 50.0]))
    assert apart_in(feature, placed.cells) == {
        Apart.MISSING: 1,
        Apart.INFINITE: 2,
        Apart.BELOW: 1,
        Apart.ABOVE: 1,
        Apart.UNSEEN: 0,
    }
    assert placed.is_apart.tolist() == [True] * 5 + [False]
    assert placed.u == pytest.approx([0.505], abs=0.01)


def test_categories_are_the_same_in_every_spelling_and_strangers_are_apart() -> None:
    """Bytes, text and numbers of one spelling are one category; what training never had is unseen."""
    feature = categorical([b"UA", "UA", "AA", None])
    placed = placed_in(feature, objects(["UA", b"AA", "XX", None, math.nan]))
    assert feature.categories == ("UA", "AA")
    assert feature.rates[-len(Apart) + list(Apart).index(Apart.MISSING)] == 0.25
    assert placed.u == pytest.approx([1 / 3, 5 / 6])
    assert apart_in(feature, placed.cells)[Apart.UNSEEN] == 1
    assert apart_in(feature, placed.cells)[Apart.MISSING] == 2
    months = categorical([1, 2.0, "2", np.int64(1), True])
    assert months.categories == ("1", "2")


def test_cells_are_named_for_people() -> None:
    """Ranges by their borders, categories by their text, what was rare or has no place by why; one name for each cell."""
    number = numeric(np.arange(20.0))
    assert (cell_names(number)[0], cell_names(number)[1]) == ("under 1.9", "1.9 to 3.8")
    assert cell_names(number)[-len(APART) - 1] == "17.1 and more"
    assert cell_names(categorical(["b", "a", "b"])) == ("b", "a", "other", "missing", "infinite", "below", "above", "unseen")
    assert cell_names(numeric([1.0, 1.0]))[0] == "any"
    for feature in (number, categorical(["b", "a"]), numeric([1.0])):
        assert len(cell_names(feature)) == len(feature.rates)


def test_categories_beyond_those_kept_are_one_category() -> None:
    """Where training had a long tail, a name that was not kept is part of it, not unseen."""
    feature = categorical([f"c{at}" for at in range(150)])
    placed = placed_in(feature, objects(["c149", "never"]))
    assert len(feature.categories) == 100
    assert not placed.is_apart.any()
    assert sum(feature.rates) == pytest.approx(1.0)


def test_feature_that_was_never_there_has_no_place_for_anything() -> None:
    """A reference of NaN alone knows no value."""
    feature = numeric([math.nan, math.nan])
    placed = placed_in(feature, np.asarray([1.0, math.nan]))
    assert placed.u.size == 0
    assert apart_in(feature, placed.cells)[Apart.UNSEEN] == 1


def test_constant_feature_maps_to_the_middle() -> None:
    """Every row alike: the value is in the middle, any other is out of range."""
    placed = placed_in(numeric([3.0] * 50), np.asarray([3.0, 2.9, 3.1]))
    assert placed.u.tolist() == [0.5]
    assert placed.is_apart.tolist() == [False, True, True]


@given(st.lists(st.one_of(st.none(), st.floats(), st.booleans()), min_size=1, max_size=50))
@settings(deadline=None)
def test_profile_survives_json_to_the_bit(values: list[object]) -> None:
    """The body, written and read back, is the same profile, whatever the reference held."""
    columns = [Column("n"), Column("c", ColumnKind.CATEGORICAL)]
    profile = build_profile(columns, {"n": objects(values), "c": objects(values)})
    assert profile_from_body(json.loads(json.dumps(profile_body(profile), allow_nan=False))) == profile
    assert profile.feature("n") == profile.features[0]
    assert profile.feature("absent") is None
    assert cell_count(profile.features[0]) == len(profile.features[0].rates)


def test_spread_is_scaled_and_moves_with_the_variance_alone() -> None:
    """It lies in [0, 1], is ⅓ on average for uniform values, and more when they spread."""
    u = np.linspace(0.0, 1.0, 10_001)
    assert spread(u).mean() == pytest.approx(1.0 / 3.0, abs=1e-3)
    assert spread(np.asarray([0.0, 0.5, 1.0])).tolist() == [1.0, 0.0, 1.0]


def test_rows_beyond_the_range_lie_at_its_ends_and_the_rest_nowhere() -> None:
    """In rows u keeps its row: 0 below, 1 above, NaN for what is missing, infinite or unseen."""
    features = (numeric(np.arange(100.0)), categorical(["a", "b"]), numeric([math.nan]))
    numbers = np.asarray([-1.0, 1e9, math.nan, -math.inf, math.inf])
    u, cells = FeatureMap(features).rows([numbers, objects(["a", "b", None, "c", "a"]), numbers])
    assert np.array_equal(u[0], [0.0, 1.0, math.nan, math.nan, math.nan], equal_nan=True)
    assert np.array_equal(u[1], [0.25, 0.75, math.nan, math.nan, 0.25], equal_nan=True)
    assert np.isnan(u[2]).all()
    assert cells.shape == u.shape


def test_profile_knows_what_its_own_rows_say() -> None:
    """Mean and deviation of place and spread are the reference's own, and a sample taken in a row is worth fewer rows."""
    rng = np.random.default_rng(4)
    independent, steps = rng.normal(size=5_000), rng.normal(size=5_000)
    feature = numeric(independent)
    assert feature.place == pytest.approx((0.5, 0.2887), abs=0.005)
    assert feature.spread == pytest.approx((1 / 3, 0.298), abs=0.01)
    assert effective_rows(feature.swing, 5_000) > 4_000
    for at in range(1, 5_000):
        steps[at] += 0.9 * steps[at - 1]
    assert 100 < effective_rows(numeric(steps).swing, 5_000) < 600


def test_reference_that_does_not_fit_is_refused_by_name() -> None:
    """A missing column, text in a numeric one, no rows and uneven columns are each refused."""
    with pytest.raises(MalformedRequest, match="'y' is missing"):
        build_profile([Column("y")], {"x": np.zeros(3)})
    with pytest.raises(MalformedRequest, match="not numeric"):
        build_profile([Column("x")], {"x": objects(["a", "b"])})
    with pytest.raises(MalformedRequest, match="at least one row"):
        build_profile([Column("x")], {"x": np.zeros(0)})
    with pytest.raises(MalformedRequest, match="equally many"):
        build_profile([Column("x"), Column("y")], {"x": np.zeros(3), "y": np.zeros(2)})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "1", None])
def test_profile_body_with_what_is_no_number_is_refused(value: object) -> None:
    """Among the numbers of a stored feature each is finite, whatever the others are."""
    body = json.loads(json.dumps(profile_body(build_profile([Column("x")], {"x": np.arange(100.0)}))))
    body["features"][0]["quantiles"][7] = value
    with pytest.raises(MalformedRequest, match="quantiles"):
        profile_from_body(body)


@pytest.mark.parametrize("value", [7, 1e308])
def test_profile_body_takes_whole_and_great_numbers(value: float) -> None:
    """JSON writes some floats without a point, and numbers whose sum no float holds are numbers."""
    body = json.loads(json.dumps(profile_body(build_profile([Column("x")], {"x": np.arange(100.0)}))))
    body["features"][0]["quantiles"][-2:] = [value, 1e308]
    assert profile_from_body(body).features[0].quantiles[-2:] == (float(value), 1e308)
