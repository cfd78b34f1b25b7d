"""The expensive model: six layers of 2,240 over 20 floats, 101 MB of FP32, about 7 ms for one row in ONNX Runtime on one core."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from loadtests.load import FEATURES

WIDTH, LAYERS = 2_240, 6


def write_heavy(path: Path, *, seed: int = 7) -> Path:
    """Write a multilayer perceptron with one probability a row, shapes [n, 20] → [n, 1]."""
    random = np.random.default_rng(seed)
    nodes, weights, taken, width = [], [], "features", FEATURES
    for layer in range(LAYERS):
        values = (random.normal(size=(width, WIDTH)) / np.sqrt(width)).astype(np.float32)
        weights.append(numpy_helper.from_array(values, f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [taken, f"w{layer}"], [f"z{layer}"]))
        nodes.append(helper.make_node("Relu", [f"z{layer}"], [f"h{layer}"]))
        taken, width = f"h{layer}", WIDTH
    last = (random.normal(size=(width, 1)) / np.sqrt(width)).astype(np.float32)
    weights.append(numpy_helper.from_array(last, "last"))
    nodes += [helper.make_node("MatMul", [taken, "last"], ["z"]), helper.make_node("Sigmoid", ["z"], ["probability"])]
    graph = helper.make_graph(
        nodes,
        "heavy",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path
