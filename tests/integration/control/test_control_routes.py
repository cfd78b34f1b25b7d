"""Routes and rollouts, moved by a person through the admin API."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import pytest

from adapters.clock import SystemClock
from adapters.metrics_file import MetricsFile
from adapters.stores.checkpoints import SqliteCheckpoints
from gateway.control.calls import Control
from gateway.control.propagation import prepared
from gateway.core.changes import Change, Cold, PutChampion, PutRollout, PutRoute, PutVersion, Quarantine, WorkerStatus
from gateway.core.drift import MERGE_S
from gateway.core.errors import NotReady
from gateway.core.models import Digest, Runtime, Version
from gateway.core.rollouts import RolloutState
from gateway.core.tensors import Datatype, Signature, TensorSpec
from gateway.metrics.metric import cell
from gateway.metrics.serving import REJECTED
from gateway.settings import ControlSettings
from tests.records import numbered_id, prediction

FEATURES = 4


@pytest.fixture
def control(start_control, write_linear_model, tmp_path):
    """Return a control plane with a model of three versions that answer differently."""
    return _with_versions(start_control(worker_count=2), write_linear_model, tmp_path)


@pytest.fixture(scope="module")
def settled(shared_control, write_linear_model, tmp_path_factory):
    """Return the same for tests that change nothing."""
    return _with_versions(shared_control, write_linear_model, tmp_path_factory.mktemp("models"))


def _with_versions(started, write_linear_model, tmp_path):
    for number in range(3):
        _register(started, write_linear_model(tmp_path / f"{number}.onnx", features=FEATURES, seed=number), str(number + 1))
    return started


def _register(control, artifact, name, *, features=FEATURES):
    """Put a version into the registry as registration does, without the seconds that validation takes."""
    digest = Digest(hashlib.sha256(artifact.read_bytes()).hexdigest())
    control.artifacts.put(artifact, digest)
    signature = Signature(
        (TensorSpec("features", Datatype.FP32, (-1, features)),), (TensorSpec("probability", Datatype.FP32, (-1, 1)),)
    )
    version = Version("delays", name, digest, 1, Runtime.ONNX, "1", signature)
    writes = (PutVersion(version), *([PutChampion("delays", name)] if name == "1" else []))
    control.registry.commit(Change("admin", "version.register", f"version:delays/{name}", "", writes))


def _route(control, name="delays"):
    return control.admin.get(f"/api/v1/routes/{name}").json()


def _weights(control, name="delays"):
    return {variant["version"]: variant["weight"] for variant in _route(control, name)["variants"]}


def _start(control, challenger="2", **body):
    answer = control.admin.post("/api/v1/routes/delays/rollouts", json={"challenger": challenger, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def _move(control, id, event, reason="because"):
    return control.admin.post(f"/api/v1/routes/delays/rollouts/{id}/{event}", json={"reason": reason})


def _quarantine(control, version):
    digest = control.admin.get(f"/api/v1/models/delays/versions/{version}").json()["digest"]
    held = Quarantine(digest, "delays", version, 1, SystemClock().now_s() + 600, "it was wrong")
    control.registry.commit(Change("monitor", "rollout.convict", "rollout:x", "it was wrong", (held,)))
    return digest


def test_route_is_created_shown_replaced_and_removed(control):
    """A route lives from its creation with If-Match 0 to its removal; each answer says what every worker runs."""
    created = control.put_route("delays", ("champion", "1", 9_000), ("challenger", "2", 1_000), if_match=0)
    assert created.status_code == 200, created.text
    body = created.json()
    assert (body["revision"], created.headers["etag"]) == (1, '"1"')
    assert body["workers"] == {"w0": body["table_revision"], "w1": body["table_revision"]}
    shown = control.admin.get("/api/v1/routes/delays")
    assert shown.headers["etag"] == '"1"'
    assert shown.json() == body["route"]
    replaced = control.put_route("delays", ("champion", "1", 5_000), ("challenger", "2", 5_000), if_match=1)
    assert replaced.json()["revision"] == 2
    assert [route["name"] for route in control.admin.get("/api/v1/routes").json()["routes"]] == ["delays"]
    assert control.admin.delete("/api/v1/routes/delays", headers={"If-Match": "2"}).status_code == 200
    assert control.admin.get("/api/v1/routes/delays").status_code == 404


def test_shown_route_may_be_put_back_unchanged(control):
    """What GET shows, PUT takes."""
    control.put_route("delays", ("champion", "1", 9_000), ("challenger", "2", 1_000), if_match=0)
    answer = control.admin.put("/api/v1/routes/delays", json=_route(control), headers={"If-Match": "1"})
    assert answer.status_code == 200, answer.text


def test_put_needs_the_present_revision(control):
    """Without If-Match a PUT is a 400 that says how, with a stale one a 409; both change nothing."""
    body = {"variants": [{"name": "champion", "version": "1", "weight": 10_000}]}
    missing = control.admin.put("/api/v1/routes/delays", json=body)
    assert missing.status_code == 400
    assert "If-Match" in missing.json()["error"]
    assert control.put_route("delays", ("champion", "1", 10_000), if_match=3).status_code == 409
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    assert control.put_route("delays", ("champion", "2", 10_000), if_match=0).status_code == 409
    assert control.admin.delete("/api/v1/routes/delays", headers={"If-Match": "9"}).status_code == 409
    assert _weights(control) == {"1": 10_000}


@pytest.mark.parametrize("header", ["*", "x", "-1", "", '"1", "2"', "9" * 30])
def test_if_match_that_is_no_revision_is_refused(settled, header):
    """If-Match names one revision."""
    answer = settled.admin.put("/api/v1/routes/delays", json={}, headers={"If-Match": header})
    assert answer.status_code == 400


def test_changes_at_once_are_each_warm_when_they_are_active(control):
    """Of two changes at the same time each finds its version warm on every worker, though only one proposal stands at a time."""

    def bring(version):
        answer = control.put_route(f"only-{version}", ("only", version, 10_000), if_match=0, model="delays")
        assert answer.status_code == 200, answer.text

    for _ in range(10):
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(bring, ["2", "3"]))
        for version in ("2", "3"):
            assert control.admin.delete(f"/api/v1/routes/only-{version}").status_code == 200
    assert [worker.cold for worker in control.workers] == [set(), set()]


def test_change_is_prepared_only_when_the_one_before_is_committed(control):
    """Between the preparation of a change and its commit no other proposal can take its versions from the workers."""
    nobody: dict[str, object] = dict.fromkeys(("artifacts", "validator", "archive", "log", "readings", "snapshots", "questions"))
    plane = Control(
        settings=ControlSettings(prepare_timeout_s=1.0),
        registry=control.registry,
        workers=("w0", "w1"),
        clock=SystemClock(),
        validations=threading.BoundedSemaphore(),
        **nobody,
    )
    with prepared(plane, [("delays", "2")]):
        with pytest.raises(NotReady, match="another change"), prepared(plane, [("delays", "3")]):
            pytest.fail("two changes were prepared at once")
        assert control.registry.proposal().needs == (("delays", "2"),)
    with prepared(plane, [("delays", "3")]):
        assert control.registry.proposal().needs == (("delays", "3"),)


@pytest.mark.parametrize("path", ["/api/v1/routes/delays", "/api/v1/routes/delays/rollouts"])
def test_version_retired_while_it_is_prepared_stays_off_the_route(control, until, path):
    """What was checked before the workers warmed a version is checked again before it is committed."""
    control.workers[0].stop()
    with ThreadPoolExecutor(1) as threads:
        if path.endswith("rollouts"):
            pending = threads.submit(control.admin.post, path, json={"challenger": "2"})
        else:
            body = {"variants": [{"name": "champion", "version": "2", "weight": 10_000}]}
            pending = threads.submit(control.admin.put, path, json=body, headers={"If-Match": "0"})
        proposal = until(control.registry.proposal)
        retired = control.client(control.token).post("/api/v1/models/delays/versions/2/retire", json={})
        assert retired.status_code == 200
        control.registry.report(WorkerStatus("w0", control.registry.table().revision, proposal.id, "", SystemClock().now_s()))
        answer = pending.result(30)
    assert (answer.status_code, "retired" in answer.json()["error"]) == (409, True)
    assert control.registry.table().routes == {}


def test_twenty_writers_of_one_revision_leave_one_winner(control):
    """Of many PUTs for the same revision exactly one succeeds."""
    statuses = []

    def put(weight):
        answer = control.put_route("delays", ("champion", "1", 10_000 - weight), ("challenger", "2", weight), if_match=0)
        statuses.append(answer.status_code)

    threads = [threading.Thread(target=put, args=(weight,)) for weight in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [200] + [409] * 7


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"variants": []}, "sum to"),
        ({"variants": [{"name": "a", "version": "1", "weight": 9_999}]}, "9,999"),
        ({"variants": [{"name": "a", "version": "1", "weight": 10_000.0}]}, "weight"),
        ({"variants": [{"name": "a", "version": "1", "weight": True}]}, "weight"),
        (
            {"variants": [{"name": "a", "version": "1", "weight": 5_000}, {"name": "a", "version": "2", "weight": 5_000}]},
            "same name",
        ),
        ({"variants": [{"name": "a", "version": "1", "weight": 10_000}], "fallback": "b"}, "fallback"),
        ({"variants": [{"name": "a", "version": "1", "weight": 10_000}], "shadow": []}, "shadow"),
        ({"variants": [{"name": "a", "version": "1", "weight": 10_000}], "assignment": {"cookie": "x"}}, "assignment"),
        ([], "object"),
        (None, "object"),
    ],
)
def test_malformed_route_is_refused(settled, body, word):
    """A route's body that is not of its form is a 400 that names what is wrong."""
    answer = settled.admin.put("/api/v1/routes/delays", json=body, headers={"If-Match": "0"})
    assert answer.status_code == 400
    assert word in answer.json()["error"]


def test_unknown_version_is_not_found(settled):
    """A route names versions that exist."""
    assert settled.put_route("delays", ("champion", "9", 10_000), if_match=0).status_code == 404
    assert settled.put_route("other", ("champion", "1", 10_000), if_match=0).status_code == 404


def test_variants_with_other_signatures_are_refused(control, write_linear_model, tmp_path):
    """Versions whose signatures differ cannot stand on one route, and the message says where they differ."""
    wide = write_linear_model(tmp_path / "wide.onnx", features=FEATURES + 1)
    _register(control, wide, "wide", features=FEATURES + 1)
    answer = control.put_route("delays", ("champion", "1", 5_000), ("challenger", "wide", 5_000), if_match=0)
    assert answer.status_code == 400
    assert "[-1, 4]" in answer.json()["error"]
    assert "[-1, 5]" in answer.json()["error"]
    shadows = [{"name": "shadow", "version": "wide", "fraction": 1.0}]
    assert control.put_route("delays", ("champion", "1", 10_000), if_match=0, shadows=shadows).status_code == 400


@pytest.mark.parametrize("name", ["stats", "%ff", "%EF%BF%BD"])
def test_route_that_callers_could_not_name_is_refused(settled, name):
    """A route is not called as the protocol calls something else, nor by what could not be read."""
    assert settled.put_route(name, ("champion", "1", 10_000), if_match=0, model="delays").status_code == 400


def test_assignment_input_that_requests_lack_is_refused(settled):
    """An assignment key that could never be read is refused with the inputs that there are."""
    answer = settled.put_route("r", ("champion", "1", 10_000), if_match=0, model="delays", assignment={"input": "nope"})
    assert answer.status_code == 400
    assert "'nope'" in answer.json()["error"]
    assert "features" in answer.json()["hint"]


def test_assignment_input_that_requests_have_is_taken(control):
    """The key may be read from an input of the version."""
    answer = control.put_route("r", ("champion", "1", 10_000), if_match=0, model="delays", assignment={"input": "features"})
    assert answer.status_code == 200, answer.text


def test_quarantined_version_is_refused_until_released(control):
    """A digest in quarantine is refused on a route and in a rollout until a person releases it."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    digest = _quarantine(control, "2")
    [held] = control.admin.get("/api/v1/quarantine").json()["quarantine"]
    assert (held["digest"], held["is_active"]) == (digest, True)
    assert control.put_route("delays", ("champion", "2", 10_000), if_match=1).status_code == 409
    refused = control.admin.post("/api/v1/routes/delays/rollouts", json={"challenger": "2"})
    assert refused.status_code == 409
    assert "it was wrong" in refused.json()["error"]
    for query in ({}, {"reason": " "}):
        silent = control.admin.delete(f"/api/v1/quarantine/{digest}", params=query)
        assert (silent.status_code, "reason" in silent.json()["error"]) == (400, True)
    released = control.admin.delete(f"/api/v1/quarantine/{digest}", params={"reason": "data was wrong, not the model"})
    assert (released.status_code, released.json()["is_active"], released.json()["strikes"]) == (200, False, 1)
    again = control.admin.delete(f"/api/v1/quarantine/{digest}", params={"reason": "once more"})
    assert again.status_code == 404
    [entry] = control.admin.get("/api/v1/audit?order=newest&limit=1").json()["entries"]
    assert (entry["action"], entry["reason"]) == ("quarantine.release", "data was wrong, not the model")
    assert control.put_route("delays", ("champion", "2", 10_000), if_match=1).status_code == 200


def test_rollout_keeps_its_guardrails_and_refuses_those_that_could_say_nothing(control):
    """A plan's guardrails come back with their shares of alpha; one that fits no version is a 400 that says why."""
    measures = [{"measure": "errors"}, {"measure": "latency", "quantile": 0.9, "is_dry_run": True}]
    id = _start(control, plan={"guardrails": measures})
    shown = control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()["plan"]["guardrails"]
    assert [(rail["measure"], rail["alpha_share"], rail["is_dry_run"]) for rail in shown] == [
        ("errors", 0.5, False),
        ("latency", 0.5, True),
    ]
    _move(control, id, "rollback")
    fair = {"guardrails": [{"measure": "fairness", "column": "carrier"}]}
    refused = control.admin.post("/api/v1/routes/delays/rollouts", json={"challenger": "2", "plan": fair})
    assert refused.status_code == 400
    assert "version 1 of delays has no column 'carrier'" in refused.json()["error"]


def test_version_that_a_worker_cannot_warm_changes_nothing(control):
    """A worker that cannot load what a change needs is named, and the route stays as it was."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    digest = control.admin.get("/api/v1/models/delays/versions/2").json()["digest"]
    path = control.data / "artifacts" / digest
    path.chmod(0o600)
    path.write_bytes(b"broken")
    answer = control.put_route("delays", ("champion", "2", 10_000), if_match=1)
    assert answer.status_code == 503
    assert "w0" in answer.json()["error"]
    assert _weights(control) == {"1": 10_000}
    assert control.put_route("delays", ("champion", "3", 10_000), if_match=1).status_code == 200


def test_worker_that_is_gone_is_named(start_control, write_linear_model, tmp_path):
    """A worker that does not prepare in time is named, and the route stays as it was."""
    control = _with_versions(start_control(worker_count=2, running=1, prepare_timeout_s=1.0), write_linear_model, tmp_path)
    answer = control.put_route("delays", ("champion", "2", 10_000), if_match=0)
    assert answer.status_code == 503
    assert "w1" in answer.json()["error"]
    assert control.admin.get("/api/v1/routes").json()["routes"] == []


def test_rollback_restores_what_was_alone_before(control):
    """After splits set by hand a rollback puts the route back to the version that last answered alone, with the reason."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    control.put_route("delays", ("champion", "1", 5_000), ("challenger", "2", 5_000), if_match=1)
    control.put_route("delays", ("champion", "1", 1_000), ("challenger", "2", 9_000), if_match=2)
    answer = control.admin.post("/api/v1/routes/delays/rollback", json={"reason": "wrong answers"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["revision"] == 4
    assert _weights(control) == {"1": 10_000}
    [entry] = control.admin.get("/api/v1/audit?order=newest&limit=1").json()["entries"]
    assert (entry["action"], entry["reason"]) == ("route.rollback", "wrong answers")
    assert control.admin.post("/api/v1/routes/delays/rollback", json={"reason": "again"}).status_code == 409


def test_rollback_needs_a_reason_and_a_route(control):
    """A rollback without a reason is a 400, of a route that is not there a 404."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    for body in (None, {}, {"reason": " "}, {"reason": 3}, {"reason": "x", "to": "1"}):
        assert control.admin.post("/api/v1/routes/delays/rollback", json=body).status_code == 400
    assert control.admin.post("/api/v1/routes/none/rollback", json={"reason": "x"}).status_code == 404


def test_rollout_goes_from_first_step_to_promotion(control):
    """A rollout starts at its first step, advances, and its promotion makes the challenger champion of route and model."""
    id = _start(control, plan={"steps": [1_000, 5_000]}, reason="looks better")
    assert _weights(control) == {"1": 9_000, "2": 1_000}
    assert _move(control, id, "advance").status_code == 200
    assert _weights(control) == {"1": 5_000, "2": 5_000}
    assert _move(control, id, "advance").status_code == 409
    promoted = _move(control, id, "promote")
    assert (promoted.status_code, promoted.json()["state"]) == (200, "LIVE")
    assert promoted.json()["workers"]["w0"] == promoted.json()["table_revision"]
    assert _weights(control) == {"2": 10_000}
    assert control.admin.get("/api/v1/models/delays").json()["champion"] == "2"


def test_rollout_begins_in_the_shadow_and_leaves_the_version_before_there(control):
    """With a shadow phase callers see nothing of the challenger; a promoted one has the version before beside it."""
    id = _start(control, plan={"shadow": {"fraction": 0.5}})
    assert _weights(control) == {"1": 10_000}
    assert _route(control)["shadows"] == [{"name": "challenger", "version": "2", "fraction": 0.5}]
    assert _move(control, id, "promote").status_code == 409
    assert _move(control, id, "advance").json()["state"] == "CANARY"
    assert (_weights(control), _route(control)["shadows"]) == ({"1": 9_000, "2": 1_000}, [])
    _move(control, id, "promote")
    assert _route(control)["shadows"] == [{"name": "previous", "version": "1", "fraction": 0.1}]
    control.admin.post("/api/v1/routes/delays/rollback", json={"reason": "it was better"})
    assert (_weights(control), _route(control)["shadows"]) == ({"1": 10_000}, [])


def test_rollout_on_a_route_that_asks_for_approval(control):
    """Only who may approve promotes there; whoever operates may do everything else."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0, needs_approval=True)
    id = _start(control)
    with control.client_with("operate", "read") as operator, control.client_with("approve") as approver:
        path = f"/api/v1/routes/delays/rollouts/{id}"
        refused = operator.post(f"{path}/promote", json={})
        assert (refused.status_code, "approve" in refused.json()["error"]) == (403, True)
        assert operator.post(f"{path}/approve", json={}).status_code == 403
        assert approver.post(f"{path}/approve", json={}).status_code == 409  # nobody asked yet
        waiting = replace(control.registry.rollout(id), state=RolloutState.AWAITING_APPROVAL)
        route = control.registry.table().routes["delays"]
        control.registry.commit(Change("monitor", "rollout.ask", f"rollout:{id}", "", (PutRoute(route), PutRollout(waiting))))
        approved = approver.post(f"{path}/approve", json={"reason": "seen the numbers"})
    assert approved.json()["state"] == "LIVE"
    [entry] = control.admin.get("/api/v1/audit?order=newest&limit=1").json()["entries"]
    assert (entry["action"], entry["reason"]) == ("rollout.approve", "seen the numbers")


def test_rollout_beyond_the_yearly_budget_is_refused(control):
    """A route that spent its chance of false rollbacks says when it frees, to a plan that could start otherwise; a lesser may."""
    plan = {"false_rollbacks_per_year": 0.1, "rollouts_per_year": 2}
    for at in range(2):
        id = _start(control, plan=plan)
        control.write_log(prediction(prediction_id=numbered_id(at), time_s=time.time()))
        assert _move(control, id, "rollback", "next").json()["is_spent"] is True
    refused = control.admin.post("/api/v1/routes/delays/rollouts", json={"challenger": "2", "plan": plan})
    assert refused.status_code == 409
    assert "reserved 0.1 of 0.1 false rollbacks a year" in refused.json()["error"]
    assert "frees on 20" in refused.json()["error"]
    unmeasurable = {**plan, "guardrails": [{"measure": "fairness", "column": "nobody"}]}
    for body, status in (({"challenger": "99", "plan": plan}, 404), ({"challenger": "2", "plan": unmeasurable}, 400)):
        assert control.admin.post("/api/v1/routes/delays/rollouts", json=body).status_code == status
    assert _route(control)["rollout"] == ""
    id = _start(control, plan={"false_rollbacks_per_year": 0.2, "rollouts_per_year": 2})
    assert control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()["budget"]["reserved"] == pytest.approx(0.2)


def test_rollout_that_no_request_met_has_its_part_of_the_budget_back(control):
    """What was rolled back before its route answered anything is free again, as the audit log says; other routes do not count."""
    plan = {"false_rollbacks_per_year": 0.1, "rollouts_per_year": 2}
    control.write_log(prediction(time_s=time.time() - 3_600.0), prediction(route="other", time_s=time.time()))
    for _ in range(3):
        id = _start(control, plan=plan)
        assert _move(control, id, "rollback", "a slip of the hand").json()["is_spent"] is False
    [free, rollback] = control.admin.get("/api/v1/audit?order=newest&limit=2").json()["entries"]
    assert [(entry["action"], entry["subject"]) for entry in (rollback, free)] == [
        ("rollout.rollback", f"rollout:{id}"),
        ("rollout.free", f"rollout:{id}"),
    ]
    shown = control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()
    assert (shown["state"], shown["budget"]["reserved"]) == ("ROLLED_BACK", 0.0)


def test_rollout_on_a_route_made_again_counts_from_its_own_revision(control):
    """Records of a route's earlier life are no evidence for a rollout in its new one."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    control.put_route("delays", ("champion", "1", 9_000), ("challenger", "2", 1_000), if_match=1)
    control.admin.delete("/api/v1/routes/delays")
    id = _start(control)
    shown = control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()
    assert shown["since_revision"] == _route(control)["revision"] > 2


def test_rollout_is_held_and_resumed(control):
    """A held rollout keeps its weights and does not advance until it is resumed."""
    id = _start(control)
    assert _move(control, id, "hold").json()["state"] == "HELD"
    assert _move(control, id, "advance").status_code == 409
    assert _weights(control) == {"1": 9_000, "2": 1_000}
    assert _move(control, id, "resume").json()["state"] == "CANARY"
    shown = control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()
    assert (shown["state"], shown["evidence"]) == ("CANARY", {})


def test_rollout_rolled_back_by_a_person_quarantines_nothing(control):
    """A person's rollback restores the champion, needs a reason, and leaves the digest free for a new rollout."""
    id = _start(control)
    assert _move(control, id, "rollback", "").status_code == 400
    assert _move(control, id, "rollback").json()["state"] == "ROLLED_BACK"
    assert _weights(control) == {"1": 10_000}
    assert control.admin.get("/api/v1/quarantine").json()["quarantine"] == []
    again = _start(control)
    listed = control.admin.get("/api/v1/routes/delays/rollouts", params={"limit": "1"}).json()
    assert [rollout["id"] for rollout in listed["rollouts"]] == [again]
    rest = control.admin.get("/api/v1/routes/delays/rollouts", params={"after": listed["next"]}).json()
    assert [rollout["id"] for rollout in rest["rollouts"]] == [id]


def test_route_rollback_ends_the_open_rollout(control):
    """Rolling a route back ends the rollout on it, so that the two never disagree."""
    id = _start(control)
    assert control.admin.post("/api/v1/routes/delays/rollback", json={"reason": "enough"}).status_code == 200
    assert control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()["state"] == "ROLLED_BACK"
    assert _weights(control) == {"1": 10_000}


@pytest.mark.parametrize("is_direct", [True, False])
def test_promoted_version_can_be_rolled_back(control, is_direct):
    """After a promotion a rollback, of the rollout or of the route, restores route, alias and rollout together."""
    id = _start(control)
    _move(control, id, "promote")
    if is_direct:
        answer = control.admin.post("/api/v1/routes/delays/rollback", json={"reason": "worse after all"})
    else:
        answer = _move(control, id, "rollback", "worse after all")
    assert answer.status_code == 200, answer.text
    assert _weights(control) == {"1": 10_000}
    assert control.admin.get("/api/v1/models/delays").json()["champion"] == "1"
    assert control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()["state"] == "ROLLED_BACK"


def test_rollout_that_the_route_moved_past_cannot_be_rolled_back(control):
    """An old promotion is not undone under a newer version's feet."""
    id = _start(control)
    _move(control, id, "promote")
    revision = _route(control)["revision"]
    control.put_route("delays", ("champion", "3", 10_000), if_match=revision)
    answer = _move(control, id, "rollback")
    assert answer.status_code == 409
    assert _weights(control) == {"3": 10_000}


def test_route_under_a_rollout_is_not_changed_by_hand(control):
    """While a rollout is open the route belongs to it."""
    _start(control)
    revision = _route(control)["revision"]
    assert control.put_route("delays", ("champion", "1", 10_000), if_match=revision).status_code == 409
    assert control.admin.delete("/api/v1/routes/delays").status_code == 409
    assert control.admin.post("/api/v1/routes/delays/rollouts", json={"challenger": "3"}).status_code == 409


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"challenger": "1"}, 400),
        ({"challenger": "9"}, 404),
        ({"challenger": "2", "plan": {"steps": []}}, 400),
        ({"challenger": "2", "plan": {"steps": [5_000, 1_000]}}, 400),
        ({"challenger": "2", "speed": 3}, 400),
    ],
)
def test_rollout_that_makes_no_sense_is_refused(settled, body, status):
    """A rollout needs another version that exists and steps that rise; nothing is changed otherwise."""
    assert settled.admin.post("/api/v1/routes/delays/rollouts", json=body).status_code == status
    assert settled.admin.get("/api/v1/routes").json()["routes"] == []


def test_unknown_rollouts_are_not_found(control):
    """A rollout is found under its own route alone."""
    id = _start(control)
    control.put_route("other", ("champion", "1", 10_000), if_match=0, model="delays")
    assert control.admin.get("/api/v1/routes/delays/rollouts/none").status_code == 404
    assert control.admin.get(f"/api/v1/routes/other/rollouts/{id}").status_code == 404
    assert _move(control, "none", "hold").status_code == 404
    assert control.admin.post("/api/v1/routes/none/rollouts", json={"challenger": "2"}).status_code == 404


def test_drift_and_quality_show_what_the_monitor_published(control):
    """Readings come from the monitor's last picture; a route without any is empty, an unknown one a 404."""
    picture = {
        "monitor": {"time_s": 5.0, "lag_s": 0.1},
        "routes": {"delays": {"drift": {"features": []}, "quality": {"versions": []}}},
    }
    (control.data / "readings.json").write_text(json.dumps(picture))
    drift = control.admin.get("/api/v1/routes/delays/drift").json()
    assert (drift["published_at_s"], drift["drift"]) == (5.0, {"features": []})
    assert control.admin.get("/api/v1/routes/delays/quality").json()["quality"] == {"versions": []}
    assert control.admin.get("/api/v1/routes/none/drift").status_code == 404


def test_health_says_which_version_the_workers_could_not_load(control):
    """What a worker reports as not loaded is a warning of the routes that answer with it, and of no other."""
    for name, version in (("late", "2"), ("later", "3")):
        assert control.put_route(name, ("only", version, 10_000), if_match=0, model="delays").status_code == 200
    for number, worker in enumerate(control.workers):
        worker.stop()
        cold = (Cold("delays", "2", "the disk is full"),)
        table = control.registry.table()
        control.registry.report(WorkerStatus(f"w{number}", table.revision, 0, "", SystemClock().now_s(), table.revision, cold))
    found = {name: control.admin.get(f"/api/v1/routes/{name}/health").json()["parts"] for name in ("late", "later")}
    worst = {"part": "errors", "level": "warning"}
    said = "version 2 is not loaded on w0, w1: the disk is full; the monitor has said nothing"
    assert found["late"][0] == {**worst, "evidence": said}
    assert "not loaded" not in str(found["later"])


def test_picture_that_cannot_be_read_is_as_good_as_none(control):
    """After a power loss half a picture may be left: what it showed is unknown, the monitor silent, and all else answered."""
    id = _start(control)
    (control.data / "readings.json").write_text('{"monitor": ')
    health = control.admin.get("/api/v1/routes/delays/health").json()
    assert (health["level"], {one["level"] for one in health["parts"]}) == ("unknown", {"unknown", "good"})
    assert control.admin.get("/api/v1/monitor").json()["complaints"][0]["trouble"] == "silent"
    assert "gateway_registry_up" + '{process="control"} 1.0' in control.admin.get("/metrics").text
    for path in (f"routes/delays/rollouts/{id}", "routes/delays/drift", "routes/delays/quality", "automation"):
        assert control.admin.get(f"/api/v1/{path}").status_code == 200, path
    for path in ("/status", "/status/routes/delays"):
        assert control.admin.get(path).status_code == 200, path


def test_rollout_says_that_its_clock_waits_for_a_monitor_that_is_behind(control):
    """A lag over its bound, or a silent monitor, is a sentence of the rollout; one that keeps up is none."""
    id = _start(control)
    for lag_s, age_s, said in ((99.0, 0.0, "99 s behind the log"), (0.1, 300.0, "nothing for 300 s"), (0.1, 0.0, "")):
        monitor = {"published_at_s": time.time() - age_s, "lag_s": lag_s}
        (control.data / "readings.json").write_text(json.dumps({"monitor": monitor, "routes": {}}))
        told = " ".join(control.admin.get(f"/api/v1/routes/delays/rollouts/{id}").json()["explanation"])
        assert ("Its clock waits" in told) is bool(said)
        assert said in told


def test_monitor_is_shown_with_what_is_wrong(control):
    """A monitor that never published is not well; one that did is what its picture says, in the admin API and in a scrape."""
    silent = control.admin.get("/api/v1/monitor").json()
    assert (silent["is_well"], silent["complaints"][0]["trouble"]) == (False, "silent")
    published = {"monitor": {"published_at_s": time.time(), "lag_s": 99.0, "records": 7}, "routes": {}}
    (control.data / "readings.json").write_text(json.dumps(published))
    found = control.admin.get("/api/v1/monitor").json()
    assert (found["is_well"], found["records"], [one["trouble"] for one in found["complaints"]]) == (False, 7, ["behind"])
    text = control.admin.get("/metrics").text
    assert 'gateway_monitor_trouble{process="control",trouble="behind"} 1.0' in text
    assert 'gateway_monitor_trouble{process="control",trouble="silent"} 0.0' in text


def test_health_is_judged_on_what_the_monitor_published(control):
    """A failing version makes its route critical in the admin API and in a scrape; a silent monitor makes it unknown."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    version = {"variant": "champion", "version": "1", "kind": "live", "predictions": 1_000, "error_rate": 0.5}
    readings = {"monitor": {"time_s": time.time()}, "routes": {"delays": {"versions": [version]}}}
    for published, level, shown in (
        (readings, "critical", "3.0"),
        ({"monitor": {"time_s": 5.0}, "routes": {}}, "unknown", "0.0"),
    ):
        (control.data / "readings.json").write_text(json.dumps(published))
        found = control.admin.get("/api/v1/routes/delays/health").json()
        assert (found["route"], found["level"]) == ("delays", level)
        assert f'gateway_route_health{{process="control",route="delays"}} {shown}' in control.admin.get("/metrics").text
    assert {one["part"] for one in found["parts"]} == {"errors", "latency", "drift", "quality", "rollout"}
    assert control.admin.get("/api/v1/routes/none/health").status_code == 404


def test_health_does_not_call_drift_good_beside_an_open_incident(control):
    """While an incident is open, or the inputs stay departed, health warns and says why; an index nobody looked at is unknown."""
    control.put_route("delays", ("champion", "1", 10_000), if_match=0)
    now_s = time.time()
    feature = {"feature": "x", "rows": 514, "psi": 0.01, "psi_bound": 0.1, "is_breached": False, "is_judged": True}
    opened = {"attribution": "DATA", "subjects": ["x"], "opened_at_s": now_s - 900, "why": "unlike training: log e 14.2"}
    departed = {"inputs": {"log_e": 1.0, "bound": 12.7, "is_departed": True}, "answer": None}
    for drift, level, said in (
        ({"features": [feature], "incidents": [{**opened, "last_at_s": now_s - 90}]}, "warning", "log e 14.2"),
        ({"features": [feature], "incidents": [{**opened, "last_at_s": now_s - MERGE_S}]}, "good", "none of 1 features"),
        ({"features": [feature], "incidents": [], "against_training": departed}, "warning", "reference still: inputs"),
        ({"features": [feature | {"psi": 2.4, "is_judged": False}], "incidents": []}, "unknown", "too few rows"),
        ({"features": [], "incidents": [{**opened, "last_at_s": now_s - 90}]}, "warning", "log e 14.2"),
    ):
        published = {"monitor": {"time_s": now_s}, "routes": {"delays": {"drift": drift}}}
        (control.data / "readings.json").write_text(json.dumps(published))
        parts = control.admin.get("/api/v1/routes/delays/health").json()["parts"]
        (found,) = (one for one in parts if one["part"] == "drift")
        assert (found["level"], said in found["evidence"]) == (level, True), found


def test_route_that_refuses_everybody_is_critical_without_the_monitor(
    start_control, write_linear_model, tmp_path, until, monkeypatch
):
    """Refusals have no record: the workers' own counts make a route and a called model critical, wherever health is shown."""
    monkeypatch.setattr("gateway.control.run.STEP_S", 0.05)
    control = _with_versions(start_control(), write_linear_model, tmp_path)
    control.put_route("late", ("champion", "1", 10_000), if_match=0, model="delays")
    bank = MetricsFile(control.data / "metrics" / "w0.bin")
    asked = {name: cell(bank, REJECTED, name, "LoadFailed") for name in ("late", "delays")}

    def errors() -> dict[str, str]:
        for count in asked.values():
            count.add(10.0)
        [found] = [one for one in control.admin.get("/api/v1/routes/late/health").json()["parts"] if one["part"] == "errors"]
        return found if found["level"] == "critical" else {}

    evidence = until(errors, within_s=60)["evidence"]
    assert re.match(r"the gateway refused (\d+) of \1 requests of the last \d+ s: LoadFailed \1; the monitor has said", evidence)
    for name in asked:
        assert f'gateway_route_health{{process="control",route="{name}"}} 3.0' in control.admin.get("/metrics").text
        assert f'gateway_route_unwell{{part="errors",process="control",route="{name}"}} 3.0' in control.admin.get("/metrics").text
    page = control.admin.get("/status").text
    assert ("2 routes: 2 critical" in page, page.count("errors: the gateway refused")) == (True, 2)


def test_route_that_refused_everybody_is_critical_for_the_successor_of_control(
    start_control, write_linear_model, tmp_path, until, monkeypatch
):
    """What was refused in the last minutes is known to whoever takes over, though nobody is refused any more."""
    monkeypatch.setattr("gateway.control.run.STEP_S", 0.05)
    control = _with_versions(start_control(), write_linear_model, tmp_path)
    count = cell(MetricsFile(control.data / "metrics" / "w0.bin"), REJECTED, "delays", "LoadFailed")

    def is_kept() -> bool:
        count.add(10.0)
        with closing(SqliteCheckpoints(control.data / "checkpoints.db")) as checkpoints:
            return checkpoints.load("refusals") is not None

    until(is_kept, within_s=60)
    health = start_control(running=0).admin.get("/api/v1/routes/delays/health").json()
    assert (health["level"], health["parts"][0]["part"]) == ("critical", "errors")
    assert "LoadFailed" in health["parts"][0]["evidence"]


def test_metrics_show_split_revisions_and_rollouts(control):
    """A scrape holds each variant's weight, how far workers are, and the state of the newest rollout."""
    _start(control)
    text = control.client(None).get("/metrics").text
    assert 'gateway_route_weight_ratio{process="control",route="delays",variant="challenger",version="2"} 0.1' in text
    assert 'gateway_rollout_state{process="control",route="delays",state="CANARY"} 1.0' in text
    assert 'gateway_rollout_state{process="control",route="delays",state="LIVE"} 0.0' in text
    assert 'gateway_worker_revisions_behind{process="control",worker="w1"} 0.0' in text
    assert "gateway_registry_up" in text
