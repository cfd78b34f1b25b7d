"""Metrics: each defined once, counted in cells, shown as series that Prometheus' own parser reads."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from adapters.memory import MemoryBank, MemoryMetrics
from gateway.core.attribution import Attribution
from gateway.core.guardrails import Verdict
from gateway.core.notices import Severity
from gateway.core.rollouts import RolloutState
from gateway.core.troubles import Trouble
from gateway.exposition import exposition
from gateway.metrics import control, serving
from gateway.metrics.catalogue import METRICS
from gateway.metrics.evidence import QUALITY_LOSS
from gateway.metrics.metric import Metric, Type, cell, histogram
from gateway.metrics.serving import PREDICTION_DURATION, PREDICTIONS, SHADOW_DROPPED
from gateway.monitor.gauges import TOP_FEATURES
from gateway.ports.metrics import Exemplar, Sample


def test_names_follow_the_rules():
    """`gateway_<noun>_<unit>`, counters end in `_total`, no name twice, every metric says what it is."""
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert re.fullmatch(r"gateway_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.type is Type.COUNTER)
        assert metric.help.endswith(".")
        assert bool(metric.bounds) == (metric.type is Type.HISTOGRAM)
        assert list(metric.bounds) == sorted(metric.bounds)


@given(st.lists(st.floats(0, 20), max_size=50))
def test_histogram_counts_each_value_once(values):
    """Buckets are cumulative, the last is the count, the sum is the values'."""
    metrics = MemoryMetrics()
    observed = histogram(metrics.bank("w0"), PREDICTION_DURATION, "r", "v", "1")
    for value in values:
        observed.observe(value)
    text, _ = exposition(metrics)
    [family] = [f for f in text_string_to_metric_families(text.decode()) if f.name == PREDICTION_DURATION.name]
    by_name: dict[str, list[object]] = {}
    for sample in family.samples:
        by_name.setdefault(sample.name.removeprefix(PREDICTION_DURATION.name), []).append(sample)
    for sample in by_name["_bucket"]:
        assert sample.value == sum(value <= float(sample.labels["le"]) for value in values)
        assert sample.labels["process"] == "w0"
    assert by_name["_count"][0].value == len(values)
    assert abs(by_name["_sum"][0].value - sum(values)) < 1e-6


def test_series_carry_their_process_and_labels():
    """Each process is a series of its own; labels with quotes and line breaks survive."""
    metrics = MemoryMetrics()
    for process, amount in (("w0", 1.0), ("w1", 2.0)):
        cell(metrics.bank(process), PREDICTIONS, 'r"\n', "v", "1", "live", "ok").add(amount)
        cell(metrics.bank(process), SHADOW_DROPPED, "r", "s").set(0.0)
    families = {family.name: family for family in text_string_to_metric_families(exposition(metrics)[0].decode())}
    found = {sample.labels["process"]: sample for sample in families["gateway_predictions"].samples}
    assert {process: sample.value for process, sample in found.items()} == {"w0": 1.0, "w1": 2.0}
    assert found["w0"].labels["route"] == 'r"\n'


def test_gauge_that_says_nothing_is_not_shown():
    """A gauge that is NaN has no series; it has one again once it says something."""
    metrics = MemoryMetrics()
    gauge = cell(metrics.bank("monitor"), QUALITY_LOSS, "r", "v", "1")
    gauge.set(float("nan"))
    assert QUALITY_LOSS.name not in exposition(metrics)[0].decode()
    gauge.set(0.5)
    assert QUALITY_LOSS.name in exposition(metrics)[0].decode()


ROUTES, CALLED, WORKERS, BYTES_MAX = 1_000, 100, ("w0", "w1"), 5_000_000
OWNERS = {"route", "model"}
QUIET = {  # values of each label at a route that nobody calls
    **dict.fromkeys(("variant", "version", "runtime", "runtime_version", "is_champion", "worker"), 1),
    **dict.fromkeys(("part", "state", "action", "by", "audit_entry"), 0),
}
CALLED_SHOWS = {  # and at one with a rollout of two versions that some segments tell apart; nothing else may be a label
    **dict.fromkeys(("version", "runtime", "runtime_version", "is_champion", "action", "by", "audit_entry", "worker"), 1),
    **dict.fromkeys(("variant", "kind", "outcome", "guardrail", "segment"), 2),
    **dict.fromkeys(("reason", "event", "channel", "loop", "drill"), 3),
    **dict.fromkeys(("part", "answer", "ending"), 5),
    "feature": TOP_FEATURES,
    "state": len(RolloutState),
    "verdict": len(Verdict),
    "attribution": len(Attribution),
    "severity": len(Severity),
    "trouble": len(Trouble),
}


class Shown:
    """What every process says of a number of routes."""

    def __init__(self) -> None:
        self._samples: defaultdict[str, list[Sample]] = defaultdict(list)

    def say(self, process: str, metric: Metric, place: str, shown: Mapping[str, int]) -> None:
        """Count once with each value that each label has at a place."""
        sides = [[place] if label in OWNERS else [f"{label}-{at}" for at in range(shown[label])] for label in metric.labels]
        bank = MemoryBank()
        for values in itertools.product(*sides):
            if metric.bounds:
                histogram(bank, metric, *values).observe(metric.bounds[-1] * 2)
            else:
                cell(bank, metric, *values).add(1_700_000_000.25)
        self._samples[process] += bank.samples()

    def latest(self) -> Mapping[str, Sequence[Sample]]:
        """Return it."""
        return self._samples

    def exemplars(self) -> Mapping[str, Sequence[Exemplar]]:
        """Return none."""
        return {}


def test_scrape_of_a_thousand_routes_stays_below_its_bytes():
    """A hundred of a thousand routes are called, by two workers, and all that any metric can say of them is said: under 5 MB."""
    by_control, by_workers = list(vars(control).values()), list(vars(serving).values())
    shown = Shown()
    for number in range(ROUTES):
        for metric in METRICS:
            if number == 0 or (OWNERS & set(metric.labels) and (number < CALLED or metric in by_control)):
                for process in WORKERS if metric in by_workers else ("control" if metric in by_control else "monitor",):
                    shown.say(process, metric, f"a-route-{number:04}", CALLED_SHOWS if number < CALLED else QUIET)
    text, _ = exposition(shown)
    assert text.count(b"gateway_route_info{") == ROUTES
    assert text.count(b"gateway_prediction_duration_seconds_count{") == CALLED * len(WORKERS) * 2
    assert len(text) < BYTES_MAX, f"{len(text):,} bytes"
