"""The evidence's laws, by exact enumeration where that is possible."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.evidence import Evidence, EvidencePlan, Outcome, ShareTest, Side, factors, log_weight

SHARES = (0.1, 0.5, 0.9)


def outcome(key: int | str, *, is_challenger: bool, value: float, time_s: float = 0.0, share: float = 0.5) -> Outcome:
    return Outcome(Side.CHALLENGER if is_challenger else Side.CHAMPION, str(key), value, time_s, share)


def fed(values: Sequence[tuple[bool, float]], *, share: float, plan: EvidencePlan | None = None) -> Evidence:
    evidence = Evidence(plan or EvidencePlan())
    for key, (is_challenger, value) in enumerate(values):
        evidence.observe(outcome(key, is_challenger=is_challenger, value=value, share=share))
    return evidence


def chance(sides: Sequence[bool], share: float) -> float:
    return math.prod(share if side else 1.0 - share for side in sides)


@pytest.mark.parametrize("share", SHARES)
@given(values=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=7))
@settings(max_examples=25, deadline=None)
def test_e_value_has_mean_one_over_every_split_of_the_same_outcomes(share: float, values: list[float]) -> None:
    """Whatever the outcomes, in whatever order, the mean of e over all ways the split could have gone is exactly 1."""
    total = sum(
        chance(sides, share) * math.exp(fed(list(zip(sides, values, strict=True)), share=share).reading().log_e)
        for sides in itertools.product((False, True), repeat=len(values))
    )
    assert total == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("pattern", [(1.0, 0.0) * 5, (1.0,) * 10, (0.0,) * 5 + (1.0,) * 5, (0.0, 0.0, 0.0, 0.0, 1.0) * 2])
def test_bound_is_reached_by_chance_no_more_often_than_alpha_even_by_who_stops_at_the_best_moment(
    pattern: Sequence[float],
) -> None:
    """Over all splits of any fixed outcomes, the chance that e ever reaches 1/alpha is at most alpha."""
    alpha, share = 0.3, 0.3
    reached = 0.0
    for sides in itertools.product((False, True), repeat=len(pattern)):
        evidence = fed(list(zip(sides, pattern, strict=True)), share=share, plan=EvidencePlan(alpha=alpha))
        reached += chance(sides, share) * (evidence.reading().log_e_best - log_weight(1) >= -math.log(alpha))
    assert reached <= alpha + 1e-12


@given(
    pairs=st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=6),
    share=st.sampled_from(SHARES),
)
@settings(max_examples=40, deadline=None)
def test_e_value_has_mean_at_most_one_while_no_key_is_harmed(pairs: list[tuple[float, float]], share: float) -> None:
    """A challenger that is as good as the champion for each key, or better, has no evidence against it on average."""
    total = 0.0
    for sides in itertools.product((False, True), repeat=len(pairs)):
        values = [(side, min(pair) if side else max(pair)) for side, pair in zip(sides, pairs, strict=True)]
        total += chance(sides, share) * math.exp(fed(values, share=share).reading().log_e)
    assert total <= 1.0 + 1e-9


@given(
    share=st.floats(0.001, 0.999),
    pooled=st.floats(1e-6, 1 - 1e-6),
    odds=st.floats(1.01, 100.0),
    value=st.floats(0.0, 1.0),
)
def test_factor_is_a_fair_bet_on_the_side(share: float, pooled: float, odds: float, value: float) -> None:
    """One key's factor has mean 1 over the side, is positive, and speaks against the challenger only for bad outcomes."""
    champion = factors(False, value, share, pooled, (odds,))[0]
    challenger = factors(True, value, share, pooled, (odds,))[0]
    assert champion > 0.0
    assert challenger > 0.0
    assert share * challenger + (1.0 - share) * champion == pytest.approx(1.0, abs=1e-9)
    assert factors(True, 1.0, share, pooled, (odds,))[0] >= 1.0
    assert factors(True, 0.0, share, pooled, (odds,))[0] <= 1.0


def test_evidence_rises_with_each_fault_of_the_challenger_and_falls_with_each_of_the_champion() -> None:
    """Of two histories, the one with the worse challenger has more evidence."""
    history = [(at % 10 == 0, float(at % 7 == 0)) for at in range(200)]
    now = fed(history, share=0.1).reading().log_e
    assert fed([*history, (True, 1.0)], share=0.1).reading().log_e > now
    assert fed([*history, (False, 1.0)], share=0.1).reading().log_e < now


def test_key_counts_only_its_first_outcome_in_an_epoch() -> None:
    """A caller who fails a thousand times weighs as much as one who fails once."""
    evidence = Evidence(EvidencePlan())
    assert evidence.observe(outcome("loud", is_challenger=True, value=1.0))
    once = evidence.reading()
    for _ in range(1_000):
        assert not evidence.observe(outcome("loud", is_challenger=True, value=1.0))
    assert evidence.reading() == once


def test_epoch_ends_by_time_and_keys_of_both_sides_and_a_key_counts_again() -> None:
    """An epoch lasts its span and goes on while keys are few, up to its longest span; then every key is new."""
    plan = EvidencePlan(epoch_s=10.0, epoch_keys_min=3, epoch_max_s=100.0)
    evidence = Evidence(plan)
    for key in (1, 2, 3):
        evidence.observe(outcome(key, is_challenger=False, value=0.0, time_s=0.0))
    evidence.observe(outcome(4, is_challenger=False, value=0.0, time_s=9.9))
    assert evidence.reading().epoch == 1
    assert evidence.observe(outcome(1, is_challenger=False, value=0.0, time_s=10.0))
    assert evidence.reading().epoch == 2
    evidence.observe(outcome(2, is_challenger=False, value=0.0, time_s=109.9))
    assert evidence.reading().epoch == 2
    evidence.observe(outcome(3, is_challenger=False, value=0.0, time_s=110.0))
    assert evidence.reading().epoch == 3
    assert evidence.reading().keys == 7


def test_epoch_ends_early_when_its_keys_are_too_many() -> None:
    """The set of seen keys is bounded."""
    evidence = Evidence(EvidencePlan(keys_max=5))
    for key in range(11):
        evidence.observe(outcome(key, is_challenger=False, value=0.0))
    assert evidence.reading().epoch == 3


def test_weights_of_epochs_sum_to_one() -> None:
    """All epochs together spend alpha once."""
    assert sum(math.exp(log_weight(epoch)) for epoch in range(1, 100_000)) == pytest.approx(1.0, abs=1e-4)


def test_evidence_latches_and_pays_for_later_epochs() -> None:
    """What an epoch reached stays reached, and the same history in the second epoch counts a third as much as in the first."""
    bad = [(at % 2 == 0, float(at % 2 == 0)) for at in range(40)]
    evidence = fed(bad, share=0.5)
    reached = evidence.reading().log_e_best
    assert evidence.has_reached_bound
    for key in range(100, 400):
        evidence.observe(outcome(key, is_challenger=key % 2 == 0, value=float(key % 2 == 1)))
    assert evidence.reading().log_e < 0.0
    assert evidence.reading().log_e_best == reached
    late = Evidence(EvidencePlan(epoch_s=10.0, epoch_keys_min=1))
    late.observe(outcome("a", is_challenger=False, value=0.0))
    for key, (is_challenger, value) in enumerate(bad):
        late.observe(outcome(key, is_challenger=is_challenger, value=value, time_s=10.0))
    assert late.reading().epoch == 2
    assert late.reading().log_e_best == pytest.approx(reached - math.log(3.0))


def test_outcome_is_refused_when_it_is_not_a_number_in_zero_to_one() -> None:
    """A NaN never becomes evidence."""
    for value in (math.nan, math.inf, -0.1, 1.1):
        with pytest.raises(AssertionError):
            Evidence(EvidencePlan()).observe(outcome("k", is_challenger=True, value=value))


def test_share_of_all_or_nothing_compares_nothing() -> None:
    """While one variant answers alone there is no comparison."""
    evidence = Evidence(EvidencePlan())
    assert not evidence.observe(outcome("k", is_challenger=True, value=1.0, share=1.0))
    assert evidence.reading().keys == 0


@given(seed=st.integers(0, 2**32), cut=st.integers(0, 300), keys_max=st.sampled_from([20, 1_000]))
@settings(max_examples=25, deadline=None)
def test_restored_evidence_goes_on_to_the_bit(seed: int, cut: int, keys_max: int) -> None:
    """Saved as JSON anywhere and restored, evidence ends as if it had never stopped."""
    rng = random.Random(seed)
    plan = EvidencePlan(epoch_s=50.0, epoch_keys_min=10, keys_max=keys_max)
    outcomes = [
        outcome(f"{rng.randrange(90):x}", is_challenger=rng.random() < 0.3, value=rng.random(), time_s=float(at), share=0.3)
        for at in range(300)
    ]
    whole, part = Evidence(plan), Evidence(plan)
    share, share_part = ShareTest(keys_max), ShareTest(keys_max)
    for at, one in enumerate(outcomes):
        if at == cut:
            part = Evidence.restored(plan, json.loads(json.dumps(part.state())))
            share_part = ShareTest.restored(json.loads(json.dumps(share_part.state())), keys_max)
        for evidence in (whole, part):
            evidence.observe(one)
        for test in (share, share_part):
            test.observe(one.key, one.side, 0.3 if at < 150 else 0.5)
    assert part.reading() == whole.reading()
    assert part.state() == whole.state()
    assert share_part.state() == share.state()


def test_keys_of_a_share_that_wait_for_each_other_are_taken_as_if_alone() -> None:
    """Whether somebody looks after every key or only at the end, over several stages: the same figures to the bit."""
    rng, together, alone = random.Random(6), ShareTest(400), ShareTest(400)
    for at in range(2_000):
        key, side = f"{rng.randrange(1_500):x}", Side.CHALLENGER if rng.random() < 0.2 else Side.CHAMPION
        for test in (together, alone):
            test.observe(key, side, 0.1 if at < 900 else 0.25)
        alone.reading()
    assert together.state() == alone.state()


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_interval_holds_the_difference_whenever_one_looks(share: float) -> None:
    """Over 100 rollouts the interval misses the true difference at any of its moments in at most 5 %."""
    rng = random.Random(7)
    missed = 0
    for _ in range(100):
        evidence = Evidence(EvidencePlan())
        is_missed = False
        for key in range(400):
            side = rng.random() < share
            evidence.observe(outcome(key, is_challenger=side, value=float(rng.random() < (0.3 if side else 0.2)), share=share))
            if key % 10 == 9:
                reading = evidence.reading()
                is_missed |= not reading.lower <= 0.1 <= reading.upper
        missed += is_missed
    assert missed <= 5


def test_interval_narrows() -> None:
    """A thousand faultless keys of a 10 % challenger leave less than seven points of doubt."""
    reading = fed([(at % 10 == 0, 0.0) for at in range(1_000)], share=0.1).reading()
    assert reading.upper < 0.07
    assert fed([], share=0.1).reading().upper == 1.0


def test_share_test_finds_eleven_percent_for_ten_and_rarely_cries_wolf() -> None:
    """11 % instead of 10 % is found by a median of 20,000 keys; a true 10 % is not reported."""
    rng = random.Random(11)

    def first_seen(actual: float, keys: int) -> int | None:
        test = ShareTest()
        for key in range(keys):
            test.observe(f"{key:x}", Side.CHALLENGER if rng.random() < actual else Side.CHAMPION, 0.1)
            if key % 50 == 0 and test.reading().is_mismatch:
                return key
        return None

    found = sorted(at if (at := first_seen(0.11, 40_000)) is not None else 40_000 for _ in range(5))
    assert found[2] <= 20_000
    assert [first_seen(0.1, 5_000) for _ in range(20)] == [None] * 20
    assert (first_seen(0.5, 1_000) or 1_000) < 150


def test_share_test_counts_a_key_once() -> None:
    """A caller who calls a thousand times is one assignment."""
    test = ShareTest()
    for _ in range(1_000):
        test.observe("loud", Side.CHALLENGER, 0.1)
    assert test.reading().keys == 1
    assert not test.reading().is_mismatch


@given(share=st.sampled_from(SHARES), length=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_share_test_is_a_fair_bet(share: float, length: int) -> None:
    """Over every way a true split could go, the mean of the share test's e is 1."""
    total = 0.0
    for sequence in itertools.product((False, True), repeat=length):
        test = ShareTest()
        for key, side in enumerate(sequence):
            test.observe(str(key), Side.CHALLENGER if side else Side.CHAMPION, share)
        state = test.state()["log_e"]
        assert isinstance(state, list)
        total += chance(sequence, share) * sum(math.exp(e) for e in state) / len(state)
    assert total == pytest.approx(1.0, abs=1e-9)
