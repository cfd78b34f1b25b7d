"""A rollback that did not help is told apart from one that did, in the audit log and to people."""

from __future__ import annotations

from dataclasses import replace

import pytest
from monitor_world import SOUND, START_S, records
from test_monitor import BAD_ERRORS, PLAN, Scene

from gateway.core.outlook import explained
from gateway.core.rollouts import RolloutState
from gateway.replay.decisions import Finding, recompute_decisions

BAD_LOSS = replace(SOUND, errors={"1": 0.0, "2": 0.0}, losses={"1": 0.1, "2": 0.7})
CASES = [
    (BAD_ERRORS, replace(SOUND, errors={"1": 0.4, "2": 0.4}), False),
    (BAD_ERRORS, SOUND, True),
    (BAD_LOSS, replace(BAD_LOSS, losses={"1": 0.7, "2": 0.7}), False),
]


@pytest.mark.parametrize(("world", "after", "has_helped"), CASES)
def test_rollback_that_did_not_help_is_revised_to_the_world(past_of, world, after, has_helped):
    """Where the champion alone fails as its challenger did, the finding becomes WORLD, once; the quarantine stays."""
    scene = Scene(replace(PLAN, steps=PLAN.steps[1:]))
    for at, (its, count) in enumerate(((world, 150), (after, 650), (after, 20))):
        scene.write(records(scene.registry, its, count, seed=at + 1, start_s=START_S + at * 20.0))
        shown = scene.run()
        scene.monitor = scene.begun()
    decisions = [entry for entry in scene.decisions() if entry.subject == "rollout:r1"]
    rollout = scene.registry.rollout("r1")
    assert [entry.action for entry in decisions] == ["rollout.rollback", *([] if has_helped else ["rollout.revise"])]
    assert [entry.evidence["attribution"] for entry in decisions] == ["VERSION", *([] if has_helped else ["WORLD"])]
    assert rollout.state is RolloutState.QUARANTINED
    assert [one.until_s > START_S for one in scene.registry.quarantines()] == [True]
    told = " ".join(explained(rollout, shown["rollout"]))
    assert f"Did going back help? {'Yes' if has_helped else 'No'}" in told
    if not has_helped:
        assert shown["rollout"]["attribution"] == "WORLD"
        assert "the quarantine stays until a person releases it" in told
    found = [one for one in recompute_decisions(past_of(scene)) if one.subject == "rollout:r1"]
    assert {(one.finding, one.differences) for one in found} == {(Finding.SAME, ())}
