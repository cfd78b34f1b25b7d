"""A caller who sends again and again what ends processes: a few deaths, and then a refusal, while everybody else is served."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cloudpickle
import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

FATAL = 1e9
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Fragile:
    """Answers its rows, and ends its process for one of them."""

    n_features_in_ = 2

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Return the sum of each row."""
        if (rows == FATAL).any():
            os.abort()
        return rows.sum(axis=1)


def endless_model(path: Path) -> Path:
    """Write `y = x` after max(x) · 1,000 turns of a loop."""
    specs = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["going"]), helper.make_node("Sin", ["v"], ["v2"])],
        "body",
        [specs("i", TensorProto.INT64, []), specs("go", TensorProto.BOOL, []), specs("v", TensorProto.FLOAT, [10])],
        [specs("going", TensorProto.BOOL, []), specs("v2", TensorProto.FLOAT, [10])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "thousand"], ["turns_f"]),
        helper.make_node("Cast", ["turns_f"], ["turns"], to=TensorProto.INT64),
        helper.make_node("Loop", ["turns", "yes", "start"], ["end"], body=body),
        helper.make_node("ReduceSum", ["end"], ["s"], keepdims=0),
        helper.make_node("Mul", ["s", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    constants = {
        "thousand": np.array(1000.0, np.float32),
        "yes": np.array(True),
        "start": np.ones(10, np.float32),
        "zero": np.array(0.0, np.float32),
    }
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    inputs, outputs = ([specs(name, TensorProto.FLOAT, ["n", 1])] for name in "xy")
    graph = helper.make_graph(nodes, "endless", inputs, outputs, weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.mark.timeout(180)
def test_input_that_ends_processes_is_refused_after_a_few_deaths(start_gateway, until, tmp_path):
    """An input that aborts a pickled model's process does so twice, one that hangs a worker thrice; then both are a 422."""
    (tmp_path / "fragile.pkl").write_bytes(cloudpickle.dumps(Fragile()))
    gateway = start_gateway(environment={"HEADGATE_SUPERVISOR_HANG_S": "1"})
    gateway.register("endless", endless_model(tmp_path / "endless.onnx"))
    gateway.register("fragile", tmp_path / "fragile.pkl", runtime="pickled")

    def send(model: str, *row: float) -> int:
        """Return the status, or 0 when the worker died."""
        name, datatype = ("x", "FP32") if model == "endless" else ("input", "FP64")
        tensor = {"name": name, "datatype": datatype, "shape": [1, len(row)], "data": row}
        try:
            return httpx.post(f"{gateway.url}/v2/models/{model}/infer", json={"inputs": [tensor]}, timeout=30).status_code
        except httpx.TransportError:
            return 0

    until(lambda: send("fragile", 1.0, 2.0) == 200)
    assert [send("fragile", FATAL, 2.0) for _ in range(2)] == [500, 500]
    assert [send("fragile", FATAL, 2.0) for _ in range(5)] == [422] * 5
    until(lambda: send("fragile", 1.0, 2.0) == 200)

    for _ in range(3):
        before = gateway.children()["w0"]
        assert send("endless", FATAL) == 0
        until(lambda before=before: gateway.children().get("w0", before) != before, within_s=30)
        until(lambda: send("endless", 1.0) == 200, within_s=30)
    survivor = gateway.children()["w0"]
    assert [send("endless", FATAL) for _ in range(5)] == [422] * 5
    assert (send("endless", 1.0), gateway.children()["w0"]) == (200, survivor)
    remembered = json.loads((gateway.data_dir / "run" / "poison.json").read_text())
    assert sorted(one["standing"] for one in remembered) == ["refused", "refused", "watched", "watched"]
