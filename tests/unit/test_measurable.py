"""Guardrails that could never say anything are refused before a rollout begins."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Json
from gateway.core.guardrail_bodies import guardrails_from_bodies
from gateway.core.guardrails import DEFAULT_GUARDRAILS
from gateway.core.measurable import refuse_unmeasurable
from gateway.core.models import Column, Digest, Runtime, Target, Task, Version
from gateway.core.routes import Shadow
from gateway.core.tensors import Datatype, Signature, TensorSpec

CHAMPION = Version(
    model="m", version="1", digest=Digest("d"), size_bytes=1, runtime=Runtime.ONNX, runtime_version="1",
    signature=Signature((TensorSpec("features", Datatype.FP32, (-1, 1)),), ()),
    target=Target(Task.BINARY), columns=(Column("delay"),), profile={},
)  # fmt: skip
CHALLENGER = replace(CHAMPION, version="2", profile=None)


def check(body: Json, champion: Version = CHAMPION, challenger: Version = CHALLENGER) -> None:
    refuse_unmeasurable(guardrails_from_bodies([body], "g"), champion, challenger)


@pytest.mark.parametrize(
    "body",
    [
        {"measure": "errors"},
        {"measure": "data_quality", "column": "delay"},
        {"measure": "fairness", "column": "delay", "of": "positives"},
        {"measure": "calibration"},
        {"measure": "expression", "expression": "loss * feature.delay", "low": 0, "high": 1},
    ],
)
def test_guardrail_that_fits_is_let_through(body: Json) -> None:
    """Columns, reference and target are there: nothing is said. Only the champion needs a reference."""
    check(body)


@pytest.mark.parametrize(
    ("body", "champion", "challenger", "named"),
    [
        (
            {"measure": "fairness", "column": "carrier"},
            CHAMPION,
            CHALLENGER,
            "version 1 of m has no column 'carrier'; known are delay",
        ),
        ({"measure": "fairness", "column": "delay"}, CHAMPION, replace(CHALLENGER, columns=()), "version 2 of m has no column"),
        (
            {"measure": "expression", "expression": "feature.other > 1", "low": 0, "high": 1},
            CHAMPION,
            CHALLENGER,
            "no column 'other'",
        ),
        (
            {"measure": "expression", "expression": 'feature.delay == "AA"', "low": 0, "high": 1},
            CHAMPION,
            CHALLENGER,
            "of version 1 of m: it compares text with a number, which are never the same",
        ),
        (
            {"measure": "expression", "expression": "feature.delay > 1", "low": 0, "high": 1},
            CHAMPION,
            replace(CHALLENGER, signature=Signature((TensorSpec("delay", Datatype.BYTES, (-1, 1)),), ())),
            "of version 2 of m: text stands where a number is needed",
        ),
        (
            {"measure": "expression", "expression": "0 * rows", "low": -1, "high": 1},
            CHAMPION,
            CHALLENGER,
            "its expression is the same for every record, 0 within [-1, 1]",
        ),
        (
            {"measure": "expression", "expression": "rows + 1", "low": 0, "high": 1},
            CHAMPION,
            CHALLENGER,
            "its expression is the same for every record, 1 within [0, 1]",
        ),
        ({"measure": "data_quality"}, replace(CHAMPION, profile=None), CHALLENGER, "without a reference"),
        ({"measure": "calibration"}, CHAMPION, replace(CHALLENGER, target=Target(Task.REGRESSION)), "needs binary or multiclass"),
        ({"measure": "loss"}, replace(CHAMPION, target=Target()), CHALLENGER, "task other"),
    ],
)
def test_guardrail_that_could_say_nothing_is_refused(body: Json, champion: Version, challenger: Version, named: str) -> None:
    """The message names the guardrail, the version and what it lacks."""
    with pytest.raises(MalformedRequest) as refused:
        check(body, champion, challenger)
    assert named in str(refused.value)


@pytest.mark.parametrize("measure", ["disagreement", "shadow_loss"])
def test_required_comparison_of_copies_needs_a_shadow(measure: str) -> None:
    """Without a shadow of either version it would keep the rollout where it is for ever; one that is not required may wait."""
    [required] = rails = guardrails_from_bodies([{"measure": measure, "is_required": True}], "g")
    with pytest.raises(MalformedRequest, match="neither the plan nor the route has a shadow"):
        refuse_unmeasurable(rails, CHAMPION, CHALLENGER, shadows=[Shadow("other", "3", 1.0)])
    for version in ("1", "2"):
        refuse_unmeasurable(rails, CHAMPION, CHALLENGER, shadows=[Shadow("copy", version, 0.1)])
    refuse_unmeasurable([replace(required, is_required=False)], CHAMPION, CHALLENGER)


def test_default_guardrails_fit_every_version() -> None:
    """A plan without guardrails begins with any version, also one whose answers mean nothing that is known."""
    bare = replace(CHAMPION, target=Target(), columns=(), profile=None)
    refuse_unmeasurable(DEFAULT_GUARDRAILS, bare, bare)
