"""What a scraper and a load balancer read: every process's metrics with the registry's own, and health. Open to all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from gateway.control.calls import Answer, Call, Control, Reply, Text
from gateway.control.health import health_samples
from gateway.control.monitored import fleet, picture
from gateway.control.propagation import revisions, statuses_of
from gateway.core.errors import GatewayError
from gateway.core.rollouts import RolloutState
from gateway.core.routes import RouteTable
from gateway.core.split import SLOTS
from gateway.core.troubles import Trouble, complaints
from gateway.exposition import exposition
from gateway.metrics.control import (
    AUTOMATION_ON,
    INCREASES_SUSPENDED,
    MONITOR_TROUBLE,
    NEWEST_TABLE_REVISION,
    NOTICES_DELIVERED,
    NOTICES_LOST,
    NOTICES_UNHEARD,
    NOTICES_UNTOLD,
    NOTICES_WAITING,
    QUARANTINED,
    REGISTRY_UP,
    REVISIONS_BEHIND,
    ROLLOUT_STATE,
    ROUTE_INFO,
    ROUTE_REVISION,
    ROUTE_WEIGHT,
    SHADOW_FRACTION,
    VERSION_INFO,
)
from gateway.metrics.metric import Metric
from gateway.metrics.process import UNEXPECTED_ERRORS
from gateway.ports.metrics import Exemplar, Sample

PROCESS: Final = "control"


def metrics(control: Control, call: Call) -> Text:
    """Return everything in the text form of Prometheus or of OpenMetrics, by `Accept`."""
    return Text(*exposition(_Snapshots(control), call.accept))


def live(_: Control, __: Call) -> Answer:
    """Return that this process answers."""
    return Answer({"live": True})


def ready(control: Control, _: Call) -> Reply:
    """Return whether the registry is readable and every worker answers with the newest table."""
    try:
        table, running = control.registry.table(), revisions(control, statuses_of(control))
    except GatewayError as error:
        return Answer({"ready": False, "reason": error.message}, 503)
    behind = sorted(worker for worker, revision in running.items() if revision != table.revision)
    body = {"ready": not behind, "table_revision": int(table.revision), "workers": running}
    if behind:
        return Answer({**body, "reason": f"not yet at the newest table: {', '.join(behind)}"}, 503)
    return Answer(body)


class _Snapshots:
    """Every process's numbers, this one's among them."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def latest(self) -> Mapping[str, Sequence[Sample]]:
        control, found = self._control, self._control.snapshots.latest()
        with suppress(GatewayError):  # a registry that is down is a number, and its table unknown: everything is shown
            found = control.lingering.shown(found, control.registry.table(), control.clock.now_s())
        return {**found, PROCESS: tuple(_own(control))}

    def exemplars(self) -> Mapping[str, Sequence[Exemplar]]:
        with suppress(GatewayError):  # numbers without examples are better than none
            return self._control.snapshots.exemplars()
        return {}


def _own(control: Control) -> Iterator[Sample]:
    yield _sample(UNEXPECTED_ERRORS, control.failures.count, "request")
    yield from _of_monitor(control)
    try:
        found = [*_of_table(control.registry.table()), *_of_changes(control), *control.trail.samples(control.registry)]
    except GatewayError:  # a registry that is down is a number, not a failed scrape
        found = []
    yield _sample(REGISTRY_UP, bool(found))
    for channel, waiting, delivered, lost in (count for notifier in control.notifiers for count in notifier.counts()):
        yield _sample(NOTICES_WAITING, waiting, channel)
        yield _sample(NOTICES_DELIVERED, delivered, channel)
        yield _sample(NOTICES_LOST, lost, channel)
    for severity, count in (one for notifier in control.notifiers for one in notifier.untold()):
        yield _sample(NOTICES_UNTOLD, count, severity.value)
    for severity, count in (one for notifier in control.notifiers for one in notifier.unheard()):
        yield _sample(NOTICES_UNHEARD, count, severity.value)
    yield from found


def _of_monitor(control: Control) -> Iterator[Sample]:
    readings = picture(control)
    yield _sample(INCREASES_SUSPENDED, bool(fleet(readings).reason))
    troubles = {one.trouble for one in complaints(readings, now_s=control.clock.now_s())}
    for trouble in Trouble:
        yield _sample(MONITOR_TROUBLE, trouble in troubles, trouble.value)


def _of_table(table: RouteTable) -> Iterator[Sample]:
    yield _sample(NEWEST_TABLE_REVISION, table.revision)
    for model in table.champions.keys() - table.routes.keys():
        yield _sample(ROUTE_INFO, 1, model, model)
    for route in table.routes.values():
        yield _sample(ROUTE_INFO, 1, route.name, route.model)
        yield _sample(ROUTE_REVISION, route.revision, route.name)
        for variant in route.variants:
            yield _sample(ROUTE_WEIGHT, variant.weight / SLOTS, route.name, variant.name, variant.version)
        for shadow in route.shadows:
            yield _sample(SHADOW_FRACTION, shadow.fraction, route.name, shadow.name, shadow.version)
    for (model, name), version in table.versions.items():
        is_champion = str(table.champions.get(model) == name).lower()
        yield _sample(VERSION_INFO, 1, model, name, version.runtime.value, version.runtime_version, is_champion)


def _of_changes(control: Control) -> Iterator[Sample]:
    table, now_s = control.registry.table(), control.clock.now_s()
    for worker, status in statuses_of(control).items():
        if worker in control.workers:
            yield _sample(REVISIONS_BEHIND, table.revision - status.revision, worker)
    newest = control.registry.newest_rollouts()
    for route, last in newest.items():
        for state in RolloutState:
            yield _sample(ROLLOUT_STATE, state is last.state, route, state.value)
    yield from health_samples(control, newest)
    yield _sample(AUTOMATION_ON, control.registry.automation().is_on)
    yield _sample(QUARANTINED, sum(one.until_s > now_s for one in control.registry.quarantines()))


def _sample(metric: Metric, value: float, *labels: str) -> Sample:
    return Sample(metric.name, tuple(zip(metric.labels, labels, strict=True)), float(value))
