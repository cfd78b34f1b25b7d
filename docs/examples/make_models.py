"""Write three small ONNX models for the README: `python docs/examples/make_models.py [DIRECTORY]`.

Each answers `probability`, shape [n, 1], for `features`, shape [n, 3]: departure delay in minutes, distance in miles, hour of the
day. Version 2 weighs the hour more; version 3 takes minutes for hours. `delays-reference.csv` is a training sample.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLUMNS = ("dep_delay_min", "distance_miles", "hour")
WEIGHTS = {1: (0.08, -0.0004, 0.02), 2: (0.08, -0.0004, 0.05), 3: (0.08 / 60, -0.0004, 0.02)}
OFFSET = -1.2
REFERENCE_ROWS = 2_000


def write_model(path: Path, weights: tuple[float, ...]) -> None:
    """Write `probability = sigmoid(features · weights + OFFSET)`."""
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["product"]),
            helper.make_node("Add", ["product", "offset"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ],
        "delays",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(weights)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        [
            numpy_helper.from_array(np.array(weights, np.float32).reshape(-1, 1), "weights"),
            numpy_helper.from_array(np.array([OFFSET], np.float32), "offset"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def write_reference(path: Path) -> None:
    """Write rows that look like flights."""
    random = np.random.default_rng(1)
    delays = random.exponential(20.0, REFERENCE_ROWS) - 8.0
    distances = random.uniform(90, 2_600, REFERENCE_ROWS)
    hours = random.integers(5, 24, REFERENCE_ROWS)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        rows.writerows(zip(delays.round(1), distances.round(), hours, strict=True))


def main() -> None:
    """Write all of it."""
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    directory.mkdir(parents=True, exist_ok=True)
    for version, weights in WEIGHTS.items():
        write_model(directory / f"delays-{version}.onnx", weights)
    write_reference(directory / "delays-reference.csv")


if __name__ == "__main__":
    main()
