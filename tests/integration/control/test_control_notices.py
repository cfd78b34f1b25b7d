"""Notices end to end: registry → notifier → real servers on loopback, which refuse, fail and come back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from email import message_from_string
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from adapters.memory import ManualClock
from adapters.readings_file import ReadingsFile
from adapters.senders import mail, names, other, web
from adapters.senders.opened import opened_sender
from adapters.stores.checkpoints import SqliteCheckpoints
from adapters.stores.registry import SqliteRegistry
from gateway.compose.parts import channels_of
from gateway.control.calls import Control
from gateway.control.conditions import conditions
from gateway.control.notifier import CONSUMER, DEAD_ATTEMPTS, OVER_AFTER_S, Notifier
from gateway.core.access import MONITOR
from gateway.core.changes import Automation, Change, DecisionId, DropRoute, PutRoute
from gateway.core.errors import MalformedRequest
from gateway.core.notices import GIVE_UP_S, Channel, Condition, Severity, retry_s
from gateway.core.records import Offset
from gateway.core.retraining import ASK
from gateway.core.routes import champion_route
from gateway.core.trouble import FleetReading
from gateway.core.troubles import LAG_S, SILENT_S
from gateway.settings import ControlSettings, NoticesSettings, Settings
from tests.integration.talker import Talker

CERTIFICATES = Path(__file__).parents[1] / "serving" / "over_grpc" / "certificates"


class Receiver:
    """A real HTTP server that keeps what it is posted and answers with `status`, or 422 to the incident that it `refuses`."""

    def __init__(self) -> None:
        self.got: list[tuple[dict, dict]] = []
        self.raw: list[bytes] = []
        self.status = 200
        self.refuses = self.refuses_id = ""
        self.takes_s = 0.0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                receiver.raw.append(content)
                receiver.got.append((json.loads(content), {name.lower(): value for name, value in self.headers.items()}))
                body = receiver.got[-1][0]
                is_refused = body.get("incident") == receiver.refuses
                is_refused |= bool(receiver.refuses_id) and body["id"].endswith(receiver.refuses_id)
                time.sleep(receiver.takes_s)
                self.send_response(422 if is_refused else receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Take nothing any more."""
        self._server.shutdown()
        self._server.server_close()


@contextlib.contextmanager
def mail_server(handler, **more):
    """Run a real SMTP server; yield its port."""
    with socket.create_server(("127.0.0.1", 0)) as taken:  # the library cannot be given port 0
        port = taken.getsockname()[1]
    server = Controller(handler, hostname="127.0.0.1", port=port, ready_timeout=60, **more)
    server.start()
    try:
        yield port
    finally:
        server.stop()


@pytest.fixture
def receiver():
    """Return a server that takes everything."""
    running = Receiver()
    yield running
    running.close()


def turn(notifier: Notifier) -> None:
    """Look once, then deliver to each channel, one after the other."""
    notifier.look()
    for name in notifier.names:
        notifier.deliver(name)


class Tellable:
    """A registry with a notifier over it; `lasting` are the conditions."""

    def __init__(self, directory) -> None:
        directory.mkdir(exist_ok=True)
        self.clock = ManualClock()
        self.registry = SqliteRegistry(directory / "registry.db", clock=self.clock)
        self.checkpoints = SqliteCheckpoints(directory / "checkpoints.db")
        self.lasting: list[Condition] = []

    def notifier(self, *channels: Channel) -> Notifier:
        """Return a notifier that has begun."""
        notifier = Notifier(
            {one.name: (one, opened_sender(one)) for one in channels},
            registry=self.registry,
            checkpoints=self.checkpoints,
            conditions=lambda: self.lasting,
            clock=self.clock,
        )
        turn(notifier)
        return notifier

    def put(self, route: str, team: str, action: str = "route.put") -> None:
        """Write a route that a team answers for."""
        write = PutRoute(replace(champion_route("m", "1"), name=route, team=team))
        self.registry.commit(Change("ana", action, f"route:{route}", "worse", (write,), route=route))

    def drop(self, route: str) -> None:
        """Delete a route."""
        self.registry.commit(Change("ana", "route.delete", f"route:{route}", "", (DropRoute(route),), route=route))

    def switch(self, reason: str = "a fire") -> None:
        """Make a change that is told."""
        change = Change("ada", "automation.off", "automation", reason, (Automation(is_on=False),))
        self.registry.commit(change)


@pytest.fixture
def tellable(tmp_path):
    """Return a registry and checkpoints in files."""
    made = Tellable(tmp_path)
    yield made
    made.registry.close()
    made.checkpoints.close()


def test_change_reaches_a_webhook_once_signed_and_with_its_id(tellable, receiver):
    """What is told is the audit entry's reason; the signature fits the bytes, and nothing is told twice."""
    tellable.switch("before anybody was told")
    notifier = tellable.notifier(Channel("hook", f"{receiver.url}/x?secret=s3cret&team=ops"))
    tellable.switch()
    turn(notifier)
    turn(notifier)
    ((body, headers),) = receiver.got
    assert "a fire" in body["notices"][0]["text"]
    assert headers["idempotency-key"] == body["id"] == "audit-2"
    assert headers["headgate-signature"] == "sha256=" + hmac.new(b"s3cret", receiver.raw[0], hashlib.sha256).hexdigest()


def test_channel_of_a_team_is_told_of_the_routes_that_it_answers_for(tellable, receiver):
    """A change of a team's route reaches its channel, and another's does not."""
    everybody = Receiver()
    notifier = tellable.notifier(Channel("risk", receiver.url, teams=("risk",)), Channel("all", everybody.url))
    for name, team in (("fraud", "risk"), ("churn", "growth"), ("seats", "")):
        tellable.put(name, team)
        tellable.put(name, team, "route.rollback")
    turn(notifier)
    assert [body["notices"][0]["route"] for body, _ in receiver.got] == ["fraud"]
    assert {body["notices"][0]["route"] for body, _ in everybody.got} == {"fraud", "churn", "seats"}
    everybody.close()


@pytest.mark.parametrize("becomes", ["deleted", "another team's"])
def test_whoever_was_told_that_a_condition_began_is_told_that_it_is_over(tellable, receiver, becomes):
    """A team's incident ends also when its route is gone or another's by then, and the deliverer another process."""
    channels = (
        Channel("risk", f"pagerduty://KEY?endpoint={receiver.url}", teams=("risk",)),
        Channel("growth", f"pagerduty://OTHER?endpoint={receiver.url}", teams=("growth",)),
    )
    tellable.put("fraud", "risk")
    notifier = tellable.notifier(*channels)
    tellable.lasting = [Condition("health:fraud", Severity.CRITICAL, "fraud", "route fraud is critical")]
    turn(notifier)
    tellable.lasting = []
    if becomes == "deleted":
        tellable.drop("fraud")
    else:
        tellable.put("fraud", "growth")
    successor = tellable.notifier(*channels)
    tellable.clock.move(OVER_AFTER_S)
    turn(successor)
    events = [(body["routing_key"], body["event_action"], body["dedup_key"]) for body, _ in receiver.got]
    assert events == [("KEY", "trigger", "health:fraud"), ("KEY", "resolve", "health:fraud")]
    assert successor.body()["open"] == []


def test_condition_that_becomes_worse_is_told_again(tellable, receiver):
    """Who is told of critical things alone hears of a warning that becomes one, once, and both hear of its end."""
    everybody = Receiver()
    notifier = tellable.notifier(Channel("all", everybody.url), Channel("critical", receiver.url, Severity.CRITICAL))
    for severity in (Severity.WARNING, Severity.CRITICAL, Severity.WARNING, Severity.CRITICAL):
        tellable.lasting = [Condition("health:fraud:errors", severity, "", f"{severity.value} errors")]
        tellable.clock.move(1.0)
        turn(notifier)
    tellable.lasting = []
    turn(notifier)
    tellable.clock.move(OVER_AFTER_S)
    turn(notifier)
    told = [[(body["severity"], body["is_over"]) for body, _ in one.got] for one in (everybody, receiver)]
    assert told == [[("warning", False), ("critical", False), ("critical", True)], [("critical", False), ("critical", True)]]
    everybody.close()


def test_end_of_a_condition_that_became_worse_counts_from_its_beginning(tellable, receiver):
    """An hour of warning before it turned critical is part of how long it lasted, for a successor of the process too."""
    channel = Channel("all", receiver.url)
    notifier = tellable.notifier(channel)
    for severity, after_s in ((Severity.WARNING, 3_600.0), (Severity.CRITICAL, 10.0)):
        tellable.lasting = [Condition("health:fraud:errors", severity, "", "errors")]
        turn(notifier)
        tellable.clock.move(after_s)
    tellable.lasting = []
    notifier = tellable.notifier(channel)
    turn(notifier)
    tellable.clock.move(OVER_AFTER_S)
    turn(notifier)
    last = receiver.got[-1][0]
    assert (last["is_over"], last["notices"][-1]["text"]) == (True, f"It lasted {3_610 + OVER_AFTER_S:.0f} s.")


def test_rollback_of_a_route_that_is_deleted_by_then_reaches_its_team(tellable, receiver):
    """The entry says who answered for the route; what became of it before anybody looked does not matter."""
    notifier = tellable.notifier(Channel("risk", receiver.url, teams=("risk",)))
    tellable.put("fraud", "risk")
    tellable.put("fraud", "risk", "route.rollback")
    tellable.drop("fraud")
    turn(notifier)
    assert [body["notices"][0]["kind"] for body, _ in receiver.got] == ["route.rollback"]


def test_notice_that_no_channel_wants_is_counted_and_journalled_once(start_control, tellable, receiver, until, caplog):
    """Nobody is told of a route without a team here: a number by severity and one line say so, and its end adds nothing."""
    notifier = tellable.notifier(Channel("risk", receiver.url, teams=("risk",)))
    tellable.lasting = [Condition("health:seats", Severity.CRITICAL, "seats", "route seats is critical")]
    turn(notifier)
    turn(notifier)
    tellable.lasting = []
    turn(notifier)
    tellable.clock.move(OVER_AFTER_S)
    turn(notifier)
    assert receiver.got == []
    assert dict(notifier.untold()) == {Severity.INFO: 0, Severity.WARNING: 0, Severity.CRITICAL: 1}
    assert [record.reason for record in caplog.records if record.levelname == "WARNING"] == ["route seats is critical"]
    channel = Channel("critical", receiver.url, Severity.CRITICAL)
    control = start_control(channels={"critical": (channel, opened_sender(channel))})
    control.admin.put("/api/v1/automation", json={"is_on": False, "reason": "a fire"})
    counted = 'gateway_notices_untold_total{process="control",severity="warning"} 1.0'
    until(lambda: counted in control.admin.get("/metrics").text, within_s=30)


def test_channel_that_hangs_holds_up_neither_another_nor_what_is_looked_at(start_control, receiver, until, monkeypatch):
    """While one receiver says nothing, another gets what was there and what comes after it."""
    monkeypatch.setattr(web, "_TIMEOUT_S", 120.0)  # longer than the test: the silent one hangs to its end
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(30)
        hang = Channel("a", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        channels = [hang, Channel("b", receiver.url)]
        control = start_control(channels={one.name: (one, opened_sender(one)) for one in channels})
        control.admin.put("/api/v1/automation", json={"is_on": False, "reason": "a fire"})
        connection, _ = silent.accept()
        with connection:
            until(lambda: len(receiver.got) == 1, within_s=30)
            control.admin.put("/api/v1/automation", json={"is_on": True, "reason": "it is out"})
            until(lambda: len(receiver.got) == 2, within_s=30)
            hung = next(one for one in control.admin.get("/api/v1/notices").json()["channels"] if one["channel"] == "a")
            assert (hung["waiting"], hung["failures"]) == (2, 0)


def test_worst_incident_is_sent_first(tellable, receiver):
    """A critical condition does not wait behind what began before it."""
    notifier = tellable.notifier(Channel("hook", receiver.url))
    tellable.lasting = [Condition("lag", Severity.WARNING, "", "behind"), Condition("silent", Severity.CRITICAL, "", "silent")]
    turn(notifier)
    assert [body["incident"] for body, _ in receiver.got] == ["silent", "lag"]


def test_channel_that_refuses_is_tried_again_until_it_takes_and_holds_up_nobody(tellable, receiver):
    """A failing channel gets the same id again after a pause; another channel has long been told."""
    second = Receiver()
    receiver.status = 503
    notifier = tellable.notifier(Channel("bad", receiver.url), Channel("good", second.url))
    tellable.switch()
    turn(notifier)
    turn(notifier)  # within the pause nothing is tried
    assert (len(receiver.got), len(second.got)) == (1, 1)
    tellable.clock.move(retry_s(1))
    receiver.status = 200
    turn(notifier)
    assert [body["id"] for body, _ in receiver.got] == ["audit-1", "audit-1"]
    assert len(second.got) == 1
    assert notifier.body()["waiting"] == []
    second.close()


def test_critical_notice_does_not_wait_for_a_channel_that_failed(tellable, receiver):
    """Within the pause after failures a critical notice is tried at once, and only once; the pause of the others is no longer."""
    receiver.status = 503
    notifier = tellable.notifier(Channel("hook", receiver.url))
    tellable.lasting = [Condition("lag", Severity.WARNING, "", "behind")]
    for attempt in range(1, 7):
        turn(notifier)
        tellable.clock.move(retry_s(attempt) if attempt < 6 else 1.0)
    tellable.lasting.append(Condition("drift", Severity.WARNING, "", "far"))
    turn(notifier)
    tellable.lasting.append(Condition("silent", Severity.CRITICAL, "", "silent"))
    turn(notifier)
    turn(notifier)
    assert [body["incident"] for body, _ in receiver.got] == [*["lag"] * 6, "silent"]

    receiver.status = 200
    tellable.lasting.append(Condition("fleet", Severity.CRITICAL, "", "many"))
    turn(notifier)
    assert [body["incident"] for body, _ in receiver.got[7:]] == ["fleet", "drift", "silent", "lag"]
    assert notifier.body()["waiting"] == []


def test_failing_tries_of_critical_notices_put_off_no_other(tellable, receiver):
    """However many critical notices fail within the pause, what waits is tried when it would have been."""
    receiver.status = 503
    notifier = tellable.notifier(Channel("hook", receiver.url))
    tellable.lasting = [Condition("lag", Severity.WARNING, "", "behind")]
    turn(notifier)
    for number in range(3):
        tellable.clock.move(retry_s(1) / 4)
        tellable.lasting.append(Condition(f"silent-{number}", Severity.CRITICAL, "", "silent"))
        turn(notifier)
    assert [body["incident"] for body, _ in receiver.got] == ["lag", "silent-0", "silent-1", "silent-2"]
    receiver.status = 200
    tellable.clock.move(retry_s(1) / 4)
    turn(notifier)
    assert notifier.body()["waiting"] == []


def test_clock_that_is_set_back_delays_neither_a_retry_nor_the_end_of_a_condition(tellable, receiver):
    """What is measured is time that passes, not what the clock on the wall says."""
    receiver.status = 503
    notifier = tellable.notifier(Channel("hook", receiver.url))
    tellable.lasting = [Condition("lag", Severity.WARNING, "", "behind")]
    turn(notifier)
    tellable.clock.step(-3_600.0)
    tellable.clock.move(retry_s(1))
    receiver.status = 200
    turn(notifier)
    tellable.lasting = []
    turn(notifier)
    tellable.clock.step(-3_600.0)
    tellable.clock.move(OVER_AFTER_S)
    turn(notifier)
    assert [body["is_over"] for body, _ in receiver.got] == [False, False, True]


def test_message_that_is_always_refused_keeps_back_no_other(tellable):
    """A receiver that cannot take one incident, the worst, gets the others after the pause that follows a failure."""
    choosy = Receiver()
    choosy.refuses = "poison"
    notifier = tellable.notifier(Channel("hook", choosy.url))
    tellable.lasting = [Condition("poison", Severity.CRITICAL, "", "worst"), Condition("lag", Severity.WARNING, "", "behind")]
    turn(notifier)
    tellable.clock.move(retry_s(1))
    turn(notifier)
    assert [body["incident"] for body, _ in choosy.got] == ["poison", "lag", "poison"]
    assert next(notifier.counts())[1:] == (1, 1, 0)
    choosy.close()


def test_what_waits_survives_the_death_of_the_deliverer(tellable, receiver):
    """A successor goes on from the checkpoint: nothing is lost, and what was delivered is not told again."""
    receiver.status = 500
    first = tellable.notifier(Channel("hook", receiver.url))
    tellable.switch("one")
    turn(first)
    tellable.switch("two")
    receiver.status = 200
    successor = tellable.notifier(Channel("hook", receiver.url))
    turn(successor)
    delivered = receiver.got[1:]
    assert [notice["id"] for body, _ in delivered for notice in body["notices"]] == ["audit-1", "audit-2"]
    third = tellable.notifier(Channel("hook", receiver.url))
    turn(third)
    assert len(receiver.got) == 1 + len(delivered)
    assert next(third.counts())[1:] == (0, 2, 0)


def test_change_that_nobody_lived_to_look_at_is_told_by_the_successor(tellable, receiver):
    """Whoever was begun to be told loses nothing when the deliverer dies before its first look at a change."""
    channel = Channel("hook", receiver.url)
    tellable.switch("before anybody was told")
    tellable.notifier(channel)
    tellable.switch()
    turn(tellable.notifier(channel))
    assert [notice["id"] for body, _ in receiver.got for notice in body["notices"]] == ["audit-2"]


def test_power_loss_while_the_state_is_saved_loses_no_notice(tellable, receiver, monkeypatch, tmp_path):
    """Wherever the saving breaks off, a successor starts, and every notice reaches the channel, some of them again."""
    channel = Channel("hook", receiver.url)
    receiver.status = 500
    notifier = tellable.notifier(channel)
    begun_bytes = (tmp_path / "checkpoints.db-wal").stat().st_size  # flushed, as the database promises
    for reason in ("one", "two"):
        tellable.switch(reason)
        turn(notifier)
        tellable.clock.move(retry_s(99))
    database, saving = ((tmp_path / f"checkpoints.db{end}").read_bytes() for end in ("", "-wal"))
    receiver.status = 200
    assert len(saving) > begun_bytes
    for cut in range(begun_bytes, len(saving), (len(saving) - begun_bytes) // 15):
        after = tmp_path / f"after-{cut}"
        after.mkdir()
        (after / "checkpoints.db").write_bytes(database)
        (after / "checkpoints.db-wal").write_bytes(saving[:cut])
        del receiver.got[:]
        with closing(SqliteCheckpoints(after / "checkpoints.db")) as checkpoints, monkeypatch.context() as patched:
            patched.setattr(tellable, "checkpoints", checkpoints)
            tellable.notifier(channel)
        told = {notice["id"] for body, _ in receiver.got for notice in body["notices"]}
        assert told >= {"audit-1", "audit-2"}, (cut, told)


@pytest.mark.parametrize("state", [b'{"outbox":[],"open":[{"id":"1"}],"lines":{}}', b'{"outbox":[[]]', b"[]"])
def test_state_that_cannot_be_read_stops_no_start(tellable, receiver, state):
    """A successor that does not know the saved form says so, and tells what the audit log holds since then."""
    tellable.switch("before")
    tellable.checkpoints.save(CONSUMER, {"audit": Offset(1)}, state)
    tellable.switch("after")
    turn(tellable.notifier(Channel("hook", receiver.url)))
    assert [notice["id"] for body, _ in receiver.got for notice in body["notices"]] == ["audit-2"]


def test_dead_channel_is_told_on_another_and_its_return_too(tellable, receiver):
    """After some failures the others learn of it, once; when it takes notices again, that it is over."""
    dead = Receiver()
    dead.status = 500
    notifier = tellable.notifier(Channel("dead", dead.url), Channel("alive", receiver.url, Severity.CRITICAL))
    tellable.switch()
    for attempt in range(DEAD_ATTEMPTS + 2):
        turn(notifier)
        tellable.clock.move(retry_s(attempt + 1))
    assert [body["incident"] for body, _ in receiver.got] == ["channel:dead"]
    assert "500" in receiver.got[0][0]["title"]
    dead.status = 200
    tellable.clock.move(retry_s(99))
    turn(notifier)
    turn(notifier)
    tellable.clock.move(OVER_AFTER_S)
    turn(notifier)
    assert [body["is_over"] for body, _ in receiver.got] == [False, True]
    dead.close()


def test_critical_notice_that_every_channel_refuses_is_unheard_until_one_takes_it(tellable, receiver):
    """Two dead channels cannot tell of each other: a number says so at once, and no more as soon as somebody heard."""
    receiver.status = 500
    notifier = tellable.notifier(Channel("mail", receiver.url), Channel("pager", receiver.url))
    tellable.lasting = [Condition("health:seats:errors", Severity.CRITICAL, "", "route seats is critical")]
    turn(notifier)
    assert dict(notifier.unheard()) == {Severity.INFO: 0, Severity.WARNING: 0, Severity.CRITICAL: 1}
    receiver.status = 200
    tellable.clock.move(retry_s(1))
    notifier.deliver("pager")
    assert dict(notifier.unheard())[Severity.CRITICAL] == 0
    assert next(notifier.counts())[:2] == ("mail", 1), "the other still waits for it"


def test_condition_that_no_channel_wants_is_unheard_while_it_lasts(tellable, receiver):
    """A route without a channel is not told of; it stays so for the deliverer's successor, and ends with the condition."""
    channel = Channel("risk", receiver.url, teams=("risk",))
    tellable.lasting = [Condition("health:seats:errors", Severity.CRITICAL, "seats", "route seats is critical")]
    tellable.notifier(channel)
    successor = tellable.notifier(channel)
    assert (dict(successor.unheard())[Severity.CRITICAL], dict(successor.untold())[Severity.CRITICAL]) == (1, 1)
    tellable.lasting = []
    turn(successor)
    tellable.clock.move(OVER_AFTER_S)
    turn(successor)
    assert (dict(successor.unheard())[Severity.CRITICAL], dict(successor.untold())[Severity.CRITICAL]) == (0, 1)
    assert receiver.got == []


def test_what_waited_for_a_channel_that_is_no_more_goes_to_those_that_are(tellable, receiver):
    """Whoever renames a dead channel gets what it never took, once: changes as they were, and what still lasts anew."""
    dead = Receiver()
    dead.status = 500
    tellable.lasting = [Condition("health:seats:errors", Severity.CRITICAL, "", "route seats is critical")]
    notifier = tellable.notifier(Channel("mail", dead.url))
    tellable.switch()
    turn(notifier)
    for _ in range(2):
        turn(tellable.notifier(Channel("e-mail", receiver.url)))
    told = [notice["incident"] for body, _ in receiver.got for notice in body["notices"]]
    assert told == ["health:seats:errors", "automation"]
    assert dict(notifier.unheard())[Severity.CRITICAL] == 1
    dead.close()


def test_condition_triggers_and_resolves_one_incident_at_pagerduty(tellable, receiver):
    """Begin and end have one deduplication key; what comes back within a minute is the same condition."""
    notifier = tellable.notifier(Channel("duty", f"pagerduty://KEY?endpoint={receiver.url}/v2/enqueue"))
    tellable.lasting = [Condition("monitor:silent", Severity.CRITICAL, "", "the monitor is silent")]
    turn(notifier)
    tellable.lasting = []
    turn(notifier)
    tellable.clock.move(OVER_AFTER_S / 2)
    tellable.lasting = [Condition("monitor:silent", Severity.CRITICAL, "", "the monitor is silent")]
    turn(notifier)
    tellable.lasting = []
    turn(notifier)
    tellable.clock.move(OVER_AFTER_S)
    turn(notifier)
    events = [body for body, _ in receiver.got]
    assert [(event["event_action"], event["dedup_key"]) for event in events] == [
        ("trigger", "monitor:silent"),
        ("resolve", "monitor:silent"),
    ]
    assert events[0]["routing_key"] == "KEY"
    assert events[0]["payload"]["severity"] == "critical"


def ask(registry, since_s: float = 1_700_000_000.0) -> None:
    """Ask for a model to be trained anew, as the monitor does."""
    finding = {"measure": "loss", "version": "2", "loss": 0.4, "bound": 0.25}
    evidence = {"attribution": "WORLD", "model": "delays", "why": "it rose", "finding": finding}
    evidence |= {"since_s": since_s, "until_s": since_s + 60.0}
    registry.commit(Change(MONITOR.name, ASK, "route:delays", "it rose", (), evidence=evidence), decision_id=DecisionId("ask"))


def test_training_pipeline_gets_one_event_with_the_evidence_and_where_the_data_lies(tellable, receiver):
    """A structured CloudEvent arrives with the same id until it is taken; what is not retraining never comes."""
    url = f"cloudevents+{receiver.url}/events?source=/headgate/test&secret=s3cret"
    notifier = tellable.notifier(Channel("training", url, kinds=("retraining.*",)))
    receiver.status = 503
    tellable.switch()
    ask(tellable.registry)
    ask(tellable.registry)
    turn(notifier)
    receiver.status = 204
    tellable.clock.move(retry_s(1))
    turn(notifier)
    turn(notifier)
    (refused, _), (event, headers) = receiver.got
    assert refused == event
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["headgate-signature"] == "sha256=" + hmac.new(b"s3cret", receiver.raw[1], hashlib.sha256).hexdigest()
    assert (event["specversion"], event["type"], event["id"]) == ("1.0", "headgate.retraining.ask", "audit-2")
    assert (event["source"], event["subject"]) == ("/headgate/test", "delays")
    data = event["data"]
    assert (data["attribution"], data["finding"]["loss"], data["audit_entry"]) == ("WORLD", 0.4, 2)
    assert data["since"] == "2023-11-14T22:13:20.000Z"
    assert f"--since {data['since']} --until {data['until']}" in data["export"]


def test_events_of_one_message_have_one_bound_and_none_that_was_taken_comes_again(tellable, receiver, monkeypatch):
    """A receiver that takes its time for each gets what fits at one attempt, and the rest at the next."""
    notifier = tellable.notifier(Channel("training", f"cloudevents+{receiver.url}"))
    receiver.status = 503
    tellable.lasting = [Condition("lag", Severity.WARNING, "", "behind")]
    turn(notifier)
    tellable.lasting = []
    turn(notifier)
    tellable.clock.move(OVER_AFTER_S)
    turn(notifier)
    assert next(notifier.counts())[1:3] == (2, 0)
    monkeypatch.setattr(web, "_EVENTS_TIMEOUT_S", 1.0)
    receiver.status, receiver.takes_s = 204, 0.7
    tellable.clock.move(retry_s(99))
    turn(notifier)
    assert next(notifier.counts())[1:3] == (2, 0)
    del receiver.got[:]
    receiver.takes_s, receiver.refuses_id = 0.0, "-over"
    monkeypatch.setattr(web, "_EVENTS_TIMEOUT_S", 60.0)
    for _ in range(2):
        tellable.clock.move(retry_s(99))
        turn(notifier)
    assert len([event for event, _ in receiver.got if not event["id"].endswith("-over")]) <= 1
    receiver.refuses_id = ""
    tellable.clock.move(retry_s(99))
    turn(notifier)
    assert next(notifier.counts())[1:3] == (0, 2)


def test_receiver_of_the_manual_trains_once_however_often_it_is_told(tellable, until, tmp_path):
    """The example starts the command with the event's data, and does not start it again for the same id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "train.sh").write_text(f"cat >> {tmp_path}/trained; echo >> {tmp_path}/trained\n")
    command = [sys.executable, "docs/examples/retrain.py", str(port), "sh", str(tmp_path / "train.sh")]
    channel = Channel("training", f"cloudevents+http://127.0.0.1:{port}/")
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as pipeline:
        try:
            notifier = tellable.notifier(channel)
            ask(tellable.registry)

            def is_taken() -> bool:
                turn(notifier)
                tellable.clock.move(retry_s(1))
                return bool(next(notifier.counts())[2])

            until(is_taken, within_s=60)
            again = Tellable(tmp_path / "again")
            resender = again.notifier(channel)
            ask(again.registry)
            turn(resender)
            assert next(resender.counts())[2] == 1
        finally:
            pipeline.terminate()
    [line] = (tmp_path / "trained").read_text().splitlines()
    assert json.loads(line)["attribution"] == "WORLD"


def test_slack_gets_text_in_which_nothing_is_a_mention(tellable, receiver):
    """Names that look like Slack's own markup arrive as text."""
    notifier = tellable.notifier(Channel("chat", f"slack+{receiver.url}/services/T/B/x"))
    tellable.switch("<!channel> & more")
    turn(notifier)
    ((body, _),) = receiver.got
    assert "&lt;!channel&gt; &amp; more" in body["text"]


MAIL = "smtp://127.0.0.1:{port}?from=gate@example.test&to=ops@example.test"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("url", "talker", "is_taken"),
    [
        ("http://127.0.0.1:{port}", Talker(OK + b"content-length: 99999999999\r\n\r\n", b"x" * 65_536), True),
        ("http://127.0.0.1:{port}", Talker(b"", b"HTTP/1.1 100 Continue\r\n\r\n", every_s=0.01), False),
        ("slack+http://127.0.0.1:{port}", Talker(OK, b"x", every_s=0.01), False),
        (MAIL, Talker(b"", b"220-" + b"x" * 60 + b"\r\n"), False),
        (MAIL, Talker(b"220 ", b"x", every_s=0.01), False),
        ("json://127.0.0.1:{port}", Talker(OK + b"content-length: 99999999999\r\n\r\n", b"x", every_s=0.01), False),
        ("json://127.0.0.1:{port}", Talker(OK + b"content-length: 99999999999\r\n\r\n", b"x" * 65_536), False),
    ],
    ids=["body", "interim answers", "slow head", "greeting", "slow greeting", "slow body", "other body"],
)
def test_receiver_that_talks_without_end_is_left(tellable, monkeypatch, url, talker, is_taken):
    """However much or slowly a receiver answers, the deliverer goes on, and reads no more than it needs."""
    for kind, timeout_s in ((web, 0.5), (mail, 0.5), (other, 4.0)):
        monkeypatch.setattr(kind, "_TIMEOUT_S", timeout_s)
    port = talker.start()
    notifier = tellable.notifier(Channel("hook", url.format(port=port)))
    tellable.switch()
    began_s = time.monotonic()
    turn(notifier)
    assert time.monotonic() - began_s < 30
    ((_, waiting, delivered, _),) = notifier.counts()
    assert (waiting, delivered) == ((0, 1) if is_taken else (1, 0))
    talker.close()


class Resolver:
    """The system's resolver, which hangs at names under `.test` until `released`, and then says that they are here."""

    def __init__(self, monkeypatch) -> None:
        self.released = threading.Event()
        self.is_slow = False
        self.questions: Counter[str] = Counter()
        self._real = socket.getaddrinfo
        monkeypatch.setattr(names.socket, "getaddrinfo", self)

    def __call__(self, host, *rest, **more):
        """Look a name up."""
        if not str(host).endswith((".test", ".test'")):
            return self._real(host, *rest, **more)
        self.questions[str(host)] += 1
        self.released.wait(MOST_OF_IT_S if self.is_slow else 60)
        return self._real("127.0.0.1", *rest, **more)

    @staticmethod
    def asked() -> int:
        """Return how many questions wait for their answer."""
        return sum(thread.name == "lookup" for thread in threading.enumerate())


def test_name_that_is_not_looked_up_in_time_is_left_and_asked_for_once(tellable, receiver, until, monkeypatch):
    """However often a message is tried while the resolver hangs, each name has one thread; with its answer all are delivered."""
    for kind in (web, mail):
        monkeypatch.setattr(kind, "_TIMEOUT_S", 0.3)
    resolver = Resolver(monkeypatch)
    mails: list[object] = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's name
            mails.append(envelope)
            return "250 OK"

    with mail_server(Handler()) as port:
        hook = Channel("hook", receiver.url.replace("127.0.0.1", "hook.test"))
        notifier = tellable.notifier(hook, Channel("mail", MAIL.format(port=port).replace("127.0.0.1", "mail.test")))
        tellable.switch()
        for _ in range(DEAD_ATTEMPTS - 1):
            turn(notifier)
            tellable.clock.move(retry_s(99))
        assert set(resolver.questions.values()) == {1}
        assert [one[1:3] for one in notifier.counts()] == [(1, 0), (1, 0)]
        resolver.released.set()
        until(lambda: not resolver.asked(), within_s=60)
        for kind in (web, mail):
            monkeypatch.setattr(kind, "_TIMEOUT_S", 60.0)
        turn(notifier)
    assert [one[1:3] for one in notifier.counts()] == [(0, 1), (0, 1)]
    assert (len(receiver.got), len(mails)) == (1, 1)


MOST_OF_IT_S = 0.7  # of one second


def test_bound_of_an_email_is_of_all_its_steps(tellable, monkeypatch):
    """A name and a greeting that each take most of the time that there is are too much together."""
    monkeypatch.setattr(mail, "_TIMEOUT_S", 1.0)
    Resolver(monkeypatch).is_slow = True

    class Handler:
        async def handle_EHLO(self, server, session, envelope, hostname, responses):  # noqa: N802 - the library's name
            session.host_name = hostname
            await asyncio.sleep(MOST_OF_IT_S)
            return responses

    with mail_server(Handler()) as port:
        notifier = tellable.notifier(Channel("mail", MAIL.format(port=port).replace("127.0.0.1", "mail.test")))
        tellable.switch()
        turn(notifier)
    assert next(notifier.counts())[1:3] == (1, 0)


def test_email_that_was_taken_is_delivered_however_they_part(tellable):
    """A server that hangs up at the farewell is not sent the same again."""

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's name
            return "250 OK"

        async def handle_QUIT(self, server, session, envelope):  # noqa: N802 - the library's name
            server.transport.abort()

    with mail_server(Handler()) as port:
        notifier = tellable.notifier(Channel("mail", MAIL.format(port=port)))
        tellable.switch()
        turn(notifier)
    assert next(notifier.counts())[1:3] == (0, 1)


def test_names_of_every_script_reach_every_kind_of_channel(tellable, receiver):
    """A route may be called anything printable: no channel chokes on it, and headers stay ASCII."""
    route = "façade 'ж' 東京 🛫 &=+,;@[]{}$`~^()"
    mails: list[str] = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's name
            mails.append(envelope.content.decode())
            return "250 OK"

    with mail_server(Handler()) as port:
        urls = {
            "hook": receiver.url,
            "events": f"cloudevents+{receiver.url}",
            "chat": f"slack+{receiver.url}",
            "pager": f"pagerduty://KEY?endpoint={receiver.url}",
            "mail": MAIL.format(port=port),
        }
        notifier = tellable.notifier(*(Channel(name, url) for name, url in urls.items()))
        tellable.lasting.append(Condition(f"health:{route}", Severity.WARNING, route, f"route {route} is unwell"))
        turn(notifier)
    assert all(waiting == 0 and delivered == 1 for _, waiting, delivered, _ in notifier.counts()), notifier.body()
    (hook, headers), (event, _), (chat, _), (pager, _) = receiver.got
    assert unquote(headers["idempotency-key"]) == hook["id"]
    assert event["subject"] == pager["payload"]["source"] == route
    assert route.replace("&", "&amp;") in chat["text"]
    (letter,) = (message_from_string(one, policy=default) for one in mails)
    assert route in letter["subject"]
    assert route in letter.get_content()


def test_mail_arrives_with_subject_text_and_thread(tellable):
    """A real SMTP server gets one e-mail for both recipients."""
    mails: list[tuple[list[str], str]] = []

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's name
            mails.append((envelope.rcpt_tos, envelope.content.decode()))
            return "250 OK"

    with mail_server(Handler()) as port:
        notifier = tellable.notifier(
            Channel("mail", f"smtp://127.0.0.1:{port}?from=gate@example.test&to=a@example.test&to=b@example.test")
        )
        tellable.switch()
        turn(notifier)
    ((recipients, content),) = mails
    assert recipients == ["a@example.test", "b@example.test"]
    assert "Subject: [warning] automation.off by ada" in content
    assert "a fire" in content
    assert "Message-ID: <audit-1@headgate>" in content


@pytest.mark.parametrize("is_trusted", [True, False])
@pytest.mark.parametrize(("scheme", "by"), [("smtps", "ssl_context"), ("smtp", "tls_context")])
def test_mail_is_encrypted_and_its_password_shown_to_a_trusted_server_alone(tellable, monkeypatch, scheme, by, is_trusted):
    """From the first byte or by STARTTLS, a server whose certificate is trusted gets password and e-mail, another neither."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATES / "first.pem"))
    presented = CERTIFICATES / ("first" if is_trusted else "second")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(presented.with_suffix(".pem"), presented.with_suffix(".key"))
    shown: list[tuple[bytes, bytes]] = []
    mails: list[object] = []

    def authenticator(server, session, envelope, mechanism, shown_here):
        shown.append((shown_here.login, shown_here.password))
        return AuthResult(success=True)

    class Handler:
        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's name
            mails.append(server.transport.get_extra_info("cipher"))
            return "250 OK"

    more = {by: context, "auth_require_tls": by == "tls_context"}  # the library knows of its own STARTTLS alone
    with mail_server(Handler(), authenticator=authenticator, **more) as port:
        url = f"{scheme}://gate:p%40ss@localhost:{port}?from=gate@example.test&to=a@example.test"
        notifier = tellable.notifier(Channel("mail", url))
        tellable.switch()
        turn(notifier)
    assert shown == ([(b"gate", b"p@ss")] if is_trusted else [])
    assert [bool(cipher) for cipher in mails] == ([True] if is_trusted else [])
    assert next(notifier.counts())[1:3] == ((0, 1) if is_trusted else (1, 0))
    assert is_trusted or "CERTIFICATE_VERIFY_FAILED" in notifier.body()["channels"][0]["error"]


def test_recipient_that_is_refused_is_named_and_the_others_are_sent_it_once(tellable, caplog):
    """One address that no longer exists makes nobody else get the same e-mail again, and stands in the journal."""
    mails: list[list[str]] = []

    class Handler:
        async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802 - the library's name
            if address.startswith("gone@"):
                return "550 no such user"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - the library's name
            mails.append(envelope.rcpt_tos)
            return "250 OK"

    with mail_server(Handler()) as port:
        notifier = tellable.notifier(Channel("mail", f"{MAIL.format(port=port)}&to=gone@example.test"))
        tellable.switch()
        turn(notifier)
    assert mails == [["ops@example.test"]]
    assert next(notifier.counts())[1:3] == (0, 1)
    assert [(record.recipient, record.status) for record in caplog.records] == [("gone@example.test", 550)]


def test_password_of_a_mail_server_is_not_sent_in_the_clear(tellable):
    """A server that offers no STARTTLS, or from whose offers somebody on the way struck it, is not shown the password."""
    said: list[bytes] = []

    class Handler:
        async def handle_AUTH(self, server, session, envelope, words):  # noqa: N802 - the library's name
            said.extend(words)

    with mail_server(Handler(), auth_require_tls=False) as port:
        url = f"smtp://gate:s3cret@127.0.0.1:{port}?from=gate@example.test&to=a@example.test"
        notifier = tellable.notifier(Channel("mail", url))
        tellable.switch()
        turn(notifier)
    assert said == []
    assert "STARTTLS" in notifier.body()["channels"][0]["error"]


def test_other_services_are_reached_through_the_library(tellable, receiver, monkeypatch):
    """A scheme that is none of ours is apprise's."""
    monkeypatch.setattr(other, "_TIMEOUT_S", 120.0)  # for the import of the library on a busy machine
    notifier = tellable.notifier(Channel("other", receiver.url.replace("http://", "json://")))
    tellable.switch()
    turn(notifier)
    ((body, _),) = receiver.got
    assert "automation.off" in body["title"]


def test_other_services_are_reached_through_the_proxy_of_the_environment(tellable, receiver, monkeypatch):
    """The process of another service gets the environment's proxy, and none of its secrets."""
    monkeypatch.setattr(other, "_TIMEOUT_S", 120.0)
    monkeypatch.setenv("http_proxy", receiver.url)
    monkeypatch.setenv("no_proxy", "")
    notifier = tellable.notifier(Channel("other", "json://nowhere.test"))
    tellable.switch()
    turn(notifier)
    assert next(notifier.counts())[1:3] == (0, 1)
    assert receiver.got[0][1]["host"] == "nowhere.test"


def test_process_of_another_service_that_does_not_begin_is_left(tellable, monkeypatch, tmp_path):
    """The bound is also of what happens before the process can bound itself."""
    stuck = tmp_path / "stuck"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o700)
    notifier = tellable.notifier(Channel("other", "json://127.0.0.1:9"))
    tellable.switch()
    monkeypatch.setattr(other, "_TIMEOUT_S", 0.2)
    monkeypatch.setattr(sys, "executable", str(stuck))
    began_s = time.monotonic()
    turn(notifier)
    assert time.monotonic() - began_s < 30
    assert "did not answer within" in str(notifier.body()["channels"])


def test_notice_that_nobody_takes_for_a_day_is_given_up_and_counted(tellable, receiver):
    """The outbox does not grow for ever."""
    receiver.status = 500
    notifier = tellable.notifier(Channel("hook", receiver.url))
    tellable.switch()
    turn(notifier)
    tellable.clock.move(GIVE_UP_S + 1)
    turn(notifier)
    assert next(notifier.counts()) == ("hook", 0, 0, 1)


def test_admin_api_shows_channels_without_addresses_and_tests_them(start_control, receiver, until):
    """People see what waits; a test says whether the channel works; no secret of an address is shown."""
    channel = Channel("hook", f"{receiver.url}/?secret=s3cret")
    control = start_control(channels={"hook": (channel, opened_sender(channel))})
    assert control.admin.post("/api/v1/notices/hook/test").status_code == 200
    assert "test of channel hook" in receiver.got[0][0]["title"]
    receiver.status = 500
    refused = control.admin.post("/api/v1/notices/hook/test")
    assert (refused.status_code, refused.json()["is_delivered"]) == (502, False)
    assert "500" in refused.json()["error"]
    assert control.admin.post("/api/v1/notices/nobody/test").status_code == 404
    assert control.client_with("read").post("/api/v1/notices/hook/test").status_code == 403
    receiver.status = 200
    control.admin.put("/api/v1/automation", json={"is_on": False, "reason": "a fire"})
    delivered = 'gateway_notices_delivered_total{channel="hook",process="control"} 1.0'
    until(lambda: delivered in control.admin.get("/metrics").text, within_s=30)
    assert receiver.got[-1][0]["incident"] == "automation"
    shown = control.admin.get("/api/v1/notices").text
    assert '"channel":"hook"' in shown.replace(" ", "")
    assert "s3cret" not in shown


def test_monitor_that_is_not_well_is_told_and_its_silence_once_it_was_listened_for(tellable, tmp_path):
    """A gateway that has just begun pages nobody for the picture of last night; one whose monitor never shows anything does."""
    readings = ReadingsFile(tmp_path / "readings.json")
    unused = ("artifacts", "validator", "archive", "log", "snapshots", "validations", "questions")
    nobody: dict[str, object] = dict.fromkeys(unused)
    clock = tellable.clock
    control = Control(
        settings=ControlSettings(), registry=tellable.registry, readings=readings, workers=(), clock=clock, **nobody
    )

    def told(listened_s: float = 3_600.0) -> dict[str, Severity]:
        return {one.incident: one.severity for one in conditions(control, listened_s=listened_s)}

    silent = {"monitor:silent": Severity.CRITICAL}
    assert (told(SILENT_S), told(SILENT_S + 1.0)) == ({}, silent)
    well = {"published_at_s": clock.now_s(), "lag_s": 0.5}
    readings.publish({"monitor": well, "routes": {}})
    assert told() == {}
    unwell = {**well, "lag_s": LAG_S + 1.0, "sampling": {"rate": 0.5}, "drills": {"harm": {"last": {"ending": "missed"}}}}
    readings.publish({"monitor": unwell, "routes": {}})
    assert told(0.0) == dict.fromkeys(("monitor:behind", "monitor:sampled", "monitor:missed_drill"), Severity.WARNING)
    clock.move(SILENT_S + 1.0)
    assert (told(0.0), told()) == ({}, silent)
    (tmp_path / "readings.json").write_text('{"monitor": ')  # as power loss may leave it
    assert (told(0.0), told()) == ({}, silent)


def test_fleet_that_was_rolled_back_is_told_shown_and_measured(start_control, receiver, until):
    """While nothing is raised by itself, a critical notice, a metric and the automation switch say so, and until when."""
    channel = Channel("hook", receiver.url, Severity.CRITICAL)
    control = start_control(channels={"hook": (channel, opened_sender(channel))})
    suspended = 'gateway_increases_suspended{process="control"} '
    assert f"{suspended}0.0" in control.admin.get("/metrics").text
    fleet = FleetReading(("a", "b", "c"), time.time() + 300)
    monitor = {"time_s": time.time(), "published_at_s": time.time(), "lag_s": 0.0, "fleet": fleet.body()}
    (control.data / "readings.json").write_text(json.dumps({"monitor": monitor, "routes": {}}))
    until(lambda: receiver.got, within_s=30)
    told, _ = receiver.got[0]
    assert (told["incident"], told["severity"]) == ("fleet:suspended", "critical")
    assert "a, b, c" in told["title"]
    assert f"{suspended}1.0" in control.admin.get("/metrics").text
    shown = control.admin.get("/api/v1/automation").json()["fleet"]
    assert (shown["is_suspended"], shown["rolled_back"]) == (True, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ('[ops]\nurl = "https://x/${NO_SUCH_VARIABLE}"\n', "NO_SUCH_VARIABLE"),
        ('[ops]\nurl = "smtp://host"\n', "to="),
        ('[ops]\nurl = "smtp://host?from=a@b.test&to=c@d.test%0ABcc:x@y.test"\n', "to="),
        ('[ops]\nurl = "nosuchscheme://x"\n', "nosuchscheme"),
        ("[ops\n", "notices.file"),
    ],
)
def test_file_of_channels_that_is_wrong_stops_the_start(tmp_path, content, word):
    """A mistake is said before anything runs, with the name of what is wrong."""
    (tmp_path / "notices.toml").write_text(content)
    settings = Settings(notices=NoticesSettings(file=str(tmp_path / "notices.toml")))
    with pytest.raises(MalformedRequest, match=word):
        channels_of(settings, {})
