"""Guardrails as a plan states them: what may be left out has the measure's default, and whatever does not fit is refused.

`docs/guardrails.md` has the same table for people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from gateway.core.errors import MalformedRequest
from gateway.core.evidence import Direction
from gateway.core.evidence.segments import SEGMENTS_MAX, segment_name
from gateway.core.expressions import EXPRESSION_LENGTH_MAX, compiled
from gateway.core.fields import Fields, Json
from gateway.core.guardrails import DEFAULT_GUARDRAILS, EvidenceClass, Guardrail, Measure, Of, Options

ERRORS_SHARE: Final = 0.5  # of alpha, for service errors where the plan says nothing: the harm that is likeliest and hurts first
SHARE_MIN: Final = 1e-6  # of alpha: with less nothing is ever found
NUMBER_MAX: Final = 1e12
SAMPLES_MIN: Final = 50  # keys of the challenger


def _default(
    measure: Measure,
    *,
    margin: float,
    harm: float,
    is_required: bool,
    evidence_class: EvidenceClass = EvidenceClass.QUALITY,
    direction: Direction = Direction.UP,
) -> Guardrail:
    name = measure.value.replace("_", " ")
    return Guardrail(name, measure, 0.0, margin, harm, SAMPLES_MIN, is_required, direction, evidence_class)


_ERRORS, _LOSS = DEFAULT_GUARDRAILS
# Margins are about what a few hundred to a thousand keys of a 10 % challenger can show to be kept; harms are what is not worth a
# rollback. What waits for truth, for a shadow or for rare segments is not required, because it may never come. EXPRESSION's are
# parts of its range.
DEFAULTS: Final = {
    Measure.ERRORS: _ERRORS,
    Measure.LATENCY: _default(Measure.LATENCY, margin=0.10, harm=0.03, is_required=True, evidence_class=EvidenceClass.SERVICE),
    Measure.INVALID_OUTPUTS: _default(
        Measure.INVALID_OUTPUTS, margin=0.05, harm=0.002, is_required=True, evidence_class=EvidenceClass.SERVICE
    ),
    Measure.OUTPUTS: _default(Measure.OUTPUTS, margin=0.15, harm=0.05, is_required=True, direction=Direction.EITHER),
    Measure.DISAGREEMENT: _default(Measure.DISAGREEMENT, margin=0.10, harm=0.05, is_required=False),
    Measure.SHADOW_LOSS: _default(Measure.SHADOW_LOSS, margin=0.05, harm=0.01, is_required=False),
    Measure.LOSS: _LOSS,
    Measure.CALIBRATION: _default(Measure.CALIBRATION, margin=0.15, harm=0.03, is_required=False),
    Measure.FAIRNESS: _default(Measure.FAIRNESS, margin=0.20, harm=0.05, is_required=False),
    Measure.DATA_QUALITY: _default(
        Measure.DATA_QUALITY, margin=0.10, harm=0.02, is_required=False, evidence_class=EvidenceClass.DATA
    ),
    Measure.EXPRESSION: _default(Measure.EXPRESSION, margin=0.10, harm=0.01, is_required=False),
}
DIRECTED: Final = frozenset({Measure.OUTPUTS, Measure.FAIRNESS, Measure.EXPRESSION})  # of the others more is always worse


def guardrails_from_bodies(bodies: Sequence[object], where: str) -> tuple[Guardrail, ...]:
    """Read the guardrails of a plan; shares of alpha that are not stated are filled in.

    Service errors get half of alpha, the others what is left in equal parts; without service errors all get equal parts.

    Raises:
        MalformedRequest: a field is missing, unknown or out of range, two have the same name, or the shares cannot sum to 1.
    """
    rails = [guardrail_from_body(body, f"{where}[{at}]") for at, body in enumerate(bodies)]
    names = [rail.name for rail in rails]
    if taken := [name for name in names if names.count(name) > 1]:
        raise MalformedRequest(f"{where}: two are called {taken[0]!r}")
    rails = _shared(rails)
    empty = min(rails, key=lambda rail: rail.alpha_share, default=None)
    if empty is not None and empty.alpha_share < SHARE_MIN:
        raise MalformedRequest(
            f"{where}: the alpha_share of the others leave nothing for {empty.name!r}, which could then never find anything",
            hint="state less for the others, or leave alpha_share out everywhere and it is filled in",
        )
    total = sum(rail.alpha_share for rail in rails)
    if rails and not math.isclose(total, 1.0, abs_tol=1e-6):
        raise MalformedRequest(
            f"{where}: their alpha_share sum to {total:g}, expected 1", hint="leave alpha_share out and it is filled in"
        )
    return tuple(rails)


def _shared(rails: list[Guardrail]) -> list[Guardrail]:
    """Fill in the shares that are 0, which stands for not stated."""
    left = 1.0 - sum(rail.alpha_share for rail in rails)
    unstated = [rail for rail in rails if not rail.alpha_share]
    errors = [rail for rail in unstated if rail.measure is Measure.ERRORS]
    others = len(unstated) - len(errors)
    of_errors = min(left, ERRORS_SHARE) if errors and others else left
    shares = {True: of_errors / max(len(errors), 1), False: (left - of_errors if errors else left) / max(others, 1)}
    return [rail if rail.alpha_share else replace(rail, alpha_share=shares[rail.measure is Measure.ERRORS]) for rail in rails]


def guardrail_from_body(body: object, where: str) -> Guardrail:
    """Read one guardrail; a share of alpha that is not stated is 0.

    Args:
        where: Its path in the plan, for messages.

    Raises:
        MalformedRequest: a field is missing, unknown or out of range.
    """
    fields = Fields(body, where)
    measure = fields.choice("measure", Measure)
    default = DEFAULTS[measure]
    options = _options(fields, measure, where)
    span = options.high - options.low if options.high is not None and options.low is not None else 1.0
    if measure not in (Measure.OUTPUTS, Measure.EXPRESSION):
        span = 1.0
    is_dry_run = fields.boolean("is_dry_run", False)
    rail = Guardrail(
        name=fields.name("name", default.name),
        measure=measure,
        alpha_share=fields.number("alpha_share", SHARE_MIN, 1.0, 0.0),
        margin=fields.number("margin", 0.0, span, default.margin * span),
        harm=fields.number("harm", 0.0, span, default.harm * span),
        samples_min=fields.integer("samples_min", 1, 1_000_000_000, default.samples_min),
        is_required=fields.boolean("is_required", default.is_required and not is_dry_run),
        direction=_direction(fields, measure, options, default.direction),
        evidence_class=fields.choice("class", EvidenceClass, default.evidence_class),
        is_dry_run=is_dry_run,
        options=options,
    )
    fields.done()
    if measure is Measure.DISAGREEMENT and not 0.0 < rail.harm < 1.0:
        raise MalformedRequest(f"{where}.harm: expected a rate of disagreement above 0 and below 1")
    return rail


def guardrail_body(rail: Guardrail) -> Json:
    """Return a guardrail as `guardrail_from_body` reads it."""
    body: Json = {
        "name": rail.name,
        "measure": rail.measure.value,
        "alpha_share": rail.alpha_share,
        "margin": rail.margin,
        "harm": rail.harm,
        "samples_min": rail.samples_min,
        "is_required": rail.is_required,
        "class": rail.evidence_class.value,
        "is_dry_run": rail.is_dry_run,
    }
    if rail.measure in DIRECTED:
        body["direction"] = rail.direction.value
    options = rail.options
    match rail.measure:
        case Measure.LATENCY:
            body["quantile"] = options.quantile
        case Measure.INVALID_OUTPUTS | Measure.OUTPUTS:
            body |= {"low": options.low, "high": options.high}
        case Measure.EXPRESSION:
            body |= {"expression": options.expression, "low": options.low, "high": options.high}
        case Measure.FAIRNESS:
            body |= {"column": options.column, "segments": list(options.segments), "of": options.of.value}
        case Measure.DATA_QUALITY:
            body["column"] = options.column
        case Measure.DISAGREEMENT:
            body["tolerance"] = options.tolerance
        case Measure.ERRORS | Measure.LOSS | Measure.SHADOW_LOSS | Measure.CALIBRATION:
            pass
    return body


def _options(fields: Fields, measure: Measure, where: str) -> Options:
    """Read what the measure needs to know; fields of other measures stay unknown."""
    match measure:
        case Measure.LATENCY:
            return Options(quantile=fields.number("quantile", 0.01, 0.999, Options().quantile))
        case Measure.INVALID_OUTPUTS:
            low, high = _number_or_none(fields, "low"), _number_or_none(fields, "high")
            if low is not None and high is not None and low >= high:
                raise MalformedRequest(f"{where}: expected low below high")
            return Options(low=low, high=high)
        case Measure.OUTPUTS:
            is_placed = fields.value("low") is None and fields.value("high") is None
            return Options() if is_placed else _range(fields, where)
        case Measure.EXPRESSION:
            source = fields.text("expression", length_max=EXPRESSION_LENGTH_MAX)
            if not compiled(source, f"{where}.expression").names:
                raise MalformedRequest(
                    f"{where}.expression: it is the same for every record; expected a name in it, such as answer"
                )
            return replace(_range(fields, where), expression=source)
        case Measure.FAIRNESS:
            named = (_segment(item, f"{where}.segments") for item in fields.items("segments", SEGMENTS_MAX, ()))
            segments = tuple(named)
            if len(set(segments)) != len(segments) or len(segments) == 1:
                raise MalformedRequest(f"{where}.segments: expected none, or at least two different ones")
            of = fields.choice("of", Of, Of.ERRORS)
            return Options(column=fields.text("column", length_max=1_000), segments=segments, of=of)
        case Measure.DATA_QUALITY:
            return Options(column=fields.text("column", "", length_max=1_000))
        case Measure.DISAGREEMENT:
            return Options(tolerance=fields.number("tolerance", 0.0, NUMBER_MAX, Options().tolerance))
        case Measure.ERRORS | Measure.LOSS | Measure.SHADOW_LOSS | Measure.CALIBRATION:
            return Options()


def _segment(item: object, where: str) -> str:
    """Return a segment's name as the monitor writes it: text, or a number."""
    if isinstance(item, str):
        return item
    if isinstance(item, bool) or not isinstance(item, int | float) or abs(item) > NUMBER_MAX:
        raise MalformedRequest(f"{where}: expected text or numbers, as the column has them")
    return segment_name(float(item))


def _direction(fields: Fields, measure: Measure, options: Options, default: Direction) -> Direction:
    if measure not in DIRECTED:
        return default
    is_of_positives = measure is Measure.FAIRNESS and options.of is Of.POSITIVES
    return fields.choice("direction", Direction, Direction.EITHER if is_of_positives else default)


def _range(fields: Fields, where: str) -> Options:
    low, high = fields.number("low", -NUMBER_MAX, NUMBER_MAX), fields.number("high", -NUMBER_MAX, NUMBER_MAX)
    if low >= high:
        raise MalformedRequest(f"{where}: expected low below high")
    return Options(low=low, high=high)


def _number_or_none(fields: Fields, name: str) -> float | None:
    return None if fields.value(name) is None else fields.number(name, -NUMBER_MAX, NUMBER_MAX)
