"""Writes: what they are about, what is refused, and what an audit entry keeps of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.access import Key, Scope
from gateway.core.changes import (
    Automation,
    DropHold,
    DropKey,
    DropRoute,
    PutChampion,
    PutHold,
    PutKey,
    PutRollout,
    PutRoute,
    PutVersion,
    Quarantine,
    quarantine_body,
    quarantine_from_body,
)
from gateway.core.commits import (
    body_of,
    read_back,
    refuse_other_version,
    subject_of,
    touches_table,
)
from gateway.core.errors import MalformedRequest, VersionExists
from gateway.core.models import Digest, Runtime, Version, VersionState
from gateway.core.plans import Plan
from gateway.core.rollouts import begin
from gateway.core.routes import Route, Variant, champion_route
from gateway.core.tensors import Signature

VERSION = Version("m", "1", Digest("a" * 64), 5, Runtime.ONNX, "1", Signature((), ()), profile={"bins": [0.5]})
ROUTE = champion_route("r", "1")
ROLLOUT, _ = begin(ROUTE, id="x", challenger="2", plan=Plan(), salt="s", now_s=1.0)
BARRED = Quarantine("a" * 64, "m", "1", 2, 99.0, "errors")
KEY = Key("k", "ada", "b" * 64, frozenset({Scope.READ}), 1.0)
WRITES = {
    "version:m/1": PutVersion(VERSION),
    "champion:m": PutChampion("m", "1"),
    "hold:m/1": PutHold("m", "1"),
    "route:r": PutRoute(ROUTE),
    "rollout:x": PutRollout(ROLLOUT),
    "quarantine:" + "a" * 64: BARRED,
    "key:k": PutKey(KEY),
    "automation": Automation(False),
}


@pytest.mark.parametrize(("subject", "write"), WRITES.items())
def test_write_names_its_subject_and_reads_back(subject, write):
    """Each write has one subject, a body to show, and is read back as it was."""
    assert subject_of(write) == subject
    assert body_of(write)
    assert read_back(write) == write


def test_write_that_drops_has_the_subject_of_what_it_drops():
    """A removal is about the same subject and leaves no body."""
    assert (subject_of(DropRoute("r")), body_of(DropRoute("r"))) == ("route:r", None)
    assert (subject_of(DropHold("m", "1")), body_of(DropHold("m", "1"))) == ("hold:m/1", None)
    assert (subject_of(DropKey("k")), body_of(DropKey("k"))) == ("key:k", None)


def test_write_of_a_version_leaves_the_profile_out_of_the_audit():
    """A profile may be megabytes; the audit says that there is one."""
    body = body_of(PutVersion(VERSION))
    assert body["profile"] is None
    assert body["has_profile"] is True
    assert body_of(PutVersion(replace(VERSION, profile=None)))["has_profile"] is False


def test_write_touches_the_table_only_with_what_workers_read():
    """Routes, champions, versions and holds concern the workers; keys, rollouts, quarantines and the switch do not."""
    touching = {subject for subject, write in WRITES.items() if touches_table([Automation(), write])}
    assert touching == {"version:m/1", "champion:m", "hold:m/1", "route:r"}
    assert touches_table([DropRoute("r")])
    assert touches_table([DropHold("m", "1")])
    assert not touches_table([DropKey("k")])


@pytest.mark.parametrize(
    "write",
    [
        PutRoute(replace(ROUTE, fallback="nobody")),
        PutRoute(replace(ROUTE, variants=())),
        PutRoute(replace(ROUTE, deadline_ms=0)),
        PutRoute(replace(ROUTE, variants=(Variant("champion", "a/b", 10_000),))),
        PutVersion(replace(VERSION, cost_us_per_row=float("nan"))),
        PutRollout(replace(ROLLOUT, step=-1)),
        replace(BARRED, until_s=float("inf")),
    ],
)
def test_write_that_could_not_be_read_back_is_refused(write):
    """What is stored can always be read."""
    with pytest.raises(MalformedRequest):
        read_back(write)


def test_write_of_a_route_fills_in_the_fallback():
    """A route without a fallback falls back to its first variant."""
    route = replace(ROUTE, fallback="")
    assert isinstance(route, Route)
    assert read_back(PutRoute(route)) == PutRoute(ROUTE)


def test_version_may_differ_in_its_state_alone():
    """Retiring is no new version; anything else is."""
    refuse_other_version(VERSION, replace(VERSION, state=VersionState.RETIRED))
    for other in ({"description": "x"}, {"digest": Digest("b" * 64)}, {"profile": None}, {"registered_at_s": 2.0}):
        with pytest.raises(VersionExists, match="m has a version 1"):
            refuse_other_version(VERSION, replace(VERSION, **other))


def test_quarantine_comes_back_from_its_body():
    """A quarantine is what its body says."""
    assert quarantine_from_body(quarantine_body(BARRED)) == BARRED
