"""The whole loop over real processes: register, route, predict, log, monitor, decide, route change, audit."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FEATURES = 20
ACT_S = 60.0  # for the monitor to start, read and act on a busy machine; it needs a hundred predictions


class Caller:
    """A backend with one connection that predicts and later posts the truth."""

    def __init__(self, gateway) -> None:
        self._connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=30)
        self._headers = {"Authorization": f"Bearer {gateway.token}"}

    def predict(self, key: str, row: np.ndarray) -> dict[str, object]:
        """Return the parsed answer."""
        tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": row.tolist()}
        return self._post("/v2/models/delays/infer", {"inputs": [tensor]}, {"Gateway-Assignment-Key": key})

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


def test_failing_challenger_is_rolled_back_by_itself(start_gateway, until, write_linear_model, tmp_path):
    """A challenger that raises on some rows is rolled back, and every caller got the champion's answer instead."""
    gateway = start_gateway("--workers", "2")
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    gateway.register("delays", _fragile_model(tmp_path / "2.onnx"))
    _route_to_champion(gateway)
    rollout = _begin(gateway, "2")

    _send_until_over(gateway, rollout["id"], truth=False)

    _check_convicted(gateway, rollout["id"])


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


def _route_to_champion(gateway) -> None:
    gateway.put_route("delays", {"model": "delays", "variants": [{"name": "champion", "version": "1", "weight": 10_000}]})


def _begin(gateway, version: str) -> dict[str, object]:
    answer = gateway.admin.post("/routes/delays/rollouts", json={"challenger": version, "plan": {"steps": [1_000, 5_000]}})
    assert answer.status_code == 201, answer.text
    return answer.json()


def _send_until_over(gateway, rollout: str, *, truth: bool) -> None:
    """Predict with fresh keys until the rollout ended; every answer must be a 200."""
    caller, random = Caller(gateway), np.random.default_rng(3)
    end_s = time.monotonic() + ACT_S
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
        if gateway.admin.get(f"/routes/delays/rollouts/{rollout}").json()["state"] != "CANARY":
            return
        assert time.monotonic() < end_s, f"the monitor did not act within {ACT_S:.0f} s and {page:,}00 predictions"


def _check_convicted(gateway, id: str) -> None:
    rollout = gateway.admin.get(f"/routes/delays/rollouts/{id}").json()
    assert rollout["state"] == "QUARANTINED"
    assert gateway.admin.get("/routes/delays").json()["variants"] == [{"name": "champion", "version": "1", "weight": 10_000}]
    entries = gateway.admin.get("/audit", params={"limit": 1000}).json()
    entry = next(one for one in entries["entries"] if one["principal"] == "monitor")
    assert entry["evidence"]["attribution"] == "VERSION"
    again = gateway.admin.post("/routes/delays/rollouts", json={"challenger": rollout["challenger"]})
    assert again.status_code == 409, again.text


def _fragile_model(path: Path) -> Path:
    """Write a model with the linear model's signature that raises when the first feature is above 0.8."""
    weights = np.random.default_rng(7).normal(size=(FEATURES, 1)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Slice", ["features", "zero", "one", "one"], ["first"]),
            helper.make_node("Greater", ["first", "bound"], ["is_above"]),
            helper.make_node("Cast", ["is_above"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["offset"], axis=0),
            helper.make_node("MatMul", ["features", "w"], ["product"]),
            helper.make_node("Add", ["product", "offset"], ["z"]),
            helper.make_node("Sigmoid", ["z"], ["probability"]),
        ],
        "fragile",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(weights, "w"),
            numpy_helper.from_array(np.array([0.0], np.float32), "table"),
            numpy_helper.from_array(np.array([0.8], np.float32), "bound"),
            numpy_helper.from_array(np.array([0], np.int64), "zero"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
