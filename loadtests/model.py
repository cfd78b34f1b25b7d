"""The small model that the path is measured with: one layer over 20 floats, about 10 µs a call in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests.load import FEATURES


def write_model(path: Path, *, seed: int = 7) -> Path:
    """Write `probability = sigmoid(features · w)`, shapes [n, 20] → [n, 1], FP32."""
    weights = np.random.default_rng(seed).normal(size=(FEATURES, 1)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["features", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["probability"])],
        "small",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_reference(path: Path, rows: int = 2_000) -> Path:
    """Write a training sample of standard normal features as CSV."""
    sample = np.random.default_rng(5).normal(size=(rows, FEATURES))
    names = ",".join(f"f{number}" for number in range(FEATURES))
    np.savetxt(path, sample, delimiter=",", header=names, comments="", fmt="%.6f")
    return path


def metadata() -> dict[str, object]:
    """Return what the registration says of it: a probability over named columns, so that the monitor does all its work."""
    return {
        "target": {"task": "binary", "output": "probability", "labels": ["0", "1"], "positive": "1"},
        "columns": [f"f{number}" for number in range(FEATURES)],
    }
