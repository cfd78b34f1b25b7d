"""A real Prometheus scrapes a real gateway, and every expression of every board gives data."""

from __future__ import annotations

import json
import math
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.services

GRAFANA = Path(__file__).parents[2] / "grafana"
FEATURES = 20
SPAN = "4s"  # of rates, with a scrape each half second


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    client: httpx.Client

    def query(self, expression: str) -> list[dict[str, object]]:
        """Return the series of an instant query."""
        answer = self.client.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer}"
        return answer["data"]["result"]


@pytest.fixture
def start_prometheus(tmp_path) -> Iterator[object]:
    """Start Prometheus with the shipped configuration, its target and interval replaced."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(target: str, until) -> Prometheus:
        config = (GRAFANA / "prometheus.yml").read_text().replace("127.0.0.1:8081", target).replace("5s", "500ms")
        (tmp_path / "prometheus.yml").write_text(config)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
        command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        processes.append(subprocess.Popen(command))
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

        def is_ready() -> bool:
            try:
                return client.get("/-/ready").status_code == 200
            except httpx.HTTPError:
                return False

        until(is_ready, within_s=60)
        return Prometheus(client)

    yield start
    for process in processes:
        process.terminate()
        process.wait(30)


def expressions() -> list[tuple[str, str]]:
    """Return every panel's title with each of its expressions, variables filled in as Grafana does for "All"."""
    found = []
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expression = target["expr"].replace("$__rate_interval", SPAN)
                for name in ("route", "version", "variant"):
                    expression = expression.replace(f"${name}", ".*")
                assert "$" not in expression, expression
                found.append((f"{path.stem}: {panel['title']}", expression))
    return found


def has_numbers(series: list[dict[str, object]]) -> bool:
    """Return whether there is data: at least one series, none of them NaN."""
    return bool(series) and all(not math.isnan(float(one["value"][1])) for one in series)


@pytest.mark.timeout(180)
def test_boards_have_data_for_every_expression(start_gateway, start_prometheus, write_linear_model, until, tmp_path):
    """With traffic, a shadow, a rollout and ground truth, every expression of every board answers with numbers."""
    gateway = start_gateway("--workers", "2")
    traffic = Traffic(gateway, write_linear_model, tmp_path)
    prometheus = start_prometheus(gateway.admin_url.removeprefix("http://"), until)
    unanswered = dict(enumerate(expressions()))
    assert unanswered

    def all_answered() -> bool:
        traffic.send(40)
        for number, (_, expression) in list(unanswered.items()):
            if has_numbers(prometheus.query(expression)):
                del unanswered[number]
        return not unanswered

    try:
        until(all_answered, within_s=60)
    except AssertionError:
        raise AssertionError(f"without data: {list(unanswered.values())}") from None


def test_prometheus_accepts_the_shipped_configuration():
    """`promtool` finds no fault in grafana/prometheus.yml."""
    subprocess.run(["promtool", "check", "config", str(GRAFANA / "prometheus.yml")], check=True, capture_output=True)


class Traffic:
    """Calls over a split with a shadow, each told its outcome."""

    def __init__(self, gateway, write_linear_model, directory: Path) -> None:
        self._client = httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {gateway.token}"}, timeout=30)
        self._random = np.random.default_rng(3)
        reference = directory / "reference.csv"
        names = [f"f{number}" for number in range(FEATURES)]
        rows = self._random.normal(size=(500, FEATURES))
        np.savetxt(reference, rows, delimiter=",", header=",".join(names), comments="")
        metadata = {
            "target": {"task": "binary", "output": "probability", "labels": ["no", "yes"], "positive": "yes"},
            "columns": names,
        }
        for seed in (1, 2, 3):
            artifact = write_linear_model(directory / f"{seed}.onnx", seed=seed)
            files = {
                "metadata": (None, json.dumps(metadata), "application/json"),
                "artifact": ("model.onnx", artifact.read_bytes(), "application/octet-stream"),
                "reference": ("reference.csv", reference.read_bytes(), "text/csv"),
            }
            answer = gateway.admin.post("/models/delays/versions", files=files)
            assert answer.status_code == 201, answer.text
        variants = [{"name": "champion", "version": "1", "weight": 10_000}]
        shadows = [{"name": "candidate", "version": "3", "fraction": 1.0}]
        gateway.put_route("delays", {"model": "delays", "variants": variants, "shadows": shadows})
        answer = gateway.admin.post("/routes/delays/rollouts", json={"challenger": "2", "plan": {"steps": [5_000]}})
        assert answer.status_code == 201, answer.text

    def send(self, count: int) -> None:
        """Send predictions with keys of their own, then the outcome of each."""
        records = []
        for _ in range(count):
            row = self._random.normal(size=FEATURES).tolist()
            tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": row}
            key = {"Gateway-Assignment-Key": f"key-{self._random.integers(1 << 40)}"}
            answer = self._client.post("/v2/models/delays/infer", json={"inputs": [tensor]}, headers=key)
            assert answer.status_code == 200, answer.text
            is_yes = answer.json()["outputs"][0]["data"][0] >= 0.5
            records.append({"prediction_id": answer.json()["parameters"]["prediction_id"], "value": "yes" if is_yes else "no"})
        assert self._client.post("/api/v1/ground-truth", json={"records": records}).status_code == 200
