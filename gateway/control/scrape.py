"""What a scraper and a load balancer read: every process's metrics with the registry's own, and health. Open to all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from gateway.control.calls import Answer, Call, Control, Reply, Text
from gateway.control.propagation import revisions, statuses_of
from gateway.core.errors import GatewayError
from gateway.core.rollouts import RolloutState
from gateway.core.routes import RouteTable
from gateway.metrics import SnapshotCollector

_ROLLOUTS_MAX = 1_000  # the newest; a route's last one is nearly always among them


def metrics(control: Control, _: Call) -> Text:
    """Return everything in Prometheus' text form."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(control.snapshots))
    registry.register(RegistryCollector(control))
    return Text(generate_latest(registry), CONTENT_TYPE_LATEST)


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


class RegistryCollector(Collector):
    """What the registry says, as Prometheus series."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def collect(self) -> Iterator[Metric]:
        """Yield the families; a registry that cannot be read leaves them out and says so in one."""
        try:
            table = self._control.registry.table()
            families = [*_of_table(table), self._revisions(table), self._rollouts(table), self._automation()]
        except GatewayError:
            families = []
        yield _gauge("gateway_registry_up", "Whether the control plane can read the registry.", [((), bool(families))])
        yield from families

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is depends on the registry."""
        return ()

    def _revisions(self, table: RouteTable) -> Metric:
        """Return how many table revisions each worker is behind."""
        running = revisions(self._control, statuses_of(self._control))
        lags = [((worker,), float(table.revision - int(str(revision)))) for worker, revision in running.items()]
        return _gauge("gateway_worker_revisions_behind", "Table revisions that a worker is behind.", lags, "worker")

    def _rollouts(self, table: RouteTable) -> Metric:
        """Return the state of each route's newest rollout, as one series per state."""
        newest: dict[str, RolloutState] = {}
        for rollout in self._control.registry.rollouts(limit=_ROLLOUTS_MAX):
            newest.setdefault(rollout.route, rollout.state)
        values = [
            ((route, state.value), float(state is now))
            for route, now in newest.items()
            if route in table.routes
            for state in RolloutState
        ]
        return _gauge("gateway_rollout_state", "1 for the state of a route's newest rollout.", values, "route", "state")

    def _automation(self) -> Metric:
        is_on = self._control.registry.automation().is_on
        return _gauge("gateway_automation_on", "Whether the gateway may change routes by itself.", [((), float(is_on))])


def _of_table(table: RouteTable) -> Iterator[Metric]:
    routes = table.routes.values()
    yield _gauge("gateway_route_table_revision", "Revision of the newest route table.", [((), float(table.revision))])
    revisions_by_route = [((route.name,), float(route.revision)) for route in routes]
    yield _gauge("gateway_route_revision", "Revision of a route.", revisions_by_route, "route")
    weights = [
        ((route.name, variant.name, variant.version), variant.weight / 10_000) for route in routes for variant in route.variants
    ]
    yield _gauge("gateway_route_weight_ratio", "Planned share of a route's requests.", weights, "route", "variant", "version")
    fractions = [((route.name, one.name, one.version), one.fraction) for route in routes for one in route.shadows]
    yield _gauge("gateway_shadow_ratio", "Share of a route's requests copied.", fractions, "route", "variant", "version")
    info = InfoMetricFamily("gateway_version", "A version that a route or a champion needs.", labels=("model", "version"))
    for (model, name), version in table.versions.items():
        is_champion = str(table.champions.get(model) == name).lower()
        runtime = {"runtime": version.runtime.value, "runtime_version": version.runtime_version, "is_champion": is_champion}
        info.add_metric((model, name), runtime)
    yield info


def _gauge(name: str, help: str, values: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, help, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, float(value))
    return family
