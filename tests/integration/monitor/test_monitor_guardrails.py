"""A plan's guardrails in the monitor: what convicts, what only tries, and that nothing is lost when it begins again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from monitor_world import SOUND, World, records
from test_monitor import PLAN, Scene

from gateway.core.fields import Json
from gateway.core.guardrail_bodies import guardrails_from_bodies
from gateway.core.plans import Step
from gateway.core.records import Attempt, Kind, PredictionRecord, Record
from gateway.core.rollouts import RolloutState
from gateway.settings import MonitorSettings, Settings

ALL: tuple[Json, ...] = (
    {"measure": "errors"},
    {"measure": "latency"},
    {"measure": "invalid_outputs", "low": 0, "high": 1},
    {"measure": "outputs"},
    {"measure": "disagreement"},
    {"measure": "shadow_loss"},
    {"measure": "loss"},
    {"measure": "calibration"},
    {"measure": "fairness", "column": "x1", "of": "loss"},
    {"measure": "data_quality"},
    {"measure": "expression", "name": "cost", "expression": "loss * abs(feature.x0)", "low": 0, "high": 3},
    {"measure": "expression", "name": "busy", "expression": "latency_ms > 2 and answer > .5", "low": 0, "high": 1},
    {"measure": "expression", "name": "never", "expression": "feature.x0 > 1000000", "low": -1, "high": 1},
    {"measure": "fairness", "name": "by place", "column": "x1", "segments": [-1, 1, 7]},
)


def scene_of(*bodies: Json, settings: Settings | None = None) -> Scene:
    plan = replace(
        PLAN, steps=(Step(5_000),), advances_itself=False, guardrails=guardrails_from_bodies(bodies, "plan.guardrails")
    )
    return Scene(plan, settings or Settings(monitor=MonitorSettings(checkpoint_s=2.0, page_records=100)))


def made(scene: Scene, world: World, count: int, *, slow: float = 1.0, scale: float = 1.0) -> Iterator[tuple[str, Record]]:
    """Yield records of two segments; the challenger takes longer, its answers are scaled, and it shadows the champion."""
    random = np.random.default_rng(9)
    for stream, record in records(scene.registry, world, count):
        if not isinstance(record, PredictionRecord):
            yield stream, record
            continue
        is_challenger = record.version == "2"
        record.inputs[0].data[0, 1] = np.sign(record.inputs[0].data[0, 1])  # which segment
        if is_challenger:
            for output in record.outputs:
                output.data[:] *= scale
        duration_us = int(random.lognormal(7.0) * (slow if is_challenger else 1.0))
        attempts = tuple(replace(attempt, duration_us=duration_us) for attempt in record.attempts)
        record = replace(record, attempts=attempts)  # noqa: PLW2901
        yield stream, record
        if record.version == "1" and record.outputs:
            yield stream, copied(record)


def copied(live: PredictionRecord) -> PredictionRecord:
    return replace(
        live, prediction_id=f"{live.prediction_id}-copy", kind=Kind.SHADOW, assigned="copy", variant="copy", version="2",
        attempts=(Attempt("copy", "2", live.outcome, 900),), shadow_of=live.prediction_id,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("body", "harm"),
    [
        ({"measure": "latency"}, {"slow": 4.0}),
        ({"measure": "invalid_outputs", "low": 0.0, "high": 1.0}, {"scale": 1.5}),
        ({"measure": "outputs"}, {"scale": 0.5}),
        ({"measure": "expression", "expression": "latency_ms > 3", "low": 0, "high": 1}, {"slow": 4.0}),
    ],
)
def test_guardrail_of_the_plan_convicts(body: Json, harm: dict[str, float]) -> None:
    """What errors and losses do not show rolls back where the plan asks for it, and the audit entry names the guardrail."""
    scene = scene_of({"measure": "errors"}, body)
    scene.write(made(scene, SOUND, 1_500, **harm))
    scene.run()
    assert scene.registry.rollout("r1").state is RolloutState.QUARANTINED
    [entry] = scene.decisions()
    failed = [rail for rail in entry.evidence["guardrails"] if rail["verdict"] == "FAIL"]
    assert [rail["measure"] for rail in failed] == [body["measure"]]


def test_dry_run_leaves_the_rollout_alone() -> None:
    """The same harm under a dry run is shown as FAIL, and nothing happens."""
    scene = scene_of({"measure": "errors"}, {"measure": "latency", "is_dry_run": True})
    scene.write(made(scene, SOUND, 1_500, slow=4.0))
    shown = scene.run()
    assert scene.decisions() == []
    dry = shown["rollout"]["findings"][1]
    assert (dry["verdict"], dry["is_dry_run"]) == ("FAIL", True)


def test_sound_version_passes_all_guardrails() -> None:
    """With every measure in the plan a version like the champion is convicted by none, and all of them have evidence."""
    scene = scene_of(*ALL)
    scene.write(made(scene, SOUND, 3_000))
    shown = scene.run()
    assert scene.decisions() == []
    findings = {finding["guardrail"]: finding for finding in shown["rollout"]["findings"]}
    assert len(findings) == len(ALL)
    assert all(finding["keys"] > 500 for finding in findings.values())
    assert findings["disagreement"]["challenger_mean"] == 0.0
    assert {finding["verdict"] for finding in findings.values()} <= {"PASS", "INCONCLUSIVE"}
    assert {name: finding["unvaried"] for name, finding in findings.items() if "unvaried" in finding} == {
        "never": {"value": 0.0, "records": 3_000}
    }
    assert {name: finding["unmet_segments"] for name, finding in findings.items() if "unmet_segments" in finding} == {
        "by place": ["7"]
    }


def test_monitor_with_all_guardrails_thrown_away_at_any_turn_decides_the_same() -> None:
    """Every kind of evidence, what is kept for the truth and the pairs come back exactly from the last checkpoint."""
    outcomes = []
    for lives in (1, 8):
        scene, random = scene_of(*ALL), np.random.default_rng(3)
        scene.write(made(scene, replace(SOUND, losses={"1": 0.2, "2": 0.3}), 1_200, slow=1.3))
        for _ in range(lives):
            for _ in range(int(random.integers(1, 8)) if lives > 1 else 0):
                scene.monitor.turn(threading.Event())
                scene.clock.move(1.0)
            scene.monitor = scene.begun()
        picture = scene.run()
        outcomes.append(([(e.decision_id, e.reason, e.evidence, e.after) for e in scene.decisions()], picture))
    assert outcomes[0] == outcomes[1]
    assert all(finding["keys"] > 100 for finding in outcomes[0][1]["rollout"]["findings"])
