"""What a sample speaks of, so that what is no longer shown can be forgotten."""

from __future__ import annotations

from typing import Final

from gateway.core.routes import RouteTable
from gateway.ports.metrics import Sample

ROOM_SHARE: Final = 0.5  # of a bank; above it what is not shown any more is forgotten
Place = tuple[str, str]  # a route or model, and a version of it or nothing
_OWNERS: Final = frozenset({"route", "model"})  # always a metric's first label


def place_of(sample: Sample) -> Place | None:
    """Return the route or model that a sample speaks of, and the version or nothing; None when it speaks of neither."""
    if not sample.labels or sample.labels[0][0] not in _OWNERS or not sample.labels[0][1]:
        return None
    return sample.labels[0][1], next((value for name, value in sample.labels if name == "version"), "")


def places(table: RouteTable) -> set[Place]:
    """Return the places that a route table names; a champion answers under its model's name."""
    found: set[Place] = {(name, "") for name in (*table.routes, *table.champions)} | set(table.champions.items())
    for model, version in table.versions:
        found |= {(model, ""), (model, version)}
    for route in table.routes.values():
        found.update((route.name, version) for version in route.needs())
    return found
