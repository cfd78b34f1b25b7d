"""Learns from the audit log when the monitor itself last gave a route's challenger more callers.

A monitor that died between committing an increase and saving its checkpoint, or whose checkpoint was left aside, does not
remember it; the time between two increases holds all the same. Asked only before something is committed, and read on from where
it was read to, for all routes at once.
"""

from __future__ import annotations

from typing import Final

from gateway.core.audit import AuditEntry
from gateway.monitor.act import is_increase
from gateway.monitor.views import AUDIT_PAGE, AUDIT_PAGES_MAX
from gateway.ports.stores import RegistryStore

KEPT: Final = 20  # increases of one route, the newest: what a monitor that reads the log a second time may come to again
_ROUTE: Final = "route:"


class Increases:
    """When each route's challenger got more callers by itself, in the log's time."""

    def __init__(self) -> None:
        self._seq = 0  # the newest audit entry read
        self._times_s: dict[str, list[float]] = {}

    def last_s(self, route: str, registry: RegistryStore, *, before_s: float) -> float | None:
        """Return when it last did, strictly before a time: an increase that is decided again is none before itself.

        Raises:
            StoreFailed: the registry cannot be read.
        """
        for entry in self._read_on(registry):
            self._take(entry)
        return max((time_s for time_s in self._times_s.get(route, ()) if time_s < before_s), default=None)

    def _read_on(self, registry: RegistryStore) -> list[AuditEntry]:
        """Return the increases since the last look, as far back as `AUDIT_PAGES_MAX` reach."""
        found: list[AuditEntry] = []
        newest, after = self._seq, 0
        for _ in range(AUDIT_PAGES_MAX):
            page = registry.audit(after, AUDIT_PAGE, newest_first=True)
            newest = max([newest, *(entry.seq for entry in page)])
            found += [entry for entry in page if entry.seq > self._seq and is_increase(entry)]
            if not page or page[-1].seq <= max(self._seq, 1):
                break
            after = page[-1].seq
        self._seq = newest
        return found

    def _take(self, entry: AuditEntry) -> None:
        at_s = entry.evidence.get("log_time_s")
        if not isinstance(at_s, int | float):
            return
        for subject in entry.after:
            if subject.startswith(_ROUTE):
                times_s = self._times_s.setdefault(subject.removeprefix(_ROUTE), [])
                times_s.append(float(at_s))
                times_s.sort()
                del times_s[:-KEPT]
