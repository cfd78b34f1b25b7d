"""The monitor's fold over the past: the same records in the same order, with routes as the audit log has them.

The log's own heartbeats are not archived. In a silence a tick a second takes their place, for what is due with time alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from gateway.core.audit import AuditEntry
from gateway.core.errors import MalformedRequest
from gateway.core.partitions import WHOLE, Owns
from gateway.core.records import Elsewhere, Heartbeat, Offset, PredictionRecord
from gateway.core.rollouts import Rollout, rollout_from_body
from gateway.core.routes import stored_route
from gateway.history import recalled
from gateway.monitor.decide import learn_route, learn_versions
from gateway.monitor.fold import Fold
from gateway.monitor.late import look_up
from gateway.monitor.merge import Merged
from gateway.monitor.state import is_due
from gateway.monitor.views import RouteView, view_of
from gateway.ports.archive import Timed
from gateway.ports.stores import RegistryStore
from gateway.replay.past import Past

AUDIT_PAGE: Final = 1_000
TICKS_MAX: Final = 3_600  # of one silence; a longer one ends with its last second


class Routes:
    """Every route at every revision, and every rollout as it stands, from the audit log."""

    def __init__(self, registry: RegistryStore) -> None:
        self.rollouts: dict[str, Rollout] = {}
        self._ended: dict[str, Rollout] = {}
        self._views: dict[tuple[str, int], RouteView] = {}
        for entry in entries(registry):
            self._learn(entry)

    def view(self, name: str, model: str, revision: int) -> RouteView:
        """Return a route at a revision; revision 0 is what a model's champion implies, and any other may be unknown."""
        return self._views.get((name, revision)) or RouteView(name, model, revision, is_known=revision == 0)

    def ended(self, id: str) -> Rollout:
        """Return a rollout as it was when it had just ended; as it stands while it is open."""
        return self._ended.get(id) or self.rollouts[id]

    def has(self, name: str) -> bool:
        """Return whether there is or was a route of that name, and not only what a champion implies."""
        return any(route == name for route, _ in self._views)

    def of(self, route: str) -> dict[str, Rollout]:
        """Return a route's rollouts by id."""
        return {id: rollout for id, rollout in self.rollouts.items() if rollout.route == route}

    def _learn(self, entry: AuditEntry) -> None:
        for subject, body in entry.after.items():
            if subject.startswith("rollout:") and isinstance(body, dict):
                rollout = rollout_from_body(body)
                self.rollouts[rollout.id] = rollout
                if not rollout.is_open:
                    self._ended.setdefault(rollout.id, rollout)
        for subject, body in entry.after.items():
            if subject.startswith("route:") and isinstance(body, dict):
                view = view_in(body, self.rollouts)
                if view is not None:
                    self._views[view.name, view.revision] = view


class Refold:
    """The monitor's own fold, fed from the past.

    Args:
        view: Returns a route (name, model) at a revision, for records that name one not learned yet.
        ended: Returns how a rollout ended.
        owns: Says which routes are folded; all are, unless it is one of several processes or about one route.
    """

    def __init__(
        self,
        past: Past,
        view: Callable[[str, str, int], RouteView],
        ended: Callable[[str], Rollout],
        owns: Owns = WHOLE.has,
    ) -> None:
        settings = past.monitor
        self.fold = Fold(
            past.detector,
            epoch_s=settings.epoch_s,
            truth_rows_max=settings.truth_wait_max,
            false_alarm_events=settings.false_alarm_events,
            events_per_s_max=settings.events_per_s_max,
        )
        self._registry = past.registry
        self._recall = partial(recalled, archive=past.archive, decode=past.decode)
        self._view = view
        self._ended = ended
        self._owns = owns

    def take(self, timed: Timed) -> None:
        """Fold one record, after learning of what it speaks."""
        time_s, stream, offset, record = timed
        if isinstance(record, PredictionRecord):
            if self._owns(record.route):
                self._prepare(record)
            else:
                record = Elsewhere(record.prediction_id, record.time_s, record.route)
        self.fold.take(Merged(time_s, stream, offset, offset, record))
        self._look_up()

    def _prepare(self, record: PredictionRecord) -> None:
        fold = self.fold
        if fold.lacks_view(record):
            view = self._view(record.route, record.model, record.revision)
            self.learn(view)
            learn_versions(fold, self._registry, record.model, view.compared)
        learn_versions(fold, self._registry, record.model, (record.version,))

    def _look_up(self) -> None:
        if self.fold.sought:
            look_up(self.fold, self._recall, self._prepare, self._owns)

    def learn(self, view: RouteView) -> None:
        """Take a route at a revision."""
        learn_route(self.fold, view, self._ended)

    def tick(self, time_s: float) -> None:
        """Let time pass."""
        self.fold.take(Merged(time_s, "", Offset(0), Offset(0), Heartbeat(time_s)))
        self._look_up()

    def ticks(self, until_s: float) -> Iterator[float]:
        """Tick once a second of a silence before a time while a decision may be due, and yield each tick's time."""
        fold = self.fold
        if not fold.records or not any(is_due(one) for one in fold.routes.values()):
            return
        second = int(fold.now_s) + 1
        for now_s in range(max(second, int(until_s) - TICKS_MAX), int(until_s)):
            self.tick(float(now_s))
            yield float(now_s)


def view_in(body: object, rollouts: dict[str, Rollout]) -> RouteView | None:
    """Return the view of a route that an audit entry wrote; None when it cannot be read."""
    if not isinstance(body, dict):
        return None
    try:
        route = stored_route(body, ())
    except MalformedRequest:
        return None
    return view_of(route, rollouts.get(route.rollout))


def entries(registry: RegistryStore) -> Iterator[AuditEntry]:
    """Yield the whole audit log, the oldest first."""
    after = 0
    while page := registry.audit(after, AUDIT_PAGE):
        yield from page
        after = page[-1].seq
