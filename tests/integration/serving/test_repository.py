"""The protocol's repository: what there is, what may be loaded and let go, by whom, and what is refused."""

from __future__ import annotations

import gc
import gzip
import weakref
from dataclasses import replace

import pytest

from gateway.core.access import Key, Scope, token_digest
from gateway.core.changes import PutKey, PutVersion
from gateway.core.models import VersionState
from gateway.serving.pools import Pool

A, B = {"name": "a", "version": "1"}, {"name": "b", "version": "2"}
ROW = [[1, 2, 3, 4]]


@pytest.fixture
def served(worker, models, until):
    """Return a worker with a model of three versions, of which the first serves, and tokens with and without the scope."""
    for number in range(1, 4):
        worker.register("m", str(number), models.linear(bias=float(number)), champion=number == 1)
    for name, scopes in (("operator", {Scope.OPERATE}), ("reader", {Scope.READ, Scope.GROUND_TRUTH})):
        worker.commit(PutKey(Key(name, name, token_digest(f"token-{name}"), frozenset(scopes), 0.0)))
    worker.until_served(until)
    until(lambda: move(worker, "load", "m").status_code == 200)
    return worker


def move(worker, verb: str, name: str, token: str = "token-operator", **parameters: object):
    """Load or unload."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return worker.client.post(f"/v2/repository/models/{name}/{verb}", json={"parameters": parameters}, headers=headers)


def index(worker, **body: object) -> dict[tuple[str, str], str]:
    """Return (name, version) → state."""
    answer = worker.client.post("/v2/repository/index", json=body)
    assert answer.status_code == 200, answer.text
    return {(row["name"], row["version"]): row["state"] for row in answer.json()}


def test_index_lists_every_version_under_each_name(served, until):
    """A row for each version, also under a route's name; `ready` leaves what is not warm out [OIP-7]."""
    served.route("r", {"model": "m", "variants": [{**B, "weight": 10_000}]})
    served.until_served(until)
    ready = {("m", "1"): "READY", ("m", "2"): "READY", ("r", "1"): "READY", ("r", "2"): "READY"}
    assert index(served) == {**ready, ("m", "3"): "UNAVAILABLE", ("r", "3"): "UNAVAILABLE"}
    assert index(served, ready=True) == ready
    assert len(served.client.post("/v2/repository/index").json()) == 6


def test_index_says_why_a_version_is_not_ready(served, models, until):
    """A retired version and one that failed to load say so."""
    sound = models.linear()
    served.register("m", "4", type(sound)(b"not an onnx file", sound.signature))
    served.commit(PutVersion(replace(served.registry.version("m", "3"), state=VersionState.RETIRED)))
    failed = move(served, "load", "m", version="4")
    assert (failed.status_code, "failed to load" in failed.json()["error"]) == (500, True)
    assert str(served.directory) not in failed.text

    def reasons() -> dict[str, str]:
        rows = served.client.post("/v2/repository/index", json={"ready": False}).json()
        return {row["version"]: row["reason"] for row in rows}

    expected = {"1": "", "2": "not loaded", "3": "retired", "4": "failed to load"}
    until(lambda: reasons() == expected)
    assert move(served, "load", "m", version="3").status_code == 404


@pytest.mark.parametrize(
    "body", [b'{"ready": 1}', b'{"ready": "yes"}', b'{"ready": ' + b"[" * 250_000, b"[]", b"7", b'{"ready": true', b"\xff"]
)
def test_index_refuses_what_is_no_flag(served, body):
    """A flag of another type, a body that is none, and one nested without end are 400, and the worker lives on [OIP-53]."""
    answer = served.client.post("/v2/repository/index", content=body)
    assert (answer.status_code, answer.json().keys()) == (400, {"error"})
    assert served.client.get("/v2/health/live").status_code == 200


def test_version_is_held_until_it_is_unloaded(served, until):
    """Loading warms a version that no route needs; unloading it gives its memory back; a request loads it again [OIP-8, 9]."""
    ready = "/v2/models/m/versions/2/ready"
    assert served.client.get(ready).status_code == 503
    assert move(served, "load", "m", version="2").status_code == 200
    assert served.client.get(ready).status_code == 200
    assert served.infer("m", ROW, version="2").json()["outputs"][0]["data"] == [12.0]
    found = [each for each in gc.get_objects() if isinstance(each, Pool) and each.version.version == "2"]
    gone = weakref.ref(next(pool for pool in found if pool._turn.loop is served._loop))
    del found
    assert move(served, "unload", "m", version="2").status_code == 200
    assert served.client.get(ready).status_code == 503
    until(lambda: gone() is None)
    assert move(served, "unload", "m", version="2").status_code == 200
    assert served.infer("m", ROW, version="2").json()["outputs"][0]["data"] == [12.0]


def test_versions_that_callers_name_give_their_memory_back(make_worker, models, until):
    """Of many versions that callers named only those within the budget are held, also by the table that served them."""
    worker = make_worker(model_memory_bytes_max=2**20).start()
    worker.register("m", "0", models.linear(), champion=True)
    worker.until_served(until)
    for number in range(1, 24):
        worker.register("m", str(number), models.linear(bias=float(number)))
        assert worker.infer("m", ROW, version=str(number)).status_code == 200

    def held() -> int:
        return sum(isinstance(each, Pool) and each._turn.loop is worker._loop for each in gc.get_objects())

    until(lambda: held() == worker.metric("gateway_warm_versions") < 20)


def test_version_that_is_needed_cannot_be_unloaded(served, until):
    """What answers requests stays: 409 with what needs it, as champion, on a route, or as the whole model."""
    served.route("r", {"model": "m", "variants": [{**B, "weight": 10_000}], "shadows": [{**A, "name": "s", "fraction": 1.0}]})
    served.until_served(until)
    for name, version, told in (("m", "2", "'r'"), ("r", "2", "'r'"), ("m", "1", "'r'"), ("m", "", "'1'"), ("r", "", "'2', '1'")):
        answer = move(served, "unload", name, **({"version": version} if version else {}), unload_dependents=True)
        assert (answer.status_code, told in answer.json()["error"]) == (409, True), answer.text
    assert served.infer("r", ROW).json()["model_version"] == "2"
    assert index(served, ready=True).keys() == {("m", "1"), ("m", "2"), ("r", "1"), ("r", "2")}


def test_hold_on_one_of_many_names_can_be_taken_back(make_worker, models, until):
    """A champion that is kept warm only because somebody loaded it can be let go again."""
    worker = make_worker(kept_names_max=1)
    for name in ("m0", "m1", "m2"):
        worker.register(name, "1", models.linear(), champion=True)
    worker.commit(PutKey(Key("operator", "operator", token_digest("token-operator"), frozenset({Scope.OPERATE}), 0.0)))
    worker.start()
    until(worker.is_ready)
    until(lambda: move(worker, "load", "m1").status_code == 200)
    assert set(worker.registry.table().holds) == {("m1", "1")}
    assert move(worker, "unload", "m1", version="1").status_code == 200
    assert not worker.registry.table().holds
    assert move(worker, "unload", "m1", version="1").status_code == 409


def test_name_whose_version_cannot_be_loaded_is_not_ready(make_worker, models, until):
    """One of many names is ready before its first request, and not any more once its version failed to load."""
    worker = make_worker(kept_names_max=1)
    sound = models.linear()
    for name, artifact in (("m0", sound), ("m1", type(sound)(b"not an onnx file", sound.signature))):
        worker.register(name, "1", artifact, champion=True)
    worker.start()
    until(worker.is_ready)
    assert worker.client.get("/v2/models/m1/ready").status_code == 200
    assert worker.infer("m1", [[1.0, 2.0, 3.0, 4.0]]).status_code == 503
    assert [worker.client.get(f"/v2/models/{name}/ready").status_code for name in ("m0", "m1")] == [200, 503]


def test_champion_without_a_route_cannot_be_unloaded(served):
    """A model's champion answers for it and stays."""
    answer = move(served, "unload", "m", version="1")
    assert (answer.status_code, "champion" in answer.json()["error"]) == (409, True)


def test_version_that_was_only_prepared_says_when_it_can_be_unloaded(served, until):
    """No route has it, so that changing one would not help: the next change that is prepared takes its place."""
    proposal = served.registry.propose([("m", "2")])
    until(lambda: all(status.prepared == proposal.id for status in served.registry.workers()))
    answer = move(served, "unload", "m", version="2")
    assert (answer.status_code, "another change is prepared" in answer.json()["hint"]) == (409, True), answer.text
    second = served.registry.propose([("m", "1")])
    until(lambda: all(status.prepared == second.id for status in served.registry.workers()))
    assert move(served, "unload", "m", version="2").status_code == 200


@pytest.mark.parametrize("verb", ["load", "unload"])
def test_moving_versions_needs_the_scope(served, verb):
    """Without a token it is a 401, with one that lacks the scope a 403, and nothing is said of what there is."""
    for name in ("m", "none"):
        assert move(served, verb, name, "").status_code == 401
        assert move(served, verb, name, "token-unknown").status_code == 401
        assert move(served, verb, name, "token-reader", version="2").status_code == 403
    assert index(served, ready=True).keys() == {("m", "1")}


@pytest.mark.parametrize("verb", ["load", "unload"])
@pytest.mark.parametrize(
    ("name", "parameters", "status"),
    [
        ("m", {"config": "{}"}, 501),
        ("m", {"file:1/model.onnx": "AAAA"}, 501),
        ("m", {"config": "{}", "file:../../x": "AAAA"}, 501),
        ("m", {"version": 2}, 400),
        ("m", {"version": None}, 400),
        ("m", {"other": {}}, 400),
        ("m", {"unload_dependents": "yes"}, 400),
        ("m", {"version": "9"}, 404),
        ("m", {"version": "../1"}, 404),
        ("none", {}, 404),
        ("none", {"version": "1"}, 404),
        ("%2e%2e", {}, 400),
        ("..%2fm", {}, 400),
        ("%20..%20", {}, 400),
        ("%20", {}, 400),
        ("m%00", {}, 400),
        ("%ff", {}, 400),
        ("", {}, 404),
    ],
)
def test_what_cannot_be_moved_is_refused(served, verb, name, parameters, status):
    """Files, wrong types, unknown and unsafe names are each refused with a message [OIP-19, 41]."""
    answer = move(served, verb, name, **parameters)
    assert (answer.status_code, "error" in answer.json()) == (status, True), answer.text
    assert index(served, ready=True).keys() == {("m", "1")}


def test_bodies_of_the_repository_are_bounded_and_plain(served):
    """More than a flag and a name can need is a 413, also compressed, and an encoding that is not read a 415."""
    headers = {"Authorization": "Bearer token-operator"}
    path = "/v2/repository/models/m/load"
    assert served.client.post(path, content=b" " * (2**20 + 1), headers=headers).status_code == 413
    for content, encoding, status in (
        (gzip.compress(b" " * (2**20 + 1)), "gzip", 413),
        (gzip.compress(b"{}"), "gzip", 200),
        (b"{}", "br", 415),
    ):
        answer = served.client.post(path, content=content, headers={**headers, "Content-Encoding": encoding})
        assert answer.status_code == status
    assert served.client.post(path, headers=headers).status_code == 200


def test_load_repairs_a_route_at_once(served, until):
    """A version that a route lacks is taken into the table as soon as loading it was asked for and succeeds."""
    digest = served.registry.version("m", "2").digest
    artifact = served.directory / "artifacts" / digest
    aside = artifact.rename(served.directory / "aside")
    served.route("r", {"model": "m", "variants": [{**B, "weight": 10_000}]})
    until(lambda: served.metric("gateway_load_failures_total", version="2") == 1)
    assert served.infer("r", ROW).status_code == 503
    assert move(served, "load", "r").status_code == 500
    aside.rename(artifact)
    assert move(served, "load", "r").status_code == 200
    assert served.infer("r", ROW).json()["model_version"] == "2"
    assert served.is_ready()
