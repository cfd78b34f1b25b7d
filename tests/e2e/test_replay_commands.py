"""`replay` and `audit verify --recompute` on a gateway that rolled a version back by itself, from archive and open log."""

from __future__ import annotations

import contextlib
import http.client
import json
import sqlite3
import threading
import time

import numpy as np
from typer.testing import CliRunner, Result

from gateway.commands.app import app

FEATURES = 20
THREADS = 8
ACT_S = 60.0
DRILL_S = 300.0  # a drill takes its share of the time, so what a slow machine needs for its slices counts 200 times
TARGET = {"task": "binary", "output": "probability", "labels": ["no", "yes"], "positive": "yes"}
SMALL = {"HEADGATE_LOG_SEGMENT_AGE_S": "1", "HEADGATE_ARCHIVE_POLL_S": "0.2"}  # so that a part is archived and a part is not


def headgate(gateway, *words: object) -> Result:
    """Run the command line on a gateway, in this process."""
    return CliRunner().invoke(app, [*map(str, words), "--data-dir", str(gateway.data_dir)])


def test_past_is_decided_and_answered_again(start_gateway, until, write_linear_model, tmp_path):
    """The gateway's own rollback is found again with its evidence, a plan that asks for more acts later, a version gives its
    own answers again to the bit and another version's not."""
    gateway = start_gateway("--workers", "2", environment=SMALL)
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"), target=TARGET)
    gateway.register("delays", write_linear_model(tmp_path / "2.onnx", scale=-1.0), target=TARGET)
    gateway.put_route("delays", {"model": "delays", "variants": [{"name": "champion", "version": "1", "weight": 10_000}]})
    begun = gateway.admin.post("/routes/delays/rollouts", json={"challenger": "2", "plan": {"steps": [2_000, 5_000]}})
    assert begun.status_code == 201, begun.text
    end_s = time.monotonic() + ACT_S
    round_ = 0
    while gateway.admin.get(f"/routes/delays/rollouts/{begun.json()['id']}").json()["state"] == "CANARY":
        _send(gateway, round_, truth=True)
        round_ += 1
        assert time.monotonic() < end_s, "the monitor did not act"
    since_s = time.time()
    _send(gateway, -1, truth=False)
    until(lambda: list((gateway.data_dir / "archive").rglob("route=delays/*/*.parquet")))

    verified = headgate(gateway, "audit", "verify", "--recompute", "--json")
    assert verified.exit_code == 0, verified.output
    shown = json.loads(verified.stdout)
    assert [(one["action"], one["finding"]) for one in shown["decisions"]] == [("rollout.rollback", "same")]
    assert shown["dropped_until_s"] == 0.0
    assert "the same" in headgate(gateway, "audit", "verify", "--recompute").stdout

    plan = tmp_path / "plan.yaml"
    plan.write_text("steps:\n- weight: 2000  # of 10,000\n- 5000\n")
    found = json.loads(headgate(gateway, "replay", "--route", "delays", "--plan", plan, "--json").stdout)
    [rollout] = found["rollouts"]
    [entry] = [
        one for one in gateway.admin.get("/audit", params={"limit": 100}).json()["entries"] if one["principal"] == "monitor"
    ]
    assert [(act["event"], act["time_s"]) for act in rollout["acts"]] == [("convict", entry["evidence"]["log_time_s"])]
    assert rollout["acts"][0]["evidence"]["guardrails"] == entry["evidence"]["guardrails"]
    plan.write_text("false_rollbacks_per_year: 0.000001\nrollouts_per_year: 1000\n")
    assert "rollout" in headgate(gateway, "replay", "--route", "delays", "--plan", plan).stdout
    plan.write_text("steps: many\n")
    assert headgate(gateway, "replay", "--route", "delays", "--plan", plan).exit_code == 2
    assert headgate(gateway, "replay", "--route", "delays").exit_code == 2

    until(lambda: json.loads(headgate(gateway, "audit", "verify", "--json").stdout)["anchors"]["newest_seq"] == entry["seq"])
    with contextlib.closing(sqlite3.connect(gateway.data_dir / "registry.db", isolation_level=None)) as registry:
        (kept,) = registry.execute("SELECT seq, hash, body FROM audit WHERE seq = ?", (entry["seq"],))
        registry.execute("DELETE FROM audit WHERE seq = ?", kept[:1])  # the chain before it is whole
        shortened = headgate(gateway, "audit", "verify")
        registry.execute("INSERT INTO audit VALUES (?, ?, ?)", kept)
    assert (shortened.exit_code, f"{kept[0]}:{kept[1][:12]}" in shortened.stderr) == (1, True)
    assert "the prediction log says the same" in headgate(gateway, "audit", "verify").stdout

    until(lambda: gateway.admin.get("/monitor").json()["drills"]["harm"]["last"], within_s=DRILL_S, every_s=0.5)
    shown = headgate(gateway, "monitor", "show")
    assert (shown.exit_code, "1 detected" in shown.stdout) == (0, True), shown.output

    assert gateway.stop() == 0
    whole = json.loads(headgate(gateway, "replay", "--route", "delays", "--version", 1, "--json").stdout)
    assert 0.0 < whole["equal_share"] < 1.0
    assert whole["decisions_changed"] > 0
    own = json.loads(headgate(gateway, "replay", "--route", "delays", "--version", 1, "--since", since_s, "--json").stdout)
    assert (own["compared"], own["equal_share"], own["decisions_changed"]) == (THREADS * 25, 1.0, 0)
    other = json.loads(headgate(gateway, "replay", "--route", "delays", "--version", 2, "--since", since_s, "--json").stdout)
    assert (other["equal_share"], other["decisions_changed"]) == (0.0, other["decisions"])
    assert "100.0000%" in headgate(gateway, "replay", "--route", "delays", "--version", 1, "--since", since_s).stdout
    assert headgate(gateway, "replay", "--route", "delays", "--version", 9).exit_code == 1


def _send(gateway, round_: int, *, truth: bool) -> None:
    """Predict from several threads at once, so that requests share batches, and post what came true."""
    senders = [threading.Thread(target=_send_some, args=(gateway, round_, seed, truth)) for seed in range(THREADS)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()


def _send_some(gateway, round_: int, seed: int, truth: bool) -> None:
    connection = http.client.HTTPConnection(gateway.url.removeprefix("http://"), timeout=30)
    random = np.random.default_rng([round_ + 1, seed])
    truths = []
    for number in range(25):
        tensor = {"name": "features", "shape": [1, FEATURES], "datatype": "FP32", "data": random.normal(size=FEATURES).tolist()}
        key = {"Gateway-Assignment-Key": f"key-{round_}-{seed}-{number}"}
        connection.request("POST", "/v2/models/delays/infer", json.dumps({"inputs": [tensor]}), key)
        answer = json.loads(connection.getresponse().read())
        is_yes = (answer["outputs"][0]["data"][0] >= 0.5) == (answer["model_version"] == "1")
        truths.append({"prediction_id": answer["parameters"]["prediction_id"], "value": "yes" if is_yes else "no"})
    if truth:
        bearer = {"Authorization": f"Bearer {gateway.token}"}
        connection.request("POST", "/api/v1/ground-truth", json.dumps({"records": truths}), bearer)
        assert connection.getresponse().read()
    connection.close()
