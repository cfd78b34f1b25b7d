"""Registering pickles: what validation finds out about them, what it refuses, and their conversion to ONNX."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from pathlib import Path

import cloudpickle
import duckdb
import joblib
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMRegressor
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from adapters.runtimes.onnx import OnnxRuntime
from adapters.validation.process import ProcessValidator
from gateway.core.errors import NotValid
from gateway.core.models import Column, Conversion, Digest, Pickled, Runtime, Target, Task, Version
from gateway.core.tensors import Datatype, Signature, TensorSpec

sys.path.insert(0, str(Path(__file__).parent))
import models

FEATURES = ["a", "b", "c", "d"]
ROWS, CLASSES = make_classification(300, 4, random_state=1)


def validator(tmp_path: Path) -> ProcessValidator:
    return ProcessValidator(timeout_s=60, memory_bytes=4 * 2**30, limits=models.limits(tmp_path / "scratch"))


def stated(path: Path, **more: object) -> Version:
    digest = Digest(hashlib.sha256(path.read_bytes()).hexdigest())
    return Version("m", "", digest, 1, Runtime.PICKLED, "", Signature((), ()), **({"pickled": Pickled()} | more))


@pytest.fixture
def sample(tmp_path):
    """Return the training rows as a reference."""
    frame = pd.DataFrame(ROWS, columns=FEATURES)
    duckdb.sql(f"COPY frame TO '{tmp_path / 'sample.parquet'}' (FORMAT parquet)")
    assert len(frame) == 300
    return tmp_path / "sample.parquet"


@pytest.fixture(scope="module")
def classifier():
    return make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, CLASSES)


def test_pipeline_is_described_and_converted(tmp_path, sample, classifier):
    """Signature, classes and imports come from the pickle; its ONNX form has that signature and agrees, and says how far."""
    path, into = tmp_path / "m.joblib", tmp_path / "m.onnx"
    joblib.dump(classifier, path, compress=3)
    onnx = validator(tmp_path).convert(path, sample, stated(path, target=Target(Task.BINARY)), Conversion(), into)
    assert onnx.signature == Signature(
        (TensorSpec("input", Datatype.FP64, (-1, 4)),), (TensorSpec("probability", Datatype.FP64, (-1, 2)),)
    )
    assert (onnx.target.labels, onnx.target.positive) == (("0", "1"), "1")
    assert [column.name for column in onnx.columns] == FEATURES
    assert onnx.profile is not None
    assert (onnx.runtime, onnx.pickled) == (Runtime.ONNX, None)
    assert onnx.digest == hashlib.sha256(into.read_bytes()).hexdigest()
    origin = onnx.lineage["converted_from"]
    assert (origin["digest"], origin["rows"]) == (hashlib.sha256(path.read_bytes()).hexdigest(), 300)
    assert origin["library"].startswith("sklearn 1.")
    assert "sklearn.linear_model._logistic:LogisticRegression" in origin["imports"]
    assert origin["difference_max"] < 1e-5
    assert origin["speed_up"] > 1
    answer = OnnxRuntime().load(into, onnx).predict({"input": ROWS})["probability"]
    assert np.allclose(answer, classifier.predict_proba(ROWS), atol=1e-5)


def test_conversion_beyond_its_tolerance_is_refused(tmp_path, sample, classifier):
    """A conversion that differs by more than was stated is refused with the rows and the largest difference."""
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(classifier))
    with pytest.raises(NotValid, match=r"does not agree with the pickle on \d+ of 300 rows .* allowed is 0 \+ 0"):
        validator(tmp_path).convert(path, sample, stated(path, target=Target(Task.BINARY)), Conversion(0.0, 0.0), tmp_path / "o")


def test_lightgbm_is_converted(tmp_path, sample):
    """A LightGBM regressor becomes ONNX with the pickle's signature."""
    path = tmp_path / "m.pkl"
    path.write_bytes(pickle.dumps(LGBMRegressor(n_estimators=20, verbose=-1).fit(ROWS, ROWS.sum(axis=1))))
    onnx = validator(tmp_path).convert(
        path, sample, stated(path, target=Target(Task.REGRESSION)), Conversion(1e-4, 1e-4), tmp_path / "o"
    )
    assert onnx.signature.outputs == (TensorSpec("prediction", Datatype.FP64, (-1,)),)
    assert onnx.lineage["converted_from"]["library"].startswith("lightgbm")


def test_frame_with_texts_becomes_named_inputs(tmp_path):
    """A pipeline over named columns, texts among them, gets a frame and offers an input for each column."""
    frame = pd.DataFrame({"carrier": ["AA", "UA", "DL"] * 20, "distance": np.arange(60.0)})
    columns = ColumnTransformer([("c", OneHotEncoder(), ["carrier"]), ("d", "passthrough", ["distance"])])
    model = make_pipeline(columns, LogisticRegression(max_iter=500)).fit(frame, np.array(["late", "fine", "late"] * 20))
    path, reference = tmp_path / "m.pkl", tmp_path / "sample.csv"
    path.write_bytes(pickle.dumps(model))
    frame.to_csv(reference, index=False)
    found = validator(tmp_path).validate(path, reference, stated(path, pickled=Pickled(method="predict")))
    assert [(one.name, one.datatype, one.shape) for one in found.signature.inputs] == [
        ("carrier", Datatype.BYTES, (-1, 1)),
        ("distance", Datatype.FP64, (-1, 1)),
    ]
    assert found.signature.outputs == (TensorSpec("prediction", Datatype.BYTES, (-1,)),)
    assert found.pickled is not None
    assert found.pickled.is_frame


def _refused(tmp_path: Path, content: bytes, match: str, **more: object) -> None:
    path = tmp_path / "m.pkl"
    path.write_bytes(content)
    with pytest.raises(NotValid, match=match):
        validator(tmp_path).validate(path, None, stated(path, **more))


def test_what_cannot_be_scanned_is_refused(tmp_path):
    """A file that the scan cannot follow to its end is never unpickled."""
    _refused(tmp_path, b"\x80\x04P1\n.", "cannot be scanned: it refers to objects outside the file")


def test_hostile_pickle_is_refused_and_does_no_harm(tmp_path):
    """A pickle that would run a program at validation is refused, and the program does not run."""
    _refused(tmp_path, cloudpickle.dumps(models.Opens(os.system, f"touch {tmp_path}/made")), "neither predict nor predict_proba")
    assert not (tmp_path / "made").exists()


def test_features_that_the_model_does_not_have_are_refused(tmp_path):
    """Columns by other names or another number than the model was fitted with are refused by name."""
    columns = tuple(Column(name) for name in ("a", "b", "c", "x"))
    _refused(tmp_path, cloudpickle.dumps(models.Fitted()), "differ in 'd', 'x'", columns=columns)
