"""A worker follows the registry: prepares, swaps, reports, and survives what it cannot load or read."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from adapters import memory
from adapters.runtimes.onnx import OnnxRuntime
from gateway.core.changes import PutVersion, WorkerStatus
from gateway.core.errors import LoadFailed, StoreFailed
from gateway.core.models import Version, VersionState
from gateway.core.records import Kind
from gateway.core.routes import Revision
from gateway.ports.runtimes import Instance
from gateway.serving.pools import Pool

A, B = {"name": "a", "version": "1"}, {"name": "b", "version": "2"}


def test_worker_without_a_table_is_live_and_not_ready(make_worker, models, until):
    """Before a model can answer, health says so; afterwards it is ready."""
    worker = make_worker().start()
    assert worker.client.get("/v2/health/live").json() == {"live": True}
    until(worker.is_ready)  # nothing registered: nothing that should serve is missing
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    assert worker.client.get("/v2/models/m/ready").json() == {"name": "m", "ready": True}
    assert worker.client.get("/v2/models/other/ready").status_code == 404


def test_worker_forgets_the_numbers_of_versions_that_left(worker, models, until, monkeypatch):
    """Once half of the room for numbers is taken, a change of the table gives back what removed versions took, and no more."""
    for version in ("1", "2"):
        worker.register("m", version, models.linear())
    for version in ("1", "2"):
        worker.route("r", {"model": "m", "variants": [{"name": "a", "version": version, "weight": 10_000}]})
        worker.until_served(until)
        assert worker.infer("r", [[1, 2, 3, 4]]).status_code == 200

    def counted() -> set[str]:
        return {dict(one.labels)["version"] for one in worker.metrics.samples() if one.name == "gateway_predictions_total"}

    assert counted() == {"1", "2"}
    monkeypatch.setattr(memory, "CELLS", 1)  # more than half of which is taken
    worker.route("r", {"model": "m", "variants": [{"name": "b", "version": "2", "weight": 10_000}]})
    until(lambda: counted() == {"2"})
    assert worker.infer("r", [[1, 2, 3, 4]]).status_code == 200


def test_route_change_takes_effect_without_a_failed_request(worker, models, until):
    """While the split goes back and forth every request is answered, by a version the table allows."""
    worker.register("m", "1", models.linear())
    worker.register("m", "2", models.linear(scale=2.0))
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 10_000}, {**B, "weight": 0}]})
    worker.until_served(until)
    stop = threading.Event()

    def load() -> list[tuple[int, str]]:
        found = []
        while not stop.is_set():
            answer = worker.infer("r", [[1, 2, 3, 4]])
            found.append((answer.status_code, answer.json()["model_version"]))
            assert answer.json()["outputs"][0]["data"] == [10.0 if answer.json()["model_version"] == "1" else 20.0]
        return found

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        for weight in (5_000, 0, 10_000, 2_500, 10_000):
            worker.route("r", {"model": "m", "variants": [{**A, "weight": weight}, {**B, "weight": 10_000 - weight}]})
            worker.until_served(until)
        stop.set()
        answered = [each for future in loads for each in future.result()]
    assert {status for status, _ in answered} == {200}
    assert {version for _, version in answered} == {"1", "2"}
    assert worker.infer("r", [[1, 2, 3, 4]]).json()["model_version"] == "1"
    assert worker.predictions()[-1].revision == worker.registry.table().routes["r"].revision


def test_proposal_is_prepared_before_it_is_committed(worker, models, until):
    """A worker warms what a proposal needs and says so; the commit then finds it warm."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear(scale=2.0))
    worker.until_served(until)
    proposal = worker.registry.propose([("m", "2")])
    until(lambda: worker.registry.workers()[0].prepared == proposal.id)
    assert worker.registry.workers()[0].failure == ""
    assert worker.client.get("/v2/models/m").json()["versions"] == ["1", "2"]


def test_proposal_that_cannot_be_prepared_is_reported(worker, models, until):
    """A version that does not load is named with the reason, and what serves goes on."""
    worker.register("m", "1", models.linear(), champion=True)
    broken = models.linear()
    worker.register("m", "2", type(broken)(b"not an onnx file", broken.signature))
    worker.until_served(until)
    proposal = worker.registry.propose([("m", "1"), ("m", "2"), ("m", "unknown")])
    until(lambda: worker.registry.workers()[0].prepared == proposal.id)
    failure = worker.registry.workers()[0].failure
    assert "m 2" in failure or "m unknown" in failure
    assert worker.infer("m", [[1, 2, 3, 4]]).status_code == 200
    assert worker.metric("gateway_load_failures_total", model="m", version="2") == 1


def test_variant_that_does_not_load_fails_over(worker, models, until):
    """A committed version that cannot be loaded never answers: its requests go to the fallback, and alone it is a 503."""
    worker.register("m", "1", models.linear())
    broken = models.linear()
    worker.register("m", "2", type(broken)(b"not an onnx file", broken.signature))
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 0}, {**B, "weight": 10_000}], "fallback": "a"})
    worker.route("alone", {"model": "m", "variants": [{**B, "weight": 10_000}]})
    until(lambda: worker.infer("r", [[1, 2, 3, 4]]).status_code == 200)
    [record] = worker.predictions()
    assert (record.assigned, record.variant, len(record.attempts)) == ("b", "a", 1)
    alone = worker.infer("alone", [[1, 2, 3, 4]])
    again_s = int(alone.headers["retry-after"])
    assert (alone.status_code, again_s <= 30) == (503, True)  # one that did not load is not tried again for 30 s
    ready = worker.client.get("/v2/models/alone/ready")
    assert (ready.status_code, 1 < int(ready.headers["retry-after"]) <= again_s) == (503, True)
    assert not worker.is_ready()
    assert worker.infer("r", [[1, 2, 3, 4]], version="2").status_code == 500


def test_refusals_count_under_the_route_of_a_live_prediction(worker, models, until):
    """What is asked of a route that cannot answer counts under it; what names a version, or nothing known, under no route."""
    broken = models.linear()
    worker.register("m", "1", type(broken)(b"not an onnx file", broken.signature), champion=True)
    worker.route("alone", {"model": "m", "variants": [{**A, "weight": 10_000}]})
    until(lambda: worker.infer("alone", [[1, 2, 3, 4]]).status_code == 503)

    def refused(route: str, reason: str) -> float:
        return worker.metric("gateway_rejected_requests_total", route=route, reason=reason)

    before, unknown = refused("alone", "NotReady"), refused("", "UnknownRoute")  # until the worker read the table
    assert worker.infer("alone", [[1, 2, 3, 4]]).status_code == 503
    assert worker.infer("m", [[1, 2, 3, 4]]).status_code == 503  # a model without a route, by its champion
    assert worker.infer("alone", [[1, 2, 3, 4]], version="1").status_code == 500
    assert worker.infer("unknown", [[1, 2, 3, 4]]).status_code == 404
    assert (refused("alone", "NotReady"), refused("m", "NotReady")) == (before + 1, 1)
    assert (refused("", "LoadFailed"), refused("", "UnknownRoute")) == (1, unknown + 1)
    assert refused("alone", "LoadFailed") == refused("unknown", "UnknownRoute") == 0


def test_retired_version_is_unknown_and_a_champion_serves_its_model(worker, models, until):
    """A model without a route answers with its champion; a retired version cannot be named."""
    worker.register("m", "1", models.linear(), champion=True)
    retired = worker.register("m", "2", models.linear())
    worker.commit(PutVersion(replace(retired, state=VersionState.RETIRED)))
    worker.until_served(until)
    assert worker.infer("m", [[1, 2, 3, 4]]).json()["parameters"]["variant"] == "champion"
    assert worker.infer("m", [[1, 2, 3, 4]], version="2").status_code == 404


def test_version_no_longer_needed_is_closed(worker, models, until):
    """When no table needs a version its pool goes, and with it the memory."""
    worker.register("m", "1", models.linear())
    worker.register("m", "2", models.linear())
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 5_000}, {**B, "weight": 5_000}]})
    worker.until_served(until)
    found = [each for each in gc.get_objects() if isinstance(each, Pool) and each.version.version == "2"]
    gone = weakref.ref(next(pool for pool in found if pool._turn.loop is worker._loop))
    del found
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 10_000}]})
    worker.until_served(until)
    worker.infer("r", [[1, 2, 3, 4]])
    until(lambda: gone() is None)
    assert worker.metric("gateway_warm_versions") == 1


def test_pinned_loads_are_shared_and_stay(worker, models, until):
    """Many callers of one version share one load; versions of which many are named stay warm while there is room."""
    worker.register("m", "0", models.linear(), champion=True)
    for number in range(1, 21):
        worker.register("m", str(number), models.linear(bias=float(number)))
    worker.until_served(until)
    with ThreadPoolExecutor(16) as pool:
        same = list(pool.map(lambda _: worker.infer("m", [[0, 0, 0, 0]], version="1").json()["outputs"][0]["data"], range(32)))
        each = list(pool.map(lambda n: worker.infer("m", [[0] * 4], version=str(n)).json()["outputs"][0]["data"], range(1, 21)))
    assert same == [[1.0]] * 32
    assert each == [[float(number)] for number in range(1, 21)]
    assert {record.kind for record in worker.predictions()} == {Kind.PINNED}
    assert len(worker.client.get("/v2/models/m").json()["versions"]) == 21


def test_worker_serves_on_while_the_registry_fails(worker, models, until, monkeypatch):
    """With the registry unreadable the last table serves, the failure is counted, and afterwards the worker follows again."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)

    def fail() -> object:
        raise StoreFailed("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(worker.registry, "table", fail)
        worker.registry.propose([])
        until(lambda: worker.metric("gateway_registry_failures_total") >= 1)
        assert worker.infer("m", [[1, 2, 3, 4]]).status_code == 200
    worker.register("n", "1", models.linear(), champion=True)
    until(lambda: worker.infer("n", [[1, 2, 3, 4]]).status_code == 200)


def test_caller_learns_no_path_of_the_registry(worker, models, until, monkeypatch):
    """A version that the registry cannot tell of is a 503 that names no file."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)

    def fail(_model: str, _version: str) -> object:
        raise StoreFailed("/srv/headgate/registry.db: disk I/O error", hint="look at /srv")

    monkeypatch.setattr(worker.registry, "version", fail)
    answer = worker.infer("m", [[1, 2, 3, 4]], version="2")
    assert (answer.status_code, answer.json()) == (503, {"error": "the gateway's storage cannot be read or written"})


def test_reports_do_not_answer_each_other(worker, models, until):
    """A report is news to every follower, and none of them answers it with another: the registry falls silent."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    worker.registry.report(WorkerStatus("w9", Revision(0), 0, "", 0.0))

    def is_silent() -> bool:
        number = worker.registry.follow(0, 0.0)
        return worker.registry.follow(number, 0.3) == number

    until(is_silent, within_s=5)


@pytest.fixture
def held_loads(monkeypatch):
    """Hold every load of a version `2` until it is let go; return what tells that one began, and what lets it go."""
    began, may_load = threading.Event(), threading.Event()
    load = OnnxRuntime.load

    def held(runtime: OnnxRuntime, path: Path, version: Version) -> Instance:
        if version.version == "2":
            began.set()
            assert may_load.wait(20)
        return load(runtime, path, version)

    monkeypatch.setattr(OnnxRuntime, "load", held)
    yield began, may_load
    may_load.set()


def test_worker_is_prepared_only_once_everything_is_warm(worker, models, until, held_loads):
    """While a proposal's version loads, the worker answers with the old table and does not claim to be prepared."""
    began, may_load = held_loads
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear(scale=2.0))
    worker.until_served(until)
    proposal = worker.registry.propose([("m", "2")])
    assert began.wait(10)
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 10_000}]})  # makes the worker report again
    worker.until_served(until)
    assert worker.registry.workers()[0].prepared != proposal.id
    assert worker.infer("r", [[1, 2, 3, 4]]).json()["model_version"] == "1"
    may_load.set()
    until(lambda: worker.registry.workers()[0].prepared == proposal.id)
    worker.route("r", {"model": "m", "variants": [{**B, "weight": 10_000}]})
    worker.until_served(until)
    assert worker.infer("r", [[1, 2, 3, 4]]).json()["model_version"] == "2"


def test_variant_that_still_loads_is_answered_by_the_fallback(worker, models, until, held_loads):
    """A table that was committed before its version was warm delays nobody and refuses nobody."""
    began, may_load = held_loads
    worker.register("m", "1", models.linear())
    worker.register("m", "2", models.linear(scale=2.0))
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 10_000}]})
    worker.until_served(until)
    worker.route("r", {"model": "m", "variants": [{**A, "weight": 0}, {**B, "weight": 10_000}], "fallback": "a"})
    assert began.wait(10)
    until(lambda: worker.infer("r", [[1, 2, 3, 4]]).status_code == 200 and worker.predictions()[-1].assigned == "b")
    assert worker.predictions()[-1].variant == "a"
    assert max(record.latency_us for record in worker.predictions()) < 1_000_000
    may_load.set()
    until(lambda: worker.infer("r", [[1, 2, 3, 4]]).json()["model_version"] == "2")


def test_failure_of_a_proposal_ends_with_a_load_that_succeeds(worker, models, until, monkeypatch):
    """What failed to load and loads later is no failure any more."""
    load = OnnxRuntime.load
    is_broken = threading.Event()
    is_broken.set()

    def sometimes(runtime: OnnxRuntime, path: Path, version: Version) -> Instance:
        if version.version == "2" and is_broken.is_set():
            raise LoadFailed("the disk is slow today")
        return load(runtime, path, version)

    monkeypatch.setattr(OnnxRuntime, "load", sometimes)
    monkeypatch.setattr("gateway.serving.loader._RETRY_S", 0.0)
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear())
    worker.until_served(until)
    worker.registry.propose([("m", "2")])
    until(lambda: "slow today" in worker.registry.workers()[0].failure)
    is_broken.clear()
    until(lambda: worker.registry.workers()[0].failure == "")
    assert worker.client.get("/v2/models/m/versions/2/ready").status_code == 200
