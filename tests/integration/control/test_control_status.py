"""The status page: who may look, what it shows, that nothing in it is markup but its own, and how it looks in a browser."""

from __future__ import annotations

import hmac
import os
import re
import stat
from dataclasses import replace
from html import escape, unescape
from pathlib import Path

import pytest

from adapters.clock import SystemClock
from adapters.memory import ManualClock
from adapters.readings_file import ReadingsFile
from adapters.stores.memory import MemoryRegistry
from gateway.control.auth import all_keys
from gateway.control.status.visits import SECRET_NAME, VISIT_S, Visits, ensure_secret
from gateway.core.access import Scope
from gateway.core.changes import Change, PutChampion, PutRollout, PutRoute, PutVersion
from gateway.core.errors import NotAuthenticated
from gateway.core.models import Digest, Runtime, Version
from gateway.core.plans import Plan
from gateway.core.rollouts import begin
from gateway.core.routes import champion_route
from gateway.core.tensors import Datatype, Signature, TensorSpec
from gateway.drawing.style import STYLE
from tests.integration.control.browser import BROKEN, Browser

HOSTILE = "<img src=x onerror=\"document.title='taken'\"> & ‘why’"


def _register(registry, model, versions=("1", "2")):
    signature = Signature((TensorSpec("features", Datatype.FP32, (-1, 4)),), (TensorSpec("p", Datatype.FP32, (-1, 1)),))
    made = [Version(model, name, Digest(name * 64), 1, Runtime.ONNX, "1", signature) for name in versions]
    writes = (*(PutVersion(one) for one in made), PutChampion(model, "1"))
    registry.commit(Change("admin", "version.register", f"version:{model}/1", HOSTILE, writes))


def _put_route(registry, name, model, reason=""):
    route = replace(champion_route(model, "1"), name=name)
    return registry.commit(Change("ana", "route.put", f"route:{name}", reason, (PutRoute(route),), route=name))


def _start_rollout(registry, model):
    committed = _put_route(registry, model, model)
    route = registry.table().route(model)
    rollout, split = begin(route, id="r1", challenger="2", plan=Plan(), salt="s", now_s=SystemClock().now_s())
    change = Change("ana", "rollout.start", "rollout:r1", "the new features", (PutRoute(split), PutRollout(rollout)), route=model)
    registry.commit(change, expected_revision=committed.revision)
    return registry.rollout("r1")


def _finding(name, log_e, verdict="INCONCLUSIVE", **more):
    return {
        "guardrail": name,
        "measure": name,
        "is_dry_run": False,
        "verdict": verdict,
        "reason": "the interval is too wide to say, and the challenger's ground truth is late; " * 3,
        "log_e": log_e,
        "log_e_best": log_e,
        "bound": 4.605,
        "champion_count": 9_120,
        "challenger_count": 480,
        "estimate": 0.0123,
        "lower": -0.011,
        "upper": 0.0357,
        "why": "",
        **more,
    }


def _feature(name, psi, alarms=0):
    return {
        "feature": name,
        "rows": 2_000,
        "share": psi / 2,
        "psi": psi,
        "psi_bound": 0.25,
        "is_breached": psi > 0.25,
        "is_judged": True,
        "alarms": alarms,
    }


def _readings(now_s, rollout):
    place = {"variant": "champion", "version": "1", "kind": "live"}
    other = {"variant": "challenger", "version": "2", "kind": "live"}
    return {
        "format": 1,
        "monitor": {"published_at_s": now_s, "time_s": now_s, "lag_s": 0.4, "drills": {}},
        "routes": {
            "delays": {
                "rollout": {
                    "rollout": {"id": rollout.id},
                    "findings": [_finding("errors", 2.9), _finding("latency", 0.2), _finding("loss", 5.2, "FAIL")],
                    "reason": "ground truth is still coming",
                },
                "versions": [
                    {**place, "predictions": 9_120, "error_rate": 0.0007, "latency_ms_mean": 1.84},
                    {**other, "predictions": 480, "error_rate": 0.0, "latency_ms_mean": 2.11},
                ],
                "drift": {
                    "features": [_feature("departure_delay", 0.41, 2), _feature("distance", 0.08), _feature(HOSTILE, 0.01)],
                    "incidents": [
                        {
                            "attribution": "WORLD",
                            "subjects": ["departure_delay"],
                            "opened_at_s": now_s - 900,
                            "why": "both variants saw it at once",
                        }
                    ],
                },
                "quality": {
                    "versions": [
                        {**place, "truths": 5_210, "mean_loss": 0.143, "estimated_loss": 0.139, "coverage": 0.62},
                        {**other, "truths": 270, "mean_loss": 0.151, "estimated_loss": None, "coverage": 0.58},
                    ]
                },
            },
            "fares": {
                "versions": [{**place, "predictions": 41_500, "error_rate": 0.0, "latency_ms_mean": 0.92}],
                "drift": {"features": [_feature("weekday", 0.02)], "incidents": []},
            },
        },
    }


@pytest.fixture
def shown(control):
    """Return a control plane with a rollout that fails, a route that is well and one that nobody called."""
    for model in ("delays", "fares", "seats"):
        _register(control.registry, model)
    rollout = _start_rollout(control.registry, "delays")
    _put_route(control.registry, "fares", "fares", HOSTILE)
    _put_route(control.registry, "seats", "seats")
    ReadingsFile(control.data / "readings.json").publish(_readings(SystemClock().now_s(), rollout))
    return control


def _entered(plane, token, to="/status"):
    client = plane.client(None)
    return client, client.post("/status/enter", data={"token": token, "to": to})


def test_page_asks_for_token_and_shows_nothing_without(shown):
    """Without a visit there is a form and not a word of any route, under the status of a missing token."""
    for path in ("/status", "/status/routes/delays"):
        answer = shown.client(None).get(path)
        assert answer.status_code == 401
        assert 'name="token"' in answer.text
        assert "champion" not in answer.text


def test_token_opens_visit_whose_cookie_is_not_the_token(shown):
    """The cookie is kept from scripts and other sites, does not hold the token, and is no token for the API."""
    client, answer = _entered(shown, shown.token, "/status/routes/delays")
    assert answer.status_code == 303
    assert answer.headers["location"] == "/status/routes/delays"
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/status"} <= {part.strip() for part in cookie.split(";")}
    assert shown.token not in cookie
    assert client.get("/status").status_code == 200
    assert client.get("/api/v1/routes").status_code == 401
    visit = client.cookies["headgate_visit"]
    assert shown.client(visit).get("/api/v1/routes").status_code == 401


def test_visit_ends_with_its_key(shown):
    """A revoked key's visit shows nothing more."""
    key = shown.admin.post("/api/v1/keys", json={"name": "wall", "scopes": ["read"]}).json()
    client, _ = _entered(shown, key["token"])
    assert client.get("/status").status_code == 200
    shown.admin.delete(f"/api/v1/keys/{key['id']}")
    assert client.get("/status").status_code == 401


def test_visit_outlasts_the_process_that_opened_it(shown):
    """Whoever looks need not enter anew because the control process began anew; another gateway's visit is none."""
    secret = ensure_secret(shown.data / SECRET_NAME)
    client, _ = _entered(shown, shown.token)
    cookie = client.cookies["headgate_visit"]
    assert Visits(shown.registry, secret=secret, clock=SystemClock()).visitor(cookie).scopes == {Scope.ADMIN}
    later = ManualClock(SystemClock().now_s() + VISIT_S)
    with pytest.raises(NotAuthenticated, match="over"):
        Visits(shown.registry, secret=secret, clock=later).visitor(cookie)
    with pytest.raises(NotAuthenticated, match="revoked"):
        Visits(MemoryRegistry(clock=later), secret=secret, clock=SystemClock()).visitor(cookie)


def test_visit_cannot_be_forged_from_the_registry(shown):
    """Whoever reads the registry or a back-up, with every key's id and digest, opens no visit with that."""
    key = next(all_keys(shown.registry))
    content = f"{key.id}.{int(SystemClock().now_s()) + 60}"
    for known in (key.token_sha256.encode(), bytes.fromhex(key.token_sha256), key.id.encode(), b""):
        forged = f"{content}.{hmac.digest(known, content.encode(), 'sha256').hex()}"
        assert shown.client(None).get("/status", headers={"cookie": f"headgate_visit={forged}"}).status_code == 401


def test_visit_is_never_longer_than_it_may_be(shown):
    """An end beyond a visit's is refused even where it is signed."""
    secret, (key, *_) = ensure_secret(shown.data / SECRET_NAME), all_keys(shown.registry)
    for beyond_s, status in ((-60.0, 200), (60.0, 401)):
        ahead = ManualClock(SystemClock().now_s() + beyond_s)
        cookie = Visits(shown.registry, secret=secret, clock=ahead).open(key)
        assert shown.client(None).get("/status", headers={"cookie": f"headgate_visit={cookie}"}).status_code == status


@pytest.mark.parametrize("held", [None, b"", b"cut sh", b"\xff" * 70])
def test_secret_of_visits_is_private_whole_and_kept(tmp_path, held):
    """A missing or a damaged secret is replaced by one that only its owner reads, and that one stays."""
    path = tmp_path / SECRET_NAME
    if held is not None:
        path.write_bytes(held)
    secret = ensure_secret(path)
    assert len(set(secret)) > 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ensure_secret(path) == secret
    assert ensure_secret(tmp_path / "other") != secret


@pytest.mark.parametrize("name", ["façade 'ж' 東京 🛫 &=+,;@[]{}$`~^()!", "é" * 100, "a b", "x" * 200])
def test_route_of_any_name_has_its_page(control, name):
    """Every link of a route leads to its page, entering leads back to it, and its name is on it as text."""
    _register(control.registry, "m")
    _put_route(control.registry, name, "m")
    client = control.client(None)
    path = re.search(r'href="(/status/routes/[^"]+)"', control.admin.get("/status").text)[1]
    to = unescape(re.search(r'name="to" value="([^"]*)"|value="([^"]*)" name="to"', client.get(path).text)[1])
    answer = client.post("/status/enter", data={"token": control.token, "to": to})
    assert (answer.status_code, answer.headers["location"]) == (303, path)
    page = client.get(answer.headers["location"])
    assert page.status_code == 200
    assert escape(name) in page.text
    fresh = unescape(re.search(r'href="([^"]*fresh=true)"', page.text)[1])
    assert escape(name) in client.get(fresh).text


def test_changed_cookie_is_refused(shown):
    """Neither another end nor another signature is believed."""
    client, _ = _entered(shown, shown.token)
    id, until_s, signature = client.cookies["headgate_visit"].split(".")
    for forged in (f"{id}.{int(until_s) + 1}.{signature}", f"{id}.{until_s}.{'0' * 64}", "..", "", "x", f"é.9.{signature}"):
        bare = shown.client(None)
        answer = bare.get("/status", headers={"cookie": f"headgate_visit={forged}".encode()})
        assert answer.status_code == 401, forged


def test_token_without_read_opens_nothing(shown):
    """A key that may not read the API may not read the page."""
    key = shown.admin.post("/api/v1/keys", json={"name": "posts", "scopes": ["ground_truth"]}).json()
    _, answer = _entered(shown, key["token"])
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("to", ["//evil.example", "https://evil.example", "/status/../api", "/status\r\nx: y", "/other"])
def test_entering_leads_nowhere_else(shown, to):
    """Whatever the form names, the way leads to the status page."""
    _, answer = _entered(shown, shown.token, to)
    assert answer.headers["location"] == "/status"


def test_overview_shows_split_evidence_and_drift(shown):
    """Routes with their level, their split, the evidence nearest to a rollback and the feature furthest over its bound."""
    text = shown.admin.get("/status").text
    assert "3 routes: 1 critical" in text
    assert "log e 5.20 of 4.61" in text
    assert "PSI 0.410 of 0.250" in text
    assert "rollout.start" in text
    assert text.count('class="split"') == 3


def test_health_is_of_the_versions_that_answer(shown):
    """What a version did before it was taken away is no trouble of those that answer now."""
    readings = _readings(SystemClock().now_s(), shown.registry.rollout("r1"))
    gone = {
        "variant": "challenger",
        "version": "2",
        "kind": "live",
        "predictions": 400,
        "error_rate": 0.5,
        "latency_ms_mean": 9.0,
    }
    readings["routes"]["fares"]["versions"].append(gone)
    ReadingsFile(shown.data / "readings.json").publish(readings)
    parts = {one["part"]: one for one in shown.admin.get("/api/v1/routes/fares/health").json()["parts"]}
    assert parts["errors"]["level"] == "good"
    assert "version 2" not in str(parts)
    readings["routes"]["fares"]["versions"][0]["error_rate"] = 0.5
    ReadingsFile(shown.data / "readings.json").publish(readings)
    assert "errors: version 1: 20,750 of 41,500" in shown.admin.get("/status").text


def test_route_page_shows_each_part(shown):
    """A route's page has health, rollout, drift, versions, quality and the changes of this route alone."""
    text = shown.admin.get("/status/routes/delays").text
    for said in ("version 1: 6 of 9,120 predictions failed", "log e 2.90 of 4.61", "both variants saw it at once", "58 %", "ana"):
        assert said in text, said
    assert "route:fares" not in text
    assert shown.admin.get("/status/routes/nowhere").status_code == 404


def test_route_page_shows_changes_that_a_busy_route_buried(shown, monkeypatch):
    """However often another route was changed since, the last changes of this one stand on its page."""
    monkeypatch.setattr("gateway.control.status.one.LOOKED_AT", 5)
    for number in range(6):
        _put_route(shown.registry, "fares", "fares", f"tuned {number}")
    shown.admin.get("/metrics")  # reads what was added
    text = shown.admin.get("/status/routes/seats").text
    assert text.count("route.put") == 1
    text = shown.admin.get("/status/routes/fares").text
    assert re.findall(r"tuned \d", text) == [f"tuned {number}" for number in range(5, -1, -1)]
    assert text.count("route.put") == 7


def test_what_people_wrote_is_never_markup(shown):
    """A reason or a feature's name that looks like markup is text."""
    for path in ("/status", "/status/routes/delays"):
        text = shown.admin.get(path).text
        assert "<img" not in text
        assert "&lt;img" in text


def test_page_may_load_nothing(shown):
    """The policy of every page allows its own style and nothing else; no page has a script or an address outside."""
    for answer in (shown.admin.get("/status"), shown.client(None).get("/status"), shown.admin.get("/status/routes/nowhere")):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; style-src 'sha256-")
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert not re.search(r"<script|https?://|<[^>]*\s(on\w+|style)=", answer.text.replace(STYLE, ""))


def test_thousand_routes_are_paged(control):
    """A page shows fifty routes and leads to the next; what is unwell is named on the first, wherever it stands."""
    _register(control.registry, "m")
    for number in range(120):
        _put_route(control.registry, f"r{number:03}", "m")
    first = control.admin.get("/status").text
    assert first.count('class="route"') == 50
    following = re.search(r'href="(/status\?after=[^"]+)"', first)
    second = control.admin.get(following[1]).text
    assert "r099" not in first
    assert "r060" in second


def test_unknown_query_is_refused_as_a_page(shown):
    """A misspelt parameter is named, on a page."""
    answer = shown.admin.get("/status?colour=red")
    assert answer.status_code == 400
    assert "colour" in answer.text
    assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.services
def test_browser_shows_page_at_every_width(shown, tmp_path):
    """A browser enters by the form, loads nothing else, finds no fault with the policy, and never has to scroll sideways."""
    pictures = Path(os.environ.get("STATUS_PICTURES", tmp_path))
    browser = Browser(tmp_path / "profile")
    try:
        browser.visit(f"{shown.url}/status")
        (pictures / "enter.png").write_bytes(browser.picture())
        del browser.events[:]
        browser.value(f"document.querySelector('#token').value='{shown.token}'; document.querySelector('button').click()")
        browser.loaded()
        assert browser.value("document.querySelector('h1').innerText") == "3 routes: 1 critical, 2 unknown"
        for path in ("status", "status/routes/delays"):
            for width, is_dark in ((1280, False), (1280, True), (390, False)):
                browser.resized(width, is_dark=is_dark)
                browser.visit(f"{shown.url}/{path}")
                name = f"{path.replace('/', '-')}-{width}{'-dark' if is_dark else ''}.png"
                (pictures / name).write_bytes(browser.picture())
                assert browser.value("document.documentElement.scrollWidth <= window.innerWidth"), name
                assert browser.value(BROKEN) == [], name
                assert browser.value("getComputedStyle(document.body).margin") == "0px", "the style is not applied"
                assert browser.value("document.querySelectorAll('img, script').length") == 0
                assert browser.value("document.title") != "taken"
                assert not browser.methods("Log.entryAdded")
                asked = {one["request"]["url"] for one in browser.methods("Network.requestWillBeSent")}
                assert asked == {f"{shown.url}/{path}"}
    finally:
        browser.close()
