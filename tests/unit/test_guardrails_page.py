"""docs/guardrails.md and the defaults say the same, and its example is a plan."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gateway.core.guardrail_bodies import DEFAULTS, guardrails_from_bodies
from gateway.core.guardrails import DEFAULT_GUARDRAILS

PAGE = (Path(__file__).parents[2] / "docs" / "guardrails.md").read_text()


def test_table_of_measures_is_the_defaults() -> None:
    """Each measure is there with its margin, harm, class and whether it is required; the defaults come first."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \| ([\d.]+) \| (S\d) \| (yes|no) \|$", PAGE, re.MULTILINE)
    said = {measure: (float(margin), float(harm), letters, required) for measure, margin, harm, letters, required in rows}
    assert said == {
        rail.measure.value: (rail.margin, rail.harm, rail.evidence_class.value, "yes" if rail.is_required else "no")
        for rail in DEFAULTS.values()
    }
    assert [row[0] for row in rows[:2]] == [rail.measure.value for rail in DEFAULT_GUARDRAILS]


def test_example_is_a_plans_guardrails() -> None:
    """The example can be copied."""
    example = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
    rails = guardrails_from_bodies(example["guardrails"], "plan.guardrails")
    assert [rail.name for rail in rails] == ["service errors", "latency", "fairness", "cost of delays"]
