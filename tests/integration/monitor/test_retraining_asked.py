"""Retraining is asked for where the world made a loss rise, once, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from monitor_world import ROUTE, SETTINGS, START_S, World, begin_rollout, commit, records
from test_monitor import PLAN, Scene

from gateway.core.changes import DropRoute, PutChampion, PutRollout, PutRoute
from gateway.core.outcomes import LEARN_OUTCOMES
from gateway.core.records import PredictionRecord
from gateway.core.retraining import ASK
from gateway.core.rollouts import Event, apply_event, begin
from gateway.replay.decisions import Finding, recompute_decisions

FINE = World({"1": 0.0, "2": 0.0}, {"1": 0.1, "2": 0.1})
WORSE = replace(FINE, losses={"1": 0.4, "2": 0.4})
BAD_CHALLENGER = replace(FINE, losses={"1": 0.1, "2": 0.6})
FAILING = replace(FINE, errors={"1": 0.2, "2": 0.2})
LEFT_ALONE = replace(PLAN, advances_itself=False)
APART_S = 700.0  # more than a request waits for what may explain its rise


def alone(scene: Scene, event: Event = Event.ROLLBACK) -> Scene:
    """End the scene's rollout, so that one version answers."""
    ended, route = apply_event(scene.rollout, scene.registry.table().routes[ROUTE], event, reason="by hand", now_s=START_S)
    commit(scene.registry, PutRoute(route), PutRollout(ended), route=ROUTE)
    return scene


def asked(scene: Scene) -> list:
    return [entry for entry in scene.decisions() if entry.action == ASK]


def run(scene: Scene, *worlds: tuple[World, int]) -> None:
    """Let each world last for so many requests."""
    for at, (world, count) in enumerate(worlds):
        scene.write(records(scene.registry, world, count, seed=at + 1, start_s=START_S + at * APART_S))
        scene.run()


@pytest.mark.parametrize("is_alone", [True, False])
def test_world_that_gets_worse_is_asked_for_once_with_its_evidence(past_of, is_alone):
    """With one version or with two, a loss that doubles asks once, says since when, and is found again in the log."""
    scene = alone(Scene(LEFT_ALONE)) if is_alone else Scene(LEFT_ALONE)
    run(scene, (FINE, LEARN_OUTCOMES + 100 if is_alone else 600), (WORSE, 300), (WORSE, 300), (WORSE, 50))
    [entry] = asked(scene)
    finding = entry.evidence["finding"]
    assert (entry.subject, entry.evidence["attribution"], finding["version"]) == ("route:delays", "WORLD", "1")
    assert finding["loss"] > finding["bound"] > finding["reference"]
    if is_alone:
        assert finding["since_s"] == pytest.approx(START_S + APART_S, abs=1.0)
        assert finding["log_e"] >= finding["log_e_bound"]
    assert {(one.finding, one.differences) for one in recompute_decisions(past_of(scene))} == {(Finding.SAME, ())}


def write_with_a_value_missing(scene, *, seed, start_s):
    """Write answers of a worse world, each with a feature that did not arrive."""
    for stream, record in records(scene.registry, WORSE, 400, seed=seed, start_s=start_s):
        if isinstance(record, PredictionRecord):
            record.inputs[0].data[0, 0] = float("nan")
        scene.log.append(stream, [record])


@pytest.mark.parametrize("world", [FINE, BAD_CHALLENGER, FAILING, replace(FINE, shift=3.0)])
def test_nothing_is_asked_where_the_champions_loss_did_not_rise(world):
    """A bad challenger, failures, or inputs that moved without costing anything are no reason to train."""
    scene = Scene(LEFT_ALONE)
    run(scene, (FINE, 600), (world, 400), (world, 50))
    assert asked(scene) == []


def test_broken_inputs_are_not_trained_on():
    """While a feature arrives missing, a loss that rises with it asks for nothing."""
    scene = alone(Scene(LEFT_ALONE))
    run(scene, (FINE, LEARN_OUTCOMES + 100))
    write_with_a_value_missing(scene, seed=2, start_s=START_S + APART_S)
    scene.write(records(scene.registry, WORSE, 10, seed=3, start_s=START_S + 2 * APART_S))
    scene.run()
    picture = scene.readings.latest()["routes"][ROUTE]["drift"]
    assert {one["attribution"] for one in picture["incidents"]} >= {"DATA"}
    assert picture["against_training"]["loss"]["is_departed"]
    assert asked(scene) == []


@pytest.mark.parametrize(("gap_s", "count"), [(86_400.0, 1), (10.0, 2)])
def test_route_that_asked_does_not_ask_again_for_a_while(gap_s, count):
    """A later rollout that meets the same world asks again only after the cool-down."""
    monitor = replace(SETTINGS.monitor, retraining_gap_s=gap_s)
    scene = Scene(LEFT_ALONE, replace(SETTINGS, monitor=monitor))
    run(scene, (FINE, 600), (WORSE, 300), (FINE, 10))
    assert len(asked(scene)) == 1
    alone(scene)
    begin_rollout(scene.registry, "2", plan=LEFT_ALONE, id="r2")
    for at, world, number in ((3, FINE, 600), (4, WORSE, 300), (5, FINE, 10)):
        scene.write(records(scene.registry, world, number, seed=at + 1, start_s=START_S + at * APART_S))
        scene.run()
    assert len(asked(scene)) == count


def test_request_after_a_rise_that_was_told_to_nobody_is_found_again(past_of):
    """A rise that broken inputs explain is forgotten, live and in a replay, and what a rollout tells later is asked for."""
    scene = Scene(LEFT_ALONE)
    run(scene, (FINE, 50))
    alone(scene)
    begun_s = START_S + APART_S
    scene.write(records(scene.registry, FINE, LEARN_OUTCOMES + 100, seed=3, start_s=begun_s))
    write_with_a_value_missing(scene, seed=4, start_s=begun_s + APART_S)
    scene.write(records(scene.registry, FINE, 10, seed=5, start_s=begun_s + 2 * APART_S))
    scene.run()
    assert asked(scene) == []
    route = scene.registry.table().routes[ROUTE]
    rollout, split = begin(route, id="r2", challenger="2", plan=LEFT_ALONE, salt="r2", now_s=begun_s + 9 * APART_S)
    commit(scene.registry, PutRoute(split), PutRollout(rollout), route=ROUTE)
    for at, world, count in ((10, FINE, 600), (11, WORSE, 300), (12, FINE, 10)):
        scene.write(records(scene.registry, world, count, seed=at, start_s=begun_s + at * APART_S))
        scene.run()
    assert len(asked(scene)) == 1
    assert {(one.finding, one.differences) for one in recompute_decisions(past_of(scene))} == {(Finding.SAME, ())}


def test_model_whose_route_was_deleted_still_asks():
    """A route that goes while its promoted version cools down leaves nothing due that keeps its model's rise from being told."""
    scene = Scene(replace(LEFT_ALONE, cool_down_s=60.0))
    run(scene, (FINE, 50))
    alone(scene, Event.PROMOTE)
    commit(scene.registry, PutChampion(ROUTE, "2"))
    scene.write(records(scene.registry, FINE, 50, seed=2, start_s=START_S + 10.0))
    scene.run()
    worlds = ((FINE, LEARN_OUTCOMES + 100), (WORSE, 400), (WORSE, 50))
    written = [
        list(records(scene.registry, world, count, seed=at + 3, start_s=START_S + (at + 1) * APART_S))
        for at, (world, count) in enumerate(worlds)
    ]
    commit(scene.registry, DropRoute(ROUTE), route=ROUTE)
    for each in written:
        scene.write((at, replace(one, revision=0) if isinstance(one, PredictionRecord) else one) for at, one in each)
        scene.run()
    [entry] = asked(scene)
    assert entry.evidence["finding"]["version"] == "2"
