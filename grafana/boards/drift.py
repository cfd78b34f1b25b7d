"""Drift: whether what comes in still looks like what the live version was trained on."""

from __future__ import annotations

from typing import Final

from grafana import bounds
from grafana.bounds import GREEN, YELLOW
from grafana.panels import OF_ROUTE, SPAN, Board, Kind, Panel, Query

_PANELS: Final = (
    Panel(
        "Largest drift of a feature",
        "The highest population stability index of any feature, or of the answer, against the live version's training "
        "sample. Up to the first line is usual; above the second one it is a different population.",
        "none",
        (Query(f"max by (route) (gateway_drift_psi_max{{{OF_ROUTE}}})", "{{route}}"),),
        levels=bounds.PSI,
    ),
    Panel(
        "The five features that moved most",
        "Each one's stability index over its bound, which allows for the size of both samples: 1 and more has drifted. "
        "All features stand in the route's readings, GET /api/v1/routes/{route}/drift.",
        "none",
        (Query(f"max by (route, feature) (gateway_drift_top_psi_ratio{{{OF_ROUTE}}})", "{{route}}: {{feature}}"),),
        levels=bounds.ANY,
    ),
    Panel(
        "Evidence of being unlike training",
        "How far the evidence has come on its way to an alarm, which it gives at 1: of the inputs together, the answers, errors "
        "and losses. All of them together give at most the false alarms that monitor.false_alarm_events allows.",
        "none",
        (Query(f"max by (route, part) (gateway_drift_evidence_ratio{{{OF_ROUTE}}})", "{{route}}: {{part}}"),),
        width=8,
        levels=bounds.ANY,
    ),
    Panel(
        "Features that drifted",
        "Features, the answer among them, whose index is above its bound now.",
        "short",
        (Query(f"max by (route) (gateway_drift_features_over_bound{{{OF_ROUTE}}})", "{{route}}"),),
        width=8,
        levels=bounds.SELDOM,
    ),
    Panel(
        "Values that training never had",
        "The highest share, over all features, of the last values that are missing, infinite, below or above everything in "
        "training, or a category that it did not have.",
        "percentunit",
        (Query(f"max by (route, reason) (gateway_drift_apart_ratio{{{OF_ROUTE}}})", "{{route}}: {{reason}}"),),
        width=8,
        levels=bounds.APART,
    ),
    Panel(
        "Incidents",
        "Drift incidents that began; alarms within ten minutes are one incident.",
        "short",
        (Query(f"sum by (route) (increase(gateway_drift_incidents_total{{{OF_ROUTE}}}[{SPAN}]))", "{{route}}"),),
        width=8,
        levels=bounds.SELDOM,
    ),
    Panel(
        "Rollouts frozen",
        "While an incident is fresh, a rollout does not go on by itself. It still rolls back if the versions differ.",
        "none",
        (Query(f"max by (route) (gateway_drift_frozen{{{OF_ROUTE}}})", "{{route}}"),),
        Kind.STATES,
        width=8,
        meanings=((0, "no", GREEN), (1, "frozen", YELLOW)),
    ),
    Panel(
        "Share of rows watched",
        "All of them, unless more come than the monitor may spend time on: then a share, chosen by the prediction's id.",
        "percentunit",
        (Query("min(gateway_monitor_sampled_ratio)", "least"),),
        width=8,
        levels=bounds.WHOLE,
        below=YELLOW,
    ),
    Panel(
        "Requests without the training sample's columns",
        "Their inputs could not be compared with training. Zero is usual.",
        "reqps",
        (Query(f"sum by (route) (rate(gateway_drift_unreadable_records_total{{{OF_ROUTE}}}[{SPAN}]))", "{{route}}"),),
        width=8,
        levels=((bounds.FLOWS, YELLOW),),
    ),
)

BOARD: Final = Board("headgate-drift", "Drift", "Whether what comes in still looks like training.", _PANELS)
