"""Every route at a glance: is anything wrong, and where to look next."""

from __future__ import annotations

from typing import Final

from grafana import bounds
from grafana.boards.answers import answered, duration, unserved_share
from grafana.bounds import GREEN, GREY, RED, YELLOW
from grafana.panels import OF_ROUTE, SPAN, Board, Kind, Panel, Query, Unbounded, number, rate

_HEALTH: Final = ((0, "unknown", GREY), (1, "good", GREEN), (2, "warning", YELLOW), (3, "critical", RED))
_REFUSED: Final = "gateway_rejected_requests_total"
_UNLOADED: Final = "gateway_load_failures_total"  # of a version it begins with 1, which is no increase
_NONE: Final = 'label_replace(vector(0), "reason", "none", "", "")'
_PANELS: Final = (
    number(
        "Predictions a second",
        "Answers to callers on all routes. Shadows are not among them.",
        "reqps",
        answered(OF_ROUTE, ""),
        unbounded=Unbounded.AMOUNT,
    ),
    number(
        "Failed",
        "The share of all requests that failed, or that the gateway refused for reasons of its own: a version that is not "
        "loaded, a log that takes nothing. The objective is one in a thousand.",
        "percentunit",
        unserved_share(""),
        levels=bounds.FAILED,
    ),
    number(
        "Rollouts under way",
        "Routes on which a challenger stands beside the champion now: as a shadow, answering its share, or held.",
        "short",
        'sum(gateway_rollout_state{state!~"LIVE|ROLLED_BACK|QUARANTINED"}) or vector(0)',
        unbounded=Unbounded.AMOUNT,
    ),
    number(
        "In quarantine",
        "Versions that the gateway rolled back by itself and that no rollout may use for a while.",
        "short",
        "max(gateway_quarantined_versions)",
        levels=bounds.SELDOM,
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
        levels=bounds.ANY,
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
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Routes that fail most",
        "The share of requests that failed, or that the gateway refused for reasons of its own, on the ten routes where it is "
        "highest. The first line is the objective.",
        "percentunit",
        (Query(f"topk(10, {unserved_share('route')})", "{{route}}"),),
        levels=bounds.FAILED,
    ),
    Panel(
        "Slowest routes",
        "The time within which 99 of 100 answers are given, on the ten routes where it is longest. "
        "The lines are half of the default deadline, and all of it.",
        "s",
        (Query(f"topk(10, {duration(0.99, OF_ROUTE, 'route')})", "{{route}}"),),
        levels=bounds.DURATION,
    ),
    Panel(
        "Routes that drift most",
        "How far the live inputs of each route lie from training: the highest stability index of any feature. Up to the "
        "first line is usual; above the second one it is a different population.",
        "none",
        (Query(f"topk(10, max by (route) (gateway_drift_psi_max{{{OF_ROUTE}}}))", "{{route}}"),),
        levels=bounds.PSI,
    ),
    Panel(
        "Requests refused",
        "Answered with an error instead of a prediction, by reason: the request was wrong, or the gateway was too busy. "
        "As a share of all requests."
        " From the line on, refusing for the load raises an alert.",
        "percentunit",
        (
            Query(
                f"({rate(_REFUSED, by='reason')} or on () {_NONE}) / on () group_left () "
                f"({answered('', '')} + ({rate(_REFUSED)} or vector(0)) > 0)",
                "{{reason}}",
            ),
        ),
        levels=((bounds.BUSY_SHARE, RED),),
    ),
    Panel(
        "Memory of warm versions",
        "What the versions that each worker holds ready take. Versions are unloaded when serving.model_memory_bytes_max is "
        "reached; the line is its default.",
        "bytes",
        (Query("gateway_warm_bytes", "{{process}}"),),
        levels=bounds.MEMORY,
    ),
    Panel(
        "Versions ready",
        "Versions that each worker can answer with at once.",
        "short",
        (Query("gateway_warm_versions", "{{process}}"),),
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Versions unloaded for room",
        "Versions that were warm and gave their memory to others; the next call of one waits until it is loaded again. Now and "
        "then is usual with many versions; all the time, there is too little memory.",
        "short",
        (Query(f"sum(increase(gateway_evictions_total[{SPAN}]))", "unloaded"),),
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Inputs refused because processes died of them",
        "Inputs that are refused for serving.poison_s, because processes died of them. Zero is usual.",
        "short",
        (Query("max(gateway_poisonous_inputs)", "inputs"),),
        levels=bounds.SELDOM,
    ),
    Panel(
        "Versions that would not load, or were rested",
        "Loads that failed, and versions that a worker took out of rotation because they failed too often. Zero is usual.",
        "short",
        (
            Query(
                f"(sum(increase({_UNLOADED}[{SPAN}])) or vector(0))"
                f" + (sum({_UNLOADED} unless {_UNLOADED} offset {SPAN}) or vector(0))",
                "would not load",
            ),
            Query(f"sum(increase(gateway_version_rests_total[{SPAN}])) or vector(0)", "taken out of rotation"),
        ),
        levels=bounds.SELDOM,
    ),
)

BOARD: Final = Board("headgate-fleet", "Fleet", "Every route at a glance.", _PANELS)
