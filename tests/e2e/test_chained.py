"""Chains through a whole gateway: registered, predicted, logged and rolled back as one version."""

from __future__ import annotations

import sys

import cloudpickle
import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner, Result

from adapters.runtimes.onnx import OnnxRuntime
from gateway.client import AdminClient
from gateway.commands.app import app
from gateway.core.models import Digest, Runtime, Version
from gateway.core.version_bodies import signature_from_body

FEATURES = 4
ROWS = np.random.default_rng(1).normal(2.0, 3.0, size=(200, FEATURES))
WEIGHTS = np.random.default_rng(2).normal(size=(FEATURES, 1))
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Scaler:
    """Scales as it was fitted, like scikit-learn's, without the seconds that importing that takes."""

    n_features_in_ = FEATURES

    def __init__(self, rows: np.ndarray) -> None:
        self.mean, self.deviation = rows.mean(axis=0), rows.std(axis=0)

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows with mean 0 and deviation 1."""
        return (rows - self.mean) / self.deviation


def headgate(gateway, *words: object) -> Result:
    """Run the command line on a gateway, in this process."""
    result = CliRunner().invoke(app, [*map(str, words), "--data-dir", str(gateway.data_dir)])
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture
def linear(tmp_path):
    """Return `answer = variable · weights` in doubles, which is what scikit-learn's transformers give."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["variable", "w"], ["answer"])],
        "linear",
        [helper.make_tensor_value_info("variable", TensorProto.DOUBLE, ["n", FEATURES])],
        [helper.make_tensor_value_info("answer", TensorProto.DOUBLE, ["n", 1])],
        [numpy_helper.from_array(WEIGHTS, "w")],
    )
    path = tmp_path / "linear.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def infer(gateway, name: str, rows: np.ndarray, datatype: str = "FP64") -> dict:
    spec = gateway.admin.get(f"/models/{name}/versions/1").json()["signature"]["inputs"][0]["name"]
    tensor = {"name": spec, "datatype": datatype, "shape": list(rows.shape), "data": rows.reshape(-1).tolist()}
    answer = httpx.post(f"{gateway.url}/v2/models/{name}/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_pickled_preprocessing_before_an_onnx_model(start_gateway, linear, tmp_path):
    """A pickled scaler and an ONNX model answer as both would by hand, under one version and one digest."""
    scaler = Scaler(ROWS)
    (tmp_path / "scaler.pkl").write_bytes(cloudpickle.dumps(scaler))
    gateway = start_gateway()
    headgate(gateway, "models", "register", "scaler", tmp_path / "scaler.pkl", "--method", "transform")
    headgate(gateway, "models", "register", "late", linear, "--preprocess", "scaler/1")
    body = AdminClient(gateway.admin_url, gateway.token).version("late", "1")
    shown = " ".join(headgate(gateway, "models", "show", "late", "1").stdout.split())
    assert "runs in order" in shown
    assert shown.index(str(body["digest"])) < shown.index("scaler/1 pickled") < shown.index("late/1 onnx")

    answer = infer(gateway, "late", ROWS[:3])

    assert np.allclose(answer["outputs"][0]["data"], (scaler.transform(ROWS[:3]) @ WEIGHTS).reshape(-1), rtol=1e-9)
    record = gateway.admin.get(f"/predictions/{answer['parameters']['prediction_id']}").json()
    assert (record["version"], record["digest"]) == ("1", body["digest"])
    assert record["runtime_version"] == body["runtime_version"]
    assert " + " in record["runtime_version"]


def test_chain_is_rolled_back_as_one(start_gateway, write_linear_model, write_scaling_model, tmp_path):
    """Versions that differ in their preprocessing alone move on a route like any others, and back in one step."""
    gateway = start_gateway()
    linear = write_linear_model(tmp_path / "linear.onnx", features=FEATURES)
    digests = []
    for number, factor in enumerate((1.0, -1.0), 1):
        gateway.register("scaler", write_scaling_model(tmp_path / f"{number}.onnx", factor, features=FEATURES))
        made = gateway.register("late", linear, preprocess={"model": "scaler", "version": str(number)})
        digests.append(made["digest"])
    assert digests[0] != digests[1]
    answers = {}
    for version in ("1", "2"):
        gateway.put_route("late", {"variants": [{"name": "champion", "version": version, "weight": 10_000}]})
        answers[version] = infer(gateway, "late", ROWS[:1], "FP32")
    [first], [second] = (answers[version]["outputs"][0]["data"] for version in ("1", "2"))
    assert first == pytest.approx(_alone(linear, ROWS[:1]))
    assert first + second == pytest.approx(1.0), "the sigmoid of the negated row"

    back = gateway.admin.post("/routes/late/rollback", json={"reason": "the scaler was wrong"})

    assert back.status_code == 200, back.text
    again = infer(gateway, "late", ROWS[:1], "FP32")
    assert (again["model_version"], again["outputs"][0]["data"]) == ("1", [first])
    records = [
        gateway.admin.get(f"/predictions/{answer['parameters']['prediction_id']}").json()["digest"]
        for answer in (answers["1"], answers["2"], again)
    ]
    assert records == [digests[0], digests[1], digests[0]]


def _alone(path, rows: np.ndarray) -> float:
    """Return what the second member answers by itself."""
    specs = [
        {"name": name, "datatype": "FP32", "shape": [-1, width]} for name, width in (("features", FEATURES), ("probability", 1))
    ]
    signature = signature_from_body({"inputs": specs[:1], "outputs": specs[1:]})
    version = Version("late", "1", Digest("0" * 64), 0, Runtime.ONNX, "", signature)
    answer = OnnxRuntime().load(path, version).predict({"features": rows.astype(np.float32)})
    return float(answer["probability"][0, 0])
