"""Statistics with several workers on one port."""

from __future__ import annotations

import httpx


def test_every_worker_tells_the_statistics_of_all(start_gateway, until, write_linear_model, tmp_path):
    """Requests that several workers answered are in the statistics of each of them."""
    gateway = start_gateway("--workers", "2")
    gateway.register("m", write_linear_model(tmp_path / "m.onnx"))
    tensor = {"name": "features", "shape": [2, 20], "datatype": "FP32", "data": [0.5] * 40}

    def answers() -> bool:
        return httpx.post(f"{gateway.url}/v2/models/m/infer", json={"inputs": [tensor]}).status_code == 200

    until(lambda: all(answers() for _ in range(4)))

    def told() -> tuple[int, int]:
        [found] = httpx.get(f"{gateway.url}/v2/models/m/stats").json()["model_stats"]
        return found["inference_stats"]["success"]["count"], found["inference_count"]

    before, _ = told()
    assert all(answers() for _ in range(30))  # each on a connection of its own
    until(lambda: {told() for _ in range(20)} == {(before + 30, 2 * (before + 30))})
    samples = httpx.get(f"{gateway.admin_url}/metrics").text.splitlines()
    by_worker = [line for line in samples if line.startswith("gateway_predictions_total") and 'outcome="ok"' in line]
    assert len(by_worker) == 2, "both workers answered some"
