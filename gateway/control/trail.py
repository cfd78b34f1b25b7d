"""What the metrics say of the audit log: how long it is, whether it holds together, and the last changes of each route.

Entries are read once, a page at a time, from the newest `PAST` on; each look reads what was added since the last. What of a route
lies further back than that when the process begins is not shown again. The whole chain is for `headgate audit verify`: what was
edited after it was read here is not seen here.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from gateway.core.access import MONITOR
from gateway.core.audit import FIRST_HASH, AuditEntry, first_broken
from gateway.metrics.control import AUDIT_ENTRIES, AUDIT_INTACT, ROUTE_CHANGE
from gateway.ports.metrics import Sample
from gateway.ports.stores import RegistryStore

CHANGES_MAX: Final = 20  # of a route: what fits on a graph and is still told apart
PLACES_MAX: Final = 2_000  # changes of all routes together; a series each, 0.3 MB of a scrape
ROUTES_MAX: Final = PLACES_MAX  # that were changed last; each has a place at least for its newest change
PAST: Final = 10_000  # entries read at the start; 60 µs each
_PAGE: Final = 500
_ROUTE: Final = "route:"


@dataclass(frozen=True, slots=True)
class _RouteChange:
    seq: int
    time_s: float
    route: str
    action: str
    by: str


class Trail:
    """The newest part of the audit log. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: AuditEntry | None = None
        self._is_intact = True
        self._changes: OrderedDict[str, deque[_RouteChange]] = OrderedDict()  # by route, the one changed last at the end

    def samples(self, registry: RegistryStore) -> list[Sample]:
        """Read what is new, and return what there is to show.

        Raises:
            StoreFailed: the registry cannot be read.
        """
        with self._lock:
            self._read(registry)
            return list(self._shown())

    def read(self, registry: RegistryStore) -> None:
        """Read what is new, so that whoever looks next need not.

        Raises:
            StoreFailed: the registry cannot be read.
        """
        with self._lock:
            self._read(registry)

    def changes(self, route: str) -> list[int]:
        """Return the numbers of a route's last changes that were read, the newest first."""
        with self._lock:
            return [change.seq for change in reversed(self._changes.get(route, ()))]

    def _read(self, registry: RegistryStore) -> None:
        if self._last is None:
            self._begin(registry)
        while page := registry.audit(self._last.seq if self._last else 0, _PAGE):
            self._take(page)

    def _begin(self, registry: RegistryStore) -> None:
        """Start `PAST` entries back from the newest."""
        newest = registry.audit(limit=1, newest_first=True)
        if newest and newest[0].seq > PAST:
            self._last = registry.audit(newest[0].seq - PAST - 1, 1)[0]

    def _take(self, page: Sequence[AuditEntry]) -> None:
        previous, seq = (self._last.hash, self._last.seq) if self._last else (FIRST_HASH, 0)
        self._is_intact = self._is_intact and first_broken(page, previous=previous, seq=seq) is None
        self._last = page[-1]
        for entry in page:
            by = "monitor" if entry.principal == MONITOR.name else "person"
            for name in dict.fromkeys([*entry.before, *entry.after]):
                if name.startswith(_ROUTE):
                    route = name.removeprefix(_ROUTE)
                    self._note(_RouteChange(entry.seq, entry.time_s, route, entry.action, by))

    def _note(self, change: _RouteChange) -> None:
        self._changes.setdefault(change.route, deque(maxlen=CHANGES_MAX)).append(change)
        self._changes.move_to_end(change.route)
        if len(self._changes) > ROUTES_MAX:
            self._changes.popitem(last=False)

    def _shown(self) -> Iterator[Sample]:
        yield Sample(AUDIT_ENTRIES.name, (), float(self._last.seq if self._last else 0))
        yield Sample(AUDIT_INTACT.name, (), float(self._is_intact))
        for change in islice(self._in_turn(), PLACES_MAX):
            labels = (("route", change.route), ("action", change.action), ("by", change.by), ("audit_entry", str(change.seq)))
            yield Sample(ROUTE_CHANGE.name, labels, change.time_s)

    def _in_turn(self) -> Iterator[_RouteChange]:
        """Yield every route's newest change, then every route's second one, and so on: a busy route hides no other."""
        for back in range(1, CHANGES_MAX + 1):
            yield from (changes[-back] for changes in reversed(self._changes.values()) if len(changes) >= back)
