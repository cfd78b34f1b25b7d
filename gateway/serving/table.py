"""The route table as this worker serves it: each route bound to its pools, its metrics and its place in the in-flight file.

A request holds the route it began with, bound to the pools of that moment. Routes are bound lazily, because a gateway may have a
thousand models of which few are called: at the first request, on the event loop, and anew when a version they name came or went.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import cached_property
from typing import Final
from urllib.parse import quote

from gateway.core.errors import StoreFailed, UnknownVersion
from gateway.core.models import Version
from gateway.core.records import Kind, Outcome
from gateway.core.routes import Assignment, Route, RouteTable, Shadow, Variant
from gateway.core.split import SLOTS, slot_of, slot_of_id
from gateway.metrics.metric import Histogram, cell, histogram
from gateway.metrics.serving import FAILED_DURATION, FAILOVERS, PREDICTION_DURATION, PREDICTIONS, SHADOW_DROPPED
from gateway.ports.inflight import InFlight, Place
from gateway.ports.metrics import Cell, MetricsBank
from gateway.serving.batch import UNNOTED
from gateway.serving.checking import Checker
from gateway.serving.pools import Pool
from gateway.serving.shelf import Pair, Shelf

PINNED: Final = "pinned"  # stands for the variant where a caller named the version


class ServedVariant:
    """One version's place on one route.

    Attributes:
        pool: None while the version could not be loaded here.
    """

    def __init__(self, route: Route, name: str, version: Version, pool: Pool | None, bench: Bench) -> None:
        self.route = route
        self.name = name
        self.version = version
        self.pool = pool
        self._bench = bench
        self._counts: dict[tuple[str, str], Cell] = {}  # by values: an enum's own hash costs ten times a string's

    def takes(self, rows: int) -> bool:
        """Return whether its version's own bound allows a request of so many rows."""
        return rows <= (self.version.batching.rows_max or rows)

    @cached_property
    def place(self) -> int:
        """Its number in the in-flight file, or `UNNOTED` when that has no room."""
        pool = self.pool
        assert pool is not None, "only what runs has a place"
        route = self.route
        try:
            return self._bench.in_flight.bind(
                Place(
                    model=route.model,
                    route=route.name,
                    revision=route.revision,
                    variant=self.name,
                    version=self.version.version,
                    digest=self.version.digest,
                    runtime_version=pool.runtime_version,
                )
            )
        except StoreFailed:
            return UNNOTED

    @cached_property
    def checker(self) -> Checker:
        """What it expects of a request."""
        return self.pool.checker if self.pool is not None else Checker(self.version)

    @cached_property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What an answer's headers say of it."""
        return [(b"gateway-version", _header(self.version.version)), (b"gateway-variant", _header(self.name))]

    @cached_property
    def duration(self) -> Histogram:
        """Of its predictions."""
        return histogram(self._bench.metrics, PREDICTION_DURATION, self.route.name, self.name, self.version.version)

    @cached_property
    def failed_duration(self) -> Cell:
        """Of those among them that failed."""
        return cell(self._bench.metrics, FAILED_DURATION, self.route.name, self.name, self.version.version)

    @cached_property
    def failovers(self) -> Cell:
        """How often it answered in another's place."""
        return cell(self._bench.metrics, FAILOVERS, self.route.name, self.name, self.version.version)

    def count(self, kind: Kind, outcome: Outcome) -> None:
        """Count one prediction."""
        key = (kind._value_, outcome._value_)
        found = self._counts.get(key)
        if found is None:
            values = (self.route.name, self.name, self.version.version, *key)
            found = self._counts[key] = cell(self._bench.metrics, PREDICTIONS, *values)
        found.add(1.0)


@dataclass(frozen=True, slots=True)
class Bench:
    """What variants are bound to."""

    in_flight: InFlight
    metrics: MetricsBank


class ServedShadow:
    """A shadow's place on a route; `slots` of 10,000 is its fraction."""

    def __init__(self, variant: ServedVariant, slots: int, bench: Bench) -> None:
        self.variant = variant
        self.slots = slots
        self.dropped = cell(bench.metrics, SHADOW_DROPPED, variant.route.name, variant.name)


class ServedRoute:
    """One route with its variants bound.

    Attributes:
        sole: The variant that gets every request, if there is one.
        sole_key: The only version it needs, which may have been loaded because somebody called; None when it needs several.
    """

    def __init__(self, route: Route, table: RouteTable, pools: Shelf, bench: Bench) -> None:
        self.route = route
        self.deadline_s = route.deadline_ms / 1000.0
        self.assignment: Assignment = route.assignment
        self.variants = {place.name: self._bound(place, table, pools, bench) for place in route.variants}
        self.fallback = self.variants.get(route.fallback) or self.variants[route.variants[0].name]
        owning = [place.name for place in route.variants if place.weight == SLOTS]
        self.sole = self.variants[owning[0]] if owning else None
        bound = [(self._bound(shadow, table, pools, bench), shadow.fraction) for shadow in route.shadows]
        needs = route.needs()
        self.sole_key: Pair | None = (route.model, needs[0]) if len(needs) == 1 else None
        self.shadows = tuple([ServedShadow(variant, round(fraction * SLOTS), bench) for variant, fraction in bound])

    def _bound(self, place: Variant | Shadow, table: RouteTable, pools: Shelf, bench: Bench) -> ServedVariant:
        key = (self.route.model, place.version)
        version = table.versions.get(key)
        if version is None:
            raise UnknownVersion(f"version {key[1]!r} of {key[0]!r} is not registered")
        return ServedVariant(self.route, place.name, version, pools.get(key), bench)

    def assigned(self, key: str, prediction_id: str) -> ServedVariant:
        """Return the variant that owns the slot of an assignment key, or of the prediction id where the caller sent none."""
        if self.sole is not None:
            return self.sole
        slot = slot_of(self.route.salt, key) if key else slot_of_id(self.route.salt, prediction_id)
        return self.variants[self.route.owners[slot]]

    def resting(self, now_s: float) -> tuple[str, ...]:
        """Return the variants that would not run a request now, whichever the split chooses; none where it has no choice.

        It depends on the past alone, so that what is left out of a comparison does not depend on what the split chooses.
        """
        if self.sole is not None:
            return ()
        return tuple([name for name, variant in self.variants.items() if self._is_resting(variant, now_s)])

    def too_small(self, rows: int) -> tuple[str, ...]:
        """Return the variants whose bound a request of so many rows exceeds; none where the split has no choice."""
        return () if self.sole is not None else tuple([name for name, each in self.variants.items() if not each.takes(rows)])

    def _is_resting(self, variant: ServedVariant, now_s: float) -> bool:
        pool = variant.pool
        return pool is None or (variant is not self.fallback and pool.faults.is_resting(now_s))


class ServedTable:
    """All routes of one revision, over the worker's shelf; `kept` is what the worker holds warm whether anybody calls or not."""

    def __init__(self, table: RouteTable, kept: Set[Pair], shelf: Shelf, bench: Bench) -> None:
        self.table = table
        self.pools = shelf
        self._kept = kept
        self._bench = bench
        self._routes: dict[str, ServedRoute] = {}
        self._pinned: dict[tuple[str, str], ServedVariant] = {}

    def route(self, name: str) -> ServedRoute:
        """Return a route that is called, which is a use of its version.

        Raises:
            UnknownRoute: neither a route nor a model has that name.
        """
        found = self._routes.get(name)
        if found is None:
            found = self._bound(name)
        if found.sole_key is not None:
            self.pools.use(found.sole_key)
        return found

    def looked_at(self, name: str) -> ServedRoute:
        """Return a route that somebody asks about, which is no use of its version; raises as `route` does."""
        return self._routes.get(name) or self._bound(name)

    def _bound(self, name: str) -> ServedRoute:
        found = self._routes[name] = ServedRoute(self.table.route(name), self.table, self.pools, self._bench)
        return found

    def forget(self, key: Pair) -> None:
        """Bind anew, at their next request, the routes that need a version which came or went."""
        model, version = key
        for bound in [route.route for route in self._routes.values() if route.route.model == model]:
            if version in bound.needs():
                del self._routes[bound.name]
        for name, pinned in [name for name in self._pinned if name[1] == version]:
            if self._pinned[name, pinned].version.model == model:
                del self._pinned[name, pinned]

    def pinned(self, route: ServedRoute, pool: Pool) -> ServedVariant:
        """Return the variant for requests under a route that name this pool's version."""
        key = (route.route.name, pool.version.version)
        found = self._pinned.get(key)
        if found is None or found.pool is not pool:
            found = self._pinned[key] = ServedVariant(route.route, PINNED, pool.version, pool, self._bench)
        return found

    def can_answer(self, route: ServedRoute) -> bool:
        """Return whether a route's fallback is warm, or is one that the first request loads."""
        return route.fallback.pool is not None or (route.sole_key is not None and route.sole_key not in self._kept)

    def is_ready(self) -> bool:
        """Return whether whatever is kept for a route, or a model without one, to answer at once is warm."""
        table = self.table
        answering = {(route.model, _fallback(route)) for route in table.routes.values()}
        answering.update((model, version) for model, version in table.champions.items() if model not in table.routes)
        return all(key in self.pools for key in answering & self._kept)


def kept_versions(table: RouteTable, *, names_max: int, pins: Set[str]) -> set[Pair]:
    """Return what a worker keeps warm whether anybody calls it or not, besides what an operator holds.

    Always what a route with a choice or a way back needs: its variants, its shadows, and what a rollback returns to. The only
    version of a route, and the champion of a model without one, as long as no more than `names_max` names can be called.

    Args:
        pins: Names of models, for their champions, and of versions, as `model:version`.
    """
    needs = {route.name: [(route.model, version) for version in route.needs()] for route in table.routes.values()}
    kept = {key for keys in needs.values() if len(keys) > 1 for key in keys}
    kept.update(key for key in table.champions.items() if key[0] in pins)
    kept.update((model, version) for model, _, version in (pin.partition(":") for pin in pins) if version)
    if len(table.routes.keys() | table.champions.keys()) <= names_max:
        kept.update(named_versions(table))
    return kept


def named_versions(table: RouteTable) -> set[Pair]:
    """Return every version that a route or a champion names."""
    wanted = {(route.model, version) for route in table.routes.values() for version in route.needs()}
    return wanted | set(table.champions.items())


def _fallback(route: Route) -> str:
    """Return the fallback's version."""
    variant = route.variant(route.fallback) or route.variants[0]
    return variant.version


def _header(name: str) -> bytes:
    """Return a name as a header's value; what is not ASCII is percent-encoded."""
    return name.encode() if name.isascii() else quote(name).encode()
