"""The admin API as a whole: authentication, forms of refusal, the document."""

from __future__ import annotations

import json
import logging
import re
import socket
import stat
import threading
import time

import httpx
import pytest

from gateway.control.surface import OPERATIONS
from gateway.core.access import Scope
from gateway.core.records import Anchor
from gateway.settings import AccessLog

NEEDING = [operation for operation in OPERATIONS if operation.scope is not None]
NAMES = {"model": "m", "version": "1", "route": "r", "id": "i", "digest": "d", "key": "k", "prediction": "p", "channel": "c"}


def _path(template: str) -> str:
    return re.sub(r"{(\w+)}", lambda found: NAMES[found[1]], template)


def test_every_operation_refuses_a_missing_or_unknown_token(shared_control):
    """Without a known token every operation but health and metrics is a 401 that says so in JSON."""
    with shared_control.client(None) as nobody, shared_control.client("hg_unknown") as stranger:
        for operation in NEEDING:
            for client in (nobody, stranger):
                answer = client.request(operation.method, _path(operation.path))
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), operation.name
                assert "error" in answer.json()


def test_every_operation_refuses_a_token_without_its_scope(control):
    """A token that lacks the operation's scope is a 403 that names the scope."""
    clients = {
        scope: control.client_with(*(other.value for other in Scope if other not in (scope, Scope.ADMIN))) for scope in Scope
    }
    for operation in NEEDING:
        answer = clients[operation.scope].request(operation.method, _path(operation.path))
        assert answer.status_code == 403, operation.name
        assert operation.scope.value in answer.json()["error"]


def test_health_and_metrics_are_open(shared_control):
    """Probes and scrapers need no token."""
    with shared_control.client(None) as nobody:
        assert nobody.get("/health/live").json() == {"live": True}
        assert nobody.get("/health/ready").json()["ready"] is True
        assert "gateway_newest_table_revision" in nobody.get("/metrics").text


def test_ready_names_the_worker_that_is_behind(start_control):
    """A worker that never reported makes the gateway not ready, by name."""
    control = start_control(worker_count=2, running=1)
    answer = control.admin.get("/health/ready")
    assert answer.status_code in (200, 503)
    control.registry.propose([])
    assert control.admin.get("/health/ready").json()["workers"]["w1"] == 0


def test_large_upload_without_token_is_refused_before_it_is_read(shared_control):
    """An upload of 1 GB without a token is answered at once; its body is never asked for and nothing is staged."""
    host, port = shared_control.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = "POST /api/v1/models/m/versions HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        connection.sendall(f"{head}Content-Length: {2**30}\r\n\r\n--b\r\n".encode())
        began = time.monotonic()
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 401")
    assert time.monotonic() - began < 2
    assert list((shared_control.data / "artifacts" / "staging").iterdir()) == []


def test_unknown_paths_and_methods_are_json(shared_control):
    """What is not there is a 404, what is not offered a 405 with `Allow`, both as JSON."""
    missing = shared_control.admin.get("/api/v1/nothing")
    wrong = shared_control.admin.patch("/api/v1/routes/r")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert "error" in missing.json()
    assert "error" in wrong.json()
    assert set(wrong.headers["allow"].split(", ")) >= {"GET", "PUT", "DELETE"}


@pytest.mark.parametrize("path", ["/{name}", "/api/v1/routes/{name}", "/api/v1/models/{name}/versions/{name}"])
def test_refusal_repeats_a_long_path_in_part(shared_control, path):
    """What is not there is named by its beginning, however long its name."""
    missing = shared_control.admin.get(path.format(name="x" * 5_000))
    assert missing.status_code == 404
    assert "xxx" in missing.text
    assert len(missing.content) < 1_200


def test_every_path_refuses_a_method_it_does_not_offer(shared_control):
    """No path falls through to something that is not JSON."""
    for path in {operation.path for operation in OPERATIONS}:
        answer = shared_control.admin.request("TRACE", _path(path))
        assert answer.status_code == 405, path
        assert "error" in answer.json()


def test_broken_http_is_json(shared_control):
    """Bytes that are not HTTP get a 400 with a JSON body."""
    host, port = shared_control.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"\x00\x01 nonsense\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'{"error"' in answer


def test_unknown_query_parameter_is_named(shared_control):
    """A misspelt parameter never passes silently."""
    answer = shared_control.admin.get("/api/v1/models", params={"limt": "3"})
    assert answer.status_code == 400
    assert "'limt'" in answer.json()["error"]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "limit=-1", "limit=99999999999999999999"]
)
def test_limit_outside_its_bounds_is_refused(shared_control, query):
    """A page has from 1 to 1,000 entries."""
    assert shared_control.admin.get(f"/api/v1/audit?{query}").status_code == 400


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"3",
        b'{"is_on": "yes", "reason": "x"}',
        b'{"is_on": true, "reason": "x", "more": 1}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_malformed_body_is_refused(shared_control, body):
    """A body that is not the documented object is a 400 that says why."""
    answer = shared_control.admin.put("/api/v1/automation", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_json_body_over_its_bound_is_refused(shared_control):
    """A JSON body over a mebibyte is a 413."""
    answer = shared_control.admin.put("/api/v1/automation", content=b" " * (2**20 + 1))
    assert answer.status_code == 413


def test_body_where_none_belongs_is_refused(shared_control):
    """An operation that takes no body refuses one rather than ignore it."""
    answer = shared_control.admin.request("DELETE", "/api/v1/keys/x", json={"id": "y"})
    assert answer.status_code == 400


def test_stalled_body_is_a_timeout(start_control):
    """A body that stops coming is a 408."""
    control = start_control(body_timeout_s=0.3)
    host, port = control.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = (
            f"PUT /api/v1/automation HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {control.token}\r\nContent-Length: 99\r\n\r\n"
        )
        connection.sendall(head.encode() + b"{")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408")


def test_document_lists_exactly_what_dispatches(shared_control):
    """Every path and method that answers is in the OpenAPI document, and the other way round."""
    document = shared_control.client(None).get("/openapi.json").json()
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(operation.method, operation.path) for operation in OPERATIONS}
    for method, path in described:
        answer = shared_control.client(None).request(method, _path(path))
        assert answer.status_code in (200, 401), (method, path)


def test_document_is_whole(shared_control):
    """The document says its version, each operation has an id of its own, and every reference leads somewhere."""
    document = shared_control.client(None).get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert set(document["info"]) >= {"title", "version"}
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for path, item in document["paths"].items():
        for operation in item.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))
            assert operation["responses"]
    text = json.dumps(document)
    for name in re.findall(r"#/components/schemas/(\w+)", text):
        assert name in document["components"]["schemas"]


def reads(caplog) -> list[tuple[str, str, int]]:
    """Return the action, the principal and the status of each read that the journal has."""
    return [(one.action, one.principal, one.status) for one in caplog.records if one.message == "read"]


def test_reads_stand_in_the_journal(start_control, caplog):
    """Who looked at what is noted once, whether it was answered or refused; changes, probes and scrapes are not."""
    caplog.set_level(logging.INFO, "gateway.control.reads")
    control = start_control()
    ana, ben = control.client_with("read"), control.client_with("predictions")
    ana.get("/api/v1/routes?limit=7")
    ana.get("/api/v1/predictions")
    ben.post("/api/v1/predictions/query", json={"sql": "SELECT 'é' FROM nowhere"})
    control.client(None).get("/api/v1/audit")
    control.admin.get("/api/v1/keys")
    control.admin.get("/api/v1/routes/no route")
    control.admin.put("/api/v1/automation", json={"is_on": True, "reason": "as before"})
    visitor = control.client(None)
    visitor.post("/status/enter", data={"token": control.token, "to": "/status"})
    for path in ("/status", "/metrics", "/health/live", "/health/ready", "/openapi.json", "/"):
        visitor.get(path)
    assert reads(caplog) == [
        ("listRoutes", "read", 200),
        ("listPredictions", "read", 403),
        ("askPredictions", "predictions", 422),
        ("listAudit", "", 401),
        ("listKeys", "admin.token", 200),
        ("showRoute", "admin.token", 404),
        ("showStatus", "admin.token", 200),
    ]
    listed, _, asked, *_ = [one for one in caplog.records if one.message == "read"]
    assert (listed.path, listed.query) == ("/api/v1/routes", "limit=7")
    assert json.loads(asked.asked) == {"sql": "SELECT 'é' FROM nowhere"}


def test_refused_looks_at_the_status_page_stand_in_the_journal(start_control, caplog):
    """A wrong token, one that may not read, a forged visit and none at all are noted; what leads on is not."""
    caplog.set_level(logging.INFO, "gateway.control.reads")
    control = start_control()
    posts = control.client_with("ground_truth")
    token = posts.headers["authorization"].removeprefix("Bearer ")
    posts.get("/status")
    for sent in (token, "hg_wrong", control.token):
        control.client(None).post("/status/enter", data={"token": sent, "to": "/status"})
    control.client(None).get("/status", headers={"cookie": "headgate_visit=a.1.b"})
    control.client(None).get("/status/routes/delays")
    control.client(None).post("/status/leave")
    assert reads(caplog) == [
        ("showStatus", "ground_truth", 403),
        ("showStatus", "ground_truth", 403),
        ("showStatus", "", 401),
        ("showStatus", "", 401),
        ("showStatus", "", 401),
    ]
    paths = [one.path for one in caplog.records if one.message == "read"]
    assert paths == ["/status", "/status/enter", "/status/enter", "/status", "/status/routes/delays"]


def test_notes_of_reads_are_bounded(start_control, caplog):
    """However long a path and a query are, and whoever sends them, a note of them is short."""
    caplog.set_level(logging.INFO, "gateway.control.reads")
    control = start_control()
    control.client(None).get(f"/api/v1/routes/{'é' * 5_000}?limit={'7' * 5_000}")
    [noted] = [one for one in caplog.records if one.message == "read"]
    assert (noted.status, len(noted.path), len(noted.query)) == (401, 2_000, 2_000)


@pytest.mark.parametrize(("told", "actions"), [(AccessLog.PREDICTIONS, ["listPredictions"]), (AccessLog.NONE, [])])
def test_access_log_can_be_narrowed(start_control, caplog, told, actions):
    """Only reads of logged predictions, or none, are noted where the setting says so."""
    caplog.set_level(logging.INFO, "gateway.control.reads")
    control = start_control(access_log=told)
    for path in ("/api/v1/routes", "/api/v1/predictions", "/status"):
        assert control.admin.get(path).status_code == 200
    assert [action for action, *_ in reads(caplog)] == actions


def test_admin_token_is_private_and_kept(start_control):
    """The first start writes a token that only its owner reads; a second start keeps it."""
    first = start_control()
    assert stat.S_IMODE((first.data / "admin.token").stat().st_mode) == 0o600
    second = start_control()
    assert second.token == first.token
    assert len(second.admin.get("/api/v1/keys").json()["keys"]) == 1


def test_deleted_admin_token_is_replaced_and_revoked(start_control):
    """Deleting the file and starting again gives a new token, and the old one is refused."""
    first = start_control()
    (first.data / "admin.token").unlink()
    second = start_control()
    assert second.token != first.token
    assert second.admin.get("/api/v1/keys").status_code == 200
    assert second.client(first.token).get("/api/v1/keys").status_code == 401


def test_key_lives_from_creation_to_revocation(control):
    """A key's token works from its creation until it is revoked, is shown once, and holds 256 random bits."""
    made = control.admin.post("/api/v1/keys", json={"name": "dashboard", "scopes": ["read"]})
    assert made.status_code == 201
    key = made.json()
    assert len(key["token"]) >= 43
    reader = control.client(key["token"])
    assert reader.get("/api/v1/models").status_code == 200
    listed = control.admin.get("/api/v1/keys")
    assert key["token"] not in listed.text
    assert "sha256" not in listed.text
    assert control.admin.delete(f"/api/v1/keys/{key['id']}").status_code == 200
    assert reader.get("/api/v1/models").status_code == 401
    assert control.admin.delete(f"/api/v1/keys/{key['id']}").status_code == 404


@pytest.mark.parametrize(
    "body", [{"name": "x"}, {"name": "x", "scopes": []}, {"name": "x", "scopes": ["all"]}, {"scopes": ["read"]}]
)
def test_key_without_name_or_scopes_is_refused(shared_control, body):
    """A key has a name and at least one known scope."""
    assert shared_control.admin.post("/api/v1/keys", json=body).status_code == 400


@pytest.mark.parametrize("name", ["monitor", "control", "admin.token"])
def test_key_named_like_a_part_of_the_gateway_is_refused(shared_control, name):
    """Nobody can act in the audit log under the monitor's name, or hold a key that the next start would revoke."""
    answer = shared_control.admin.post("/api/v1/keys", json={"name": name, "scopes": ["operate"]})
    assert (answer.status_code, name in answer.json()["error"]) == (400, True)


def test_last_admin_key_stays(control):
    """Nobody can lock everybody out."""
    [key] = control.admin.get("/api/v1/keys").json()["keys"]
    assert control.admin.delete(f"/api/v1/keys/{key['id']}").status_code == 409


def test_automation_switch_is_kept_and_audited(control):
    """The switch stays as it was set, and the audit log says who set it and why."""
    assert control.admin.get("/api/v1/automation").json()["is_on"] is True
    answer = control.admin.put("/api/v1/automation", json={"is_on": False, "reason": "freeze for the holidays"})
    assert answer.json() == {"is_on": False}
    assert control.admin.get("/api/v1/automation").json()["is_on"] is False
    [entry] = control.admin.get("/api/v1/audit", params={"order": "newest", "limit": 1}).json()["entries"]
    assert (entry["action"], entry["reason"], entry["principal"]) == ("automation.off", "freeze for the holidays", "admin.token")


@pytest.mark.parametrize("is_on", [True, False])
@pytest.mark.parametrize("given", [{}, {"reason": ""}, {"reason": " \n"}, {"reason": None}])
def test_automation_switch_needs_a_reason(shared_control, is_on, given):
    """Neither direction is taken without a word of why, and nothing enters the audit log."""
    before = shared_control.admin.get("/api/v1/audit", params={"order": "newest", "limit": 1}).json()
    answer = shared_control.admin.put("/api/v1/automation", json={"is_on": is_on, **given})
    assert answer.status_code == 400
    assert "body.reason" in answer.json()["error"]
    assert shared_control.admin.get("/api/v1/audit", params={"order": "newest", "limit": 1}).json() == before


def test_audit_pages_join_to_a_whole_chain(control):
    """Pages in either order hold every entry once, and the chain verifies."""
    for number in range(5):
        control.admin.put("/api/v1/automation", json={"is_on": bool(number % 2), "reason": "a test"})
    oldest, after = [], "0"
    while after is not None:
        page = control.admin.get("/api/v1/audit", params={"limit": "2", "after": after}).json()
        oldest += [entry["seq"] for entry in page["entries"]]
        after = page["next"]
    newest, after = [], "0"
    while after is not None:
        page = control.admin.get("/api/v1/audit", params={"limit": "2", "after": after, "order": "newest"}).json()
        newest += [entry["seq"] for entry in page["entries"]]
        after = page["next"]
    assert oldest == newest[::-1] == list(range(1, len(oldest) + 1))
    verdict = control.admin.get("/api/v1/audit/verify").json()
    assert (verdict["is_intact"], verdict["entry_count"]) == (True, len(oldest))


def test_audit_log_that_was_shortened_or_rewritten_is_found(control):
    """An entry that a worker noted in the prediction log must still be there with its hash, however whole the chain looks."""
    for number in range(3):
        control.admin.put("/api/v1/automation", json={"is_on": bool(number % 2), "reason": "a test"})
    entries = control.admin.get("/api/v1/audit", params={"limit": 100}).json()["entries"]
    noted = [Anchor(1.0, entry["seq"], entry["hash"]) for entry in entries]
    control.write_log(*noted)
    assert control.admin.get("/api/v1/audit/verify").json()["is_intact"] is True
    control.write_log(Anchor(2.0, len(entries), "f" * 64), Anchor(3.0, len(entries) + 1, "e" * 64))
    verdict = control.admin.get("/api/v1/audit/verify").json()
    assert (verdict["is_intact"], verdict["first_broken"], verdict["anchors"]["count"]) == (False, None, len(entries) + 2)
    assert [one["time_s"] for one in verdict["anchors"]["lost"]] == [2.0, 3.0]


def test_unknown_order_is_refused(shared_control):
    """`order` is one of two words."""
    assert shared_control.admin.get("/api/v1/audit?order=random").status_code == 400


def test_thirty_calls_at_once_are_all_answered(shared_control):
    """Many callers at the same time each get their answer."""
    statuses: list[int] = []

    def call() -> None:
        statuses.append(
            httpx.get(
                f"{shared_control.url}/api/v1/models", headers=dict(shared_control.admin.headers), trust_env=False
            ).status_code
        )

    threads = [threading.Thread(target=call) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert statuses == [200] * 30
