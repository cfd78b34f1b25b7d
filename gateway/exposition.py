"""All processes' cells as Prometheus reads them: one family a metric, each series with the label `process`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from gateway.metrics import METRICS, Metric, Type, bucket_names
from gateway.ports import MetricsSnapshots, Sample


class SnapshotCollector(Collector):
    """All processes' cells as Prometheus series."""

    def __init__(self, snapshots: MetricsSnapshots) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Family]:
        """Yield one family for each metric that has samples."""
        by_name: dict[str, list[tuple[str, Sample]]] = {}
        for process, samples in self._snapshots.latest().items():
            for sample in samples:
                by_name.setdefault(sample.name, []).append((process, sample))
        for metric in METRICS:
            family = _family(metric, by_name)
            if family.samples:
                yield family

    def describe(self) -> Iterable[Family]:
        """Return nothing: names are unknown to the registry until the first scrape."""
        return ()


def exposition(snapshots: MetricsSnapshots) -> tuple[bytes, str]:
    """Return all processes' series in Prometheus' text form, and its media type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshots))
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _family(metric: Metric, by_name: dict[str, list[tuple[str, Sample]]]) -> Family:
    labels = ("process", *metric.labels)
    match metric.type:
        case Type.COUNTER:
            counter = CounterMetricFamily(metric.name, metric.help, labels=labels)
            for process, sample in by_name.get(metric.name, ()):
                counter.add_metric(_values(metric, process, sample), sample.value)
            return counter
        case Type.GAUGE:
            gauge = GaugeMetricFamily(metric.name, metric.help, labels=labels)
            for process, sample in by_name.get(metric.name, ()):
                if not math.isnan(sample.value):
                    gauge.add_metric(_values(metric, process, sample), sample.value)
            return gauge
        case Type.HISTOGRAM:
            return _histogram_family(metric, by_name)


def _histogram_family(metric: Metric, by_name: dict[str, list[tuple[str, Sample]]]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=("process", *metric.labels))
    counts: dict[tuple[str, ...], dict[str, float]] = {}
    for process, sample in by_name.get(f"{metric.name}_bucket", ()):
        counts.setdefault(_values(metric, process, sample), {})[dict(sample.labels)["le"]] = sample.value
    for process, sample in by_name.get(f"{metric.name}_sum", ()):
        values = _values(metric, process, sample)
        buckets = counts.get(values, {})
        running, cumulative = 0.0, []
        for bound in bucket_names(metric):
            running += buckets.get(bound, 0.0)
            cumulative.append((bound, running))
        family.add_metric(values, cumulative, sample.value)
    return family


def _values(metric: Metric, process: str, sample: Sample) -> tuple[str, ...]:
    labels = dict(sample.labels)
    return (process, *(labels.get(name, "") for name in metric.labels))
