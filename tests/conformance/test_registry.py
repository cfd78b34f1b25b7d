"""What every `RegistryStore` promises, on every backend."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.memory import ManualClock
from adapters.stores.memory import MemoryRegistry
from adapters.stores.registry import SqliteRegistry
from gateway.core.access import Key, Scope
from gateway.core.audit import first_broken
from gateway.core.changes import (
    Automation,
    Change,
    Cold,
    DecisionId,
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
    WorkerStatus,
)
from gateway.core.errors import (
    MalformedRequest,
    RevisionConflict,
    StoreFailed,
    UnknownSubject,
    UnknownVersion,
    VersionExists,
)
from gateway.core.models import Column, Digest, Runtime, Target, Task, Version, VersionState
from gateway.core.plans import Plan
from gateway.core.rollouts import Event, apply_event, begin
from gateway.core.routes import DROPPED_MAX, Revision, Route, Shadow, Variant, with_weights
from gateway.core.tensors import Datatype, Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("x", Datatype.FP32, (-1, 20)),), (TensorSpec("y", Datatype.FP32, (-1, 1)),))


@pytest.fixture(params=["memory", "sqlite"])
def registry(request, tmp_path):
    """One registry of each kind."""
    clock = ManualClock()
    made = MemoryRegistry(clock=clock) if request.param == "memory" else SqliteRegistry(tmp_path / "r.db", clock=clock)
    yield made
    made.close()


def version(name: str = "1", model: str = "delays", **fields) -> Version:
    return replace(
        Version(model, name, Digest("a" * 64), 10, Runtime.ONNX, "1.31", SIGNATURE, Target(Task.BINARY, "y"), (Column("hour"),)),
        **fields,
    )


def route(name: str = "delays", *weights: int, **fields) -> Route:
    variants = tuple(Variant(f"v{at}", str(at + 1), weight) for at, weight in enumerate(weights or (10_000,)))
    return with_weights(Route(name, "delays", (), **fields), variants)


def change(*writes, route: str = "", **fields) -> Change:
    return replace(Change("ada", "route.put", f"route:{route}", "because", writes, route), **fields)


def test_registry_is_empty_at_first(registry):
    """A new registry has nothing, and automation is on."""
    assert registry.table().revision == 0
    assert not registry.table().routes
    assert not registry.models()
    assert not registry.audit()
    assert not registry.rollouts()
    assert not registry.quarantines()
    assert not registry.keys()
    assert not registry.workers()
    assert registry.proposal() is None
    assert registry.automation() == Automation(True)
    with pytest.raises(UnknownVersion):
        registry.version("delays", "1")
    with pytest.raises(UnknownSubject):
        registry.rollout("r")


def test_registry_keeps_versions_in_the_order_of_registration(registry):
    """Versions are paged in the order in which they were registered, whatever their names."""
    for name in ("1", "10", "9", "2"):
        registry.commit(change(PutVersion(version(name))))
    registry.commit(change(PutVersion(version("1", "other")), PutChampion("other", "1")))

    assert [one.version for one in registry.versions("delays")] == ["1", "10", "9", "2"]
    assert [one.version for one in registry.versions("delays", "10", 1)] == ["9"]
    assert registry.models() == [("delays", ""), ("other", "1")]
    assert registry.models("delays") == [("other", "1")]
    assert registry.version("delays", "10") == version("10")


def test_registry_reads_numbers_that_json_proper_does_not_hold(registry):
    """A version whose lineage has an infinite number, which Python writes as JSON, is read back as it was."""
    made = version(lineage={"best_loss": float("inf"), "seeds": 2**53 + 1})
    registry.commit(change(PutVersion(made), PutChampion("delays", "1")))

    assert registry.version("delays", "1") == made
    assert registry.table().versions["delays", "1"] == made


def test_registry_finds_the_chains_that_a_version_is_a_member_of(registry):
    """A member's followers are the chains that run it before their own artifact, unless they are retired."""
    scaler, chain = version("1", "scaler"), version("2", runtime=Runtime.CHAINED)
    members = (scaler, replace(chain, runtime=Runtime.ONNX))
    for one in (scaler, version("2", "scaler"), version("1"), replace(chain, members=members)):
        registry.commit(change(PutVersion(one)))
    assert registry.followers("scaler", "1") == [("delays", "2")]
    assert not [pair for pair in (("scaler", "2"), ("delays", "1"), ("delays", "2")) if registry.followers(*pair)]
    registry.commit(change(PutVersion(replace(chain, members=members, state=VersionState.RETIRED))))
    assert not registry.followers("scaler", "1")


def test_registry_refuses_to_change_a_version_but_for_its_state(registry):
    """A version is immutable: its name is taken for good, and only its state may be set."""
    registry.commit(change(PutVersion(version())))
    with pytest.raises(VersionExists):
        registry.commit(change(PutVersion(version(digest=Digest("b" * 64)))))
    registry.commit(change(PutVersion(version(state=VersionState.RETIRED))))
    assert registry.version("delays", "1").state is VersionState.RETIRED
    assert len(registry.audit()) == 2


def test_registry_table_has_every_version_that_routes_and_champions_need(registry):
    """The table holds variants, shadows, last good ones and champions, and no version that nobody needs."""
    for name in "123456":
        registry.commit(change(PutVersion(version(name))))
    wanted = route("delays", 9_000, 1_000, shadows=(Shadow("s", "3", 0.5),), last_good=(Variant("v0", "4", 10_000),))
    registry.commit(change(PutRoute(wanted), PutChampion("delays", "5"), route="delays"))

    table = registry.table()
    assert set(table.versions) == {("delays", name) for name in "12345"}
    assert table.routes["delays"] == replace(wanted, revision=Revision(1), fallback="v0")
    assert table.champions == {"delays": "5"}
    assert table.revision == 7


def test_registry_table_has_what_is_held_and_what_was_let_go(registry):
    """A hold brings its version into the table; letting go leaves the revision that did, of the last so many, and survives."""
    registry.commit(change(PutVersion(version())))
    registry.commit(change(PutHold("delays", "1")))
    assert registry.table().holds == {("delays", "1"): 2}
    assert set(registry.table().versions) == {("delays", "1")}
    registry.commit(change(DropHold("delays", "1")))
    assert (registry.table().holds, registry.table().dropped) == ({}, {("delays", "1"): 3})
    assert not registry.table().versions
    registry.commit(change(*(DropHold("other", f"{number:04}") for number in range(DROPPED_MAX))))
    assert registry.table().dropped.keys() == {("other", f"{number:04}") for number in range(DROPPED_MAX)}
    registry.commit(change(PutHold("other", "0007")))
    assert ("other", "0007") not in registry.table().dropped


def test_registry_table_shows_the_newest_state(registry):
    """A table that was read before does not hide what changed since: weights, a version's state, a dropped route."""
    registry.commit(change(PutVersion(version()), PutRoute(route()), PutRoute(route("other"))))
    registry.table()
    registry.commit(change(PutRoute(route("delays", 4_000, 6_000))))
    assert registry.table().routes["delays"].variants[1].weight == 6_000
    registry.commit(change(PutVersion(version(state=VersionState.RETIRED))))
    assert registry.table().versions["delays", "1"].state is VersionState.RETIRED
    registry.commit(change(DropRoute("other")))
    assert set(registry.table().routes) == {"delays"}


def test_registry_table_is_the_same_while_nothing_changes(registry):
    """Keys, reports and the switch do not move the table's revision."""
    registry.commit(change(PutRoute(route())))
    before = registry.table()
    registry.commit(change(PutKey(Key("k", "ada", "c" * 64, frozenset({Scope.READ}), 5.0)), Automation(False)))
    registry.report(WorkerStatus("w0", Revision(1), 0, "", 1.0))
    assert registry.table() == before


def test_registry_route_revision_goes_on_after_a_drop(registry):
    """A dropped and re-created route never repeats a revision."""
    for expected in (1, 2):
        assert registry.commit(change(PutRoute(route()), route="delays")).revision == expected
    assert registry.commit(change(DropRoute("delays"), route="delays"), expected_revision=Revision(2)).revision == 0
    assert registry.commit(change(PutRoute(route()), route="delays"), expected_revision=Revision(0)).revision == 3
    assert registry.table().routes["delays"].revision == 3


def test_registry_refuses_a_stale_revision(registry):
    """Whoever decided on an older route is told so, and nothing is written."""
    registry.commit(change(PutRoute(route()), route="delays"))
    registry.commit(change(PutRoute(route("delays", 5_000, 5_000)), route="delays"), expected_revision=Revision(1))
    before = registry.table()
    for stale in (0, 1, 3):
        with pytest.raises(RevisionConflict):
            registry.commit(change(PutRoute(route()), Automation(False), route="delays"), expected_revision=Revision(stale))
    with pytest.raises(RevisionConflict):
        registry.commit(change(PutRoute(route("new")), route="new"), expected_revision=Revision(1))
    assert registry.table() == before
    assert registry.automation().is_on
    assert len(registry.audit()) == 2


def test_registry_writes_all_of_a_change_or_nothing(registry):
    """A change whose last write is refused leaves no trace of its first."""
    registry.commit(change(PutVersion(version())))
    with pytest.raises(VersionExists):
        registry.commit(change(PutRoute(route()), Automation(False), PutVersion(version(size_bytes=11))))
    assert not registry.table().routes
    assert registry.automation().is_on
    assert len(registry.audit()) == 1
    assert registry.table().revision == 1


def test_registry_refuses_what_it_could_not_read_back(registry):
    """A route whose fallback is nobody would hide the whole table, so it is never stored."""
    with pytest.raises(MalformedRequest, match="fallback"):
        registry.commit(change(PutRoute(route(fallback="nobody"))))
    assert registry.table().revision == 0


def test_registry_commits_a_decision_once(registry):
    """Acting twice on one decision is acting once, also when the route has moved on meanwhile."""
    decided = change(PutRoute(route()), route="delays")
    first = registry.commit(decided, expected_revision=Revision(0), decision_id=DecisionId("d1"))
    registry.commit(change(PutRoute(route("delays", 1, 9_999)), route="delays"))
    again = registry.commit(decided, expected_revision=Revision(0), decision_id=DecisionId("d1"))
    assert not first.is_repeat
    assert again == replace(first, is_repeat=True)
    assert [entry.decision_id for entry in registry.audit()] == ["d1", ""]


def test_registry_forgets_a_decision_that_was_refused(registry):
    """A decision whose commit failed may be tried again."""
    decided = change(PutRoute(route()), route="delays")
    with pytest.raises(RevisionConflict):
        registry.commit(decided, expected_revision=Revision(4), decision_id=DecisionId("d1"))
    assert not registry.commit(decided, expected_revision=Revision(0), decision_id=DecisionId("d1")).is_repeat


def test_registry_audit_shows_before_and_after(registry):
    """An entry holds who, what, why, the evidence, and the bodies of what was replaced and written."""
    registry.commit(change(PutRoute(route()), route="delays"))
    registry.commit(
        change(
            PutRoute(route("delays", 5_000, 5_000)),
            DropKey("nobody"),
            Automation(False),
            route="delays",
            evidence={"log_e": float("inf"), "counts": {1: (2, 3)}},
        ),
        decision_id=DecisionId("d"),
    )
    entry = registry.audit(1)[0]
    assert (entry.seq, entry.principal, entry.action, entry.reason, entry.decision_id) == (2, "ada", "route.put", "because", "d")
    assert entry.time_s == 1_700_000_000.0
    assert entry.before["route:delays"]["revision"] == 1
    assert entry.after["route:delays"]["revision"] == 2
    assert entry.before["automation"] == {"is_on": True}
    assert entry.after["automation"] == {"is_on": False}
    assert "key:nobody" not in entry.before
    assert entry.after["key:nobody"] is None
    assert entry.evidence == {"log_e": "inf", "counts": {"1": [2, 3]}}


def test_registry_audit_is_chained_and_paged(registry):
    """The chain is whole from the first entry on, and pages run both ways."""
    for at in range(7):
        registry.commit(change(Automation(at % 2 == 0), reason=f"turn {at} \ud800 ü"))
    assert first_broken(registry.audit()) is None
    assert registry.audit()[0].reason == "turn 0 ? ü"
    assert [entry.seq for entry in registry.audit(2, 3)] == [3, 4, 5]
    assert [entry.seq for entry in registry.audit(0, 3, newest_first=True)] == [7, 6, 5]
    assert [entry.seq for entry in registry.audit(5, 3, newest_first=True)] == [4, 3, 2]
    assert not registry.audit(7)
    second = registry.audit(1, 3)
    assert first_broken(second, previous=registry.audit(0, 1)[0].hash, seq=1) is None


def test_registry_audit_never_shows_a_token_digest(registry):
    """Keys are in the audit log without what they are looked up by."""
    registry.commit(change(PutKey(Key("k", "ada", "c" * 64, frozenset({Scope.ADMIN}), 5.0))))
    registry.commit(change(DropKey("k")))
    assert "c" * 64 not in repr(registry.audit())
    assert registry.audit()[1].before["key:k"]["scopes"] == ["admin"]


def test_registry_keeps_keys_quarantines_and_the_switch(registry):
    """What was put is read back, the newest of each."""
    keys = [Key(id, "ada", id * 64, frozenset({Scope.READ, Scope.OPERATE}), 5.0) for id in "cab"]
    barred = Quarantine("d" * 64, "delays", "2", 1, 99.5, "errors")
    registry.commit(change(*(PutKey(key) for key in keys), barred, Automation(False)))
    assert registry.keys() == [keys[1], keys[2], keys[0]]
    assert registry.keys("a", 1) == [keys[2]]
    registry.commit(change(DropKey("b"), replace(barred, strikes=2), Automation(True)))
    assert [key.id for key in registry.keys(limit=9)] == ["a", "c"]
    assert registry.quarantines() == [replace(barred, strikes=2)]
    assert registry.automation().is_on


def test_registry_forgets_no_strike(registry):
    """Who releases a digest that was convicted again meanwhile meets a conflict; nothing of the change is written."""
    barred = Quarantine("d" * 64, "delays", "2", 1, 99.5, "errors")
    registry.commit(change(barred))
    registry.commit(change(again := replace(barred, strikes=2, until_s=400.0)))
    with pytest.raises(RevisionConflict, match="convicted 2 times, not 1"):
        registry.commit(change(Automation(False), replace(barred, until_s=0.0)))
    assert (registry.quarantines(), registry.automation().is_on) == ([again], True)
    registry.commit(change(replace(again, until_s=0.0)))
    assert registry.quarantines() == [replace(again, until_s=0.0)]


def test_registry_follows_a_rollout(registry):
    """A rollout is committed with its route, keeps its place in the listing, and closes."""
    registry.commit(change(PutRoute(route()), PutRoute(route("other")), route="delays"))
    for id, name in (("r1", "delays"), ("r2", "other")):
        standing = registry.table().routes[name]
        rollout, split = begin(standing, id=id, challenger="2", plan=Plan(), salt=id, now_s=1.0)
        done = registry.commit(change(PutRoute(split), PutRollout(rollout), route=name), expected_revision=standing.revision)
        assert registry.rollout(id) == rollout
        assert done.revision == rollout.since_revision
    assert [one.id for one in registry.rollouts()] == ["r2", "r1"]
    ended, back = apply_event(registry.rollout("r1"), registry.table().routes["delays"], Event.CONVICT, reason="e", now_s=2.0)
    registry.commit(change(PutRoute(back), PutRollout(ended), route="delays"))
    assert [one.id for one in registry.rollouts()] == ["r2", "r1"]
    assert [one.id for one in registry.rollouts(open_only=True)] == ["r2"]
    assert registry.rollouts("delays") == [ended]
    assert len(registry.rollouts(limit=1)) == 1
    assert {name: one.id for name, one in registry.newest_rollouts().items()} == {"delays": "r1", "other": "r2"}
    again, split = begin(registry.table().routes["delays"], id="r3", challenger="2", plan=Plan(), salt="r3", now_s=3.0)
    registry.commit(change(PutRoute(split), PutRollout(again), DropRoute("other"), route="delays"))
    assert registry.newest_rollouts() == {"delays": again}


def test_registry_hold_reports_the_route_it_names(registry):
    """A change that names a route without writing it compares and returns its revision."""
    registry.commit(change(PutRoute(route()), route="delays"))
    held = registry.commit(change(Automation(False), route="delays"), expected_revision=Revision(1))
    assert held.revision == 1
    assert registry.table().routes["delays"].revision == 1


def test_registry_proposals_grow_and_the_newest_counts(registry):
    """A proposal's id is never given twice, and only the newest stands."""
    ids = [registry.propose([("delays", str(at))]).id for at in range(120)]
    assert ids == sorted(set(ids))
    newest = registry.proposal()
    assert newest is not None
    assert (newest.id, newest.needs) == (ids[-1], (("delays", "119"),))


def test_registry_keeps_the_last_report_of_each_worker(registry):
    """A later report replaces the earlier one of the same worker."""
    first = WorkerStatus("w0", Revision(1), 0, "", 1.0)
    registry.report(first)
    registry.report(replace(first, worker="w1"))
    second = WorkerStatus("w0", Revision(1), 3, "no memory", 2.5, Revision(1), (Cold("delays", "1", "no memory"),))
    registry.report(second)
    assert registry.workers() == [second, replace(first, worker="w1")]


@pytest.mark.parametrize("what", ["commit", "propose", "report"])
def test_registry_wakes_every_follower(registry, what):
    """Each thread that waits learns of a commit, a proposal or a report, long before its timeout."""
    start = registry.follow(-1, 0.0)
    found: list[tuple[int, float]] = []
    ready = threading.Barrier(4)

    def wait() -> None:
        ready.wait()
        began = time.monotonic()
        found.append((registry.follow(start, 10.0), time.monotonic() - began))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    match what:
        case "commit":
            registry.commit(change(Automation(False)))
        case "propose":
            registry.propose([])
        case _:
            registry.report(WorkerStatus("w0", Revision(0), 0, "", 1.0))
    for thread in threads:
        thread.join(5.0)
    assert [now for now, _ in found] == [start + 1] * 3
    assert max(waited for _, waited in found) < 2.0


def test_registry_follow_misses_nothing_that_happened_before(registry):
    """What changed between a look and the wait for the next change returns at once."""
    start = registry.follow(-1, 0.0)
    registry.commit(change(Automation(False)))
    registry.commit(change(Automation(True)))
    assert registry.follow(start, 10.0) == start + 2


def test_registry_follow_returns_what_it_was_given_when_time_is_up(registry):
    """Without a change the number comes back unchanged, and not early."""
    start = registry.follow(-1, 0.0)
    began = time.monotonic()
    assert registry.follow(start, 0.3) == start
    assert 0.29 < time.monotonic() - began < 2.0


def test_registry_a_refused_commit_wakes_nobody(registry):
    """A conflict changes nothing, so no follower turns."""
    start = registry.follow(-1, 0.0)
    with pytest.raises(RevisionConflict):
        registry.commit(change(PutRoute(route()), route="delays"), expected_revision=Revision(9))
    assert registry.follow(start, 0.05) == start


def test_registry_close_wakes_whoever_follows(registry):
    """A closing registry lets its followers go, and answers nothing after."""
    start = registry.follow(-1, 0.0)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (registry.follow(start, 60.0), done.set()))
    thread.start()
    registry.close()
    assert done.wait(2.0)
    thread.join()
    with pytest.raises(StoreFailed):
        registry.table()
    with pytest.raises(StoreFailed):
        registry.commit(change(Automation(False)))


def test_registry_serves_many_threads_at_once(registry):
    """Threads that commit and read at once lose nothing, and every table they see is whole."""
    registry.commit(change(PutRoute(route()), PutRoute(route("other"))))
    torn: list[object] = []

    def work(at: int) -> None:
        for turn in range(10):
            weight = 100 * at + turn
            both = (route(name, 10_000 - weight, weight) for name in ("delays", "other"))
            registry.commit(change(*(PutRoute(one) for one in both)))
            routes = registry.table().routes
            if routes["delays"].variants != routes["other"].variants:
                torn.append(routes)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not torn
    assert registry.table().routes["delays"].revision == 61
    assert first_broken(registry.audit(0, 1000)) is None
    assert len(registry.audit(0, 1000)) == 61


NAMES = st.sampled_from(["a", "b"])
WRITES = st.one_of(
    st.builds(lambda name, size: PutVersion(version(name, size_bytes=size)), NAMES, st.integers(1, 2)),
    st.builds(lambda name: PutVersion(version(name, size_bytes=1, state=VersionState.RETIRED)), NAMES),
    st.builds(lambda name: PutChampion("delays", name), NAMES),
    st.builds(lambda name: PutHold("delays", name), NAMES),
    st.builds(lambda name: DropHold("delays", name), NAMES),
    st.builds(lambda name, weight: PutRoute(route(name, 10_000 - weight, weight)), NAMES, st.integers(0, 10_000)),
    st.builds(DropRoute, NAMES),
    st.builds(lambda name: PutKey(Key(name, "n", name * 64, frozenset({Scope.READ}), 1.0)), NAMES),
    st.builds(DropKey, NAMES),
    st.builds(lambda name, strikes: Quarantine(name * 64, "m", "1", strikes, 1.0, ""), NAMES, st.integers(0, 3)),
    st.builds(Automation, st.booleans()),
)
STEPS = st.lists(
    st.tuples(
        st.lists(WRITES, min_size=1, max_size=4),
        st.sampled_from(["", "a", "b"]),
        st.none() | st.integers(0, 3),
        st.none() | st.sampled_from(["d1", "d2", "d3"]),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_registry_backends_agree_on_any_history(steps, tmp_path_factory):
    """Whatever is committed in whatever order, memory and disk answer the same, step by step, to the hash of each entry."""
    clock = ManualClock()
    memory = MemoryRegistry(clock=clock)
    disk = SqliteRegistry(tmp_path_factory.mktemp("r") / "r.db", clock=clock)
    for writes, named, expected, decision in steps:
        clock.move(1.0)
        asked = change(*writes, route=named)
        answers = [_answer(one, asked, expected, decision) for one in (memory, disk)]
        assert answers[0] == answers[1]
        assert memory.table() == disk.table()
    assert memory.audit() == disk.audit()
    assert memory.keys() == disk.keys()
    assert memory.quarantines() == disk.quarantines()
    assert memory.versions("delays") == disk.versions("delays")
    assert memory.models() == disk.models()
    assert memory.automation() == disk.automation()
    assert first_broken(disk.audit()) is None
    disk.close()


def _answer(registry, asked, expected, decision):
    try:
        return registry.commit(asked, expected_revision=expected, decision_id=decision)
    except (RevisionConflict, VersionExists) as error:
        return type(error), str(error)


def test_registry_survives_being_reopened(tmp_path: Path):
    """Everything is there when the file is opened again, the route's revision and the decisions included."""
    first = SqliteRegistry(tmp_path / "deep" / "r.db", clock=ManualClock())
    first.commit(change(PutVersion(version(profile={"bins": [1.5, None]})), PutRoute(route("delays", 1, 9_999)), route="delays"))
    done = first.commit(change(DropRoute("delays"), route="delays"), decision_id=DecisionId("d"))
    first.close()
    second = SqliteRegistry(tmp_path / "deep" / "r.db", clock=ManualClock())
    assert second.version("delays", "1").profile == {"bins": [1.5, None]}
    assert second.commit(change(DropRoute("delays")), decision_id=DecisionId("d")) == replace(done, is_repeat=True)
    assert second.commit(change(PutRoute(route()), route="delays"), expected_revision=Revision(0)).revision == 2
    second.close()
