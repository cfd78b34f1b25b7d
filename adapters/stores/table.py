"""Reads the route table, parsing only what changed since the last time: at a thousand routes the whole of it would take
100 ms of every worker with every commit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from adapters.stores.rows import route_of, version_of
from adapters.stores.sqlite import Transaction
from gateway.core.models import Version
from gateway.core.routes import Revision, Route, RouteTable

Pair = tuple[str, str]  # (model, version)


@dataclass(frozen=True, slots=True)
class Reading:
    """A route table, and the table revision that wrote each of its versions."""

    table: RouteTable = field(default_factory=RouteTable)
    changed: Mapping[Pair, int] = field(default_factory=dict)


def read_table(transaction: Transaction, before: Reading) -> Reading:
    """Return the table of this moment; what did not change is taken over from `before`."""
    found = transaction.row("SELECT revision FROM registry")
    revision = Revision(found[0] if found else 0)
    if revision == before.table.revision:
        return before
    routes = _routes(transaction, before.table.routes)
    champions = dict(transaction.rows("SELECT model, version FROM champions ORDER BY model"))
    holds = _holds(transaction, is_held=True)
    needed = (
        {(route.model, version) for route in routes.values() for version in route.needs()} | set(champions.items()) | set(holds)
    )
    changed = _changed(transaction, needed)
    versions = {pair: _version(transaction, pair, at, before) for pair, at in changed.items()}
    dropped = _holds(transaction, is_held=False)
    return Reading(RouteTable(revision, routes, champions, versions, holds, dropped), changed)


def _holds(transaction: Transaction, *, is_held: bool) -> dict[Pair, Revision]:
    found = transaction.rows(
        "SELECT model, version, changed FROM holds WHERE is_held = ? ORDER BY changed, model, version", is_held
    )
    return {(model, version): Revision(changed) for model, version, changed in found}


def _routes(transaction: Transaction, before: Mapping[str, Route]) -> dict[str, Route]:
    routes = {}
    for name, revision in transaction.rows("SELECT name, revision FROM routes WHERE body IS NOT NULL ORDER BY name"):
        known = before.get(name)  # a route's revision never repeats, not even after it was dropped
        routes[name] = known if known is not None and known.revision == revision else _route(transaction, name)
    return routes


def _route(transaction: Transaction, name: str) -> Route:
    row = transaction.row("SELECT body, owners FROM routes WHERE name = ?", name)
    assert row is not None, "the row was seen in this transaction"
    return route_of(*row)


def _changed(transaction: Transaction, needed: set[Pair]) -> dict[Pair, int]:
    found = {
        pair: transaction.row("SELECT changed FROM versions WHERE model = ? AND version = ?", *pair) for pair in sorted(needed)
    }
    return {pair: row[0] for pair, row in found.items() if row is not None}


def _version(transaction: Transaction, pair: Pair, at: int, before: Reading) -> Version:
    if before.changed.get(pair) == at:
        return before.table.versions[pair]
    row = transaction.row("SELECT body FROM versions WHERE model = ? AND version = ?", *pair)
    assert row is not None, "the row was seen in this transaction"
    return version_of(row[0])
