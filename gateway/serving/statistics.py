"""The protocol's statistics, from what every worker's cells count anyway: the path of a prediction does nothing for them.

Answers are of a route and version; runs, rows and waits are the version's own, whichever route asked, copies for shadows among
them. Everything is the sum over all workers, also those that ended, since the data directory's counters began.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from gateway.core.fields import Json
from gateway.core.records import Kind, Outcome
from gateway.metrics.serving import (
    BATCH_ROWS,
    FAILED_DURATION,
    LAST_RUN,
    PREDICTION_DURATION,
    PREDICTIONS,
    QUEUE_WAIT,
    RUN_DURATION,
    RUN_INPUT_DURATION,
    RUN_OUTPUT_DURATION,
)
from gateway.ports.metrics import MetricsSnapshots, Sample

Totals = Mapping[tuple[str, str, str], float]  # (what, route or model, version) → count, rows or seconds
ANSWERED, FAILED, LATEST = "answered", "failed", "latest"
_NS: Final = 1e9
_SUMS: Final = {  # a cell's name → what it adds to, and the label that says whose it is
    f"{PREDICTION_DURATION.name}_sum": ("answers_s", "route"),
    FAILED_DURATION.name: ("failures_s", "route"),
    f"{BATCH_ROWS.name}_bucket": ("runs", "model"),
    f"{BATCH_ROWS.name}_sum": ("rows", "model"),
    f"{QUEUE_WAIT.name}_sum": ("waits_s", "model"),
    RUN_DURATION.name: ("runs_s", "model"),
    RUN_INPUT_DURATION.name: ("inputs_s", "model"),
    RUN_OUTPUT_DURATION.name: ("outputs_s", "model"),
}


def totals(snapshots: MetricsSnapshots) -> Totals:
    """Return what all workers counted together."""
    found: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for samples in snapshots.latest().values():
        for sample in samples:
            _add(found, sample)
    return found


def counted_versions(found: Totals, route: str) -> Iterable[str]:
    """Return the versions that answered, or failed to, under a route."""
    return {version for what, name, version in found if name == route and what in (ANSWERED, FAILED)}


def model_stat(found: Totals, route: str, model: str, version: str) -> Json:
    """Return one version's statistics under a route, in the protocol's form.

    `queue` and the three parts of a run count runs: a run's time is the time of each request in it. There is no cache, and runs
    of each size apart are not counted: each size would take four more cells of a bank that holds all versions.
    """

    def of_route(what: str) -> float:
        return found.get((what, route, version), 0.0)

    def of_model(what: str) -> float:
        return found.get((what, model, version), 0.0)

    runs, inputs_s, failures_s = of_model("runs"), of_model("inputs_s"), of_route("failures_s")
    nothing = _duration(0, 0.0)
    return {
        "name": route,
        "version": version,
        "last_inference": int(of_model(LATEST) * 1000),
        "inference_count": int(of_model("rows")),
        "execution_count": int(runs),
        "inference_stats": {
            "success": _duration(of_route(ANSWERED), max(of_route("answers_s") - failures_s, 0.0)),
            "fail": _duration(of_route(FAILED), failures_s),
            "queue": _duration(runs, of_model("waits_s")),
            "compute_input": _duration(runs, inputs_s),
            "compute_infer": _duration(runs, max(of_model("runs_s") - inputs_s, 0.0)),
            "compute_output": _duration(runs, of_model("outputs_s")),
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
        "memory_usage": [],
        "response_stats": {},
    }


def _add(found: defaultdict[tuple[str, str, str], float], sample: Sample) -> None:
    if (of := _SUMS.get(sample.name)) is not None:
        what, owner = of
        labels = dict(sample.labels)
        found[what, labels[owner], labels["version"]] += sample.value
    elif sample.name == PREDICTIONS.name:
        labels = dict(sample.labels)
        if labels["kind"] != Kind.SHADOW.value:  # nobody asked for a copy's answer
            what = ANSWERED if labels["outcome"] == Outcome.OK.value else FAILED
            found[what, labels["route"], labels["version"]] += sample.value
    elif sample.name == LAST_RUN.name:
        labels = dict(sample.labels)
        key = (LATEST, labels["model"], labels["version"])
        found[key] = max(found[key], sample.value)


def _duration(count: float, seconds: float) -> Json:
    return {"count": int(count), "ns": int(seconds * _NS)}
