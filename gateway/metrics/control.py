"""What the control plane shows of routes, rollouts, the audit log, itself and the notices that it delivers."""

from __future__ import annotations

from typing import Final

from gateway.metrics.metric import PLACE, Metric, Type

ROUTE_WEIGHT: Final = Metric("gateway_route_weight_ratio", Type.GAUGE, "Planned share of a route's requests.", PLACE)
SHADOW_FRACTION: Final = Metric("gateway_shadow_ratio", Type.GAUGE, "Share of a route's requests copied to a shadow.", PLACE)
ROUTE_HEALTH: Final = Metric(
    "gateway_route_health",
    Type.GAUGE,
    "A route's health, which is that of its worst part: 0 unknown, 1 good, 2 warning, 3 critical.",
    ("route",),
)
ROUTE_UNWELL: Final = Metric(
    "gateway_route_unwell", Type.GAUGE, "The parts of a route that are at warning (2) or critical (3).", ("route", "part")
)
ROUTE_INFO: Final = Metric(
    "gateway_route_info",
    Type.GAUGE,
    "1 for each route and its model; a champion answers under its model's name.",
    ("route", "model"),
)
ROUTE_REVISION: Final = Metric("gateway_route_revision", Type.GAUGE, "Revision of a route.", ("route",))
NEWEST_TABLE_REVISION: Final = Metric("gateway_newest_table_revision", Type.GAUGE, "Revision of the newest route table.")
REVISIONS_BEHIND: Final = Metric(
    "gateway_worker_revisions_behind", Type.GAUGE, "Table revisions that a worker is behind the newest.", ("worker",)
)
ROLLOUT_STATE: Final = Metric(
    "gateway_rollout_state", Type.GAUGE, "1 for the state of a route's newest rollout, 0 for the others.", ("route", "state")
)
ROUTE_CHANGE: Final = Metric(
    "gateway_route_change_timestamp_seconds",
    Type.GAUGE,
    "When a route was changed: the last changes of each route, up to 20, of many routes fewer, with their audit entries.",
    ("route", "action", "by", "audit_entry"),
)
AUDIT_ENTRIES: Final = Metric("gateway_audit_entries_total", Type.COUNTER, "Entries of the audit log.")
AUDIT_INTACT: Final = Metric(
    "gateway_audit_intact",
    Type.GAUGE,
    "Whether each of the newest audit entries followed from the one before it when the control plane read it.",
)
AUTOMATION_ON: Final = Metric("gateway_automation_on", Type.GAUGE, "Whether the gateway may change routes by itself.")
INCREASES_SUSPENDED: Final = Metric(
    "gateway_increases_suspended", Type.GAUGE, "Whether nothing is raised by itself because many routes were rolled back lately."
)
QUARANTINED: Final = Metric("gateway_quarantined_versions", Type.GAUGE, "Digests in quarantine now.")
VERSION_INFO: Final = Metric(
    "gateway_version_info",
    Type.GAUGE,
    "1 for each version that a route or a champion needs.",
    ("model", "version", "runtime", "runtime_version", "is_champion"),
)
MONITOR_TROUBLE: Final = Metric(
    "gateway_monitor_trouble",
    Type.GAUGE,
    "1 for what is wrong with the monitor, see `headgate monitor show`.",
    ("trouble",),
)
REGISTRY_UP: Final = Metric("gateway_registry_up", Type.GAUGE, "Whether the control plane can read the registry.")
NOTICES_WAITING: Final = Metric("gateway_notices_waiting", Type.GAUGE, "Notices that a channel has not taken yet.", ("channel",))
NOTICES_DELIVERED: Final = Metric("gateway_notices_delivered_total", Type.COUNTER, "Notices that a channel took.", ("channel",))
NOTICES_LOST: Final = Metric(
    "gateway_notices_lost_total", Type.COUNTER, "Notices given up: a day old, or too many waited.", ("channel",)
)
NOTICES_UNTOLD: Final = Metric("gateway_notices_untold_total", Type.COUNTER, "Notices that no channel wanted.", ("severity",))
NOTICES_UNHEARD: Final = Metric(
    "gateway_notices_unheard", Type.GAUGE, "Notices that wait and no channel took yet, or last and none wants.", ("severity",)
)
