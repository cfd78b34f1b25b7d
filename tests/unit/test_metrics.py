"""Metrics: each defined once, counted in cells, shown as series that Prometheus' own parser reads."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from adapters.memory import MemoryMetrics
from gateway.exposition import exposition
from gateway.metrics.catalogue import METRICS
from gateway.metrics.evidence import QUALITY_LOSS
from gateway.metrics.metric import Type, cell, histogram
from gateway.metrics.serving import PREDICTION_DURATION, PREDICTIONS, SHADOW_DROPPED


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
