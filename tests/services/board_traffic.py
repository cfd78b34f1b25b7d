"""Traffic of every kind, whose senders count what they were answered: what the gateway's counters are held against."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import httpx
import numpy as np

FEATURES = 20
SEGMENT = FEATURES - 1  # the column that names a caller's segment
PLAN = {
    "steps": [5_000],
    "guardrails": [{"measure": "errors"}, {"measure": "loss"}, {"measure": "fairness", "column": f"f{SEGMENT}", "of": "loss"}],
}
CALLERS = 16  # at once; all of them on one worker once in 65,536 runs
MORTAL = "rides"  # the route that is called while a worker dies; it has no shadow, whose copies would die with it
HOT = 2.0  # of the first feature, at which fragile versions fail
Label = tuple[str, ...]


class Traffic:
    """Calls over routes with a rollout and a shadow, with a challenger that fails, and with versions that fail everybody.

    Attributes:
        answers: By kind, route, variant, version and outcome, as the callers saw them.
        refused: By reason; a prediction that failed is none of them.
        failovers: By route, variant and version that answered in another's place.
    """

    def __init__(self, gateway, write_linear_model, write_fragile_model, directory: Path) -> None:
        self.answers: Counter[Label] = Counter()
        self.refused: Counter[Label] = Counter()
        self.failovers: Counter[Label] = Counter()
        self.gateway = gateway
        self._client = httpx.Client(base_url=gateway.url, headers={"Authorization": f"Bearer {gateway.token}"}, timeout=60)
        self._random = np.random.default_rng(3)
        self._outcomes: list[dict[str, object]] = []
        names = [f"f{number}" for number in range(FEATURES)]
        reference = directory / "reference.csv"
        np.savetxt(reference, self._random.normal(size=(500, FEATURES)), delimiter=",", header=",".join(names), comments="")
        target = {"task": "binary", "output": "probability", "labels": ["no", "yes"], "positive": "yes"}
        for model, scales in (("delays", (1.0, 1.0, 0.5)), ("fares", (1.0, -1.0))):  # the last one is always wrong
            for number, scale in enumerate(scales):
                artifact = write_linear_model(directory / f"{model}-{number}.onnx", scale=scale)
                files = {
                    "metadata": (None, json.dumps({"target": target, "columns": names}), "application/json"),
                    "artifact": ("model.onnx", artifact.read_bytes(), "application/octet-stream"),
                    "reference": ("reference.csv", reference.read_bytes(), "text/csv"),
                }
                answer = gateway.admin.post(f"/models/{model}/versions", files=files)
                assert answer.status_code == 201, answer.text
            shadows = [{"name": "candidate", "version": "3", "fraction": 1.0}] if model == "delays" else []
            gateway.put_route(model, {"model": model, "variants": [_variant("champion", "1", 10_000)], "shadows": shadows})
            answer = gateway.admin.post(f"/routes/{model}/rollouts", json={"challenger": "2", "plan": PLAN})
            assert answer.status_code == 201, answer.text
        gateway.register("rides", write_linear_model(directory / "rides-1.onnx"))
        gateway.register("rides", write_fragile_model(directory / "rides-2.onnx"))
        gateway.register("rides", write_fragile_model(directory / "rides-3.onnx", offsets=(0.0, float("nan"))))
        damaged = gateway.register("rides", write_fragile_model(directory / "rides-4.onnx", offsets=(0.0, 1.0)))
        _damage(gateway.data_dir / "artifacts" / str(damaged["digest"]))
        both = [_variant("champion", "1", 5_000), _variant("challenger", "2", 5_000)]
        gateway.put_route("rides", {"model": "rides", "variants": both})
        gateway.put_route("tolls", {"model": "rides", "variants": [_variant("only", "2", 10_000)]})
        gateway.put_route("ferries", {"model": "rides", "variants": [_variant("only", "3", 10_000)]})

    def send(self, route: str, count: int, *, shift: float = 0.0) -> None:
        """Send predictions with keys of their own, then the outcomes of those that were sent before them."""
        before, self._outcomes = self._outcomes, []
        for _ in range(count):
            row = self._random.normal(loc=shift, size=FEATURES)
            row[SEGMENT] = self._random.integers(2)
            answer = self._answered(route, row, f"key-{self._random.integers(1 << 40)}")
            is_yes = answer.json()["outputs"][0]["data"][0] >= 0.5
            is_wrong = route == "fares" and answer.headers["Gateway-Version"] == "2"
            record = {
                "prediction_id": answer.headers["Gateway-Prediction-Id"],
                "value": "yes" if is_yes is not is_wrong else "no",
            }
            self._outcomes.append(record)
        if before:
            assert self._client.post("/api/v1/ground-truth", json={"records": before}).status_code == 200

    def send_what_fails(self, count: int) -> None:
        """Send what a challenger fails and its champion answers, what nobody answers, and what is no proper request."""
        calm, hot = np.zeros(FEATURES), np.full(FEATURES, HOT)
        for number in range(count):
            key = f"ride-{number}"
            assigned = self._answered("rides", calm, key).headers["Gateway-Variant"]
            answer = self._answered("rides", hot, key)
            assert answer.headers["Gateway-Variant"] == "champion"
            if assigned != "champion":
                self.failovers["rides", "champion", "1"] += 1
            for route, version, outcome in (("tolls", "2", "failed"), ("ferries", "3", "invalid")):
                self._answered(route, calm, key)
                assert self._infer(route, hot, key).status_code == 500
                self.answers["live", route, "only", version, outcome] += 1
            self._answered("delays/versions/1", calm, key)
            self._refused(400, "MalformedRequest", self._client.post("/v2/models/delays/infer", json={"inputs": "none"}))
            self._refused(400, "SignatureMismatch", self._infer("delays", calm[1:], key))
            self._refused(504, "DeadlineExceeded", self._infer("delays", calm, key, timeout=1))
            self._refused(500, "ArtifactCorrupt", self._infer("rides/versions/4", calm, key))

    def send_while_a_worker_dies(self, until) -> tuple[int, int]:
        """Kill a worker while it owes answers to some of many callers; return how many it owed, and how many never came."""
        callers = [_Caller(self.gateway.url, number) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        try:
            _goes_on(callers, until)
            worker = self.gateway.children()["w0"]
            os.kill(worker, signal.SIGSTOP)  # so that it owes answers for certain
            _count_grows(callers, 100, until)
            before = [caller.count for caller in callers]
            _count_grows(callers, 200, until)
            owed = sum(caller.count == count for caller, count in zip(callers, before, strict=True))
            os.kill(worker, signal.SIGKILL)
            until(lambda: self.gateway.children().get("w0", worker) != worker, within_s=60)
            _goes_on(callers, until)
        finally:
            for caller in callers:
                caller.is_over.set()
            for caller in callers:
                caller.join(60)
        for caller in callers:
            self.answers += caller.answers
        return owed, sum(caller.unanswered for caller in callers)

    def _answered(self, path: str, row: np.ndarray, key: str) -> httpx.Response:
        answer = self._infer(path, row, key)
        assert answer.status_code == 200, answer.text
        kind, route = ("pinned" if "/" in path else "live"), path.split("/", maxsplit=1)[0]
        self.answers[kind, route, answer.headers["Gateway-Variant"], answer.headers["Gateway-Version"], "ok"] += 1
        return answer

    def _refused(self, status: int, reason: str, answer: httpx.Response) -> None:
        assert answer.status_code == status, answer.text
        self.refused[(reason,)] += 1

    def _infer(self, path: str, row: np.ndarray, key: str, **parameters: object) -> httpx.Response:
        return self._client.post(f"/v2/models/{path}/infer", json=_body(row, parameters), headers=_keyed(key))


class _Caller(threading.Thread):
    """One of many: a connection of its own, made anew when its worker dies.

    Attributes:
        count: Answers that came.
        unanswered: Requests whose connection broke.
    """

    def __init__(self, url: str, number: int) -> None:
        super().__init__(daemon=True)
        self.answers: Counter[Label] = Counter()
        self.count = self.unanswered = 0
        self.is_over = threading.Event()
        self._host = url.removeprefix("http://")
        self._number = number

    def run(self) -> None:
        """Call until it is over."""
        connection = http.client.HTTPConnection(self._host, timeout=60)
        body, sent = json.dumps(_body(np.zeros(FEATURES), {})), 0
        while not self.is_over.is_set():
            sent += 1
            try:
                connection.request("POST", f"/v2/models/{MORTAL}/infer", body, _keyed(f"caller-{self._number}-{sent}"))
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                self.unanswered += 1
                connection.close()
                continue
            self.count += 1
            outcome = "ok" if answer.status == 200 else f"status {answer.status}"
            self.answers["live", MORTAL, answer.headers["Gateway-Variant"], answer.headers["Gateway-Version"], outcome] += 1
        connection.close()


def _goes_on(callers: list[_Caller], until) -> None:
    """Wait until each caller had some more answers."""
    before = [caller.count for caller in callers]
    until(lambda: all(caller.count > 10 + count for caller, count in zip(callers, before, strict=True)), within_s=60)


def _count_grows(callers: list[_Caller], by: int, until) -> None:
    before = sum(caller.count for caller in callers)
    until(lambda: sum(caller.count for caller in callers) > before + by, within_s=60)


def _damage(artifact: Path) -> None:
    """Change an artifact's last byte, as a disk may."""
    content = artifact.read_bytes()
    artifact.chmod(0o600)
    artifact.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def _variant(name: str, version: str, weight: int) -> dict[str, object]:
    return {"name": name, "version": version, "weight": weight}


def _body(row: np.ndarray, parameters: dict[str, object]) -> dict[str, object]:
    tensor = {"name": "features", "shape": [1, len(row)], "datatype": "FP32", "data": row.tolist()}
    return {"inputs": [tensor], "parameters": parameters}


def _keyed(key: str) -> dict[str, str]:
    return {"Gateway-Assignment-Key": key}
