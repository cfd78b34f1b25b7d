"""Loading and unloading over the protocol with several workers."""

from __future__ import annotations

import os
import signal

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families


@pytest.fixture
def gateway(start_gateway, write_linear_model, tmp_path):
    """Return a gateway of two workers with two versions, of which the first serves."""
    started = start_gateway("--workers", "2")
    for seed in (1, 2):
        started.register("m", write_linear_model(tmp_path / f"{seed}.onnx", seed=seed))
    return started


def move(gateway, verb: str, version: str) -> httpx.Response:
    """Load or unload at whichever worker takes the connection."""
    headers = {"Authorization": f"Bearer {gateway.token}"}
    body = {"parameters": {"version": version}}
    return httpx.post(f"{gateway.url}/v2/repository/models/m/{verb}", json=body, headers=headers, timeout=60)


def warm_at(gateway, version: str) -> set[str]:
    """Return the workers that have a version in memory."""
    text = httpx.get(f"{gateway.admin_url}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {
        one.labels["process"]
        for one in samples
        if one.name == "gateway_model_memory_bytes" and one.labels["version"] == version and one.value > 0
    }


def test_load_and_unload_are_of_every_worker(gateway, until):
    """When the answer is there every worker has loaded, or let go, the version; a worker that starts later has it too, and
    retiring lets it go as well.
    """
    assert warm_at(gateway, "2") == set()
    assert move(gateway, "load", "2").status_code == 200
    assert warm_at(gateway, "2") == {"w0", "w1"}
    assert gateway.admin.get("/models/m/versions/2").json()["is_held"] is True
    before = gateway.children()
    os.kill(before["w0"], signal.SIGKILL)
    until(lambda: gateway.children().get("w0") not in (None, before["w0"]))
    until(lambda: warm_at(gateway, "2") == {"w0", "w1"})
    assert move(gateway, "unload", "2").status_code == 200
    assert warm_at(gateway, "2") == set()
    assert move(gateway, "load", "2").status_code == 200
    assert gateway.admin.post("/models/m/versions/2/retire", json={"reason": "old"}).status_code == 200
    until(lambda: warm_at(gateway, "2") == set())
    assert gateway.admin.get("/models/m/versions/2").json()["is_held"] is False
    assert move(gateway, "load", "2").status_code == 404
    actions = [entry["action"] for entry in gateway.admin.get("/audit").json()["entries"]]
    assert {"version.load", "version.unload"} <= set(actions)


def test_load_that_fails_at_another_worker_says_so(gateway, tmp_path):
    """The answer names the worker that could not load it; asked again, that one tries at once."""
    digest = gateway.admin.get("/models/m/versions/2").json()["digest"]
    artifact = gateway.data_dir / "artifacts" / digest
    headers = {"Authorization": f"Bearer {gateway.token}"}
    with httpx.Client(base_url=gateway.url, headers=headers, timeout=60) as client:  # one connection, so one worker
        tensor = {"name": "features", "shape": [1, 20], "datatype": "FP32", "data": [0.5] * 20}
        assert client.post("/v2/models/m/versions/2/infer", json={"inputs": [tensor]}).status_code == 200
        (here,) = warm_at(gateway, "2")
        other = "w1" if here == "w0" else "w0"
        aside = artifact.rename(tmp_path / "aside")
        load = "/v2/repository/models/m/load"
        answer = client.post(load, json={"parameters": {"version": "2"}})
        assert (answer.status_code, f"worker {other} could not load" in answer.text) == (503, True), answer.text
        aside.rename(artifact)
        assert client.post(load, json={"parameters": {"version": "2"}}).status_code == 200
    assert warm_at(gateway, "2") == {"w0", "w1"}
