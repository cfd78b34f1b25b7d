"""A route change to a version that is slow to warm: nobody waits for it, and nobody is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, save

FEATURES = 20


def _slow_model(path: Path, turns: int) -> Path:
    """Write `probability = 1` after so many turns of a loop, whatever the input: each run while warming takes them too."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["going"]), helper.make_node("Sin", ["v"], ["v2"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, [100]),
        ],
        [
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v2", TensorProto.FLOAT, [100]),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["turns", "yes", "start"], ["end"], body=body),
        helper.make_node("ReduceMax", ["end"], ["m"], keepdims=0),
        helper.make_node("ReduceSum", ["features", "axis"], ["s"], keepdims=1),
        helper.make_node("Add", ["s", "m"], ["a"]),
        helper.make_node("Sigmoid", ["a"], ["probability"]),
    ]
    constants = {
        "turns": np.array(turns, np.int64),
        "yes": np.array(True),
        "start": np.ones(100, np.float32),
        "axis": np.array([1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _turns_of(run_s: float, path: Path) -> int:
    """Return how many turns make one run take about so long on this machine."""
    turns = 20_000
    session = onnxruntime.InferenceSession(_slow_model(path, turns))
    began_s = time.perf_counter()
    session.run(None, {"features": np.zeros((1, FEATURES), np.float32)})
    return round(turns * run_s / (time.perf_counter() - began_s))


def test_change_to_a_version_that_warms_slowly_refuses_nobody(start_gateway, write_linear_model, tmp_path):
    """Until it is warm everywhere the old table answers: no request is refused, and none meets a version that still loads."""
    gateway = start_gateway("--workers", "2")
    gateway.register("delays", write_linear_model(tmp_path / "one.onnx"))
    gateway.register("delays", _slow_model(tmp_path / "two.onnx", _turns_of(0.2, tmp_path / "probe.onnx")))
    gateway.put_route("delays", {"model": "delays", "variants": [{"name": "a", "version": "1", "weight": 10_000}]})
    tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": [0.1] * FEATURES}
    stop, answers = threading.Event(), []

    def call() -> None:
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            while not stop.is_set():
                answer = client.post("/v2/models/delays/infer", json={"inputs": [tensor]})
                answers.append((answer.status_code, answer.json().get("model_version"), time.monotonic()))

    caller = threading.Thread(target=call)
    caller.start()
    began_s = time.monotonic()
    gateway.put_route("delays", {"model": "delays", "variants": [{"name": "b", "version": "2", "weight": 10_000}]})
    took_s = time.monotonic() - began_s
    stop.set()
    caller.join()
    assert {status for status, _, _ in answers} == {200}
    assert took_s > 0.5, "the version warmed too quickly to show anything"
    during = [version for _, version, at_s in answers if at_s < began_s + took_s / 2]
    assert set(during) == {"1"}
    assert len(during) > 20
