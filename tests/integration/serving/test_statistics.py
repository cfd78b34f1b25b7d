"""The protocol's statistics: they equal what was asked and run, over all workers."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from adapters.memory import MemoryMetrics
from gateway.metrics.metric import cell, histogram
from gateway.metrics.serving import BATCH_ROWS, PREDICTIONS
from gateway.serving import statistics

A, B = {"name": "a", "version": "1"}, {"name": "b", "version": "2"}
ROWS = [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.fixture
def served(worker, models, until):
    """Return a worker with a model of two versions and a route that copies everything to the second."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear(bias=1.0))
    shadows = [{**B, "fraction": 1.0}]
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 10_000}], "shadows": shadows})
    worker.until_served(until)
    return worker


def stats(worker, path: str) -> dict[tuple[str, str], dict]:
    """Return (name, version) → statistics."""
    answer = worker.client.get(f"/v2/models{path}/stats")
    assert answer.status_code == 200, answer.text
    return {(each["name"], each["version"]): each for each in answer.json()["model_stats"]}


def test_statistics_equal_what_was_asked_and_run(served, until):
    """Answers are counted by route, rows and runs by version; a copy for a shadow runs and is no answer [OIP-11]."""
    before_ms = time.time() * 1000
    for _ in range(5):
        assert served.infer("r", ROWS).status_code == 200
    until(lambda: stats(served, "/r")["r", "2"]["inference_count"] == 10)
    found = stats(served, "/r")
    assert found.keys() == {("r", "1"), ("r", "2")}
    live, copy = found["r", "1"], found["r", "2"]
    assert (live["inference_count"], live["execution_count"]) == (10, 5)
    assert live["inference_stats"]["success"]["count"] == 5
    assert copy["inference_stats"]["success"] == {"count": 0, "ns": 0}
    assert live["inference_stats"]["fail"] == {"count": 0, "ns": 0}
    run, answered = live["inference_stats"]["compute_infer"], live["inference_stats"]["success"]
    assert run["count"] == live["inference_stats"]["queue"]["count"] == 5
    assert 0 < run["ns"] < answered["ns"] < (time.time() * 1000 - before_ms) * 1e6
    output = live["inference_stats"]["compute_output"]
    assert live["inference_stats"]["compute_input"] == {"count": 5, "ns": 0}
    assert (output["count"], 0 < output["ns"] < answered["ns"] - run["ns"]) == (5, True)
    assert before_ms - 1 <= live["last_inference"] <= time.time() * 1000
    assert stats(served, "/r/versions/1") == {("r", "1"): live}
    assert stats(served, "/m")["m", "1"]["inference_stats"]["success"]["count"] == 0


def test_statistics_count_the_time_of_joining_rows(served, until):
    """Where rows of several requests make a run, the time to join them is no part of the run's own."""
    with ThreadPoolExecutor(16) as pool:

        def has_joined() -> bool:
            assert {answer.status_code for answer in pool.map(lambda _: served.infer("m", ROWS), range(64))} == {200}
            return stats(served, "/m")["m", "1"]["inference_stats"]["compute_input"]["ns"] > 0

        until(has_joined)
    found = stats(served, "/m")["m", "1"]
    assert found["execution_count"] < found["inference_count"] / 2
    whole_s = served.metric("gateway_run_seconds_total", version="1")
    parts_ns = sum(found["inference_stats"][part]["ns"] for part in ("compute_input", "compute_infer"))
    assert abs(parts_ns - whole_s * 1e9) <= 2


def test_statistics_of_all_models_have_every_name(served):
    """Without a model all are told, those nobody called with zeros."""
    found = stats(served, "")
    assert found.keys() == {("m", "1"), ("r", "1"), ("r", "2")}
    assert found["m", "1"]["last_inference"] == found["m", "1"]["inference_count"] == 0
    keys = {"success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
    assert found["m", "1"]["inference_stats"].keys() == keys


def test_statistics_tell_failures_apart(worker, models, until):
    """A failed prediction counts under `fail` with its time, which is not part of `success`."""
    worker.register("lookup", "1", models.lookup(), champion=True)
    worker.until_served(until)
    assert worker.infer("lookup", [[1]], datatype="INT64").status_code == 200
    until(lambda: stats(worker, "/lookup")["lookup", "1"]["inference_stats"]["success"]["count"] == 1)
    sound = stats(worker, "/lookup")["lookup", "1"]["inference_stats"]
    assert worker.infer("lookup", [[9]], datatype="INT64").status_code == 500
    until(lambda: stats(worker, "/lookup")["lookup", "1"]["inference_stats"]["fail"]["count"] == 1)
    found = stats(worker, "/lookup")["lookup", "1"]["inference_stats"]
    assert found["fail"]["ns"] > 0
    assert found["success"]["count"] == 1
    assert abs(found["success"]["ns"] - sound["success"]["ns"]) <= 1_000  # a record's time is in whole microseconds


def test_statistics_are_of_all_workers(served, until):
    """Whichever worker answers, what the others counted is in it."""
    other = served.snapshots.bank("w1")
    cell(other, PREDICTIONS, "r", "pinned", "7", "pinned", "ok").add(3.0)
    histogram(other, BATCH_ROWS, "m", "7").observe(2.0)
    until(lambda: ("r", "7") in stats(served, "/r"))
    found = stats(served, "/r")["r", "7"]
    assert (found["inference_stats"]["success"]["count"], found["inference_count"], found["execution_count"]) == (3, 2, 1)


@pytest.mark.parametrize("path", ["/none", "/m/versions/9", "/stats"])
def test_statistics_of_what_is_unknown_are_404(served, path):
    """An unknown model, version, and the name that stands for all."""
    answer = served.client.get(f"/v2/models{path}/stats")
    assert (answer.status_code, answer.json().keys()) == (404, {"error"})


def test_statistics_are_read_once_for_all_who_ask(served, monkeypatch, until):
    """Callers who ask at the same time share a reading: what it costs does not grow with them."""
    readings, may_read = [], threading.Event()
    latest = MemoryMetrics.latest

    def slow(snapshots):
        readings.append(1)
        assert may_read.wait(10)
        return latest(snapshots)

    monkeypatch.setattr(MemoryMetrics, "latest", slow)
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(stats, served, "/r") for _ in range(16)]
        until(lambda: readings)
        assert served.infer("r", ROWS).status_code == 200
        may_read.set()
        assert all(each.result(10) for each in asked)
    assert len(readings) <= 2


def test_totals_take_the_newest_run_and_leave_other_metrics_out():
    """Over workers the last run is the newest, not the sum."""
    metrics = MemoryMetrics()
    for process, last_s in (("w0", 5.0), ("w1", 7.0), ("w2", 6.0)):
        metrics.bank(process).cell("gateway_last_run_timestamp_seconds", (("model", "m"), ("version", "1"))).set(last_s)
        metrics.bank(process).cell("gateway_loop_lag_seconds").set(1.0)
    assert statistics.totals(metrics) == {("latest", "m", "1"): 7.0}
