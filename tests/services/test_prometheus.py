"""A real Prometheus scrapes a real gateway, and every expression of every board gives data."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

pytestmark = pytest.mark.services

GRAFANA = Path(__file__).parents[2] / "grafana"
FEATURES = 20
SEGMENT = FEATURES - 1  # the column that names a caller's segment
PLAN = {
    "steps": [5_000],
    "guardrails": [{"measure": "errors"}, {"measure": "loss"}, {"measure": "fairness", "column": f"f{SEGMENT}", "of": "loss"}],
}
SPAN = "4s"  # of rates, with a scrape each half second


LATER = ("gateway_monitor_drill_detection_requests",)  # there once a drill has ended, which takes longer than this test


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
        shutil.copytree(GRAFANA / "rules", tmp_path / "rules")
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
    """Every expression of every board answers with numbers after a rollout, a rollback, drift, late ground truth and a worker's
    death, and the counters say what the callers counted.
    """
    gateway = start_gateway("--workers", "2")
    traffic = Traffic(gateway, write_linear_model, tmp_path)
    prometheus = start_prometheus(gateway.admin_url.removeprefix("http://"), until)
    unanswered = dict(enumerate(expressions()))
    assert unanswered
    traffic.send("delays", 100)
    assert traffic.send_nonsense("delays") == 400
    os.kill(gateway.children()["w0"], signal.SIGKILL)

    def all_answered() -> bool:
        traffic.send("delays", 60, shift=3.0)  # which drifts
        traffic.send("fares", 30)
        for number, (_, expression) in list(unanswered.items()):
            if has_numbers(prometheus.query(expression)) or any(name in expression for name in LATER):
                del unanswered[number]
        rollouts = gateway.admin.get("/routes/fares/rollouts").json()["rollouts"]
        return not unanswered and rollouts[0]["state"] == "QUARANTINED"

    try:
        until(all_answered, within_s=60)
    except AssertionError:
        raise AssertionError(f"without data: {list(unanswered.values())}") from None
    check_rules(prometheus)
    until(lambda: counted(prometheus) == traffic.answers, within_s=20, every_s=0.5)
    changes = prometheus.query('gateway_route_change_timestamp_seconds{route="fares", action="rollout.rollback", by="monitor"}')
    [entry] = gateway.admin.get(
        "/audit", params={"order": "oldest", "after": int(changes[0]["metric"]["audit_entry"]) - 1}
    ).json()["entries"][:1]
    assert (entry["action"], entry["principal"]) == ("rollout.rollback", "monitor")
    assert float(changes[0]["value"][1]) == pytest.approx(entry["time_s"])


def check_rules(prometheus: Prometheus) -> None:
    """Check that each rule can be worked out, and that what it names is there; whether it holds is another matter."""
    groups = prometheus.client.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert rules
    for rule in rules:
        prometheus.query(rule["query"])
        for name in re.findall(r"(?<![\w:])gateway_[a-z0-9_]+", rule["query"]):
            assert prometheus.query(name), f"{rule['name']} names {name}"


def counted(prometheus: Prometheus) -> Counter[tuple[str, ...]]:
    """Return the answers to callers by route, variant, version and outcome, as the counters say."""
    by = ("route", "variant", "version", "outcome")
    series = prometheus.query(f'sum by ({", ".join(by)}) (gateway_predictions_total{{kind="live"}})')
    return Counter({tuple(one["metric"][label] for label in by): int(float(one["value"][1])) for one in series})


class Traffic:
    """Calls over a split with a shadow, each told its outcome with the calls after it.

    Attributes:
        answers: By route, variant, version and outcome, as the callers saw them.
    """

    def __init__(self, gateway, write_linear_model, directory: Path) -> None:
        self.answers: Counter[tuple[str, ...]] = Counter()
        self._client = httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {gateway.token}"}, timeout=30)
        self._random = np.random.default_rng(3)
        self._outcomes: list[dict[str, object]] = []
        reference = directory / "reference.csv"
        names = [f"f{number}" for number in range(FEATURES)]
        np.savetxt(reference, self._random.normal(size=(500, FEATURES)), delimiter=",", header=",".join(names), comments="")
        target = {"task": "binary", "output": "probability", "labels": ["no", "yes"], "positive": "yes"}
        metadata = json.dumps({"target": target, "columns": names})
        for model, scales in (("delays", (1.0, 1.0, 0.5)), ("fares", (1.0, -1.0))):  # the last one is always wrong
            for number, scale in enumerate(scales):
                artifact = write_linear_model(directory / f"{model}-{number}.onnx", scale=scale)
                files = {
                    "metadata": (None, metadata, "application/json"),
                    "artifact": ("model.onnx", artifact.read_bytes(), "application/octet-stream"),
                    "reference": ("reference.csv", reference.read_bytes(), "text/csv"),
                }
                answer = gateway.admin.post(f"/models/{model}/versions", files=files)
                assert answer.status_code == 201, answer.text
            variants = [{"name": "champion", "version": "1", "weight": 10_000}]
            shadows = [{"name": "candidate", "version": "3", "fraction": 1.0}] if model == "delays" else []
            gateway.put_route(model, {"model": model, "variants": variants, "shadows": shadows})
            answer = gateway.admin.post(f"/routes/{model}/rollouts", json={"challenger": "2", "plan": PLAN})
            assert answer.status_code == 201, answer.text

    def send(self, route: str, count: int, *, shift: float = 0.0) -> None:
        """Send predictions with keys of their own, then the outcomes of those that were sent before them."""
        before, self._outcomes = self._outcomes, []
        for _ in range(count):
            row = self._random.normal(loc=shift, size=FEATURES)
            row[SEGMENT] = self._random.integers(2)
            key = {"Gateway-Assignment-Key": f"key-{self._random.integers(1 << 40)}"}
            tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": row.tolist()}
            answer = self._post(f"/v2/models/{route}/infer", {"inputs": [tensor]}, key)
            assert answer.status_code == 200, answer.text
            version = answer.headers["Gateway-Version"]
            self.answers[route, answer.headers["Gateway-Variant"], version, "ok"] += 1
            is_yes = (answer.json()["outputs"][0]["data"][0] >= 0.5) is not (route == "fares" and version == "2")
            record = {"prediction_id": answer.headers["Gateway-Prediction-Id"], "value": "yes" if is_yes else "no"}
            self._outcomes.append(record)
        if before:
            assert self._post("/api/v1/ground-truth", {"records": before}, {}).status_code == 200

    def send_nonsense(self, route: str) -> int:
        """Send what is no prediction request and return the status."""
        return self._post(f"/v2/models/{route}/infer", {"inputs": "none"}, {}).status_code

    def _post(self, path: str, body: object, headers: dict[str, str]) -> httpx.Response:
        """Post, once more where a killed worker took the connection along before it took the request."""
        try:
            return self._client.post(path, json=body, headers=headers)
        except httpx.TransportError:
            return self._client.post(path, json=body, headers=headers)
