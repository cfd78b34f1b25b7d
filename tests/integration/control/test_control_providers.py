"""Registering versions for execution providers."""

from __future__ import annotations

import pytest

FEATURES = 4


def test_provider_that_is_not_there_is_refused_with_those_that_are(control, write_linear_model, tmp_path):
    """A provider that this build of ONNX Runtime lacks is a 422 that lists what it has, alone and in a chain."""
    artifact = write_linear_model(tmp_path / "m.onnx", features=FEATURES)
    scaler = write_linear_model(tmp_path / "s.onnx", features=FEATURES)
    assert control.upload("scaler", scaler).status_code == 201
    for more in ({}, {"preprocess": {"model": "scaler", "version": "1"}}):
        answer = control.upload("m", artifact, providers=["cuda", "cpu"], **more)
        assert (answer.status_code, "'cuda' is not in" in answer.json()["error"], "has cpu" in answer.json()["error"]) == (
            422,
            True,
            True,
        ), answer.text
    assert control.admin.get("/api/v1/models/m").status_code == 404


@pytest.mark.parametrize("providers", [["CUDA"], ["cpu", "cpu"], "cpu", [1]])
def test_what_is_no_provider_is_refused(control, write_linear_model, tmp_path, providers):
    """Another form is a 400 that names the field."""
    answer = control.upload("m", write_linear_model(tmp_path / "m.onnx"), providers=providers)
    assert (answer.status_code, "metadata.providers" in answer.json()["error"]) == (400, True), answer.text


def test_providers_stand_with_the_version(control, write_linear_model, tmp_path):
    """What is there is taken and shown."""
    answer = control.upload("m", write_linear_model(tmp_path / "m.onnx"), providers=["cpu"])
    assert (answer.status_code, answer.json()["providers"], answer.json()["not_warm"]) == (201, ["cpu"], ""), answer.text
    assert control.admin.get("/api/v1/models/m/versions/1").json()["providers"] == ["cpu"]
