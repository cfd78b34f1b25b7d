"""The demonstration's data and versions are what its story says of them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from gateway.demo.flights import FEATURES, load_flights
from gateway.demo.training import INPUT, REFERENCE_ROWS, train_versions


@pytest.fixture(scope="module")
def flights():
    """All flights that departed."""
    return load_flights()


@pytest.fixture(scope="module")
def candidates(flights, tmp_path_factory):
    """The three versions."""
    return train_versions(flights, tmp_path_factory.mktemp("models"))


def answers(candidate, features):
    """Return the probabilities of a late arrival."""
    return onnxruntime.InferenceSession(str(candidate.artifact)).run(["probabilities"], {INPUT: features})[0][:, 1]


def test_flights_are_in_order_of_departure(flights):
    """A replay never goes back in time, and nobody arrives before they leave."""
    assert (np.diff(flights.departure_s) >= 0).all()
    assert (flights.arrival_s > flights.departure_s).all()


def test_flights_hold_only_what_is_known_at_departure(flights):
    """No feature is a perfect answer, as anything measured at arrival would be; what is not known stays missing."""
    late, features = flights.is_late[flights.arrives], flights.features[flights.arrives]
    for at, name in enumerate(FEATURES):
        known = ~np.isnan(features[:, at])
        assert abs(np.corrcoef(features[known, at], late[known])[0, 1]) < 0.8, name
    assert np.isnan(flights.features).any()
    assert not np.isnan(flights.features[:, FEATURES.index("dep_delay")]).any()


def test_versions_are_trained_on_what_is_before_march(flights, candidates):
    """The second version is at least as good as the first on the months that follow, and both beat never saying late."""
    later = flights.between(3, 9)
    known = flights.arrives[later]
    features, late = flights.features[later][known], flights.is_late[later][known]
    wrong = [float(((answers(one, features) >= 0.5) != late).mean()) for one in candidates]

    assert wrong[1] < wrong[0] < 0.5 * late.mean()
    assert wrong[2] > 2 * wrong[1]


def test_faulty_version_is_the_sound_one_with_minutes_taken_for_hours(flights, candidates):
    """Version 3 answers to the bit what version 2 answers when the departure delay is a sixtieth."""
    features = flights.features[200_000:201_000]
    divided = features.copy()
    divided[:, FEATURES.index("dep_delay")] /= np.float32(60)

    assert np.array_equal(answers(candidates[2], features), answers(candidates[1], divided))


def test_reference_samples_have_the_versions_columns(candidates):
    """Each training sample is a table with the features' names and some missing cells."""
    for candidate in candidates:
        header, *rows = candidate.reference.read_text().splitlines()
        assert tuple(header.split(",")) == FEATURES
        assert [column["name"] for column in candidate.metadata["columns"]] == list(FEATURES)
        assert len(rows) == REFERENCE_ROWS
        assert any(",," in row for row in rows)
