"""Reads a route's past once and gathers everything a report says.

Predictions are those of [since, until); ground truth is everything that is known of them now. Incidents are what the monitor's
own fold finds when it begins at `since`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.core.audit import AuditEntry
from gateway.core.drift import Incident
from gateway.core.models import Version
from gateway.core.records import GroundTruthRecord, PredictionRecord
from gateway.monitor.drifting import DriftWatch
from gateway.monitor.views import version_or_none
from gateway.ports.archive import Filter
from gateway.ports.stores import RegistryStore
from gateway.replay.past import Past, Progress, unheard
from gateway.replay.refold import Refold, Routes, entries
from gateway.report.spans import Spans
from gateway.report.tallies import Tallies

INCIDENTS_MAX: Final = 200
CHANGES_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Report:
    """What a route did.

    Attributes:
        model: The route's, or empty without predictions.
        gone_until_s: Up to when records were dropped for their age, 0 when none was.
        incidents, changes: The newest ones, the oldest first; changes are audit entries of the route.
        made_at_s: Up to when ground truth was looked at.
    """

    route: str
    model: str
    spans: Spans
    tallies: Tallies
    incidents: tuple[Incident, ...]
    changes: tuple[AuditEntry, ...]
    gone_until_s: float
    made_at_s: float


def build_report(past: Past, route: str, spans: Spans, *, made_at_s: float, progress: Progress = unheard) -> Report:
    """Return a route's report.

    Raises:
        ArchiveFailed, LogFailed, StoreFailed: the past cannot be read.
        UnknownRoute: there never was such a route, and no model has that name.
    """
    routes = Routes(past.registry)
    if not routes.has(route):
        past.registry.table().route(route)
    refold = Refold(past, routes.view, routes.ended, owns=route.__eq__)
    seen = _Incidents()

    def version_of(model: str, name: str) -> Version | None:
        return version_or_none(past.registry, model, name)

    tallies, model = Tallies(spans, version_of), ""
    for timed in past.records(Filter(route=route, since_s=spans.since_s), progress):
        time_s, _, _, record = timed
        if isinstance(record, GroundTruthRecord):
            tallies.know(record)
        if time_s >= spans.until_s:
            continue
        if isinstance(record, PredictionRecord):
            model = record.model
            tallies.predict(record)
        refold.take(timed)
        refold.fold.due.clear()  # nothing is decided here
        if route in refold.fold.routes:
            seen.look(refold.fold.routes[route].drift)
    changes = tuple(_changes(past.registry, route, spans))[-CHANGES_MAX:]
    return Report(route, model, spans, tallies, seen.all()[-INCIDENTS_MAX:], changes, past.archive.dropped_s(), made_at_s)


class _Incidents:
    """Those of every version that was watched, one after the other."""

    def __init__(self) -> None:
        self._watch: DriftWatch | None = None
        self._before: tuple[Incident, ...] = ()

    def look(self, watch: DriftWatch | None) -> None:
        """Notice when another version is watched."""
        if watch is not self._watch:
            self._before, self._watch = self.all(), watch

    def all(self) -> tuple[Incident, ...]:
        """Return the incidents so far, the oldest first."""
        return self._before if self._watch is None else (*self._before, *self._watch.incidents)


def _changes(registry: RegistryStore, route: str, spans: Spans) -> Iterator[AuditEntry]:
    place = f"route:{route}"
    for entry in entries(registry):
        is_its = place == entry.subject or place in entry.before or place in entry.after
        if is_its and spans.since_s <= entry.time_s < spans.until_s:
            yield entry
