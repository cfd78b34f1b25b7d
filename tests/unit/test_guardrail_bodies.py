"""Guardrails as a plan states them."""

from __future__ import annotations

import json

import pytest

from gateway.core.errors import MalformedRequest
from gateway.core.evidence import Direction
from gateway.core.fields import Json
from gateway.core.guardrail_bodies import DEFAULTS, guardrail_body, guardrail_from_body, guardrails_from_bodies
from gateway.core.guardrails import DEFAULT_GUARDRAILS, EvidenceClass, Guardrail, Measure, Options

NEEDED: dict[Measure, Json] = {
    Measure.FAIRNESS: {"column": "carrier"},
    Measure.EXPRESSION: {"expression": "latency_ms > 50", "low": 0, "high": 1},
}


def least(measure: Measure, **more: object) -> Json:
    return {"measure": measure.value, **NEEDED.get(measure, {}), **more}


@pytest.mark.parametrize("measure", Measure)
def test_guardrail_needs_little_more_than_its_measure(measure: Measure) -> None:
    """Each measure has defaults that are refused by nobody, and comes back from its body."""
    rail = guardrails_from_bodies([least(measure)], "g")[0]
    assert (rail.measure, rail.alpha_share) == (measure, 1.0)
    assert guardrail_from_body(json.loads(json.dumps(guardrail_body(rail))), "g") == rail
    assert set(DEFAULTS) == set(Measure)


def test_default_guardrails_come_back_from_their_bodies() -> None:
    """What a plan without guardrails means can be written down."""
    assert guardrails_from_bodies([guardrail_body(rail) for rail in DEFAULT_GUARDRAILS], "g") == DEFAULT_GUARDRAILS


@pytest.mark.parametrize(
    ("bodies", "shares"),
    [
        ([least(Measure.ERRORS), least(Measure.LOSS)], [0.5, 0.5]),
        ([least(Measure.ERRORS), least(Measure.LOSS), least(Measure.LATENCY)], [0.5, 0.25, 0.25]),
        ([least(Measure.LOSS), least(Measure.LATENCY)], [0.5, 0.5]),
        ([least(Measure.ERRORS)], [1.0]),
        ([least(Measure.ERRORS), least(Measure.LOSS, alpha_share=0.8)], [0.2, 0.8]),
        ([least(Measure.ERRORS), least(Measure.LOSS, alpha_share=0.2), least(Measure.LATENCY)], [0.5, 0.2, 0.3]),
        ([], []),
    ],
)
def test_shares_of_alpha_are_filled_in(bodies: list[object], shares: list[float]) -> None:
    """What is stated stands, service errors get half, the rest is shared alike, and the sum is 1."""
    assert [rail.alpha_share for rail in guardrails_from_bodies(bodies, "g")] == pytest.approx(shares)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (least(Measure.LOSS, column="x"), "unknown field 'column'"),
        (least(Measure.ERRORS, direction="down"), "unknown field 'direction'"),
        (least(Measure.LATENCY, quantile=1.0), "g[0].quantile"),
        ({"measure": "fairness"}, "g[0].column"),
        (least(Measure.FAIRNESS, segments=["a"]), "at least two"),
        (least(Measure.FAIRNESS, segments=["a"] * 9), "at most 8"),
        (least(Measure.FAIRNESS, segments=[{}, []]), "g[0].segments: expected text or numbers"),
        (least(Measure.FAIRNESS, segments=[None, True]), "g[0].segments: expected text or numbers"),
        (least(Measure.FAIRNESS, segments=[1, 1.0]), "at least two different"),
        (least(Measure.FAIRNESS, segments=["7", 7]), "at least two different"),
        (least(Measure.EXPRESSION, expression="1"), "the same for every record"),
        (least(Measure.OUTPUTS, low=0), "g[0].high"),
        (least(Measure.INVALID_OUTPUTS, low=2, high=1), "low below high"),
        (least(Measure.EXPRESSION, expression="os.system"), "g[0].expression: unknown name"),
        ({"measure": "expression", "expression": "error"}, "g[0].low"),
        (least(Measure.EXPRESSION, low=0, high=5, margin=6), "g[0].margin"),
        (least(Measure.DISAGREEMENT, harm=0), "above 0"),
        (least(Measure.LOSS, alpha_share=0.4), "sum to 0.4"),
        (least(Measure.LOSS, **{"class": "S9"}), "g[0].class"),
        ({"measure": "accuracy"}, "g[0].measure"),
    ],
)
def test_guardrail_that_does_not_fit_is_refused(body: Json, named: str) -> None:
    """The message names the field, and what another measure takes is no field of this one."""
    with pytest.raises(MalformedRequest) as refused:
        guardrails_from_bodies([body], "g")
    assert named in str(refused.value)


@pytest.mark.parametrize("shares", [[1.0, None], [0.7, 0.4, None], [1.0 - 1e-9, None]])
def test_guardrail_that_is_left_without_alpha_is_named(shares: list[float | None]) -> None:
    """What the others leave is said to be nothing, not that a sum of 1 should be 1."""
    measures = (Measure.LOSS, Measure.LATENCY, Measure.OUTPUTS)
    bodies = [least(measure, alpha_share=share) for measure, share in zip(measures, shares, strict=False)]
    with pytest.raises(MalformedRequest, match=f"leave nothing for '{measures[len(shares) - 1].value}'"):
        guardrails_from_bodies(bodies, "g")


def test_two_guardrails_have_names_of_their_own() -> None:
    """One measure may be there twice, under two names."""
    twice: list[object] = [least(Measure.LATENCY), least(Measure.LATENCY, quantile=0.5, name="median latency")]
    assert [rail.name for rail in guardrails_from_bodies(twice, "g")] == ["latency", "median latency"]
    with pytest.raises(MalformedRequest, match="two are called 'latency'"):
        guardrails_from_bodies([least(Measure.LATENCY)] * 2, "g")


def test_dry_run_is_not_required_and_units_are_the_measures_own() -> None:
    """A dry run stands in nobody's way, and the margin of an expression is in its own units."""
    dry = guardrail_from_body(least(Measure.LATENCY, is_dry_run=True), "g")
    assert (dry.is_required, dry.is_dry_run, dry.evidence_class) == (False, True, EvidenceClass.SERVICE)
    own = guardrail_from_body({**least(Measure.EXPRESSION), "low": -50, "high": 150, "direction": "down"}, "g")
    assert (own.margin, own.units, own.direction) == (pytest.approx(20.0), (-50.0, 150.0), Direction.DOWN)


def test_guardrail_knows_whether_it_waits_for_truth() -> None:
    """Losses and what is made of them wait for ground truth; what a record shows does not."""
    late = [least(Measure.LOSS), least(Measure.CALIBRATION), least(Measure.FAIRNESS, of="loss")]
    late += [least(Measure.SHADOW_LOSS), {**least(Measure.EXPRESSION), "expression": "loss * 3"}]
    prompt = [least(Measure.ERRORS), least(Measure.FAIRNESS, of="positives"), least(Measure.EXPRESSION)]
    assert [guardrail_from_body(body, "g").needs_truth for body in (*late, *prompt)] == [True] * 5 + [False] * 3
    assert Guardrail("e", Measure.OUTPUTS, 1.0, 1.0, 0.0, 1, True, options=Options()).units == (0.0, 1.0)
