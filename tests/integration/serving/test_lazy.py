"""Thousands of versions: what nobody keeps is loaded when it is called, within a budget, and what is kept stays."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import PurePath

import pytest

from adapters.heap import Heap
from adapters.runtimes.onnx import OnnxRuntime
from gateway.core.models import Version
from gateway.ports.runtimes import Instance

A, B = {"name": "a", "version": "1"}, {"name": "b", "version": "2"}
ROW = [[1, 2, 3, 4]]
WIDE = 25_000  # features: a file of 100 kB that takes 1.6 MB, because the runtime packs a column of weights into sixteen


@pytest.fixture(autouse=True)
def settled_heap() -> None:
    """Free what the workers before left in cycles: freed while a version loads, it would be taken off that version's memory."""
    gc.collect()


def fill(worker, models, count: int) -> None:
    """Register models m0, m1, … with a champion each."""
    for number in range(count):
        worker.register(f"m{number}", "1", models.linear(bias=float(number)), champion=True)


def answer_of(worker, name: str) -> float:
    """Return what a model answers, asserting that it does."""
    answer = worker.infer(name, ROW)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][0]["data"][0]


def test_model_nobody_called_is_loaded_at_its_first_request(make_worker, models, until):
    """Beyond the bound on names nothing is loaded at the start and the worker is ready; a first request waits for its model."""
    worker = make_worker(kept_names_max=2)
    fill(worker, models, 5)
    worker.start()
    until(worker.is_ready)
    assert worker.metric("gateway_warm_versions") == 0
    assert worker.client.get("/v2/models/m3/ready").status_code == 200
    assert worker.client.get("/v2/models/m3").json()["versions"] == []
    assert answer_of(worker, "m3") == 13.0
    assert worker.metric("gateway_warm_versions") == 1
    assert worker.client.get("/v2/models/m3").json()["versions"] == ["1"]


def test_few_names_are_all_kept_warm(make_worker, models, until):
    """Up to the bound every champion is warm before anybody calls."""
    worker = make_worker(kept_names_max=5)
    fill(worker, models, 5)
    worker.start()
    until(worker.is_ready)
    assert worker.metric("gateway_warm_versions") == 5


def test_way_back_and_pins_are_kept_however_many_names_there_are(make_worker, models, until):
    """A route's variants and what a rollback returns to are warm without a call, and so is what an operator pinned."""
    worker = make_worker(kept_names_max=1, keep_warm="m1, m2:1")
    fill(worker, models, 4)
    worker.register("m0", "2", models.linear(scale=2.0))
    worker.start()
    worker.route("r", {"model": "m0", "variants": [{**A, "weight": 10_000}]})
    worker.route("r", {"model": "m0", "variants": [{**B, "weight": 10_000}, {**A, "weight": 0}]})
    worker.route("lone", {"model": "m3", "variants": [{**A, "weight": 10_000}]})
    worker.until_served(until)
    assert sorted(worker.warm()) == [("m0", "1"), ("m0", "2"), ("m1", "1"), ("m2", "1")]
    assert answer_of(worker, "lone") == 13.0


def test_least_recently_called_gives_way_and_comes_back(make_worker, models, until):
    """Within the budget the last called stay; an evicted model answers again at its next request, and the kept one never went."""
    worker = make_worker(kept_names_max=1, keep_warm="m0", model_memory_bytes_max=5 * 2**20)
    for number in range(6):
        worker.register(f"m{number}", "1", models.linear(WIDE, bias=float(number)), champion=True)
    worker.start()
    until(worker.is_ready)
    row = [[0.0] * WIDE]
    for number in (1, 2, 3, 4, 5, 1, 2, 1, 3):
        answer = worker.infer(f"m{number}", row)
        assert answer.json()["outputs"][0]["data"] == [float(number)]
    assert sorted(worker.warm()) == [("m0", "1"), ("m1", "1"), ("m3", "1")]
    assert worker.metric("gateway_evictions_total") == 6
    assert worker.metric("gateway_warm_bytes") <= 5 * 2**20
    assert worker.metric("gateway_model_memory_bytes", model="m1") > 10 * 4 * WIDE


def test_reading_about_a_version_is_no_use_of_it(make_worker, models, until):
    """Whoever asks what a model is, whether it is ready or for the index neither warms it nor keeps it from giving way."""
    worker = make_worker(kept_names_max=1, model_memory_bytes_max=5 * 2**20)
    for number in range(5):
        worker.register(f"m{number}", "1", models.linear(WIDE, bias=float(number)), champion=True)
    worker.start()
    until(worker.is_ready)
    asked = ["", "/ready", "/config", "/stats", "/versions/1", "/versions/1/ready", "/versions/1/config"]
    row = [[0.0] * WIDE]
    for number in (1, 2, 3):
        assert worker.infer(f"m{number}", row).status_code == 200
    for path in asked:
        for model in ("m0", "m1"):
            assert worker.client.get(f"/v2/models/{model}{path}").status_code in (
                200,
                503,
            )  # a version that is not warm is not ready
    assert worker.client.post("/v2/repository/index", json={}).status_code == 200
    assert sorted(worker.warm()) == [("m1", "1"), ("m2", "1"), ("m3", "1")]
    assert worker.infer("m4", row).status_code == 200
    assert sorted(worker.warm()) == [("m2", "1"), ("m3", "1"), ("m4", "1")]


def test_cold_model_that_loads_too_slowly_is_a_503_and_then_warm(make_worker, models, until, monkeypatch):
    """A request whose deadline passes while its model loads is told when to come again; the load goes on."""
    may_load, load = threading.Event(), OnnxRuntime.load

    def slow(self: OnnxRuntime, path: PurePath, version: Version) -> Instance:
        assert may_load.wait(20)
        return load(self, path, version)

    monkeypatch.setattr(OnnxRuntime, "load", slow)
    worker = make_worker(kept_names_max=1)
    fill(worker, models, 3)
    worker.start()
    until(worker.is_ready)
    began_s = time.monotonic()
    refused = worker.infer("m1", ROW, parameters={"timeout": 200_000})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert time.monotonic() - began_s < 5
    named = worker.infer("m1", ROW, version="1", parameters={"timeout": 200_000})
    assert (named.status_code, named.headers["retry-after"]) == (503, "1")
    may_load.set()
    until(lambda: worker.warm() == [("m1", "1")])
    assert answer_of(worker, "m1") == 11.0
    assert len(worker.predictions()) == 1


def test_hundred_loads_and_unloads_give_the_memory_back(make_worker, models, until):
    """After each version was loaded and evicted a hundred times over, the heap holds no more than before."""
    worker = make_worker(kept_names_max=1, model_memory_bytes_max=2 * 2**20)
    for number in range(4):
        worker.register(f"m{number}", "1", models.linear(WIDE), champion=True)
    worker.start()
    until(worker.is_ready)
    heap = Heap()
    for turn in range(25):
        for number in range(4):
            assert worker.infer(f"m{number}", [[0.0] * 4]).status_code == 400  # it was loaded to see that this does not fit
        if turn == 1:
            before = heap.heap_bytes()
    assert worker.metric("gateway_evictions_total") >= 95
    assert heap.heap_bytes() - before < 16 * 4 * WIDE
