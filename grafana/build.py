"""Writes the boards: `python grafana/build.py`. The JSON beside it is checked in, and a test builds it anew and compares.

A panel is a title in plain words, a sentence of description, a unit and its PromQL. Every expression names metrics that a running
gateway has; a test runs them all against a real Prometheus.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BOARDS: Final = Path(__file__).parent / "dashboards"
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN: Final = 'route=~"$route", version=~"$version", variant=~"$variant"'
SPAN: Final = "$__rate_interval"
WIDTH: Final = 24  # of a row, in Grafana's columns
HEIGHT: Final = 8


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression and the name of its series."""

    expression: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph over time.

    Attributes:
        unit: Grafana's name of it, e.g. `reqps`, `s`, `percentunit`.
        width: In columns; panels fill rows from the left.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 12
    is_stacked: bool = False


ANSWERED: Final = f'gateway_predictions_total{{{CHOSEN}, kind=~"live|pinned"}}'
FAULTS: Final = f'gateway_predictions_total{{{CHOSEN}, kind=~"live|pinned", outcome!="ok"}}'
ANSWER_RATE: Final = f"sum by (variant, version) (rate({ANSWERED}[{SPAN}]))"
VERSION: Final = "{{variant}} (version {{version}})"


def _quantile(share: float) -> str:
    buckets = f"rate(gateway_prediction_duration_seconds_bucket{{{CHOSEN}}}[{SPAN}])"
    return f"histogram_quantile({share}, sum by (le, variant, version) ({buckets}))"


ROUTE: Final = (
    Panel(
        "Predictions a second",
        "Answers to callers, by the version that really gave them. Shadows are not among them.",
        "reqps",
        (Query(ANSWER_RATE, VERSION),),
    ),
    Panel(
        "Share that failed",
        "Of each version's predictions: raised, answered with something invalid, ran out of time, or took its worker down. "
        "Callers mostly got the fallback's answer instead.",
        "percentunit",
        # A version without a fault has no such series yet: the sum counts it as zero.
        (Query(f"(sum by (variant, version) (rate({FAULTS}[{SPAN}])) or 0 * {ANSWER_RATE}) / ({ANSWER_RATE} > 0)", VERSION),),
    ),
    Panel(
        "Duration of most requests",
        "The median, from the last byte of the request to its record in the log, by version.",
        "s",
        (Query(_quantile(0.5), VERSION),),
    ),
    Panel(
        "Duration of the slowest hundredth",
        "The 99th percentile, from the last byte of the request to its record in the log, by version.",
        "s",
        (Query(_quantile(0.99), VERSION),),
    ),
    Panel(
        "Planned split",
        "The share of assignment keys that each variant owns.",
        "percentunit",
        (Query(f"gateway_route_weight_ratio{{{CHOSEN}}}", VERSION),),
        is_stacked=True,
    ),
    Panel(
        "Actual split",
        "The share of answers that each version gave. It follows the planned split unless some keys call more often than others.",
        "percentunit",
        (Query(f"{ANSWER_RATE} / ignoring (variant, version) group_left () sum({ANSWER_RATE})", VERSION),),
        is_stacked=True,
    ),
    Panel(
        "Evidence against the challenger",
        "The natural log of the e-value of each guardrail, and the height from which the rollout is rolled back. "
        "A sound version reaches it with a probability below the rollout's alpha, however often one looks.",
        "none",
        (
            Query('gateway_rollout_log_e{route=~"$route"}', "{{guardrail}}"),
            Query('gateway_rollout_log_e_bound{route=~"$route"}', "{{guardrail}}, rolled back from"),
        ),
    ),
    Panel(
        "Loss against ground truth",
        "Mean loss of each version over the last hour, where the outcome became known; for a yes or no it is the share of wrong "
        "answers.",
        "percentunit",
        (Query(f"gateway_quality_loss_ratio{{{CHOSEN}}}", VERSION),),
    ),
    Panel(
        "Largest drift of a feature",
        "The highest population stability index of any feature, or of the answer, against the live version's training sample.",
        "none",
        (Query('gateway_drift_psi_max{route=~"$route"}', "{{route}}"),),
        width=8,
    ),
    Panel(
        "Features that drifted",
        "Features, the answer among them, whose index is above the bound for their sample size.",
        "short",
        (Query('gateway_drift_features_over_bound{route=~"$route"}', "{{route}}"),),
        width=8,
    ),
    Panel(
        "Lag behind the log",
        "How far the monitor is behind the newest records. Automatic decisions come that much later.",
        "s",
        (Query("gateway_monitor_lag_seconds", "monitor"),),
        width=8,
    ),
    Panel(
        "Records a second",
        "Written by the workers, and read by the monitor; heartbeats of idle workers are not among the written ones.",
        "wps",
        (
            Query(f"sum(rate(gateway_log_records_total[{SPAN}]))", "written"),
            Query(f"sum(rate(gateway_monitor_records_total[{SPAN}]))", "read by the monitor"),
        ),
        width=8,
    ),
    Panel(
        "Outcomes that became known",
        "The share of the answered rows whose ground truth has arrived, by version.",
        "percentunit",
        (Query(f"gateway_quality_coverage_ratio{{{CHOSEN}}}", VERSION),),
        width=8,
    ),
    Panel(
        "Requests refused",
        "Answered with an error instead of a prediction, by reason; zero where none was.",
        "reqps",
        (Query(f"sum by (reason) (rate(gateway_rejected_requests_total[{SPAN}])) or vector(0)", "{{reason}}"),),
        width=8,
    ),
)


def board(uid: str, title: str, panels: Sequence[Panel]) -> dict[str, object]:
    """Return a board as Grafana reads it."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["headgate"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair over all panels
        "refresh": "5s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": list(_placed(panels)),
    }


def _variables() -> Iterator[dict[str, object]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}
    for name, metric in (
        ("route", "gateway_predictions_total"),
        ("version", 'gateway_predictions_total{route=~"$route"}'),
        ("variant", 'gateway_predictions_total{route=~"$route"}'),
    ):
        yield {
            "name": name,
            "label": name.capitalize(),
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": f"label_values({metric}, {name})", "refId": name},
            "refresh": 2,  # anew with each change of the time range
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
            "sort": 1,
            "hide": 0,
        }


def _placed(panels: Sequence[Panel]) -> Iterator[dict[str, object]]:
    x = y = 0
    for number, panel in enumerate(panels, start=1):
        if x + panel.width > WIDTH:
            x, y = 0, y + HEIGHT
        yield _panel(panel, number, {"x": x, "y": y, "w": panel.width, "h": HEIGHT})
        x += panel.width


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, object]:
    custom = {"fillOpacity": 25 if panel.is_stacked else 8, "lineWidth": 1, "showPoints": "never"}
    custom["stacking"] = {"mode": "normal" if panel.is_stacked else "none"}  # type: ignore[assignment]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": DATASOURCE, "expr": query.expression, "legendFormat": query.legend}
            for at, query in enumerate(panel.queries)
        ],
    }


def built() -> dict[str, str]:
    """Return each board's file name and its text."""
    boards = {"route.json": board("headgate-route", "Route", ROUTE)}
    return {name: json.dumps(body, indent=2, ensure_ascii=False) + "\n" for name, body in boards.items()}


if __name__ == "__main__":
    for name, text in built().items():
        (BOARDS / name).write_text(text)
