"""A short time in which everything fails blames no version, and a version that fails by itself is blamed all the same."""

from __future__ import annotations

import pytest

from loadtests.detection.outages import Outage, outage_rollout


@pytest.mark.parametrize("weight", [1_000, 5_000])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize(("begins_s", "span_s"), [(0.5, 0.2), (0.5, 3.0), (20.0, 3.0)])
def test_outage_that_versions_share_rolls_nothing_back(workers, weight, begins_s, span_s):
    """Identical versions that fail together for a while stay, with the workers' own rule at work: in no run of three."""
    ended = [outage_rollout(Outage(workers, weight, begins_s, span_s), seed, 35.0) for seed in range(3)]
    assert ended == [None, None, None]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_challenger_that_always_fails_is_rolled_back_within_a_second(workers):
    """At a tenth of 100 requests a second, although the workers take it out of rotation after five faults."""
    ended = [outage_rollout(Outage(workers, 1_000, challenger_errors=1.0), seed) for seed in range(10)]
    assert all(end is not None and end < 1.0 for end in ended)


@pytest.mark.parametrize(("workers", "weight"), [(1, 1_000), (4, 1_000), (4, 5_000)])
def test_challenger_that_fails_at_times_is_rolled_back(workers, weight):
    """One that fails for a fifth of its requests is found within ten seconds."""
    ended = [outage_rollout(Outage(workers, weight, challenger_errors=0.21), seed) for seed in range(5)]
    assert all(end is not None and end < 10.0 for end in ended)


def test_probes_convict_a_challenger_that_one_worker_keeps_out():
    """Where five faults prove nothing yet, at half of one worker's requests, what each rest's probe meets does in time."""
    ended = [outage_rollout(Outage(1, 5_000, challenger_errors=1.0), seed, 300.0) for seed in range(3)]
    assert all(end is not None for end in ended)
