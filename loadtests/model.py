"""The small model that the path is measured with: one layer over 20 floats, about 10 µs a call in ONNX Runtime.

The same arithmetic comes with twenty named inputs, as converted tabular models often have them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests.load import FEATURES, Inputs, columns


def write_model(path: Path, *, inputs: Inputs = Inputs.WIDE, seed: int = 7) -> Path:
    """Write `probability = sigmoid(features · w)`, FP32, shape [n, 1]; features are [n, 20], or twenty inputs of [n, 1]."""
    weights = np.random.default_rng(seed).normal(size=(FEATURES, 1)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["features", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["probability"])]
    match inputs:
        case Inputs.WIDE:
            taken = {"features": FEATURES}
        case Inputs.NAMED:
            taken = dict.fromkeys(columns(), 1)
            nodes.insert(0, helper.make_node("Concat", columns(), ["features"], axis=1))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in taken.items()],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_reference(path: Path, rows: int = 2_000) -> Path:
    """Write a training sample of standard normal features as CSV."""
    sample = np.random.default_rng(5).normal(size=(rows, FEATURES))
    np.savetxt(path, sample, delimiter=",", header=",".join(columns()), comments="", fmt="%.6f")
    return path


def metadata() -> dict[str, object]:
    """Return what the registration says of it: a probability over named columns, so that the monitor does all its work."""
    return {
        "target": {"task": "binary", "output": "probability", "labels": ["0", "1"], "positive": "1"},
        "columns": columns(),
    }
