"""What a rollout says of itself to people, and how far it is from a decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.guardrails import DEFAULT_GUARDRAILS
from gateway.core.outlook import explained, keys_to_fail, keys_to_pass
from gateway.core.plans import Plan
from gateway.core.rollouts import RolloutState, begin
from gateway.core.routes import champion_route

ERRORS = DEFAULT_GUARDRAILS[0]
ROLLOUT, _ = begin(champion_route("delays", "1"), id="r", challenger="2", plan=Plan(), salt="s", now_s=0.0)
FINDING = {
    "guardrail": ERRORS.name, "verdict": "INCONCLUSIVE", "estimate": 0.01, "lower": -0.07, "upper": 0.09, "log_e": 0.2,
    "log_e_best": 0.3, "bound": 5.3, "challenger_count": 100, "margin": 0.05,
}  # fmt: skip


def test_outlook_foresees_a_pass_where_the_interval_narrows_to_the_margin():
    """Half the width takes four times the keys; without data, or with an estimate over the margin, none is in sight."""
    assert keys_to_pass(FINDING, ERRORS) == 300
    assert keys_to_pass({**FINDING, "challenger_count": 10, "upper": 0.02}, ERRORS) == ERRORS.samples_min - 10
    for other in ({"estimate": 0.06}, {"challenger_count": 0}, {"verdict": "PASS"}):
        assert keys_to_pass({**FINDING, **other}, ERRORS) is None


def test_outlook_foresees_a_fail_where_evidence_grows():
    """Evidence that took 100 keys to half the bound takes 100 more; evidence that may be chance foresees nothing."""
    assert keys_to_fail({**FINDING, "log_e": 2.65}) == 100
    for other in ({"log_e": 0.9}, {"log_e": 2.65, "challenger_count": 0}, {"log_e": 6.0}, {"log_e": 2.0, "verdict": "FAIL"}):
        assert keys_to_fail({**FINDING, **other}) is None


def test_rollout_explains_itself_in_sentences():
    """Where it stands, what it waits for, and each guardrail with estimate, interval, log e against its line and a forecast."""
    told = explained(ROLLOUT, {"findings": [FINDING, {"guardrail": "of another plan"}], "reason": "300 s more in this phase"})
    assert told == [
        "Version 2 of delays is CANARY: step 1 of 2, 10 % of the keys are its.",
        "It waits: 300 s more in this phase.",
        "service errors: INCONCLUSIVE; the difference is +0.01, in [-0.07, 0.09], margin 0.05; log e 0.30 of 5.30; "
        "100 keys of the challenger; about 300 more to a pass.",
    ]


def test_rollout_says_where_a_finding_comes_from():
    """An attribution stands beside its finding with the reason; that nothing moved needs no word."""
    blamed = {**FINDING, "attribution": "VERSION", "why": "it is worse than the champion at the same time"}
    told = explained(ROLLOUT, {"findings": [blamed, {**FINDING, "attribution": "NONE", "why": "nothing moved"}]})
    assert told[-2].endswith("; VERSION: it is worse than the champion at the same time.")
    assert "NONE" not in told[-1]


def test_rollout_says_of_a_measure_that_never_varied():
    """What was the same in every record, and a segment that nobody met, are said beside the verdict that rests on it."""
    remarks = {"unvaried": {"value": 2.5, "records": 1_234}, "unmet_segments": ["AA", "7"]}
    told = explained(ROLLOUT, {"findings": [{**FINDING, **remarks}]})
    assert told[-1].endswith("; it was 2.5 in each of 1,234 records, and what never varies finds nothing; no key yet of AA, 7.")


@pytest.mark.parametrize("state", RolloutState)
def test_rollout_says_something_in_every_state(state):
    """There is no state without a sentence, whatever the monitor shows."""
    held_in = RolloutState.BAKING if state is RolloutState.HELD else None
    rollout = replace(ROLLOUT, state=state, held_in=held_in, reason="it is so")
    for evidence in ({}, {"findings": []}, {"findings": "?"}):
        told = explained(rollout, evidence)
        assert told[0].startswith(f"Version 2 of delays is {state.value}")
        assert len(told) == 1 or told[1].endswith(".")
