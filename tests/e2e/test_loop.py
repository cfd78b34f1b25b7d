"""The whole loop over real processes: register, route, predict, log, monitor, decide, route change, audit."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import time

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.compose.past import opened_past
from gateway.core.partitions import partitions
from gateway.replay.decisions import Finding, recompute_decisions

FEATURES = 20
RESTART_S = 120.0  # for two monitors to start anew on a busy machine, each with its imports
ACT_S = 60.0  # for the monitor to start, read and act on a busy machine; it needs a hundred predictions


class Caller:
    """A backend with one connection that predicts on one route and later posts the truth."""

    def __init__(self, gateway, route: str = "delays") -> None:
        self._route = route
        self._connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=30)
        self._headers = {"Authorization": f"Bearer {gateway.token}"}

    def predict(self, key: str, row: np.ndarray) -> dict[str, object]:
        """Return the parsed answer."""
        tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": row.tolist()}
        return self._post(f"/v2/models/{self._route}/infer", {"inputs": [tensor]}, {"Gateway-Assignment-Key": key})

    def tell(self, truths: list[dict[str, object]]) -> None:
        """Post ground truth."""
        assert self._post("/api/v1/ground-truth", {"records": truths}, self._headers)["accepted"] == len(truths)

    def _post(self, path: str, body: object, headers: dict[str, str]) -> dict[str, object]:
        self._connection.request("POST", path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        content = json.loads(answer.read())
        assert answer.status == 200, content
        return content


def test_wrong_challenger_is_rolled_back_by_itself(start_gateway, until, write_linear_model, tmp_path):
    """A challenger that is wrong more often is found from ground truth in the log, rolled back, quarantined and audited."""
    gateway = start_gateway("--workers", "2")
    target = {"task": "binary", "output": "probability", "labels": ["no", "yes"], "positive": "yes"}
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"), target=target)
    gateway.register("delays", write_linear_model(tmp_path / "2.onnx", scale=-1.0), target=target)
    _route_to_champion(gateway)
    rollout = _begin(gateway, "2")

    _send_until_over(gateway, rollout["id"], truth=True)

    _check_convicted(gateway, rollout["id"])


def test_failing_challenger_is_rolled_back_by_itself(start_gateway, until, write_linear_model, write_fragile_model, tmp_path):
    """A challenger that raises on some rows is rolled back, and every caller got the champion's answer instead."""
    gateway = start_gateway("--workers", "2")
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    gateway.register("delays", write_fragile_model(tmp_path / "2.onnx"))
    _route_to_champion(gateway)
    rollout = _begin(gateway, "2")

    _send_until_over(gateway, rollout["id"], truth=False)

    _check_convicted(gateway, rollout["id"])


@pytest.mark.timeout(400)
def test_two_monitors_decide_once_each_though_both_are_killed(
    start_gateway, until, write_linear_model, write_fragile_model, tmp_path
):
    """Two processes share two routes; one is killed right after its rollback, the other before its own: each rolls back once.

    Both decisions are found again in the log, process by process.
    """
    gateway = start_gateway("--monitors", "2")
    own = {route: one.process for one in partitions(2) for route in ("fares", "delays") if one.has(route)}
    assert own == {"fares": "monitor", "delays": "monitor-1"}
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    rollouts = {}
    for version, route in enumerate(own, start=2):
        gateway.register("delays", write_fragile_model(tmp_path / f"{version}.onnx", seed=version))
        _route_to_champion(gateway, route)
        rollouts[route] = _begin(gateway, str(version), route)["id"]
    caller = Caller(gateway)
    for number in range(20):  # too few to decide on, and enough to be lost
        caller.predict(f"early-{number}", np.zeros(FEATURES, np.float32))
    until(lambda: [_shown(gateway, process).get("routes") for process in own.values()] == [0, 1], within_s=RESTART_S, every_s=0.2)

    _send_until_over(gateway, rollouts["fares"], truth=False, route="fares")
    killed = {process: gateway.children()[process] for process in own.values()}
    for pid in killed.values():
        os.kill(pid, signal.SIGKILL)
    _send_until_over(gateway, rollouts["delays"], truth=False, within_s=RESTART_S)

    expected = {(process, route, "convict"): 1.0 for route, process in own.items()}
    until(lambda: _changes(gateway) == expected, within_s=RESTART_S, every_s=0.2)
    assert not set(killed.values()) & set(gateway.children().values())
    until(lambda: [_shown(gateway, process).get("routes") for process in own.values()] == [1, 1], within_s=RESTART_S, every_s=0.2)
    for route, rollout in rollouts.items():
        _check_convicted(gateway, rollout, route)
    assert [one["strikes"] for one in gateway.admin.get("/quarantine").json()["quarantine"]] == [1, 1]
    with opened_past(gateway.data_dir) as past:
        assert past.monitor.processes == 2
        found = recompute_decisions(past)
    assert [(one.finding, one.differences) for one in found] == [(Finding.SAME, ())] * 2


def test_sound_challenger_is_promoted_by_a_person(start_gateway, write_linear_model, tmp_path):
    """An identical challenger stays, and promotion makes it champion of route and model."""
    gateway = start_gateway()
    target = {"task": "binary", "output": "probability", "labels": ["no", "yes"], "positive": "yes"}
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"), target=target)
    gateway.register("delays", write_linear_model(tmp_path / "2.onnx"), target=target)
    _route_to_champion(gateway)
    rollout = _begin(gateway, "2")
    caller, random = Caller(gateway), np.random.default_rng(5)
    answers = [caller.predict(f"key-{number}", random.normal(size=FEATURES).astype(np.float32)) for number in range(600)]
    caller.tell([{"prediction_id": answer["parameters"]["prediction_id"], "value": "yes"} for answer in answers])
    assert {answer["model_version"] for answer in answers} == {"1", "2"}

    promoted = gateway.admin.post(f"/routes/delays/rollouts/{rollout['id']}/promote", json={"reason": "as good as before"})

    assert promoted.status_code == 200, promoted.text
    assert gateway.admin.get("/routes/delays").json()["variants"] == [{"name": "champion", "version": "2", "weight": 10_000}]
    assert {caller.predict(f"key-{n}", np.zeros(FEATURES, np.float32))["model_version"] for n in range(50)} == {"2"}


def _route_to_champion(gateway, route: str = "delays") -> None:
    gateway.put_route(route, {"model": "delays", "variants": [{"name": "champion", "version": "1", "weight": 10_000}]})


def _begin(gateway, version: str, route: str = "delays") -> dict[str, object]:
    answer = gateway.admin.post(f"/routes/{route}/rollouts", json={"challenger": version, "plan": {"steps": [1_000, 5_000]}})
    assert answer.status_code == 201, answer.text
    return answer.json()


def _send_until_over(gateway, rollout: str, *, truth: bool, route: str = "delays", within_s: float = ACT_S) -> None:
    """Predict with fresh keys until the rollout ended; every answer must be a 200."""
    caller, random = Caller(gateway, route), np.random.default_rng(3)
    end_s = time.monotonic() + within_s
    for page in itertools.count():
        truths = []
        for number in range(100):
            row = random.normal(size=FEATURES).astype(np.float32)
            answer = caller.predict(f"key-{page}-{number}", row)
            likely = answer["outputs"][0]["data"][0] >= 0.5
            is_yes = likely if answer["model_version"] == "1" else not likely
            truths.append({"prediction_id": answer["parameters"]["prediction_id"], "value": "yes" if is_yes else "no"})
        if truth:
            caller.tell(truths)
        if gateway.admin.get(f"/routes/{route}/rollouts/{rollout}").json()["state"] != "CANARY":
            return
        assert time.monotonic() < end_s, f"the monitor did not act within {within_s:.0f} s and {page:,}00 predictions"


def _check_convicted(gateway, id: str, route: str = "delays") -> None:
    rollout = gateway.admin.get(f"/routes/{route}/rollouts/{id}").json()
    assert rollout["state"] == "QUARANTINED"
    assert gateway.admin.get(f"/routes/{route}").json()["variants"] == [{"name": "champion", "version": "1", "weight": 10_000}]
    entries = gateway.admin.get("/audit", params={"limit": 1000}).json()["entries"]
    (entry,) = [one for one in entries if one["principal"] == "monitor" and one["subject"] == f"rollout:{id}"]
    assert (entry["action"], entry["evidence"]["attribution"]) == ("rollout.rollback", "VERSION")
    again = gateway.admin.post(f"/routes/{route}/rollouts", json={"challenger": rollout["challenger"]})
    assert again.status_code == 409, again.text


def _shown(gateway, process: str) -> dict[str, object]:
    """Return what one of the monitor's processes shows of itself; empty before it has shown anything."""
    return gateway.admin.get("/monitor").json().get("processes", {}).get(process) or {}


def _changes(gateway) -> dict[tuple[str, str, str], float]:
    """Return how often each process says that it changed a route, by process, route and event."""
    families = text_string_to_metric_families(httpx.get(f"{gateway.admin_url}/metrics").text)
    samples = [one for family in families for one in family.samples if one.name == "gateway_monitor_changes_total"]
    return {(one.labels["process"], one.labels["route"], one.labels["event"]): one.value for one in samples}
