"""Registering chains: what is accepted, what is refused, and what their members are kept from."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from adapters.clock import SystemClock
from gateway.core.changes import Change, Quarantine

FEATURES = 4
SCALER = {"model": "scaler", "version": "1"}


@pytest.fixture
def linear(write_linear_model, tmp_path):
    """Return a model of four features."""
    return write_linear_model(tmp_path / "linear.onnx", features=FEATURES)


@pytest.fixture
def scaler(control, write_scaling_model, tmp_path):
    """Register preprocessing for it as version 1 of `scaler`, and return its artifact."""
    artifact = write_scaling_model(tmp_path / "scaler.onnx", 0.5, features=FEATURES)
    assert control.upload("scaler", artifact, columns=list("abcd")).status_code == 201
    return artifact


@pytest.fixture
def reference(tmp_path):
    """Return a sample of the preprocessing's inputs."""
    rows = np.random.default_rng(1).normal(size=(100, FEATURES))
    path = tmp_path / "reference.csv"
    path.write_text("a,b,c,d\n" + "\n".join(",".join(f"{value:.4f}" for value in row) for row in rows))
    return path


def test_chain_is_one_version(control, scaler, linear, reference):
    """A chain takes the preprocessing's inputs and columns, is warmed by the workers, and its digest is of a stored manifest."""
    answer = control.upload("delays", linear, reference, preprocess=SCALER, target={"task": "binary"})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["runtime"], body["is_champion"], body["not_warm"], body["is_joinable"]) == ("chained", True, "", True)
    assert [spec["name"] for spec in body["signature"]["inputs"]] == ["raw"]
    assert [spec["name"] for spec in body["signature"]["outputs"]] == ["probability"]
    assert [column["name"] for column in body["columns"]] == list("abcd")
    assert body["profile"]["rows"] == 100
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (scaler, linear)]
    assert [(one["model"], one["version"], one["digest"]) for one in body["members"]] == [
        ("scaler", "1", digests[0]),
        ("delays", "1", digests[1]),
    ]
    text = control.artifacts.path(body["digest"]).read_text()
    assert hashlib.sha256(text.encode()).hexdigest() == body["digest"]
    assert all(digest in text for digest in digests)
    assert control.admin.get("/api/v1/models/delays/versions/1").json()["members"] == body["members"]
    assert list((control.data / "artifacts" / "staging").iterdir()) == []


def test_chain_stands_on_a_route_beside_a_single_version(control, scaler, linear, write_scaling_model, tmp_path):
    """What matters on a route is what is taken and answered; how many members do it is no difference."""
    assert control.upload("delays", linear, preprocess=SCALER).status_code == 201
    other = write_scaling_model(tmp_path / "other.onnx", 2.0, features=FEATURES)
    assert control.upload("scaler", other, columns=list("abcd")).json()["version"] == "2"
    assert control.upload("delays", linear, preprocess={**SCALER, "version": "2"}).status_code == 201
    answer = control.put_route("late", ("champion", "1", 9_000), ("challenger", "2", 1_000), if_match=0, model="delays")
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("form", "named"), [({"features": FEATURES, "kind": TensorProto.DOUBLE}, "FP64"), ({"features": 5}, "[-1, 5]")]
)
def test_parts_that_do_not_fit_are_refused(control, linear, write_scaling_model, tmp_path, *, form, named):
    """Another datatype or shape between the parts is a 422 that names both, and nothing is registered."""
    odd = write_scaling_model(tmp_path / "odd.onnx", 0.5, **form)
    assert control.upload("scaler", odd).status_code == 201
    answer = control.upload("delays", linear, preprocess=SCALER)
    assert (answer.status_code, named in answer.json()["error"]) == (422, True), answer.text
    assert "version 1 of scaler" in answer.json()["error"]
    assert control.admin.get("/api/v1/models/delays").status_code == 404


def test_chain_that_cannot_end_in_itself(control, scaler, linear):
    """A version names what is registered already, so that no cycle can come about; an unknown one is a 404."""
    answer = control.upload("delays", linear, version="1", preprocess={"model": "delays", "version": "1"})
    assert (answer.status_code, answer.json()["error"]) == (404, "model 'delays' has no version '1'")


def test_fourth_member_is_refused(control, scaler, write_scaling_model, tmp_path):
    """A chain goes on from a chain until it has three members."""
    artifact = write_scaling_model(tmp_path / "more.onnx", 2.0, features=FEATURES)
    codes = [
        control.upload("scaler", artifact, preprocess={"model": "scaler", "version": str(number)}).status_code
        for number in (1, 2, 3)
    ]
    assert codes == [201, 201, 400]


def test_columns_are_the_preprocessings(control, scaler, linear):
    """Columns that contradict those of the first member are refused."""
    answer = control.upload("delays", linear, preprocess=SCALER, columns=list("abdc"))
    assert answer.status_code == 422
    assert "metadata.columns are not those of version 1 of scaler" in answer.json()["error"]


def test_fault_of_a_part_ends_in_a_refusal(control, scaler, tmp_path):
    """An artifact that ONNX Runtime refuses is refused behind preprocessing too, without a path of this machine."""
    broken = onnx.load_model(scaler)
    broken.graph.node[0].op_type = "Conv"
    onnx.save_model(broken, tmp_path / "broken.onnx")
    answer = control.upload("delays", tmp_path / "broken.onnx", preprocess=SCALER)
    assert answer.status_code == 422
    assert "version" in answer.json()["error"]
    assert str(control.data) not in answer.text


def test_member_outlives_its_own_retirement(control, scaler, linear, write_scaling_model, tmp_path):
    """A version that another one runs cannot be retired before that is; a retired one can no longer be named."""
    second = write_scaling_model(tmp_path / "second.onnx", 2.0, features=FEATURES)
    assert control.upload("scaler", second).status_code == 201
    behind = {"model": "scaler", "version": "2"}
    for _ in range(2):
        assert control.upload("delays", linear, preprocess=behind).status_code == 201
    assert control.admin.post("/api/v1/models/delays/versions/2/retire", json={}).status_code == 200
    refused = control.admin.post("/api/v1/models/scaler/versions/2/retire", json={})
    assert (refused.status_code, refused.json()["error"]) == (409, "version 1 of delays runs version 2 of scaler before it")

    assert control.upload("scaler", second).status_code == 201
    assert control.admin.post("/api/v1/models/scaler/versions/3/retire", json={}).status_code == 200
    answer = control.upload("delays", linear, preprocess={"model": "scaler", "version": "3"})
    assert (answer.status_code, "is retired" in answer.json()["error"]) == (409, True)


@pytest.mark.parametrize("of", ["chain", "member"])
def test_quarantine_of_chain_or_member_keeps_the_chain_off_a_route(control, scaler, linear, of):
    """A digest in quarantine is refused whether it is the chain's own or a member's; the hint releases that one."""
    control.upload("delays", linear, preprocess=SCALER)
    body = control.upload("delays", linear, preprocess=SCALER).json()
    digest = body["digest"] if of == "chain" else body["members"][0]["digest"]
    held = Quarantine(digest, "delays", "2", 1, SystemClock().now_s() + 600, "it was wrong")
    control.registry.commit(Change("monitor", "quarantine", "x", "it was wrong", (held,)))
    answer = control.put_route("late", ("champion", "2", 10_000), if_match=0, model="delays")
    assert answer.status_code == 409, answer.text
    assert digest in answer.json()["hint"]
