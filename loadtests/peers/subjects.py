"""The models that are served in the comparison, and the answer that each server must give before it is measured."""

from __future__ import annotations

import enum
import itertools
from pathlib import Path

import joblib
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from loadtests import load, model
from loadtests.servers.session import session

# 100 MB of weights: a single row takes 7 ms, most of it to read them from memory, and 64 rows only three times as long.
WIDTHS = (load.FEATURES, 5_000, 5_000, 1)


class Subject(enum.Enum):
    """A model, by the file that holds it."""

    SMALL = "small.onnx"
    LARGE = "large.onnx"
    PICKLED = "trees.joblib"
    PIPELINE = "pipeline.joblib"

    @property
    def is_batched(self) -> bool:
        """Whether servers that can join requests are told to; a small model is answered before a batch would fill."""
        return self is Subject.LARGE

    @property
    def method(self) -> str:
        """What a pickled model is called by; empty for the others."""
        return {Subject.PICKLED: "predict", Subject.PIPELINE: "predict_proba"}.get(self, "")


def write_subject(subject: Subject, directory: Path) -> Path:
    """Write a model's file and return its path."""
    path = directory / subject.value
    match subject:
        case Subject.SMALL:
            return model.write_model(path)
        case Subject.LARGE:
            return _write_layers(path)
        case Subject.PICKLED:
            return _write_trees(path)
        case Subject.PIPELINE:
            return _write_pipeline(path)


def first_answer(subject: Subject, artifact: Path) -> float:
    """Return what the model says of the first row that is sent."""
    row = load.features(1)
    if subject.method:
        return float(getattr(joblib.load(artifact), subject.method)(row).ravel()[0])
    (probability,) = session(artifact).run(["probability"], {"features": row.astype(np.float32)})
    return float(probability[0, 0])


def _write_layers(path: Path) -> Path:
    """Write a perceptron of `WIDTHS` with the small model's inputs and outputs."""
    random, nodes, weights, taken = np.random.default_rng(7), [], [], "features"
    last = len(WIDTHS) - 2
    for at, (wide, high) in enumerate(itertools.pairwise(WIDTHS)):
        given = "probability" if at == last else f"h{at}"
        weights.append(numpy_helper.from_array(_weights(random, wide, high), f"w{at}"))
        nodes.append(helper.make_node("MatMul", [taken, f"w{at}"], [f"z{at}"]))
        nodes.append(helper.make_node("Sigmoid" if at == last else "Relu", [f"z{at}"], [given]))
        taken = given
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", WIDTHS[0]])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n", 1])],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def _weights(random: np.random.Generator, wide: int, high: int) -> NDArray[np.float32]:
    """Draw weights that keep the size of what passes through a rectified layer."""
    return (random.normal(size=(wide, high)) * np.sqrt(2 / wide)).astype(np.float32)


def _write_trees(path: Path) -> Path:
    """Write a hundred boosted trees, fitted to a sum of some features."""
    sample = _sample()
    joblib.dump(GradientBoostingRegressor(random_state=7).fit(sample, sample[:, :5].sum(axis=1)), path)
    return path


def _write_pipeline(path: Path) -> Path:
    """Write a scaler and a logistic regression, fitted to the sign of that sum: the pipeline that most first models are."""
    sample = _sample()
    joblib.dump(make_pipeline(StandardScaler(), LogisticRegression()).fit(sample, sample[:, :5].sum(axis=1) > 0), path)
    return path


def _sample() -> NDArray[np.float64]:
    return np.random.default_rng(5).normal(size=(2_000, load.FEATURES))
