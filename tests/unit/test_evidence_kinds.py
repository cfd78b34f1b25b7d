"""The laws of each kind of evidence: by enumeration of every split where that is possible, by seeded simulation elsewhere."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from gateway.core.evidence import Direction, Evidence, EvidenceKind, EvidencePlan, Outcome, Side

PLANS = {
    "either": EvidencePlan(direction=Direction.EITHER),
    "down": EvidencePlan(direction=Direction.DOWN),
    "exceedance": EvidencePlan(kind=EvidenceKind.EXCEEDANCE, level=0.5, learn_keys=2),
    "placement": EvidencePlan(kind=EvidenceKind.PLACEMENT, direction=Direction.EITHER, learn_keys=2),
    "calibration": EvidencePlan(kind=EvidenceKind.CALIBRATION),
}
SEGMENTS = EvidencePlan(kind=EvidenceKind.SEGMENTS)
FAIR = 40  # sound rollouts simulated; alpha .05 lets one in twenty fail


def outcomes(values: Sequence[float], sides: Sequence[bool], share: float) -> list[Outcome]:
    return [
        Outcome(
            Side.CHALLENGER if side else Side.CHAMPION,
            str(at),
            value,
            0.0,
            share,
            beside=float(at % 3 == 0),
            segment="ab"[at % 2],
        )
        for at, (value, side) in enumerate(zip(values, sides, strict=True))
    ]


def mean_e(plan: EvidencePlan, values: Sequence[float], share: float) -> float:
    """Return the mean of e over every way in which the split could have gone."""
    total = 0.0
    for sides in itertools.product((False, True), repeat=len(values)):
        evidence = Evidence(plan)
        for outcome in outcomes(values, sides, share):
            evidence.observe(outcome)
        total += math.prod(share if side else 1.0 - share for side in sides) * math.exp(evidence.reading().log_e)
    return total


@pytest.mark.parametrize("name", sorted(PLANS))
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_e_value_has_mean_one_over_every_split(name: str, share: float) -> None:
    """What an epoch learns on its way changes nothing: with the same outcomes on either side the mean of e stays exactly 1."""
    values = [0.91, 0.93, 0.99, 0.9, 0.95, 0.92, 0.98, 0.97, 0.94, 0.96]
    assert mean_e(PLANS[name], values, share) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_segments_e_value_has_mean_at_most_one_over_every_split(share: float) -> None:
    """Where nobody is harmed no segment is, whatever the segments are like."""
    assert mean_e(SEGMENTS, [1.0, 0.0, 1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.0], share) <= 1.0 + 1e-9
    assert mean_e(replace(SEGMENTS, direction=Direction.EITHER), [1.0, 0.0] * 4, share) <= 1.0 + 1e-9


def test_segments_are_read_one_by_one() -> None:
    """Each segment shows its keys and means with either variant, and how much the challenger widens its distance to the rest."""
    evidence = Evidence(SEGMENTS)
    assert evidence.segments() == ()
    sides = [False, False, True, True] * 2
    for outcome in outcomes([0.0, 0.0, 1.0, 0.0] * 2, sides, 0.5):  # segments a and b in turn: a fails with the challenger
        evidence.observe(outcome)

    first, second = evidence.segments()

    assert (first.segment, first.champion_count, first.challenger_count) == ("a", 2, 2)
    assert (first.champion_mean, first.challenger_mean) == (0.0, 1.0)
    assert (second.champion_mean, second.challenger_mean) == (0.0, 0.0)
    assert first.widening == 1.0
    assert second.widening == -1.0
    assert first.lower <= 1.0 <= first.upper
    assert Evidence(PLANS["either"]).segments() == ()


Draw = Callable[[np.random.Generator, bool, int], tuple[float, float, str]]


def failed_share(plan: EvidencePlan, draw: Draw, *, runs: int, keys: int, share: float = 0.5) -> float:
    """Return how often the bound is reached within some keys."""
    failed = 0
    for seed in range(runs):
        rng, evidence = np.random.default_rng(seed), Evidence(plan)
        for key in range(keys):
            side = bool(rng.random() < share)
            value, beside, segment = draw(rng, side, key)
            outcome = Outcome(Side.CHALLENGER if side else Side.CHAMPION, str(key), value, 0.0, share, beside, segment)
            evidence.observe(outcome)
            if evidence.has_reached_bound:
                failed += 1
                break
    return failed / runs


def probability(rng: np.random.Generator, off: float) -> tuple[float, float, str]:
    stated = float(rng.choice([0.15, 0.5, 0.85]))
    return stated, float(rng.random() < stated - off), ""


def segmented(rng: np.random.Generator, *, everybody: float, one: float) -> tuple[float, float, str]:
    segment = str(rng.choice(["a", "b", "c"]))
    base = {"a": 0.05, "b": 0.2, "c": 0.4}[segment]
    return float(rng.random() < base + everybody + (one if segment == "a" else 0.0)), 0.0, segment


CASES: dict[str, tuple[EvidencePlan, Draw, Draw]] = {
    "latency": (
        EvidencePlan(alpha=0.05, kind=EvidenceKind.EXCEEDANCE, level=0.95),
        lambda rng, side, key: (float(rng.lognormal(key / 500.0)), 0.0, ""),  # both get slower by the hour
        lambda rng, side, key: (float(rng.lognormal(1.2 * side)), 0.0, ""),
    ),
    "outputs": (
        EvidencePlan(alpha=0.05, kind=EvidenceKind.PLACEMENT, direction=Direction.EITHER),
        lambda rng, side, key: (float(rng.normal()), 0.0, ""),
        lambda rng, side, key: (float(rng.normal(-0.7 * side)), 0.0, ""),
    ),
    "calibration": (
        EvidencePlan(alpha=0.05, kind=EvidenceKind.CALIBRATION),
        lambda rng, side, key: probability(rng, 0.1),  # both are off alike
        lambda rng, side, key: probability(rng, 0.15 * side),
    ),
    "better calibration": (
        EvidencePlan(alpha=0.05, kind=EvidenceKind.CALIBRATION),
        lambda rng, side, key: probability(rng, 0.0 if side else 0.15),
        lambda rng, side, key: probability(rng, -0.15 if side else 0.0),
    ),
    "fairness": (
        EvidencePlan(alpha=0.05, kind=EvidenceKind.SEGMENTS),
        lambda rng, side, key: segmented(rng, everybody=0.2 * side, one=0.0),  # worse for all alike is not unfair
        lambda rng, side, key: segmented(rng, everybody=0.0, one=0.4 * side),
    ),
    "disagreement": (
        EvidencePlan(alpha=0.05, kind=EvidenceKind.RATE, level=0.05),
        lambda rng, side, key: (float(rng.random() < 0.05), 0.0, ""),
        lambda rng, side, key: (float(rng.random() < 0.12), 0.0, ""),
    ),
    "shadow loss": (
        EvidencePlan(alpha=0.05, kind=EvidenceKind.PAIRED),
        lambda rng, side, key: (float(rng.random() < 0.2), float(rng.random() < 0.2), ""),
        lambda rng, side, key: (float((hard := rng.random()) < 0.25), float(hard < 0.15), ""),
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_kind_convicts_who_harms_and_hardly_ever_who_does_not(name: str) -> None:
    """Sound rollouts reach the bound no more often than alpha allows, harmful ones nearly always."""
    plan, sound, harmful = CASES[name]
    assert failed_share(plan, sound, runs=FAIR, keys=600) <= 0.125  # five of forty: one in 30 at exactly alpha
    assert failed_share(plan, harmful, runs=10, keys=2_000) >= 0.9


@pytest.mark.parametrize("name", sorted(CASES))
def test_restored_kind_goes_on_to_the_bit(name: str) -> None:
    """Saved as JSON anywhere and restored, each kind ends as if it had never stopped."""
    base, _, draw = CASES[name]
    plan = replace(base, epoch_s=150.0, epoch_keys_min=1, learn_keys=20)
    rng, whole, part = np.random.default_rng(3), Evidence(plan), Evidence(plan)
    for key in range(400):
        side = bool(rng.random() < 0.4)
        value, beside, segment = draw(rng, side, key)
        outcome = Outcome(Side.CHALLENGER if side else Side.CHAMPION, str(key), value, float(key), 0.4, beside, segment)
        whole.observe(outcome)
        part.observe(outcome)
        if key % 97 == 5:
            part = Evidence.restored(plan, json.loads(json.dumps(part.state())))
    assert part.state() == whole.state()
    assert part.reading() == whole.reading()


@pytest.mark.parametrize("name", [*sorted(PLANS), "up"])
@pytest.mark.parametrize(("share", "rate"), [(0.1, 0.02), (0.1, 0.4), (0.5, 0.2), (0.9, 0.1)])
def test_keys_that_wait_for_each_other_are_taken_as_if_alone(name: str, share: float, rate: float) -> None:
    """Whether somebody looks after every key or only at the end: the bound is reached at the same key, with the same figures."""
    plan = replace(PLANS.get(name, EvidencePlan()), alpha=0.2, epoch_s=400.0, epoch_keys_min=1, learn_keys=20)
    rng, together, alone = np.random.default_rng(5), Evidence(plan), Evidence(plan)
    for key in range(1_000):
        side = bool(rng.random() < share)
        value = float(rng.random() < min(1.0, rate * (3.0 if side else 1.0))) if key % 5 else float(rng.random())
        outcome = Outcome(Side.CHALLENGER if side else Side.CHAMPION, str(key), value, float(key), share, float(key % 3 == 0))
        together.observe(outcome)
        alone.observe(outcome)
        alone.reading()
        assert together.has_reached_bound == alone.has_reached_bound
    assert together.reading() == alone.reading()
    assert json.dumps(together.state()) == json.dumps(alone.state())


def test_keys_that_were_learned_from_do_not_count() -> None:
    """Until the champion's quantile is known no key counts, on either side, and none of them later in the epoch."""
    evidence = Evidence(EvidencePlan(kind=EvidenceKind.EXCEEDANCE, level=0.5, learn_keys=3))
    learned = [Outcome(Side.CHAMPION, "a", 1.0, 0.0, 0.5), Outcome(Side.CHALLENGER, "b", 9.0, 0.0, 0.5)]
    learned += [Outcome(Side.CHAMPION, "c", 2.0, 0.0, 0.5), Outcome(Side.CHAMPION, "d", 3.0, 0.0, 0.5)]
    assert not any(evidence.observe(outcome) for outcome in (*learned, *learned))
    assert evidence.observe(Outcome(Side.CHALLENGER, "e", 2.5, 0.0, 0.5))
    reading = evidence.reading()
    assert (reading.champion_count, reading.challenger_count, reading.challenger_mean) == (0, 1, 1.0)
    assert reading.subject == "above 2"


def test_segments_beyond_the_bound_are_left_out() -> None:
    """Only the first eight segments are looked at, or those that are named."""
    evidence, named = Evidence(SEGMENTS), Evidence(replace(SEGMENTS, segments=("1", "11")))
    for key in range(12):
        outcome = Outcome(Side.CHAMPION, str(key), 0.0, 0.0, 0.5, segment=str(key))
        assert evidence.observe(outcome) == (key < 8)
        assert named.observe(outcome) == (key in (1, 11))


@pytest.mark.parametrize("everybody", [0.0, 0.3])
def test_interval_of_a_gap_holds_it(everybody: float) -> None:
    """The interval of the worst segment's gap holds what the challenger adds to it, whatever it adds to all."""
    rng, evidence = np.random.default_rng(11), Evidence(SEGMENTS)
    for key in range(3_000):
        side = bool(rng.random() < 0.5)
        value, _, segment = segmented(rng, everybody=everybody * side, one=0.3 * side)
        evidence.observe(Outcome(Side.CHALLENGER if side else Side.CHAMPION, str(key), value, 0.0, 0.5, segment=segment))
    reading = evidence.reading()
    assert reading.subject == "a"
    assert reading.lower <= 0.3 <= reading.upper
    assert reading.lower > 0.0
    assert reading.estimate == pytest.approx(0.3, abs=0.1)
