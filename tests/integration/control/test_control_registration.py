"""Registering versions: what is accepted, what is refused and how, and that nothing is left behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import threading

import numpy as np
import pytest

from gateway.control.upload import receive_upload
from gateway.core.errors import StoreFailed
from gateway.settings import ControlSettings

FEATURES = 4


@pytest.fixture
def artifact(write_linear_model, tmp_path):
    """Return a small model of four features."""
    return write_linear_model(tmp_path / "model.onnx", features=FEATURES)


@pytest.fixture
def reference(tmp_path):
    """Return a training sample of 200 rows."""
    rows = np.random.default_rng(1).normal(size=(200, FEATURES))
    path = tmp_path / "reference.csv"
    path.write_text("a,b,c,d\n" + "\n".join(",".join(f"{value:.4f}" for value in row) for row in rows))
    return path


def _staged(control):
    return list((control.data / "artifacts" / "staging").iterdir())


def test_first_version_becomes_champion(control, artifact, reference):
    """The first version of a model is registered with what was found out about it, and answers as champion."""
    answer = control.upload("delays", artifact, reference, lineage={"run": "7"}, target={"task": "binary", "positive": "1"})
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert answer.headers["location"] == "/api/v1/models/delays/versions/1"
    assert (body["version"], body["is_champion"], body["not_warm"]) == ("1", True, "")
    assert body["digest"] == hashlib.sha256(artifact.read_bytes()).hexdigest()
    assert body["workers"] == {"w0": body["table_revision"]}
    assert body["signature"]["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, FEATURES]}]
    assert [column["name"] for column in body["columns"]] == ["a", "b", "c", "d"]
    assert body["profile"]["rows"] == 200
    assert body["target"]["output"] == "probability"
    assert body["cost_us_per_row"] > 0
    assert body["warnings"] == []
    assert control.artifacts.path(body["digest"])
    assert _staged(control) == []


def test_versions_count_and_may_be_named(control, artifact):
    """Unnamed versions count 1, 2, 3…; a name is taken as given; the champion stays the first."""
    names = [control.upload("m", artifact, **metadata).json()["version"] for metadata in ({}, {}, {"version": "7"}, {})]
    assert names == ["1", "2", "7", "3"]
    assert control.upload("m", artifact, version="nightly").json()["is_champion"] is False
    model = control.admin.get("/api/v1/models/m").json()
    assert model["champion"] == "1"
    assert [version["version"] for version in model["versions"]] == [*names, "nightly"]


def test_same_artifact_under_another_name_is_fine(control, artifact):
    """Two versions may have one digest."""
    first, second = (control.upload("m", artifact).json() for _ in range(2))
    assert first["digest"] == second["digest"]


def test_taken_name_is_a_conflict(control, artifact):
    """A version is immutable: its name cannot be registered again."""
    assert control.upload("m", artifact, version="a").status_code == 201
    again = control.upload("m", artifact, version="a")
    assert again.status_code == 409
    assert _staged(control) == []


def test_two_first_registrations_at_once_leave_one_champion(control, artifact):
    """Registrations of a new model at the same moment get different names, and exactly one is champion."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(control.upload("m", artifact).json())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(answer["version"] for answer in answers) == ["1", "2", "3"]
    [champion] = [answer["version"] for answer in answers if answer["is_champion"]]
    assert control.admin.get("/api/v1/models/m").json()["champion"] == champion


def test_champion_that_no_worker_warmed_says_so(start_control, artifact):
    """Without a worker the version is registered, and the answer says that nobody is warm."""
    control = start_control(running=0, prepare_timeout_s=0.3)
    body = control.upload("m", artifact).json()
    assert body["is_champion"] is True
    assert "w0" in body["not_warm"]


def test_listing_pages_over_models_and_versions(control, artifact):
    """Pages of models and versions join to the whole, each once."""
    for model in ("a", "b", "c"):
        control.upload(model, artifact)
    control.upload("a", artifact)
    first = control.admin.get("/api/v1/models", params={"limit": "2"}).json()
    second = control.admin.get("/api/v1/models", params={"limit": "2", "after": first["next"]}).json()
    assert [model["name"] for model in first["models"] + second["models"]] == ["a", "b", "c"]
    assert second["next"] is None
    versions = control.admin.get("/api/v1/models/a/versions", params={"limit": "1"}).json()
    assert [version["version"] for version in versions["versions"]] == ["1"]
    assert versions["next"] == "1"
    assert "profile" not in versions["versions"][0]


def test_unknown_models_and_versions_are_not_found(control, artifact):
    """What was never registered is a 404."""
    control.upload("m", artifact)
    for path in ("models/x", "models/x/versions", "models/m/versions/9", "models/x/versions/1"):
        assert control.admin.get(f"/api/v1/{path}").status_code == 404
    assert control.admin.post("/api/v1/models/m/versions/9/retire", json={}).status_code == 404


def test_retired_version_stays_visible_and_unused(control, artifact):
    """An unused version can be retired once; it is shown as retired and refused on a route."""
    control.upload("m", artifact)
    control.upload("m", artifact)
    answer = control.admin.post("/api/v1/models/m/versions/2/retire", json={"reason": "superseded"})
    assert (answer.status_code, answer.json()["state"]) == (200, "RETIRED")
    assert control.admin.get("/api/v1/models/m/versions/2").json()["state"] == "RETIRED"
    assert control.admin.post("/api/v1/models/m/versions/2/retire", json={}).status_code == 409
    route = control.put_route("m", ("champion", "2", 10_000), if_match=0)
    assert route.status_code == 409
    assert "retired" in route.json()["error"]


def test_used_version_cannot_be_retired(control, artifact):
    """A champion and a version on a route cannot be taken away."""
    control.upload("m", artifact)
    control.upload("m", artifact)
    control.put_route("r", ("champion", "2", 10_000), if_match=0, model="m")
    champion = control.admin.post("/api/v1/models/m/versions/1/retire", json={})
    routed = control.admin.post("/api/v1/models/m/versions/2/retire", json={})
    assert (champion.status_code, routed.status_code) == (409, 409)
    assert "route r" in routed.json()["error"]


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ("{", "JSON"),
        ("[]", "object"),
        ('{"verson": "1"}', "verson"),
        ('{"version": "a/b"}', "name"),
        ('{"version": ""}', "name"),
        ('{"columns": ["a", "a"]}', "same name"),
        ('{"runtime": "pickle"}', "runtime"),
        ('{"target": {"task": "binary", "threshold": 2}}', "threshold"),
    ],
)
def test_wrong_metadata_is_refused(control, artifact, metadata, word):
    """Metadata that is not of the documented form is a 400 that names the field."""
    files = {"artifact": ("m.onnx", artifact.read_bytes()), "metadata": (None, metadata)}
    answer = control.admin.post("/api/v1/models/m/versions", files=files)
    assert answer.status_code == 400
    assert word in answer.json()["error"]
    assert _staged(control) == []


@pytest.mark.parametrize("model", ["a%2Fb", "..", ".hidden", "a:b", "%20a", "stats", "%ff", "%ed%a0%80", "%EF%BF%BD"])
def test_unsafe_model_name_is_refused(control, artifact, model):
    """A model's name that could leave its place is never registered."""
    answer = control.admin.post(f"/api/v1/models/{model}/versions", files={"artifact": ("m", artifact.read_bytes())})
    assert answer.status_code in (400, 404, 405)
    assert control.admin.get("/api/v1/models").json()["models"] == []


def test_wrong_parts_are_refused(control, artifact):
    """Unknown, repeated and missing parts are a 400 that names the part, and nothing is left behind."""
    content = ("m.onnx", artifact.read_bytes())
    cases = {
        "unknown part": [("artifact", content), ("notes", (None, "x"))],
        "twice": [("artifact", content), ("artifact", content)],
        "missing": [("metadata", (None, "{}"))],
        "file name": [("artifact", content), ("reference", ("sample.xlsx", b"x"))],
    }
    for word, files in cases.items():
        answer = control.admin.post("/api/v1/models/m/versions", files=files)
        assert answer.status_code == 400, word
        assert word in answer.json()["error"]
    assert _staged(control) == []


@pytest.mark.parametrize("headers", [{}, {"content-type": "application/json"}, {"content-type": "multipart/form-data"}])
def test_body_that_is_not_multipart_is_refused(control, headers):
    """Registration says which form it takes."""
    answer = control.admin.post("/api/v1/models/m/versions", content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "multipart" in answer.json()["error"]


def test_cut_multipart_is_refused(control):
    """A multipart body that ends before its last boundary is a 400 and leaves nothing behind."""
    body = b'--b\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\nabc'
    answer = control.admin.post(
        "/api/v1/models/m/versions", content=body, headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert answer.status_code == 400
    assert "boundary" in answer.json()["error"]
    assert _staged(control) == []


def test_body_that_goes_on_after_its_last_boundary_is_refused(control, artifact):
    """What follows the last part is bounded like every other part of the body, and nothing is registered."""

    def pieces():
        yield (
            b'--b\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\n'
            + artifact.read_bytes()
            + b"\r\n--b--\r\n"
        )
        for _ in range(200):
            yield b"x" * 100_000

    answer = control.admin.post(
        "/api/v1/models/m/versions", content=pieces(), headers={"content-type": "multipart/form-data; boundary=b"}
    )
    assert (answer.status_code, "last boundary" in answer.json()["error"]) == (413, True)
    assert _staged(control) == []
    assert control.admin.get("/api/v1/models/m").status_code == 404


def test_artifact_over_its_bound_is_refused(start_control, artifact):
    """An artifact over the configured size is a 413 and leaves nothing behind."""
    control = start_control(upload_bytes_max=100)
    answer = control.upload("m", artifact)
    assert answer.status_code == 413
    assert _staged(control) == []


def test_reference_over_its_bound_is_refused(start_control, artifact, reference):
    """The reference has a bound of its own."""
    control = start_control(reference_bytes_max=100)
    assert control.upload("m", artifact, reference).status_code == 413
    assert _staged(control) == []


@pytest.mark.parametrize("is_stalled", [True, False])
def test_upload_that_stops_is_cleaned_up(start_control, until, is_stalled):
    """An upload whose caller stalls or hangs up leaves no file."""
    control = start_control(body_timeout_s=0.5)
    host, port = control.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        head = f"POST /api/v1/models/m/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {control.token}\r\n"
        part = b'--b\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\n' + b"x" * 100_000
        kind = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall((head + kind).encode() + part)
        until(lambda: _staged(control))
        if is_stalled:
            assert connection.recv(65536).startswith(b"HTTP/1.1 408")
    until(lambda: not _staged(control))


def test_uploads_over_their_number_are_refused(start_control, until):
    """More uploads at once than validation can follow are a 503 that says when to come back."""
    control = start_control(validations_max=1)
    host, port = control.url.removeprefix("http://").split(":")
    head = f"POST /api/v1/models/m/versions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {control.token}\r\n"
    kind = "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n--b\r\n"
    part = 'Content-Disposition: form-data; name="artifact"; filename="m"\r\n\r\nx'
    waiting = [socket.create_connection((host, int(port)), timeout=10) for _ in range(4)]
    for connection in waiting:
        connection.sendall((head + kind + part).encode())
    until(lambda: len(_staged(control)) == 4)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall((head + kind).encode())
        answer = connection.recv(65536)
    for connection in waiting:
        connection.close()
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"retry-after" in answer.lower()
    until(lambda: not _staged(control))


def test_hostile_artifact_is_a_clear_refusal_and_harms_nothing(control, artifact):
    """Bytes that are no model are a 422 with the reason, and the next registration works."""
    answer = control.upload("m", b"\x08\x01garbage" * 100)
    assert answer.status_code == 422
    assert "ONNX" in answer.json()["error"]
    assert control.admin.get("/api/v1/models").json()["models"] == []
    assert control.upload("m", artifact).status_code == 201


def test_any_printable_name_may_be_registered(control, artifact):
    """A model's name needs no Latin letters, and the answer's Location leads to the version."""
    files = {"artifact": ("m.onnx", artifact.read_bytes())}
    made = control.admin.post("/api/v1/models/航班 été/versions", files=files)
    assert made.status_code == 201, made.text
    assert control.admin.get(made.headers["location"]).json()["model"] == "航班 été"


def test_full_disk_is_a_clear_failure(tmp_path):
    """An upload that cannot be written is a store's failure, and what was written is removed."""
    full = tmp_path / "full"
    full.symlink_to("/dev/full")

    async def pieces():
        yield b'--b\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\n' + b"x" * 3_000_000

    async def receive():
        await receive_upload(pieces(), "multipart/form-data; boundary=b", settings=ControlSettings(), stage=lambda: full)

    with pytest.raises(StoreFailed, match="No space left"):
        asyncio.run(receive())
    assert not full.is_symlink()


def test_audit_names_who_registered(control, artifact):
    """A registration stands in the audit log with who did it."""
    control.upload("m", artifact, description="first try")
    entries = control.admin.get("/api/v1/audit").json()["entries"]
    entry = next(entry for entry in entries if entry["action"] == "version.register")
    assert (entry["principal"], entry["subject"], entry["reason"]) == ("admin.token", "version:m/1", "first try")
    assert json.dumps(entry["after"]).count("champion:m") == 1
