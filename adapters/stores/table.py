"""Reads the route table, parsing only what changed since the last time: at a thousand routes the whole of it would take
100 ms of every worker with every commit. Versions are read when somebody asks for one: with their reference profiles a thousand
of them take half a second and 65 MB of each process, of which few ever need many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from adapters.stores.rows import route_of
from adapters.stores.sqlite import Transaction
from gateway.core.models import Version
from gateway.core.routes import Revision, Route, RouteTable

Pair = tuple[str, str]  # (model, version)


Read = Callable[[Pair], Version]


class Versions(Mapping[Pair, Version]):
    """The versions of one table, each read when it is asked for first.

    Versions never change but for their state, which moves the table: one that is read late is as it was, or of the next table.

    Attributes:
        changed: The table revision that wrote each.
    """

    def __init__(self, changed: Mapping[Pair, int], read: Read, known: Mapping[Pair, Version]) -> None:
        """Take what was read of a table before, as far as it did not change."""
        self.changed = changed
        self._read = read
        self._known = dict(known)

    def __getitem__(self, pair: Pair) -> Version:
        """Return a version.

        Raises:
            StoreFailed: it cannot be read.
        """
        if (known := self._known.get(pair)) is not None:
            return known
        if pair not in self.changed:
            raise KeyError(pair)
        version = self._known[pair] = self._read(pair)
        return version

    def __iter__(self) -> Iterator[Pair]:
        """Yield every pair."""
        return iter(self.changed)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.changed)

    def __contains__(self, pair: object) -> bool:
        """Return whether there is such a version, without reading it."""
        return pair in self.changed

    def unchanged(self, changed: Mapping[Pair, int]) -> dict[Pair, Version]:
        """Return what was read already and stands as it was."""
        return {pair: version for pair, version in self._known.copy().items() if changed.get(pair) == self.changed[pair]}


@dataclass(frozen=True, slots=True)
class Reading:
    """A route table and its versions."""

    table: RouteTable = field(default_factory=RouteTable)
    versions: Versions | None = None


def read_table(transaction: Transaction, before: Reading, read: Read) -> Reading:
    """Return the table of this moment; what did not change is taken over from `before`.

    Args:
        read: Reads a version, at any time later.
    """
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
    known = {} if before.versions is None else before.versions.unchanged(changed)
    versions = Versions(changed, read, known)
    dropped = _holds(transaction, is_held=False)
    return Reading(RouteTable(revision, routes, champions, versions, holds, dropped), versions)


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
