"""Every route at a glance: is anything wrong, and where to look next."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.builders.dashboard import Dashboard

from grafana.boards.answers import FAILED_LEVELS, answered, duration, failed_share
from grafana.panels import GREEN, GREY, OF_ROUTE, RED, SPAN, YELLOW, Kind, Panel, Query, board, number, rate

_HEALTH: Final = ((0, "unknown", GREY), (1, "good", GREEN), (2, "warning", YELLOW), (3, "critical", RED))
_PANELS: Final = (
    number(
        "Predictions a second", "Answers to callers on all routes. Shadows are not among them.", "reqps", answered(OF_ROUTE, "")
    ),
    number(
        "Failed",
        "The share of all answers that failed. The objective is one in a thousand.",
        "percentunit",
        failed_share(OF_ROUTE, ""),
        levels=FAILED_LEVELS,
    ),
    number(
        "Rollouts under way",
        "Routes on which a challenger answers beside the champion now.",
        "short",
        'sum(gateway_rollout_state{state=~"CANARY|HELD"}) or vector(0)',
    ),
    number(
        "In quarantine",
        "Versions that the gateway rolled back by itself and that no rollout may use for a while.",
        "short",
        "max(gateway_quarantined_versions)",
        levels=((1, YELLOW),),
    ),
    number(
        "Automatic changes",
        "Whether the gateway may change routes by itself. Off stops automatic rollbacks too.",
        "short",
        "min(gateway_automation_on)",
        meanings=((1, "on", GREEN), (0, "off", RED)),
    ),
    number(
        "Workers behind",
        "Workers that do not answer with the newest route table yet. More than a moment of it is trouble.",
        "short",
        "sum(gateway_worker_revisions_behind > bool 0)",
        levels=((1, RED),),
    ),
    Panel(
        "Routes that are not well",
        "Each route is as well as its worst part: errors, drift, quality against ground truth, the rollout. The evidence stands "
        "in GET /api/v1/routes/{route}/health.",
        "none",
        (Query(f"max by (route, part) (gateway_route_unwell{{{OF_ROUTE}}})", "{{route}}: {{part}}"),),
        Kind.STATES,
        height=6,
        meanings=_HEALTH,
    ),
    Panel(
        "Health of each route",
        "The worst of its parts. Unknown is neither good nor bad: too little was seen, or the monitor is silent.",
        "none",
        (Query(f"max by (route) (gateway_route_health{{{OF_ROUTE}}})", "{{route}}"),),
        Kind.STATES,
        height=6,
        meanings=_HEALTH,
    ),
    Panel(
        "Busiest routes",
        "Answers a second on the ten routes with the most.",
        "reqps",
        (Query(f"topk(10, {answered(OF_ROUTE, 'route')})", "{{route}}"),),
    ),
    Panel(
        "Routes that fail most",
        "The share of answers that failed, on the ten routes where it is highest. The lines are the objective and ten times it.",
        "percentunit",
        (Query(f"topk(10, {failed_share(OF_ROUTE, 'route')})", "{{route}}"),),
        levels=FAILED_LEVELS,
    ),
    Panel(
        "Slowest routes",
        "The time within which 99 of 100 answers are given, on the ten routes where it is longest.",
        "s",
        (Query(f"topk(10, {duration(0.99, OF_ROUTE, 'route')})", "{{route}}"),),
    ),
    Panel(
        "Routes that drift most",
        "How far the live inputs of each route lie from training: the highest stability index of any feature. "
        "Below 0.1 is usual, above 0.25 is a different population.",
        "none",
        (Query(f"topk(10, max by (route) (gateway_drift_psi_max{{{OF_ROUTE}}}))", "{{route}}"),),
        levels=((0.1, YELLOW), (0.25, RED)),
    ),
    Panel(
        "Requests refused",
        "Answered with an error instead of a prediction, by reason: the request was wrong, or the gateway was too busy.",
        "reqps",
        (Query(f"{rate('gateway_rejected_requests_total', by='reason')} or vector(0)", "{{reason}}"),),
    ),
    Panel(
        "Memory of warm versions",
        "What the versions that each worker holds ready take. Versions are unloaded when the configured bound is reached.",
        "bytes",
        (Query("gateway_warm_bytes", "{{process}}"),),
    ),
    Panel(
        "Versions ready",
        "Versions that each worker can answer with at once.",
        "short",
        (Query("gateway_warm_versions", "{{process}}"),),
    ),
    Panel(
        "Versions that would not load, or were rested",
        "Loads that failed, and versions that a worker took out of rotation because they failed too often. Zero is usual.",
        "short",
        (
            Query(f"sum(increase(gateway_load_failures_total[{SPAN}])) or vector(0)", "would not load"),
            Query(f"sum(increase(gateway_version_rests_total[{SPAN}])) or vector(0)", "taken out of rotation"),
        ),
    ),
)


def built() -> Dashboard:
    """Return the board."""
    return board("headgate-fleet", "Fleet", "Every route at a glance.", _PANELS)
