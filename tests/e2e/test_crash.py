"""Processes die under load, and the log still holds every answer exactly once, to the bit."""

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
import pytest

from adapters.logs.reading import SegmentReader
from gateway.core.records import Kind, Offset, Outcome, PredictionRecord
from gateway.demo.flights import Flights, load_flights
from gateway.demo.training import INPUT, train_versions

REQUESTS = 20_000
THREADS = 16
ROUTE = "late-arrival"


@pytest.mark.timeout(300)
def test_every_answer_is_logged_once_while_processes_die(start_gateway, until, tmp_path):
    """Two worker deaths and one of the monitor lose no answered prediction, repeat none, and move no key."""
    gateway = start_gateway("--workers", "2")
    flights = load_flights()
    candidates = train_versions(flights, tmp_path)
    for candidate in candidates:
        gateway.register(ROUTE, candidate.artifact, target=candidate.metadata["target"])
    gateway.put_route(
        ROUTE,
        {
            "model": ROUTE,
            "variants": [{"name": "a", "version": "1", "weight": 9000}, {"name": "b", "version": "2", "weight": 1000}],
            "shadows": [{"name": "s", "version": "3", "fraction": 1.0}],
        },
    )
    answers: list[dict[str, object]] = []
    killing = threading.Thread(target=_kill_while, args=(gateway, answers, until))
    callers = [threading.Thread(target=_call, args=(gateway.url, seed, flights, answers)) for seed in range(THREADS)]
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
        if record.is_keyed:  # what was running when a worker died is not, and shares one key
            by_key.setdefault(record.assignment_key, set()).add(record.assigned)
    assert len(by_key) > 1_000
    assert [key for key, assigned in by_key.items() if len(assigned) > 1] == []
    _check_bits(records, {str(number): candidate.artifact for number, candidate in enumerate(candidates, 1)})


def _call(url: str, seed: int, flights: Flights, answers: list[dict[str, object]]) -> None:
    """Send this thread's share of the requests over one connection, made anew when its worker dies."""
    random = np.random.default_rng(seed)
    host = url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=30)
    done = 0
    while done < REQUESTS // THREADS:
        rows, first = int(random.integers(1, 6)), int(random.integers(len(flights) - 5))
        values = [[None if np.isnan(v) else float(v) for v in row] for row in flights.features[first : first + rows]]
        body = json.dumps({"inputs": [{"name": INPUT, "shape": [rows, len(values[0])], "datatype": "FP32", "data": values}]})
        key = {"Gateway-Assignment-Key": str(flights.tails[first])}
        try:
            connection.request("POST", f"/v2/models/{ROUTE}/infer", body, key)
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
    has_nan, joined = False, 0
    for record in records:
        if record.outcome is not Outcome.OK:
            continue
        rows, at = record.inputs[0].data, record.batch_position
        has_nan = has_nan or bool(np.isnan(rows).any())
        joined += record.batch_rows > len(rows)
        batch = np.zeros((record.batch_rows, rows.shape[1]), np.float32)
        batch[at : at + len(rows)] = rows
        again = sessions[record.version].run([output.name for output in record.outputs], {INPUT: batch})
        for found, answered in zip(again, record.outputs, strict=True):
            assert found[at : at + len(rows)].tobytes() == answered.data.tobytes(), record.prediction_id
    assert has_nan
    assert joined > 1_000, "requests that ran together were meant to be among them"
