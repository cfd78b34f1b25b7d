"""One route: rate, errors, duration, and what its versions do inside."""

from __future__ import annotations

from typing import Final

from grafana import bounds
from grafana.boards.answers import answered, duration, failed_share, refused_share
from grafana.bounds import YELLOW
from grafana.panels import CHOSEN, OF_ROUTE, SPAN, VERSION, Board, Panel, Query, Unbounded, quantile, rate

_BY: Final = "route, variant, version"
_NAME: Final = "{{route}} " + VERSION
_OF_MODEL: Final = f"and on (model) gateway_route_info{{{OF_ROUTE}}}"  # a run belongs to a model, which may have several routes
_RUN_BY: Final = "model, version"
_RUN: Final = "{{model}} version {{version}}"
_VERSIONS: Final = 'version=~"$version"'

_PANELS: Final = (
    Panel(
        "Predictions a second",
        "Answers to callers, by the version that really gave them. Shadows are not among them.",
        "reqps",
        (Query(answered(CHOSEN, _BY), _NAME),),
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Share that failed",
        "Of each version's answers: raised, answered with something invalid, ran out of time, or took its worker down. "
        "Requests that were refused have no version, and stand in the last panel. The first line is the objective.",
        "percentunit",
        (Query(failed_share(CHOSEN, _BY), _NAME),),
        levels=bounds.FAILED,
    ),
    Panel(
        "Duration of most requests",
        "The median, from the last byte of the request to its record in the log, by version. "
        "The lines are half of the default deadline, and all of it.",
        "s",
        (Query(duration(0.5, CHOSEN, _BY), _NAME),),
        width=8,
        levels=bounds.DURATION,
    ),
    Panel(
        "Duration of the slowest hundredth",
        "The 99th percentile, from the last byte of the request to its record in the log, by version. "
        "The lines are half of the default deadline, and all of it.",
        "s",
        (Query(duration(0.99, CHOSEN, _BY), _NAME),),
        width=8,
        levels=bounds.DURATION,
    ),
    Panel(
        "Answers by how they ended",
        "All answers of the route, those of shadows apart: ok, or how they failed.",
        "reqps",
        (Query(rate("gateway_predictions_total", CHOSEN, by="route, outcome, kind"), "{{route}}: {{outcome}} ({{kind}})"),),
        width=8,
        is_stacked=True,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Answered by the fallback",
        "Answers that a variant gave because the one chosen for the caller could not. Callers did not notice.",
        "reqps",
        (
            Query(
                f"sum by (route) (rate(gateway_failovers_total{{{CHOSEN}}}[{SPAN}])) or 0 * {answered(CHOSEN, 'route')}",
                "{{route}}",
            ),
        ),
        width=8,
        levels=((bounds.FLOWS, YELLOW),),
    ),
    Panel(
        "What the live version answers",
        "The share of its last answers in each range or class. The ranges are tenths of its own first answers: as long as "
        "nothing changes, the bands of a number are equally wide.",
        "percentunit",
        (Query(f"max by (route, answer) (gateway_drift_answers_ratio{{{OF_ROUTE}}})", "{{route}}: {{answer}}"),),
        width=8,
        is_stacked=True,
        unbounded=Unbounded.PARTS,
    ),
    Panel(
        "Wait before a run",
        "The 99th percentile of the time that a request waits for its version: in the queue, and for its batch. "
        "From the line on, requests with the default deadline are refused.",
        "s",
        (Query(f"{quantile(0.99, 'gateway_queue_wait_seconds', _VERSIONS, by=_RUN_BY)} {_OF_MODEL}", _RUN),),
        width=8,
        levels=bounds.WAIT,
    ),
    Panel(
        "Time of a run",
        "The mean time that a version takes for one batch. This is the model itself; the rest of the duration is the "
        "gateway. The lines are half of the default deadline, and all of it.",
        "s",
        (
            Query(
                f"{rate('gateway_run_seconds_total', _VERSIONS, by=_RUN_BY)} / "
                f"({rate('gateway_batches_total', _VERSIONS, by=_RUN_BY)} > 0) {_OF_MODEL}",
                _RUN,
            ),
        ),
        width=8,
        levels=bounds.DURATION,
    ),
    Panel(
        "Rows a run",
        "How many rows are computed together, on average. More are better for throughput, and cost waiting.",
        "short",
        (
            Query(
                f"{rate('gateway_batch_rows_sum', _VERSIONS, by=_RUN_BY)} / "
                f"({rate('gateway_batch_rows_count', _VERSIONS, by=_RUN_BY)} > 0) {_OF_MODEL}",
                _RUN,
            ),
        ),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Memory of each version",
        "What loading and warming it took, on the worker where that was most. The line is what all versions of a worker may "
        "take together, by default.",
        "bytes",
        (Query(f"max by ({_RUN_BY}) (gateway_model_memory_bytes{{{_VERSIONS}}}) {_OF_MODEL}", _RUN),),
        width=8,
        levels=bounds.MEMORY,
    ),
    Panel(
        "Copies for shadows that were not run",
        "A shadow gets copies only while there is room for them; callers never wait for one.",
        "reqps",
        (Query(f"sum by (route, variant) (rate(gateway_shadow_dropped_total{{{OF_ROUTE}}}[{SPAN}]))", "{{route}} {{variant}}"),),
        width=8,
        levels=((bounds.FLOWS, YELLOW),),
    ),
    Panel(
        "Share refused by the gateway itself",
        "Of each route's requests, by reason: neither the caller nor the load is to blame, but a version that is not loaded, or "
        "a log that takes nothing. Nobody was answered, so no version's share has them. The first line is the objective.",
        "percentunit",
        (Query(refused_share(), "{{route}}: {{reason}}"),),
        width=8,
        levels=bounds.FAILED,
    ),
)

BOARD: Final = Board("headgate-route", "Route", "One route: how much, how well, how fast, and what happens inside.", _PANELS)
