"""Processes die under load, and the log still holds every answer exactly once."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime

from adapters.logs.segments import SegmentReader
from gateway.core.records import Kind, Offset, Outcome, PredictionRecord

REQUESTS = 20_000
THREADS = 16
KEYS = 400
FEATURES = 20


def test_every_answer_is_logged_once_while_processes_die(start_gateway, until, write_linear_model, tmp_path):
    """Two worker deaths and one of the monitor lose no answered prediction, repeat none, and move no key."""
    gateway = start_gateway("--workers", "2")
    artifacts = {
        str(number): write_linear_model(tmp_path / f"{number}.onnx", scale=scale)
        for number, scale in ((1, 1.0), (2, 0.9), (3, 0.8))
    }
    for artifact in artifacts.values():
        gateway.register("delays", artifact)
    gateway.put_route(
        "delays",
        {
            "model": "delays",
            "variants": [{"name": "a", "version": "1", "weight": 9000}, {"name": "b", "version": "2", "weight": 1000}],
            "shadows": [{"name": "s", "version": "3", "fraction": 1.0}],
        },
    )
    answers: list[dict[str, object]] = []
    killing = threading.Thread(target=_kill_while, args=(gateway, answers, until))
    callers = [threading.Thread(target=_call, args=(gateway.url, seed, answers)) for seed in range(THREADS)]
    for thread in (*callers, killing):
        thread.start()
    for thread in (*callers, killing):
        thread.join()
    assert len(answers) == REQUESTS
    assert gateway.stop() == 0

    records = _records(gateway.data_dir / "log")
    live = {record.prediction_id: record for record in records if record.kind is Kind.LIVE}
    times = Counter(record.prediction_id for record in records)
    assert [id for id, count in times.items() if count > 1] == []
    missing = [answer["prediction_id"] for answer in answers if answer["prediction_id"] not in live]
    assert missing == []
    for answer in answers:
        record = live[str(answer["prediction_id"])]
        assert (record.version, record.variant, record.outcome) == (answer["version"], answer["variant"], Outcome.OK)
    by_key: dict[str, set[str]] = {}
    for record in live.values():
        by_key.setdefault(record.assignment_key, set()).add(record.assigned)
    assert len(by_key) == KEYS
    assert [key for key, assigned in by_key.items() if len(assigned) > 1] == []
    assert len({record.batch_rows for record in live.values()}) > 3, "batches of different sizes were meant to be among them"
    _check_bits(records, artifacts)


def _call(url: str, seed: int, answers: list[dict[str, object]]) -> None:
    """Send this thread's share of the requests over one connection, made anew when its worker dies."""
    random = np.random.default_rng(seed)
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    done = 0
    while done < REQUESTS // THREADS:
        rows = int(random.integers(1, 6))
        values = random.normal(size=(rows, FEATURES)).astype(np.float32).tolist()
        if random.random() < 0.1:
            values[0][0] = None  # NaN, as other servers read it
        body = json.dumps({"inputs": [{"name": "features", "shape": [rows, FEATURES], "datatype": "FP32", "data": values}]})
        try:
            connection.request(
                "POST", "/v2/models/delays/infer", body, {"Gateway-Assignment-Key": f"key-{random.integers(KEYS)}"}
            )
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            continue
        assert answer.status == 200, content
        parsed = json.loads(content)
        answers.append(
            {
                "prediction_id": answer.headers["Gateway-Prediction-Id"],
                "version": parsed["model_version"],
                "variant": parsed["parameters"]["variant"],
            }
        )
        done += 1
    connection.close()


def _kill_while(gateway, answers: list[dict[str, object]], until) -> None:
    for share, name in ((0.2, "w0"), (0.45, "monitor"), (0.6, "w0")):
        until(lambda share=share: len(answers) > share * REQUESTS, within_s=100)
        before = gateway.children()
        os.kill(before[name], signal.SIGKILL)
        until(lambda name=name, pid=before[name]: gateway.children().get(name, pid) != pid)


def _records(directory: Path) -> list[PredictionRecord]:
    reader, records = SegmentReader(directory), []
    for stream in reader.streams():
        at = Offset(0)
        while (page := reader.read(stream, at)).records:
            records += [record for _, record in page.records if isinstance(record, PredictionRecord)]
            at = page.next
    return records


def _check_bits(records: list[PredictionRecord], artifacts: dict[str, Path]) -> None:
    """Recompute each answer at its recorded batch size and position and compare every bit."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {version: onnxruntime.InferenceSession(path.read_bytes(), options) for version, path in artifacts.items()}
    has_nan = False
    for record in records:
        if record.outcome is not Outcome.OK:
            continue
        rows = record.inputs[0].data
        has_nan = has_nan or bool(np.isnan(rows).any())
        batch = np.zeros((record.batch_rows, FEATURES), np.float32)
        batch[record.batch_position : record.batch_position + len(rows)] = rows
        (again,) = sessions[record.version].run(["probability"], {"features": batch})
        found = again[record.batch_position : record.batch_position + len(rows)]
        assert found.tobytes() == record.outputs[0].data.tobytes(), record.prediction_id
    assert has_nan
