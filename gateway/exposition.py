"""All processes' cells as Prometheus reads them: one family a metric, each series with the label `process`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector, CollectorRegistry
from prometheus_client.samples import Exemplar, Timestamp

from gateway.metrics.catalogue import METRICS
from gateway.metrics.metric import Metric, Type, bucket_names
from gateway.ports.metrics import MetricsSnapshots, Sample

_OPEN_METRICS: Final = "application/openmetrics-text"
Exemplars = Mapping[tuple[str, str, tuple[tuple[str, str], ...], str], Exemplar]  # process, histogram, labels, bucket


class SnapshotCollector(Collector):
    """All processes' cells as Prometheus series."""

    def __init__(self, snapshots: MetricsSnapshots, *, has_exemplars: bool) -> None:
        self._snapshots = snapshots
        self._has_exemplars = has_exemplars

    def collect(self) -> Iterator[Family]:
        """Yield one family for each metric that has samples."""
        by_name: dict[str, list[tuple[str, Sample]]] = {}
        for process, samples in self._snapshots.latest().items():
            for sample in samples:
                by_name.setdefault(sample.name, []).append((process, sample))
        exemplars = self._exemplars() if self._has_exemplars else {}
        for metric in METRICS:
            family = _family(metric, by_name, exemplars)
            if family.samples:
                yield family

    def _exemplars(self) -> Exemplars:
        return {
            (process, one.name, one.labels, one.le): Exemplar({"trace_id": one.trace_id}, one.value, Timestamp(one.time_s, 0))
            for process, exemplars in self._snapshots.exemplars().items()
            for one in exemplars
        }

    def describe(self) -> Iterable[Family]:
        """Return nothing: names are unknown to the registry until the first scrape."""
        return ()


def exposition(snapshots: MetricsSnapshots, accept: str = "") -> tuple[bytes, str]:
    """Return all processes' series in the text form that a scraper accepts, and its media type.

    Only OpenMetrics has exemplars, which lead from a histogram's bucket to a trace.
    """
    write, media_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(SnapshotCollector(snapshots, has_exemplars=media_type.startswith(_OPEN_METRICS)))
    return write(registry), media_type


def _family(metric: Metric, by_name: dict[str, list[tuple[str, Sample]]], exemplars: Exemplars) -> Family:
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
            return _histogram_family(metric, by_name, exemplars)


def _histogram_family(metric: Metric, by_name: dict[str, list[tuple[str, Sample]]], exemplars: Exemplars) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=("process", *metric.labels))
    counts: dict[tuple[str, ...], dict[str, float]] = {}
    for process, sample in by_name.get(f"{metric.name}_bucket", ()):
        counts.setdefault(_values(metric, process, sample), {})[dict(sample.labels)["le"]] = sample.value
    for process, sample in by_name.get(f"{metric.name}_sum", ()):
        values = _values(metric, process, sample)
        buckets = counts.get(values, {})
        running = 0.0
        cumulative: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
        for bound in bucket_names(metric):
            running += buckets.get(bound, 0.0)
            exemplar = exemplars.get((process, metric.name, sample.labels, bound))
            cumulative.append((bound, running) if exemplar is None else (bound, running, exemplar))
        family.add_metric(values, cumulative, sample.value)
    return family


def _values(metric: Metric, process: str, sample: Sample) -> tuple[str, ...]:
    labels = dict(sample.labels)
    return (process, *(labels.get(name, "") for name in metric.labels))
