"""Guardrails: what a challenger is measured by, what one record contributes, and the verdict on the evidence.

Only the *assigned* variant's own first attempt counts: the second attempt of a failover, pinned requests, shadows and drills
never enter. What cannot be scored (no ground truth, a NaN, an unknown label) contributes nothing, neither for nor against.
Pure; whoever reads the log feeds `core/evidence.py` with what is found here.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np

from gateway.core.evidence import EvidencePlan, EvidenceReading
from gateway.core.fields import Fields, Json
from gateway.core.models import Target, Task
from gateway.core.records import FAULTS, Attempt, Kind, Outcome, PredictionRecord
from gateway.core.tensors import Array, Tensor

Truth = str | float | int | bool


class Measure(enum.Enum):
    """What is compared between the variants."""

    ERRORS = "errors"  # faults of the version, a deadline missed inside predict among them
    LOSS = "loss"  # against ground truth

    @property
    def needs_truth(self) -> bool:
        """Whether it is known only with ground truth, and void where that cannot be relied on."""
        return self is Measure.LOSS


class Verdict(enum.Enum):
    """What the evidence says of one guardrail."""

    PASS = "PASS"  # noqa: S105  a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One bound on a challenger.

    Attributes:
        alpha_share: Part of the rollout's alpha; over all guardrails of a rollout they sum to 1.
        margin: PASS when the challenger is surely less than this worse, in units of the measure.
        harm: The smallest harmful effect: FAIL needs an estimate above it.
        samples_min: Keys of the challenger before a PASS.
        is_required: Whether an advance needs its PASS. One that is not required, such as ground truth that may never come,
            stops an advance only while its estimate reaches the margin.
    """

    name: str
    measure: Measure
    alpha_share: float
    margin: float
    harm: float
    samples_min: int
    is_required: bool

    def evidence_plan(self, alpha: float, epoch_s: float) -> EvidencePlan:
        """Return how evidence for this guardrail is gathered in a rollout with that alpha."""
        return EvidencePlan(alpha=alpha * self.alpha_share, epoch_s=epoch_s, epoch_max_s=6 * epoch_s)


DEFAULT_GUARDRAILS: Final = (
    Guardrail(
        name="service errors",
        measure=Measure.ERRORS,
        alpha_share=0.5,
        margin=0.05,  # what 100 keys without an error can show at a 10 % challenger
        harm=0.002,  # under the step from .1 % to 1 %, which must be found
        samples_min=50,
        is_required=True,
    ),
    Guardrail(
        name="loss",
        measure=Measure.LOSS,
        alpha_share=0.5,
        margin=0.10,  # what 400 keys can show at a loss of .2
        harm=0.01,  # less than a point more wrong answers is not worth an automatic rollback
        samples_min=50,
        is_required=False,
    ),
)


def guardrail_from_body(body: object, where: str) -> Guardrail:
    """Read a guardrail of a plan.

    Args:
        where: Its path in the plan, for messages.

    Raises:
        MalformedRequest: a field is missing, unknown or out of range.
    """
    fields = Fields(body, where)
    rail = Guardrail(
        name=fields.name("name"),
        measure=fields.choice("measure", Measure),
        alpha_share=fields.number("alpha_share", 1e-6, 1.0),
        margin=fields.number("margin", 0.0, 1.0),
        harm=fields.number("harm", 0.0, 1.0),
        samples_min=fields.integer("samples_min", 1, 1_000_000_000, 50),
        is_required=fields.boolean("is_required", True),
    )
    fields.done()
    return rail


def guardrail_body(rail: Guardrail) -> Json:
    """Return a guardrail as `guardrail_from_body` reads it."""
    return {
        "name": rail.name,
        "measure": rail.measure.value,
        "alpha_share": rail.alpha_share,
        "margin": rail.margin,
        "harm": rail.harm,
        "samples_min": rail.samples_min,
        "is_required": rail.is_required,
    }


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one guardrail, and what it rests on."""

    guardrail: Guardrail
    verdict: Verdict
    reading: EvidenceReading
    reason: str

    def body(self) -> Json:
        """Return the finding as an audit entry stores it."""
        return {
            "guardrail": self.guardrail.name,
            "measure": self.guardrail.measure.value,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "margin": self.guardrail.margin,
            "harm": self.guardrail.harm,
            **self.reading.body(),
        }


def judge(guardrail: Guardrail, reading: EvidenceReading) -> Finding:
    """Return the verdict on one guardrail. No data is INCONCLUSIVE."""
    counts = f"{reading.challenger_count} keys of the challenger, {reading.champion_count} of the champion"
    rates = f"{reading.challenger_mean:.4g} against {reading.champion_mean:.4g}"
    if not reading.challenger_count or not reading.champion_count:
        return Finding(guardrail, Verdict.INCONCLUSIVE, reading, f"{guardrail.name}: {counts}")
    if reading.log_e_best >= reading.bound and reading.estimate > guardrail.harm:
        reason = f"{guardrail.name}: {rates}, log e {reading.log_e_best:.2f} reached {reading.bound:.2f} ({counts})"
        return Finding(guardrail, Verdict.FAIL, reading, reason)
    if reading.upper < guardrail.margin and reading.challenger_count >= guardrail.samples_min:
        reason = f"{guardrail.name}: {rates}, at most {reading.upper:.4g} worse, under {guardrail.margin:g} ({counts})"
        return Finding(guardrail, Verdict.PASS, reading, reason)
    reason = f"{guardrail.name}: {rates}, the difference is in [{reading.lower:.4g}, {reading.upper:.4g}] ({counts})"
    return Finding(guardrail, Verdict.INCONCLUSIVE, reading, reason)


def own_attempt(record: PredictionRecord) -> Attempt | None:
    """Return the first attempt if it is the assigned variant's and the split chose it for a caller, else None."""
    if record.kind is not Kind.LIVE or not record.attempts or record.attempts[0].variant != record.assigned:
        return None
    return record.attempts[0]


def error_value(record: PredictionRecord) -> float | None:
    """Return what a record contributes to ERRORS: 1 for a fault of the assigned variant's own attempt, 0 for none.

    None when that variant was not tried for a caller (a shadow, a pin, a drill, or a variant that was out of rotation), or when
    the attempt was abandoned, which says nothing about it.
    """
    attempt = own_attempt(record)
    return None if attempt is None or attempt.outcome is Outcome.ABANDONED else float(attempt.outcome in FAULTS)


def loss(target: Target, outputs: Sequence[Tensor], row: int, truth: Truth) -> float | None:
    """Return how wrong one row of an answer is: 0 or 1 for classes, min(|error| / loss_max, 1) for numbers.

    The answer is the output named by the target, or the first.

    - binary: floats [n] or [n,1] are the probability of the positive label, [n,2] those of the labels in order, compared with the
      threshold; integers, booleans and bytes [n] or [n,1] are the label itself. Without labels the positive is 1.
    - multiclass: floats [n,c] are scores of the labels in order, of which the highest counts; integers, booleans and bytes [n]
      or [n,1] are the label itself. Without labels they are 0, 1, 2….
    - regression: numbers [n] or [n,1].

    None when the output or the row is missing, a number is not finite, or the truth is not one of the labels.
    """
    answer = _row(target, outputs, row)
    if answer is None:
        return None
    match target.task:
        case Task.BINARY:
            return _binary_loss(target, answer, truth)
        case Task.MULTICLASS:
            return _multiclass_loss(target, answer, truth)
        case Task.REGRESSION:
            return _regression_loss(target, answer, truth)
        case Task.OTHER:
            return None
        case _:
            assert_never(target.task)


def _row(target: Target, outputs: Sequence[Tensor], row: int) -> Array | None:
    """Return one row of the answer as a flat array; None when there is none or a number in it is not finite."""
    named = [tensor for tensor in outputs if tensor.name == target.output] if target.output else list(outputs[:1])
    if not named or named[0].data.ndim not in (1, 2) or not 0 <= row < named[0].data.shape[0]:
        return None
    answer = np.atleast_1d(named[0].data[row])
    if answer.size == 0 or (answer.dtype.kind == "f" and not np.isfinite(answer.astype(np.float64)).all()):
        return None
    return answer


def _binary_loss(target: Target, answer: Array, truth: Truth) -> float | None:
    labels = target.labels or ("0", "1")
    positive = target.positive or labels[-1]
    true_label = _label(truth, labels)
    if true_label is None:
        return None
    if answer.dtype.kind == "f":
        if answer.size > 2 or (answer.size == 2 and positive not in labels):
            return None
        probability = float(answer[labels.index(positive) if answer.size == 2 else 0])
        is_positive = probability >= target.threshold
    else:
        said = _label(_plain(answer[0]), labels)
        if answer.size != 1 or said is None:
            return None
        is_positive = said == positive
    return float(is_positive != (true_label == positive))


def _multiclass_loss(target: Target, answer: Array, truth: Truth) -> float | None:
    labels = target.labels or tuple(str(index) for index in range(answer.size if answer.dtype.kind == "f" else 0))
    if answer.dtype.kind == "f":
        true_label = _label(truth, labels)
        if answer.size != len(labels) or true_label is None:
            return None
        return float(labels[int(np.argmax(answer))] != true_label)
    said, true_label = _label(_plain(answer[0]), labels), _label(truth, labels)
    return None if answer.size != 1 or said is None or true_label is None else float(said != true_label)


def _regression_loss(target: Target, answer: Array, truth: Truth) -> float | None:
    if answer.size != 1 or answer.dtype.kind not in "fiu" or isinstance(truth, str):
        return None
    error = abs(float(answer[0].item()) - float(truth))
    return min(error / target.loss_max, 1.0) if math.isfinite(error) else None


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _label(value: object, labels: Sequence[str]) -> str | None:
    """Return the label that a truth or an answer means; None when it is none of `labels` (any will do when there are none)."""
    spellings: tuple[str, ...]
    match value:
        case bool():
            spellings = ("1", "true", "True") if value else ("0", "false", "False")
        case int() | float() if math.isfinite(value):
            spellings = (str(int(value)), f"{int(value)}.0") if value == int(value) else (str(value),)
        case bytes():
            spellings = (value.decode("utf-8", "replace"),)
        case str():
            spellings = (value,)
        case _:
            return None
    if not labels:
        return spellings[0]
    return next((label for label in spellings if label in labels), None)
