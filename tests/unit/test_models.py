"""Versions: what a person says of one, and what is stored."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import MalformedRequest
from gateway.core.metadata import metadata_from_body
from gateway.core.models import Column, ColumnKind, Digest, Metadata, Runtime, Target, Task, Version, VersionState
from gateway.core.tensors import Datatype, Signature, TensorSpec
from gateway.core.version_bodies import version_body, version_from_body

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
COLUMN_NAMES = TEXT.filter(lambda text: bool(text) and text.isprintable())
SPECS = st.builds(TensorSpec, TEXT, st.sampled_from(Datatype), st.lists(st.integers(-1, 1 << 40), max_size=4).map(tuple))
JSON = st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.lists(st.floats(allow_nan=False), max_size=3), max_size=3)
TARGETS = st.builds(
    Target,
    st.sampled_from(Task),
    TEXT,
    st.lists(TEXT, max_size=3, unique=True).map(tuple),
    st.just(""),
    st.floats(0, 1),
    st.floats(1e-12, 1e12),
)
VERSIONS = st.builds(
    Version,
    model=TEXT,
    version=TEXT,
    digest=st.just(Digest("a" * 64)),
    size_bytes=st.integers(0, 1 << 60),
    runtime=st.sampled_from(Runtime),
    runtime_version=TEXT,
    signature=st.builds(Signature, st.lists(SPECS, max_size=3).map(tuple), st.lists(SPECS, max_size=3).map(tuple)),
    target=TARGETS,
    columns=st.lists(st.builds(Column, COLUMN_NAMES, st.sampled_from(ColumnKind)), max_size=3).map(tuple),
    profile=st.none() | JSON,
    lineage=JSON,
    description=TEXT,
    cost_us_per_row=st.floats(0, 1e12),
    state=st.sampled_from(VersionState),
    registered_at_s=st.floats(0, 1e12),
    warnings=st.lists(TEXT, max_size=2).map(tuple),
    is_joinable=st.booleans(),
)


@settings(max_examples=50, deadline=None)
@given(VERSIONS, st.lists(VERSIONS, max_size=3).map(tuple))
def test_version_comes_back_from_its_body(alone, members):
    """Everything that is known of a version survives JSON, the members of a chain included."""
    version = replace(alone, members=members)
    assert version_from_body(json.loads(json.dumps(version_body(version)))) == version


def test_metadata_has_defaults():
    """Nothing has to be said of a version."""
    assert metadata_from_body({}) == Metadata()
    assert metadata_from_body({"version": None, "target": None, "lineage": None, "columns": None}) == Metadata()


def test_metadata_is_read_in_full():
    """What a person may say is kept, labels as texts, columns by name or with a kind."""
    body = {
        "version": "2024.1",
        "runtime": "onnx",
        "target": {"task": "binary", "output": "p", "labels": [0, 1], "positive": 1, "threshold": 0.25},
        "columns": ["hour", {"name": "carrier", "kind": "categorical"}],
        "lineage": {"commit": "abc", "rows": 5},
        "description": "sound",
        "preprocess": {"model": "scaler", "version": "1"},
    }
    assert metadata_from_body(body) == Metadata(
        version="2024.1",
        target=Target(Task.BINARY, "p", ("0", "1"), "1", 0.25),
        columns=(Column("hour"), Column("carrier", ColumnKind.CATEGORICAL)),
        lineage={"commit": "abc", "rows": 5},
        description="sound",
        preprocess=("scaler", "1"),
    )


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ([], "metadata"),
        (None, "metadata"),
        ({"version": 2}, "metadata.version"),
        ({"version": "a/b"}, "metadata.version"),
        ({"version": "."}, "metadata.version"),
        ({"runtime": "pickle"}, "metadata.runtime"),
        ({"runtime": "chained"}, "metadata.runtime"),
        ({"preprocess": "scaler/1"}, "metadata.preprocess"),
        ({"preprocess": {"model": "scaler"}}, "metadata.preprocess.version"),
        ({"preprocess": {"model": "scaler", "version": "1", "at": 2}}, "at"),
        ({"runtime": "pickled", "preprocess": {"model": "scaler", "version": "1"}}, "metadata.preprocess"),
        ({"target": {}}, "metadata.target.task"),
        ({"target": {"task": "binary", "labels": ["a", "b", "c"]}}, "metadata.target.labels"),
        ({"target": {"task": "binary", "labels": ["a"]}}, "metadata.target.labels"),
        ({"target": {"task": "ranking"}}, "metadata.target.task"),
        ({"target": {"task": "binary", "labels": "01"}}, "metadata.target.labels"),
        ({"target": {"task": "binary", "labels": [0, None]}}, "metadata.target.labels"),
        ({"target": {"task": "binary", "labels": [{"a": 1}]}}, "metadata.target.labels"),
        ({"target": {"task": "binary", "labels": ["a", "a"]}}, "metadata.target.labels"),
        ({"target": {"task": "binary", "labels": ["a" * 1_001]}}, "metadata.target.labels"),
        ({"target": {"task": "binary", "labels": [0, 1], "positive": 2}}, "metadata.target.positive"),
        ({"target": {"task": "binary", "positive": [1]}}, "metadata.target.positive"),
        ({"target": {"task": "binary", "threshold": 1.5}}, "metadata.target.threshold"),
        ({"target": {"task": "regression", "loss_max": 0}}, "metadata.target.loss_max"),
        ({"target": {"task": "binary", "loss": "log"}}, "loss"),
        ({"columns": "hour"}, "metadata.columns"),
        ({"columns": ["hour", "hour"]}, "metadata.columns"),
        ({"columns": ["hour", ""]}, "metadata.columns[1]"),
        ({"columns": ["hour", 3]}, "metadata.columns[1]"),
        ({"columns": [{"name": "hour", "kind": "colour"}]}, "metadata.columns[0].kind"),
        ({"columns": [{"name": "hour", "type": "int"}]}, "type"),
        ({"columns": ["a\nb"]}, "metadata.columns[0]"),
        ({"columns": ["c"] * 10_001}, "metadata.columns"),
        ({"lineage": "abc"}, "metadata.lineage"),
        ({"lineage": {"a": float("nan")}}, "metadata.lineage"),
        ({"lineage": {"a": deep(100_000)}}, "metadata.lineage"),
        ({"lineage": {"a": deep(32)}}, "metadata.lineage"),
        ({"lineage": {"a": "b" * 100_001}}, "metadata.lineage"),
        ({"description": 3}, "metadata.description"),
        ({"description": "a" * 10_001}, "metadata.description"),
        ({"framework": "sklearn"}, "framework"),
    ],
)
def test_metadata_that_is_wrong_is_refused_by_field(body, named):
    """Each mistake is a malformed request whose message names the field."""
    with pytest.raises(MalformedRequest) as caught:
        metadata_from_body(body)
    assert named in str(caught.value)


@pytest.mark.parametrize("size", ["-1", "n", None, 1.5, True, -2, [1]])
def test_signature_with_a_size_that_is_none_is_refused(size):
    """A dimension is a whole number from -1."""
    spec = TensorSpec("x", Datatype.FP32, (-1, 3))
    version = Version("m", "1", Digest("a" * 64), 1, Runtime.ONNX, "1", Signature((spec,), ()))
    body = json.loads(json.dumps(version_body(version)))
    body["signature"]["inputs"][0]["shape"][1] = size
    with pytest.raises(MalformedRequest, match=r"signature\.inputs"):
        version_from_body(body)
