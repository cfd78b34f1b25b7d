"""What a record contributes to a guardrail, and the verdict on the evidence."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.evidence import Evidence, EvidencePlan, EvidenceReading, Side
from gateway.core.evidence import Outcome as Contribution
from gateway.core.guardrails import DEFAULT_GUARDRAILS, Verdict, error_value, judge
from gateway.core.losses import Truth, loss
from gateway.core.models import Target, Task
from gateway.core.records import FAULTS, Attempt, Kind, Outcome, PredictionRecord
from gateway.core.tensors import Datatype, Tensor
from tests.records import prediction

ERRORS, LOSS = DEFAULT_GUARDRAILS


def record(
    *outcomes: Outcome, kind: Kind = Kind.LIVE, assigned: str = "challenger", first: str = "challenger"
) -> PredictionRecord:
    variants = [first, "champion"][: len(outcomes)]
    return prediction(
        kind=kind,
        assigned=assigned,
        variant=variants[-1],
        attempts=tuple(Attempt(variant, "1", outcome, 10) for variant, outcome in zip(variants, outcomes, strict=True)),
        outputs=(Tensor("p", Datatype.FP32, np.asarray([0.9], np.float32)),),
        outcome=outcomes[-1],
        latency_us=1,
    )


def tensor(values: object, dtype: type = np.float32, name: str = "p") -> tuple[Tensor, ...]:
    return (Tensor(name, Datatype.FP32, np.asarray(values, dtype)),)


def reading(**changed: float) -> EvidenceReading:
    plain = Evidence(EvidencePlan()).reading()
    return replace(plain, champion_count=900, challenger_count=100, log_e=0.0, lower=-0.2, upper=0.2, **changed)


@pytest.mark.parametrize("fault", sorted(FAULTS, key=str))
def test_error_value_counts_the_assigned_variants_own_first_attempt(fault: Outcome) -> None:
    """Each kind of fault counts 1 although a failover answered well; a sound answer counts 0."""
    assert error_value(record(fault, Outcome.OK)) == 1.0
    assert error_value(record(fault)) == 1.0
    assert error_value(record(Outcome.OK)) == 0.0


def test_error_value_leaves_out_what_the_split_did_not_send_to_a_caller() -> None:
    """Shadows, pins, drills and a fallback that answered for a variant out of rotation contribute nothing."""
    for kind in (Kind.SHADOW, Kind.PINNED, Kind.DRILL):
        assert error_value(record(Outcome.FAILED, kind=kind)) is None
    assert error_value(record(Outcome.FAILED, assigned="challenger", first="champion")) is None


BINARY = Target(task=Task.BINARY, labels=("on time", "late"), positive="late", threshold=0.4)
NUMBERED = Target(task=Task.BINARY)
FIRST = Target(task=Task.BINARY, labels=("late", "on time"), positive="late", threshold=0.4)
CLASSES = Target(task=Task.MULTICLASS, labels=("a", "b", "c"))
NUMBER = Target(task=Task.REGRESSION, loss_max=10.0)


@pytest.mark.parametrize(
    ("target", "outputs", "row", "truth", "expected"),
    [
        (BINARY, tensor([0.1, 0.4]), 1, "late", 0.0),
        (BINARY, tensor([0.1, 0.39]), 1, "late", 1.0),
        (BINARY, tensor([[0.1], [0.9]]), 1, "on time", 1.0),
        (BINARY, tensor([[0.9, 0.1], [0.3, 0.7]]), 0, "on time", 0.0),
        (FIRST, tensor([[0.9, 0.1], [0.3, 0.7]]), 0, "late", 0.0),
        (FIRST, tensor([[0.9, 0.1], [0.3, 0.7]]), 1, "late", 1.0),
        (BINARY, tensor([b"late", b"on time"], object), 1, "on time", 0.0),
        (BINARY, tensor([b"late", b"on time"], object), 0, "on time", 1.0),
        (NUMBERED, tensor([1, 0], np.int64), 0, True, 0.0),
        (NUMBERED, tensor([[1], [0]], np.int64), 1, 1, 1.0),
        (NUMBERED, tensor([0.7]), 0, 1.0, 0.0),
        (NUMBERED, tensor([True, False], np.bool_), 0, False, 1.0),
        (NUMBERED, tensor([0.7]), 0, "1", 0.0),
        (CLASSES, tensor([[0.1, 0.7, 0.2]]), 0, "b", 0.0),
        (CLASSES, tensor([[0.1, 0.7, 0.2]]), 0, "c", 1.0),
        (CLASSES, tensor([b"c"], object), 0, "c", 0.0),
        (Target(task=Task.MULTICLASS), tensor([[0.1, 0.7, 0.2]]), 0, 1, 0.0),
        (Target(task=Task.MULTICLASS), tensor([2], np.int64), 0, 1, 1.0),
        (NUMBER, tensor([5.0]), 0, 7.5, 0.25),
        (NUMBER, tensor([[5.0]]), 0, -1000, 1.0),
        (NUMBER, tensor([5], np.int64), 0, 5, 0.0),
    ],
)
def test_loss_scores_each_form_of_answer(
    target: Target, outputs: tuple[Tensor, ...], row: int, truth: Truth, expected: float
) -> None:
    """Probabilities, label scores, labels and numbers are each compared as documented."""
    assert loss(target, outputs, row, truth) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("target", "outputs", "row", "truth"),
    [
        (BINARY, tensor([math.nan]), 0, "late"),
        (BINARY, tensor([0.5]), 0, "cancelled"),
        (BINARY, tensor([0.5]), 1, "late"),
        (BINARY, tensor([0.5]), -1, "late"),
        (BINARY, (), 0, "late"),
        (replace(BINARY, output="other"), tensor([0.5]), 0, "late"),
        (BINARY, tensor([[0.1, 0.2, 0.7]]), 0, "late"),
        (BINARY, tensor([b"cancelled"], object), 0, "late"),
        (BINARY, tensor(0.5), 0, "late"),
        (BINARY, tensor([[]]), 0, "late"),
        (NUMBERED, tensor([0.5]), 0, math.nan),
        (NUMBERED, tensor([0.5]), 0, 0.5),
        (CLASSES, tensor([[0.1, math.inf, 0.2]]), 0, "b"),
        (CLASSES, tensor([[0.1, 0.9]]), 0, "b"),
        (NUMBER, tensor([5.0]), 0, math.nan),
        (NUMBER, tensor([5.0]), 0, math.inf),
        (NUMBER, tensor([5.0]), 0, "5"),
        (NUMBER, tensor([[5.0, 6.0]]), 0, 5.0),
        (Target(), tensor([5.0]), 0, 5.0),
    ],
)
def test_loss_says_nothing_of_what_cannot_be_compared(
    target: Target, outputs: tuple[Tensor, ...], row: int, truth: Truth
) -> None:
    """A missing row, a NaN, an unknown label or an unfit shape is neither a hit nor a miss."""
    assert loss(target, outputs, row, truth) is None


@given(answer=st.floats(allow_nan=True), truth=st.floats(allow_nan=True))
def test_loss_of_numbers_is_in_zero_to_one_or_nothing(answer: float, truth: float) -> None:
    """Whatever the floats, a loss is a number that evidence accepts."""
    found = loss(NUMBER, tensor([answer], np.float64), 0, truth)
    assert found is None or 0.0 <= found <= 1.0


def test_verdict_without_data_is_inconclusive() -> None:
    """Nothing seen, or one side only, is neither a pass nor a fail."""
    assert judge(ERRORS, Evidence(EvidencePlan()).reading()).verdict is Verdict.INCONCLUSIVE
    alone = Evidence(ERRORS.evidence_plan(0.01, 600.0))
    for key in range(500):
        alone.observe(Contribution(Side.CHALLENGER, str(key), 1.0, 0.0, 0.1))
    assert judge(ERRORS, alone.reading()).verdict is Verdict.INCONCLUSIVE
    damning = reading(log_e_best=100.0, estimate=1.0)
    assert judge(ERRORS, replace(damning, champion_count=0)).verdict is Verdict.INCONCLUSIVE
    assert judge(ERRORS, replace(damning, challenger_count=0)).verdict is Verdict.INCONCLUSIVE


def test_verdict_fails_only_with_evidence_and_harm() -> None:
    """FAIL needs log e at its bound and an estimate above the smallest harmful effect."""
    bound = reading().bound
    assert judge(ERRORS, reading(log_e_best=bound, estimate=ERRORS.harm + 1e-6)).verdict is Verdict.FAIL
    assert judge(ERRORS, reading(log_e_best=bound - 1e-9, estimate=0.5)).verdict is Verdict.INCONCLUSIVE
    assert judge(ERRORS, reading(log_e_best=bound, estimate=ERRORS.harm)).verdict is Verdict.INCONCLUSIVE


def test_verdict_passes_only_under_the_margin_with_enough_keys() -> None:
    """PASS needs the interval's upper end under the margin, and the least number of keys."""
    sure = replace(reading(log_e_best=0.0, estimate=0.0), upper=ERRORS.margin - 1e-9)
    assert judge(ERRORS, sure).verdict is Verdict.PASS
    assert judge(ERRORS, replace(sure, upper=ERRORS.margin)).verdict is Verdict.INCONCLUSIVE
    assert judge(ERRORS, replace(sure, challenger_count=ERRORS.samples_min - 1)).verdict is Verdict.INCONCLUSIVE


def test_default_guardrails_spend_alpha_once_and_find_harm() -> None:
    """The shares sum to 1, and each default finds a challenger that does much worse, and passes an equal one."""
    assert sum(rail.alpha_share for rail in DEFAULT_GUARDRAILS) == 1.0
    for rail in DEFAULT_GUARDRAILS:
        for rate, verdict in ((0.6, Verdict.FAIL), (0.01, Verdict.PASS)):
            rng = random.Random(5)
            evidence = Evidence(rail.evidence_plan(0.01, 600.0))
            for key in range(3_000):
                side = Side.CHALLENGER if rng.random() < 0.1 else Side.CHAMPION
                bad = rng.random() < (rate if side is Side.CHALLENGER else 0.01)
                evidence.observe(Contribution(side, str(key), float(bad), 0.0, 0.1))
            assert judge(rail, evidence.reading()).verdict is verdict
