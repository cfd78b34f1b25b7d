"""Guardrails: what a challenger is measured by, and the verdict on the evidence; `docs/guardrails.md` has them for people.

Only the *assigned* variant's own first attempt counts: the second attempt of a failover, pinned requests and drills never enter,
and shadows only where a measure compares both answers to one request. What cannot be scored (no ground truth, a NaN, an unknown
label) contributes nothing, neither for nor against. Pure; `monitor/measured.py` finds what a record contributes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from gateway.core.evidence import Direction, EvidenceKind, EvidencePlan, EvidenceReading
from gateway.core.expressions import compiled
from gateway.core.fields import Json
from gateway.core.records import FAULTS, Attempt, Kind, Outcome, PredictionRecord


class Measure(enum.Enum):
    """What is compared between the variants."""

    ERRORS = "errors"  # faults of the version, a deadline missed inside predict among them
    LATENCY = "latency"  # slower than the champion's own quantile
    INVALID_OUTPUTS = "invalid_outputs"  # not numbers, or out of the declared range
    OUTPUTS = "outputs"  # where the answers lie
    DISAGREEMENT = "disagreement"  # champion and challenger answer one request differently
    SHADOW_LOSS = "shadow_loss"  # both against the truth, on the same request
    LOSS = "loss"  # against ground truth
    CALIBRATION = "calibration"  # probabilities against what came true
    FAIRNESS = "fairness"  # between segments
    DATA_QUALITY = "data_quality"  # of the inputs
    EXPRESSION = "expression"  # one's own


class Of(enum.Enum):
    """What FAIRNESS compares between segments."""

    ERRORS = "errors"
    POSITIVES = "positives"
    LOSS = "loss"


class EvidenceClass(enum.Enum):
    """What kind of finding a breach is; it decides what the gateway may do by itself."""

    HARD_FAULT = "S0"
    SERVICE = "S1"
    QUALITY = "S2"
    WORLD = "S3"
    DATA = "S4"  # a guardrail compares variants: both see like inputs, so a difference is the version's side's
    ASSIGNMENT = "S5"


PAIRED: Final = frozenset({Measure.DISAGREEMENT, Measure.SHADOW_LOSS})  # both answers to one request: one of the two is a copy
HOLDING: Final = frozenset({EvidenceClass.WORLD, EvidenceClass.ASSIGNMENT})  # a breach stops the rollout; all others convict


class Verdict(enum.Enum):
    """What the evidence says of one guardrail."""

    PASS = "PASS"  # noqa: S105  a verdict, not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Options:
    """What some measures need to know; each takes its own (see `core/guardrail_bodies.py`).

    Attributes:
        quantile: LATENCY: of the champion's latency, in (0, 1).
        low, high: The declared range of the answer (INVALID_OUTPUTS, OUTPUTS) or of the expression; None: not declared.
        column: FAIRNESS: the one that names the segment; DATA_QUALITY: the one looked at, empty for all.
        segments: FAIRNESS: those compared; empty for the first that are met.
        of: FAIRNESS: what is compared.
        tolerance: DISAGREEMENT: how far two numbers may lie apart and still agree.
        expression: EXPRESSION, see `core/expressions.py`.
    """

    quantile: float = 0.95
    low: float | None = None
    high: float | None = None
    column: str = ""
    segments: tuple[str, ...] = ()
    of: Of = Of.ERRORS
    tolerance: float = 1e-6
    expression: str = ""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One bound on a challenger.

    Attributes:
        alpha_share: Part of the rollout's alpha; over all guardrails of a rollout, dry runs among them, they sum to 1.
        margin: PASS when the challenger is surely less than this worse, in units of the measure.
        harm: The smallest harmful effect: FAIL needs an estimate above it. DISAGREEMENT: the rate that must surely be exceeded.
        samples_min: Keys of the challenger before a PASS.
        is_required: Whether an advance needs its PASS. One that is not required, such as ground truth that may never come,
            stops an advance only while its estimate reaches the margin.
        is_dry_run: Its verdicts are shown and recorded, and nothing is done about them.
    """

    name: str
    measure: Measure
    alpha_share: float
    margin: float
    harm: float
    samples_min: int
    is_required: bool
    direction: Direction = Direction.UP
    evidence_class: EvidenceClass = EvidenceClass.QUALITY
    is_dry_run: bool = False
    options: Options = Options()

    def evidence_plan(self, alpha: float, epoch_s: float) -> EvidencePlan:
        """Return how evidence for this guardrail is gathered in a rollout with that alpha."""
        is_rate = self.measure is Measure.DISAGREEMENT
        return EvidencePlan(
            alpha=alpha * self.alpha_share,
            epoch_s=epoch_s,
            epoch_max_s=6 * epoch_s,
            kind=self._kind,
            direction=self.direction,
            level=self.harm if is_rate else self.options.quantile,
            segments=self.options.segments,
        )

    @property
    def units(self) -> tuple[float, float]:
        """What 0 and 1 of the evidence's values mean."""
        low, high = self.options.low, self.options.high
        if self.measure in (Measure.OUTPUTS, Measure.EXPRESSION) and low is not None and high is not None:
            return low, high
        return (-1.0, 1.0) if self.measure is Measure.CALIBRATION else (0.0, 1.0)

    @property
    def needs_truth(self) -> bool:
        """Whether it is known only with ground truth, and void where that cannot be relied on."""
        if self.measure is Measure.EXPRESSION:
            return compiled(self.options.expression, self.name).is_late
        return self.measure in _OF_TRUTH or (self.measure is Measure.FAIRNESS and self.options.of is Of.LOSS)

    @property
    def _kind(self) -> EvidenceKind:
        if self.measure is Measure.OUTPUTS and self.options.low is None:
            return EvidenceKind.PLACEMENT
        return _KINDS.get(self.measure, EvidenceKind.SPLIT)


_KINDS: Final = {
    Measure.LATENCY: EvidenceKind.EXCEEDANCE,
    Measure.CALIBRATION: EvidenceKind.CALIBRATION,
    Measure.FAIRNESS: EvidenceKind.SEGMENTS,
    Measure.DISAGREEMENT: EvidenceKind.RATE,
    Measure.SHADOW_LOSS: EvidenceKind.PAIRED,
}
_OF_TRUTH: Final = frozenset({Measure.LOSS, Measure.SHADOW_LOSS, Measure.CALIBRATION})
DEFAULT_GUARDRAILS: Final = (
    Guardrail(
        name="service errors",
        measure=Measure.ERRORS,
        alpha_share=0.5,
        margin=0.05,  # what 100 keys without an error can show at a 10 % challenger
        harm=0.002,  # under the step from .1 % to 1 %, which must be found
        samples_min=50,
        is_required=True,
        evidence_class=EvidenceClass.SERVICE,
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


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one guardrail, and what it rests on; the reading is in the measure's units."""

    guardrail: Guardrail
    verdict: Verdict
    reading: EvidenceReading
    reason: str

    @property
    def convicts(self) -> bool:
        """Whether it is reason to roll back."""
        return self._is_breach and self.guardrail.evidence_class not in HOLDING

    @property
    def holds(self) -> bool:
        """Whether it is reason to stay where the rollout is, and no more."""
        return self._is_breach and self.guardrail.evidence_class in HOLDING

    @property
    def obstacle(self) -> str | None:
        """Why the rollout may not go on, or None."""
        rail = self.guardrail
        if rail.is_dry_run or self.verdict is Verdict.PASS:
            return None
        if rail.is_required:
            return f"inconclusive: {self.reason}"
        if rail.direction.harm_of(self.reading.estimate) >= rail.margin:
            return f"leans towards harm: {self.reason}"
        return None

    @property
    def _is_breach(self) -> bool:
        return self.verdict is Verdict.FAIL and not self.guardrail.is_dry_run

    def body(self) -> Json:
        """Return the finding as an audit entry stores it."""
        return {
            "guardrail": self.guardrail.name,
            "measure": self.guardrail.measure.value,
            "class": self.guardrail.evidence_class.value,
            "is_dry_run": self.guardrail.is_dry_run,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "margin": self.guardrail.margin,
            "harm": self.guardrail.harm,
            **self.reading.body(),
        }


def judge(guardrail: Guardrail, reading: EvidenceReading) -> Finding:
    """Return the verdict on one guardrail. No data is INCONCLUSIVE.

    Args:
        reading: Of the evidence, its values in [0, 1].
    """
    reading = reading.in_units(*guardrail.units)
    name = f"{guardrail.name}{' (dry run)' if guardrail.is_dry_run else ''}{f', {reading.subject}' if reading.subject else ''}"
    counts = f"{reading.challenger_count} keys of the challenger, {reading.champion_count} of the champion"
    rates = f"{reading.challenger_mean:.4g} against {reading.champion_mean:.4g}"
    if not reading.challenger_count or not reading.champion_count:
        return Finding(guardrail, Verdict.INCONCLUSIVE, reading, f"{name}: {counts}")
    harm_of = guardrail.direction.harm_of
    if reading.log_e_best >= reading.bound and harm_of(reading.estimate) > guardrail.harm:
        reason = f"{name}: {rates}, log e {reading.log_e_best:.2f} reached {reading.bound:.2f} ({counts})"
        return Finding(guardrail, Verdict.FAIL, reading, reason)
    worst = max(harm_of(reading.lower), harm_of(reading.upper))
    if worst < guardrail.margin and reading.challenger_count >= guardrail.samples_min:
        reason = f"{name}: {rates}, at most {worst:.4g} worse, under {guardrail.margin:g} ({counts})"
        return Finding(guardrail, Verdict.PASS, reading, reason)
    reason = f"{name}: {rates}, the difference is in [{reading.lower:.4g}, {reading.upper:.4g}] ({counts})"
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
    if attempt is None or attempt.outcome is Outcome.ABANDONED:
        return None
    return float(attempt.outcome is not Outcome.OK and attempt.outcome in FAULTS)  # to hash an enum costs more than the rest
