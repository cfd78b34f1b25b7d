"""What features say row by row, and what the reference allows it to be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gateway.core.models import Column, ColumnKind
from gateway.core.profiles import FeatureMap, build_profile
from gateway.core.signals import Signals

COLUMNS = [Column("size"), Column("carrier", ColumnKind.CATEGORICAL)]
CARRIERS = np.asarray([f"c{at:02}" for at in range(20)], np.object_)


def made(rows: int, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    size = np.where(rng.random(rows) < 0.1, math.nan, rng.exponential(size=rows))
    rates = np.arange(20, 0, -1) / 210
    return [size, rng.choice(CARRIERS, rows, p=rates)]


def test_signals_have_the_means_that_the_profile_says() -> None:
    """On other rows of the same kind every signal, of numbers, categories and what is missing, has its mean and deviation."""
    profile = build_profile(COLUMNS, dict(zip(("size", "carrier"), made(20_000, 1), strict=True)))
    signals = Signals(profile.features, reference_rows=profile.rows)
    values = signals.values(*FeatureMap(profile.features).rows(made(20_000, 2)))
    assert np.nanmean(values, axis=1) == pytest.approx(signals.means, abs=0.015)
    assert np.nanstd(values, axis=1) == pytest.approx(signals.deviations, abs=0.015)
    assert set(signals.names) == {"place", "spread", "missing", "out of range", "unseen", "other", *CARRIERS[:15]}
    assert signals.weights.sum() == pytest.approx(1.0)
    assert signals.weights[signals.owners == 0].sum() == pytest.approx(0.5)
    assert {signals.names[at] for at in np.flatnonzero(signals.is_data)} == {"missing", "out of range", "unseen"}


def test_signals_see_categories_and_quality() -> None:
    """Each category is 1 in its rows alone; what is missing, out of range or unseen is 1 in its signal and has no place."""
    profile = build_profile(COLUMNS, dict(zip(("size", "carrier"), made(5_000, 3), strict=True)))
    signals = Signals(profile.features, reference_rows=profile.rows)
    columns = [np.asarray([1.0, math.nan, -5.0, 1e9]), np.asarray(["c00", "c19", "??", None], np.object_)]
    values = signals.values(*FeatureMap(profile.features).rows(columns))
    of = {(int(owner), name): row for owner, name, row in zip(signals.owners, signals.names, values, strict=True)}
    assert of[0, "missing"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert of[0, "out of range"].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert np.isnan(of[0, "place"]).tolist() == [False, True, False, False]
    assert of[1, "c00"].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert of[1, "other"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert of[1, "unseen"].tolist() == [0.0, 0.0, 1.0, 0.0]
    assert of[1, "missing"].tolist() == [0.0, 0.0, 0.0, 1.0]
