"""The audit log's newest part, as the metrics show it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adapters.clock import SystemClock
from adapters.stores.memory import MemoryRegistry
from gateway.control import trail
from gateway.control.trail import Trail
from gateway.core.access import MONITOR
from gateway.core.changes import Automation, Change, DropRoute, PutRoute
from gateway.core.routes import Route, Variant, with_weights


@pytest.fixture
def registry():
    return MemoryRegistry(clock=SystemClock())


def put(registry, name: str, by: str = "anna") -> None:
    """Commit a change of one route."""
    variants = (Variant("champion", "1", 10_000),)
    route = with_weights(Route(name, "m", variants), variants)
    registry.commit(Change(by, "route.put", f"route:{name}", "", (PutRoute(route),), route=name))


def shown(samples, name: str) -> list[tuple[str, ...]]:
    """Return the label values of every sample of a metric."""
    return [tuple(value for _, value in sample.labels) for sample in samples if sample.name == name]


def value(samples, name: str) -> float:
    """Return the value of a metric that has one sample."""
    [found] = [sample.value for sample in samples if sample.name == name]
    return found


def test_trail_shows_the_last_changes_of_each_route(registry):
    """Each route has its last 20 changes with their audit entries, whoever made them; other changes have no place here."""
    found = Trail()
    for _ in range(25):
        put(registry, "busy")
    registry.commit(Change("anna", "automation.off", "automation", "", (Automation(is_on=False),)))
    put(registry, "quiet", by=MONITOR.name)
    registry.commit(Change("anna", "route.delete", "route:quiet", "", (DropRoute("quiet"),), route="quiet"))

    changes = shown(found.samples(registry), "gateway_route_change_timestamp_seconds")

    assert [one for one in changes if one[0] == "busy"] == [("busy", "route.put", "person", str(n)) for n in range(25, 5, -1)]
    assert [one for one in changes if one[0] == "quiet"] == [
        ("quiet", "route.delete", "person", "28"),
        ("quiet", "route.put", "monitor", "27"),
    ]


def test_trail_of_a_busy_route_hides_no_other(registry, monkeypatch):
    """Where not every change has a place, each route has its newest, but those changed longest ago."""
    monkeypatch.setattr(trail, "PLACES_MAX", 4)
    monkeypatch.setattr(trail, "ROUTES_MAX", 3)
    for name in ("forgotten", "quiet", "calm", *["busy"] * 50):
        put(registry, name)

    changes = shown(Trail().samples(registry), "gateway_route_change_timestamp_seconds")

    assert [(route, entry) for route, _, _, entry in changes] == [("busy", "53"), ("calm", "3"), ("quiet", "2"), ("busy", "52")]


def test_trail_goes_on_where_it_stopped(registry):
    """Each look reads what is new, and the count is that of the whole log."""
    found = Trail()
    assert value(found.samples(registry), "gateway_audit_entries_total") == 0.0
    for count in (1.0, 2.0):
        put(registry, "delays")
        samples = found.samples(registry)
        assert value(samples, "gateway_audit_entries_total") == count
        assert value(samples, "gateway_audit_intact") == 1.0


def test_trail_starts_a_bounded_way_back(registry, monkeypatch):
    """A long log is not read whole: only its newest entries are, and they are whole."""
    monkeypatch.setattr(trail, "PAST", 5)
    for _ in range(12):
        put(registry, "delays")

    samples = Trail().samples(registry)

    assert [entry for *_, entry in shown(samples, "gateway_route_change_timestamp_seconds")] == ["12", "11", "10", "9", "8"]
    assert value(samples, "gateway_audit_entries_total") == 12.0
    assert value(samples, "gateway_audit_intact") == 1.0


def test_trail_finds_an_edited_entry(registry, monkeypatch):
    """An entry that was changed after it was hashed shows as a chain that is not whole, from then on."""
    for _ in range(3):
        put(registry, "delays")
    found, read = Trail(), registry.audit

    def edited(after: int = 0, limit: int = 100, *, newest_first: bool = False):
        entries = read(after, limit, newest_first=newest_first)
        return [replace(entry, reason="nothing to see") if entry.seq == 2 else entry for entry in entries]

    monkeypatch.setattr(registry, "audit", edited)
    assert value(found.samples(registry), "gateway_audit_intact") == 0.0
    monkeypatch.undo()
    assert value(found.samples(registry), "gateway_audit_intact") == 0.0
