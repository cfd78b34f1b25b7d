"""What the monitor shows: one JSON object that control reads and people see. Decisions never depend on it.

```
{"format": 1,
 "monitor": {"published_at_s", "time_s", "lag_s", "records", "late", "cursor": {stream: offset},
             "sampling": {"rate", "passed_over"},
             "truth": {"waiting_rows", "dropped", "recalled", "unmatched", "unscored"}, "unplaced",
             "fleet": {"rolled_back", "is_suspended", "until_s", "rolled_back_at_s": {route: time_s}, "routes"},
             "drills": {"is_on", "has_too_many_alarms", drill: {"endings": {ending: count}, "last": null or {"ending",
             "requests", "reason", "ended_at_s"}}}},
 "routes": {route: {
    "revision", "model", "live_version",
    "versions": [{"variant", "version", "kind", "since_s", "until_s", "predictions", "error_rate", "latency_ms_mean"}],
    "rollout":  null or {"rollout": <rollout body>, "findings": [{"guardrail", "measure", "class", "is_dry_run",
                 "verdict", "reason", "margin", "harm", "log_e", "log_e_best", "bound", "champion_count", "challenger_count",
                 "champion_mean", "challenger_mean", "estimate", "lower", "upper", "epoch", "keys", "subject",
                 "attribution", "why"}],
                 "truth": {"keys", "challenger_keys", "expected_keys", "values", "corrected", "log_e_best", "bound", "doubt",
                 "held"},
                 "aftermath": [{"guardrail", "measure", "champion_before", "challenger_before", "champion_after", "keys",
                 "has_helped"}],
                 "hindsight": [a finding of errors and one of loss on the same requests, after a promotion],
                 "decision", "reason", "attribution", "evidence"},
    "drift":    null or {"version", "incidents": [{"attribution", "subjects", "opened_at_s", "last_at_s",
                 "alarms", "why"}], "incident_count", "frozen_by", "unreadable",
                 "against_training": {"inputs", "summaries", "answer": null or {"log_e", "bound", "is_departed"},
                                      "errors", "loss": {"reference", "log_e", "bound", "is_departed"}},
                 "features": [{"feature", "rows", "share", "psi", "psi_bound", "is_breached", "is_judged", "value", "spread",
                               "alarms", "correlation", "apart": {reason: share}, "current", "reference"}]},
    "quality":  {"versions": [{"variant", "version", "truths", "mean_loss", "accuracy", "rows", "rows_known", "coverage",
                 "corrected", "delay_s_p50", "delay_s_p90", "estimated_loss", "estimate_bias",
                 "estimates_checked"}]}}}}
```

`versions` and the losses speak of the last hour; `rows`, `rows_known`, `coverage`, `corrected` and the delays of all. Shares
and rates are in [0, 1] and null without data; `accuracy` is 1 − mean loss. A rollout's `reason` says what it waits for or why
it ended; the entry stays until the route's next rollout; `doubt` says why no verdict on ground truth stands, or is empty.
`estimated_loss` is of the last hour's answers, before their ground truth; `estimate_bias` is what such estimates said less
what came true, a row of the `estimates_checked`. Features come with the one furthest over its bound first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.core.fields import Json
from gateway.core.rollouts import rollout_body
from gateway.core.windows import Window, estimated_loss
from gateway.monitor.fold import Fold
from gateway.monitor.merge import Merge
from gateway.monitor.state import RouteState
from gateway.monitor.tally import VersionTally

FORMAT: Final = 1


def picture(fold: Fold, merge: Merge, *, lag_s: float, drills: Json, published_at_s: float) -> Json:
    """Return the whole picture, of the form above.

    Args:
        lag_s: How far the merged log is behind the clock.
        drills: What has come of them.
        published_at_s: Wall time; the picture's age tells whether the monitor is alive.
    """
    return {
        "format": FORMAT,
        "monitor": {
            "published_at_s": published_at_s,
            "time_s": fold.now_s,
            "lag_s": lag_s,
            "records": fold.records - fold.left,
            "late": merge.late_count,
            "cursor": dict(merge.cursor()),
            "sampling": {"rate": fold.sampling.rate, "passed_over": fold.sampling.passed_over},
            "truth": {
                "waiting_rows": fold.truth.rows_waiting,
                "dropped": fold.truth.dropped_count,
                "recalled": fold.truth.recalled_count,
                "unmatched": fold.truth.unmatched_count,
                "unscored": fold.unscored,
            },
            "unplaced": fold.unplaced,
            "drills": drills,
            "fleet": {
                **fold.fleet.reading(fold.route_count, fold.now_s).body(),
                "rolled_back_at_s": fold.fleet.state(),
                "routes": fold.route_count,
            },
        },
        "routes": {name: _route(state, fold.now_s) for name, state in sorted(fold.routes.items())},
    }


def _route(state: RouteState, now_s: float) -> Json:
    hours = {place: tally.hour() for place, tally in state.tallies.items()}
    return {
        "revision": state.view.revision,
        "model": state.view.model,
        "live_version": state.view.live_version,
        "versions": [_version(place, window) for place, window in hours.items()],
        "rollout": _rollout(state, now_s),
        "drift": _drift(state, now_s),
        "quality": {"versions": _quality(state.tallies, hours)},
    }


def _version(place: tuple[str, str, str], window: Window) -> Json:
    variant, version, kind = place
    return {
        "variant": variant,
        "version": version,
        "kind": kind,
        "since_s": window.since_s if window.predictions else None,
        "until_s": window.until_s if window.predictions else None,
        "predictions": window.predictions,
        "error_rate": window.error_rate,
        "latency_ms_mean": window.latency_us / window.predictions / 1000.0 if window.predictions else None,
    }


def _rollout(state: RouteState, now_s: float) -> Json | None:
    if state.watch is None:
        return None
    rollout = state.watch.rollout
    hindsight = [one.body() for one in state.watch.hindsight.findings()] if state.watch.hindsight is not None else []
    body: Json = {
        "rollout": rollout_body(rollout),
        "findings": state.watch.attributed(state.frozen_by(now_s)),
        "truth": {**state.watch.arrivals.reading().body(), "held": state.watch.cohorts.held},
        "hindsight": hindsight,
        "aftermath": [look.body() for look in state.watch.aftermath.looks()] if state.watch.aftermath is not None else [],
        **state.decision,
    }
    return body if rollout.is_open else {**body, "reason": rollout.reason}


def _drift(state: RouteState, now_s: float) -> Json | None:
    if state.drift is None:
        return None
    return {
        "version": state.drift.version,
        "incidents": [incident.body() for incident in state.drift.incidents],
        "incident_count": state.drift.incident_count,
        "frozen_by": state.frozen_by(now_s).value,
        "unreadable": state.drift.unreadable,
        "against_training": state.drift.against_training(),
        "features": state.drift.bodies(),
    }


def _quality(tallies: Mapping[tuple[str, str, str], VersionTally], hours: Mapping[tuple[str, str, str], Window]) -> list[Json]:
    return [
        {
            "variant": variant,
            "version": version,
            "truths": hours[variant, version, kind].truths,
            "mean_loss": (mean_loss := hours[variant, version, kind].mean_loss),
            "accuracy": None if mean_loss is None else 1.0 - mean_loss,
            "rows": tally.rows,
            "rows_known": tally.rows_known,
            "coverage": tally.coverage,
            "corrected": tally.corrected,
            "delay_s_p50": tally.delays.quantile_s(0.5),
            "delay_s_p90": tally.delays.quantile_s(0.9),
            "estimated_loss": estimated_loss(hours[variant, version, kind]),
            "estimate_bias": tally.estimate.bias,
            "estimates_checked": tally.estimate.checked,
        }
        for (variant, version, kind), tally in tallies.items()
        if tally.is_scored
    ]
