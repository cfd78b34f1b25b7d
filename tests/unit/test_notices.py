"""What becomes a notice, who gets it and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from gateway.core.audit import AuditEntry
from gateway.core.errors import MalformedRequest
from gateway.core.notices import (
    MESSAGE_NOTICES_MAX,
    TITLE_LENGTH_MAX,
    Message,
    Severity,
    began,
    channels_from_body,
    ended,
    messages,
    notice_body,
    notice_from_body,
    notice_of,
    retry_s,
    teams_of,
)

NIGHT_S, NOON_S = (datetime.fromisoformat(f"2026-03-01T{hour}:30+00:00").timestamp() for hour in (23, 12))


def entry(principal="monitor", action="rollout.rollback", **fields):
    rollback = AuditEntry(7, NOON_S, principal, action, "rollout:r1", "service errors failed", "", after={"route:fraud-eu": {}})
    return replace(rollback, **fields)


def channel(**fields):
    return channels_from_body({"ops": {"url": "https://example.test/", **fields}})[0]


def test_rollback_by_the_gateway_is_critical_and_says_route_reason_and_entry():
    """Whoever is woken up reads where, why, whose fault, and which audit entry has the evidence."""
    notice = notice_of(entry(evidence={"attribution": "VERSION"}))
    assert (notice.severity, notice.route, notice.id, notice.incident) == (Severity.CRITICAL, "fraud-eu", "audit-7", "rollout:r1")
    for part in ("service errors failed", "attribution: VERSION", "audit entry 7"):
        assert part in notice.text


@pytest.mark.parametrize(
    ("principal", "action", "severity"),
    [
        ("monitor", "rollout.advance", Severity.INFO),
        ("monitor", "rollout.hold", Severity.WARNING),
        ("ada", "automation.off", Severity.WARNING),
        ("ada", "rollout.rollback", Severity.WARNING),
        ("ada", "route.put", None),
        ("ada", "rollout.start", None),
    ],
)
def test_severity_follows_from_who_did_what(principal, action, severity):
    """What a person does on purpose is news to nobody, unless it takes something away."""
    notice = notice_of(entry(principal, action))
    assert (notice.severity if notice else None) is severity


def test_channel_wants_its_routes_and_severities_and_what_concerns_all():
    """A channel is told of its own routes from its severity on, and of the gateway itself."""
    of_fraud = channel(severity="critical", routes=["fraud-*"])
    rollback = notice_of(entry())
    assert of_fraud.wants(rollback)
    assert not of_fraud.wants(replace(rollback, route="delays"))
    assert not of_fraud.wants(replace(rollback, severity=Severity.WARNING))
    assert of_fraud.wants(replace(rollback, route=""))


def test_channel_that_names_kinds_is_told_of_nothing_else():
    """A pipeline hears of retraining alone; a channel without kinds of everything."""
    ask = notice_of(entry(action="retraining.ask", subject="route:delays", after={}, evidence={"since_s": 1.0, "until_s": 2.0}))
    assert (ask.route, ask.severity, ask.incident) == ("delays", Severity.WARNING, "retraining:delays")
    assert str(ask.details["export"]) in ask.text
    assert notice_from_body(notice_body(ask)) == ask
    pipeline = channel(kinds=["retraining.*"])
    assert [pipeline.wants(one) for one in (ask, notice_of(entry()))] == [True, False]
    assert channel().wants(ask)


def test_channel_that_names_teams_is_told_of_their_routes_and_of_the_gateway():
    """A team hears of its own routes and of what concerns all; a route without a team is told where no team is named."""
    notice, whole = notice_of(entry()), began("monitor:lag", Severity.WARNING, "", "behind", NOON_S)
    risk = channel(teams=["risk*"], routes=["fraud-*"])
    assert [risk.wants(notice, team) for team in ("risk", "risk-eu", "growth", "")] == [True, True, False, False]
    assert not risk.wants(replace(notice, route="churn"), "risk")
    assert risk.wants(whole)
    assert channel().wants(notice, "growth")


def test_quiet_hours_hold_back_all_but_what_is_critical():
    """Between 22 and 6 o'clock only critical notices leave, also after midnight."""
    quiet, notice = channel(quiet=["22:00", "06:00"]), notice_of(entry(action="rollout.hold"))
    assert quiet.is_quiet(notice, NIGHT_S)
    assert quiet.is_quiet(notice, NIGHT_S + 4 * 3600)
    assert not quiet.is_quiet(notice, NOON_S)
    assert not quiet.is_quiet(replace(notice, severity=Severity.CRITICAL), NIGHT_S)


def test_notices_of_one_incident_become_one_message_with_the_worst_severity():
    """Three entries of one rollout are one message; another incident is its own."""
    first = notice_of(entry(action="rollout.hold"))
    second = notice_of(entry(seq=8))
    other = began("monitor:lag", Severity.WARNING, "", "behind", NOON_S)
    found = messages([first, other, second])
    assert [[one.id for one in message.notices] for message in found] == [["audit-7", "audit-8"], [other.id]]
    assert found[0].severity is Severity.CRITICAL
    assert (found[0].id, found[0].is_over) == ("audit-8", False)


def test_text_of_a_message_has_the_id_of_each_notice():
    """Whoever is told twice, where nothing but text is shown, can see that it is the same."""
    first, second = notice_of(entry(action="rollout.hold")), began("health:x", Severity.WARNING, "", "behind", NOON_S)
    paragraphs = Message((first, second)).text.split("\n\n")
    assert [one.splitlines()[-1] for one in paragraphs] == ["notice audit-7", f"notice {second.id}"]
    assert len(paragraphs[1].splitlines()) == 2


def test_worst_incident_goes_first_and_keeps_its_own_order():
    """What must be looked at now does not wait behind what is only to know; within an incident nothing overtakes."""
    known, lag = (
        notice_of(entry(action="rollout.advance", subject="rollout:r0")),
        began("lag", Severity.WARNING, "", "behind", 1.0),
    )
    hold, rollback = notice_of(entry(action="rollout.hold")), notice_of(entry(seq=8))
    found = messages([known, lag, hold, rollback])
    assert [message.notices for message in found] == [(hold, rollback), (lag,), (known,)]


@pytest.mark.parametrize(
    ("before", "after", "teams"),
    [
        ({"route:fraud": {"team": "risk"}}, {"route:fraud": {"team": "risk"}}, {"risk"}),
        ({"route:fraud": {"team": "risk"}}, {"route:fraud": {"team": "growth"}}, {"risk", "growth"}),
        ({"route:fraud": {"team": "risk"}}, {"route:fraud": None}, {"risk"}),
        ({}, {"route:fraud": {"team": ""}}, {""}),
        ({}, {"rollout:r1": {"route": "fraud"}, "route:churn": {"team": "growth"}}, set()),
    ],
)
def test_teams_of_a_change_are_those_before_and_after_it(before, after, teams):
    """The entry itself says who answered for its route, whatever became of the route since."""
    assert teams_of(entry(before=before, after=after), "fraud") == teams


def test_message_has_a_bound_and_the_rest_comes_in_the_next():
    """What gathered while a channel was away is told in order, in messages that a service takes."""
    gathered = [notice_of(entry(seq=number)) for number in range(2 * MESSAGE_NOTICES_MAX + 1)]
    found = messages(gathered)
    assert [len(message.notices) for message in found] == [MESSAGE_NOTICES_MAX, MESSAGE_NOTICES_MAX, 1]
    assert [notice for message in found for notice in message.notices] == gathered


def test_condition_is_said_once():
    """A notice's text adds to its title or is empty; of what is longer than a title it has the whole."""
    short = began("monitor:lag", Severity.WARNING, "", "the monitor is behind", NOON_S)
    assert (short.title, short.text) == ("the monitor is behind", "")
    assert messages([short])[0].text.count("behind") == 1
    assert notice_from_body(notice_body(short)) == short

    what = "feature " * (TITLE_LENGTH_MAX // 4)
    long = began("health:a:drift", Severity.WARNING, "a", what, NOON_S)
    assert (long.title, long.text) == (what[:TITLE_LENGTH_MAX], what)


def test_end_of_a_condition_belongs_to_its_incident():
    """The last notice of a condition has the same incident, another id, and says how long it lasted."""
    first = began("monitor:lag", Severity.WARNING, "", "behind", NOON_S)
    last = ended(first, NOON_S + 90)
    assert (last.incident, last.is_over) == (first.incident, True)
    assert last.id != first.id
    assert "90 s" in last.text
    assert notice_from_body(notice_body(last)) == last


def test_retries_wait_twice_as_long_each_time_up_to_five_minutes():
    """The pauses grow and are bounded."""
    assert [retry_s(attempts) for attempts in (1, 2, 3, 20, 10_000)] == [2.0, 4.0, 8.0, 300.0, 300.0]


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"ops": {}}, "url"),
        ({"ops": {"url": "https://x", "severity": "loud"}}, "severity"),
        ({"ops": {"url": "https://x", "quiet": ["22:00", "late"]}}, "quiet"),
        ({"ops": {"url": "https://x", "quiet": ["22:00"]}}, "quiet"),
        ({"ops": {"url": "https://x", "rotues": []}}, "rotues"),
        ({"ops": "https://x"}, "notices.ops"),
        ([], "table"),
    ],
)
def test_channels_that_are_wrong_are_named(body, word):
    """A mistake in the file is refused with the name of what is wrong."""
    with pytest.raises(MalformedRequest, match=word):
        channels_from_body(body)
