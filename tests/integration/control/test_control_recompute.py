"""A logged prediction is run again on a real control plane: the artifact by its digest, in a process of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from adapters.runtimes.chained import ChainedRuntime
from adapters.runtimes.onnx import OnnxRuntime
from gateway.core.models import Runtime
from gateway.core.records import Outcome
from gateway.core.tensors import Datatype, Tensor
from tests.records import numbered_id, prediction

BATCH_ROWS, POSITION, ROWS = 33, 20, 3


@pytest.fixture
def answered(control, write_linear_model, tmp_path):
    """Return a control plane and the record of what a version answered to three rows within a batch of 33."""
    assert control.upload("delays", write_linear_model(tmp_path / "m.onnx")).status_code == 201
    version = control.registry.version("delays", "1")
    return control, _record(version, OnnxRuntime().load(control.artifacts.path(version.digest), version), "features")


def _record(version, instance, name):
    """Return what an instance of a version answered to three rows within its batch."""
    batch = np.random.default_rng(3).normal(size=(BATCH_ROWS, 20)).astype(np.float32)
    answer = instance.predict({name: batch})["probability"]
    mine = slice(POSITION, POSITION + ROWS)
    return prediction(
        time_s=1_700_000_000.0,
        version=version.version,
        digest=version.digest,
        inputs=(Tensor(name, Datatype.FP32, batch[mine]),),
        outputs=(Tensor("probability", Datatype.FP32, answer[mine]),),
        batch_rows=BATCH_ROWS,
        batch_position=POSITION,
    )


def test_recomputing_finds_every_bit(answered):
    """What the version answered comes out again to the bit; an answer that is one bit off does not, and it says by how much."""
    control, record = answered
    data = record.outputs[0].data.copy()
    data[1, 0] = np.nextafter(data[1, 0], np.float32(2.0))
    altered = replace(record, prediction_id=numbered_id(2), outputs=(Tensor("probability", Datatype.FP32, data),))
    control.write_log(record, altered)
    found = control.admin.post(f"/api/v1/predictions/{numbered_id(1)}/recompute").json()
    assert (found["is_equal"], found["batch_rows"]) == (True, BATCH_ROWS)
    assert found["outputs"] == [{"name": "probability", "elements": 3, "unequal": 0, "largest_difference": 0.0}]
    found = control.admin.post(f"/api/v1/predictions/{numbered_id(2)}/recompute").json()
    assert (found["is_equal"], found["outputs"][0]["unequal"]) == (False, 1)
    assert 0.0 < found["outputs"][0]["largest_difference"] < 1e-6


def test_chain_is_recomputed_whole(control, write_linear_model, write_scaling_model, tmp_path):
    """A chain's answer comes out again to the bit, every member run on what the one before it gave."""
    assert control.upload("scaler", write_scaling_model(tmp_path / "s.onnx", 0.5, features=20)).status_code == 201
    before = {"model": "scaler", "version": "1"}
    assert control.upload("delays", write_linear_model(tmp_path / "m.onnx"), preprocess=before).status_code == 201
    version = control.registry.version("delays", "1")
    chain = ChainedRuntime({Runtime.ONNX: OnnxRuntime()}, control.artifacts)
    control.write_log(_record(version, chain.load(control.artifacts.path(version.digest), version), "raw"))
    found = control.admin.post(f"/api/v1/predictions/{numbered_id(1)}/recompute").json()
    assert (found["is_equal"], found["digest"]) == (True, version.digest)
    assert found["runtime_version"].count("+") == 1


def test_recomputing_refuses_what_has_no_answer_or_artifact(answered):
    """A failed prediction, another digest than the version's, inputs that are not logged and an unknown id are refused."""
    control, record = answered
    failed = replace(record, prediction_id=numbered_id(2), outcome=Outcome.FAILED, outputs=())
    other = replace(record, prediction_id=numbered_id(3), digest="f" * 64)
    hidden = replace(record, prediction_id=numbered_id(5), hashed=("features",))
    control.write_log(failed, other, hidden)
    refused = [control.admin.post(f"/api/v1/predictions/{numbered_id(number)}/recompute") for number in (2, 3, 4, 5)]
    assert [answer.status_code for answer in refused] == [422, 422, 404, 422]
    assert "does not have features" in refused[3].json()["error"]
    assert "failed" in refused[0].json()["error"]
    assert "digest" in refused[1].json()["error"]
    assert control.client_with("read").post(f"/api/v1/predictions/{numbered_id(2)}/recompute").status_code == 403
