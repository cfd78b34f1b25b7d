"""Spans of predictions, at a collector on loopback that reads what real ones read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from adapters.memory import MemoryTraces
from adapters.otlp import OtlpTraces
from gateway.core.traces import Span
from gateway.exposition import exposition
from gateway.settings import Settings, TracingSettings
from tests.integration.serving.collector import Collector
from tests.integration.talker import Talker

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ROW = [[1, 2, 3, 4]]


def parent(flags: str = "01") -> dict[str, str]:
    """Return a caller's header."""
    return {"traceparent": f"00-{TRACE}-{PARENT}-{flags}"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return a collector that runs."""
    found = Collector()
    yield found
    found.close()


@pytest.fixture
def start_traced(make_worker, models, until):
    """Start a worker with a model `m` whose requests are traced."""

    def start(traces, *, share=0.0):
        worker = make_worker(settings=Settings(tracing=TracingSettings("in use", share)))
        worker.traces = traces
        worker.start()
        worker.register("m", "1", models.linear(), champion=True)
        worker.until_served(until)
        until(lambda: worker.infer("m", ROW).status_code == 200)
        return worker

    return start


def test_spans_arrive_at_collector(start_traced, collector, until):
    """A traced request is told of by four spans, under the caller's span, one within the other, with what answered."""
    worker = start_traced(OtlpTraces(collector.endpoint, worker="w0"))
    answer = worker.infer("m", ROW, headers=parent())
    until(lambda: len(collector.spans) >= 4)
    spans = {span.name: span for span in collector.spans}
    assert set(spans) == {"request", "queue", "run", "record"}
    assert collector.names == {"headgate w0"}
    request = spans.pop("request")
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert request.parent_span_id.hex() == PARENT
    facts = {one.key: one.value.string_value or one.value.int_value for one in request.attributes}
    assert facts["gateway.prediction_id"] == answer.headers["gateway-prediction-id"]
    assert (facts["gateway.route"], facts["gateway.version"], facts["gateway.outcome"]) == ("m", "1", "ok")
    for span in spans.values():
        assert span.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= request.end_time_unix_nano
    assert spans["queue"].end_time_unix_nano == spans["run"].start_time_unix_nano
    assert len({span.span_id for span in collector.spans}) == 4


def test_failover_shows_both_attempts(start_traced, models, until):
    """Where the fallback answered, the trace has the run that failed, its version and how, and then the run that answered."""
    traces = MemoryTraces()
    worker = start_traced(traces)
    worker.register("roots", "1", models.identity_row(), cost_us=10)
    worker.register("roots", "2", models.root(), cost_us=10)
    variants = [{"name": "good", "version": "1", "weight": 0}, {"name": "bad", "version": "2", "weight": 10_000}]
    worker.route("r", {"model": "roots", "variants": variants, "fallback": "good"})
    worker.until_served(until)
    answer = until(lambda: (got := worker.infer("r", [[-4]], headers=parent())).status_code == 200 and got)
    assert answer.headers["gateway-variant"] == "good"
    runs = sorted((span for span in traces.spans if span.name == "run"), key=lambda span: span.begin_s)
    assert [(run.attributes["gateway.version"], run.failure) for run in runs] == [("2", "invalid"), ("1", "")]
    assert runs[0].end_s <= runs[1].begin_s
    names = sorted(span.name for span in traces.spans)
    assert names == ["queue", "queue", "record", "request", "run", "run"]
    [request] = [span for span in traces.spans if span.name == "request"]
    assert {span.parent_id for span in traces.spans if span is not request} == {request.span_id}
    assert not request.failure


def test_caller_decides_and_a_share_of_the_others_begins_a_trace(start_traced):
    """Not sampled: no span, though the record has the trace. Without a header: all at a share of 1, each a trace of its own."""
    traces = MemoryTraces()
    worker = start_traced(traces, share=1.0)
    worker.infer("m", ROW, headers=parent("00"))
    worker.infer("m", ROW)
    worker.stop()
    *_, unsampled, own = worker.predictions()
    assert unsampled.trace_id == TRACE
    assert not [span for span in traces.spans if span.trace_id == TRACE]
    [request] = [span for span in traces.spans if span.trace_id == own.trace_id and span.name == "request"]
    assert (request.parent_id, request.attributes["gateway.prediction_id"]) == ("", own.prediction_id)
    assert traces.is_closed


def test_refused_request_is_a_span_that_failed(start_traced):
    """A request that did not run has one span, with why."""
    traces = MemoryTraces()
    worker = start_traced(traces)
    assert worker.infer("m", [[1, 2]], headers=parent()).status_code == 400
    [span] = traces.spans
    assert (span.name, span.parent_id, span.attributes["error.type"]) == ("request", PARENT, "SignatureMismatch")
    assert span.failure


def test_exemplar_leads_from_the_histogram_to_the_trace(start_traced, until):
    """OpenMetrics shows the traced request at the bucket that counted it; the older form shows none, and the same numbers."""
    worker = start_traced(MemoryTraces())
    worker.infer("m", ROW, headers=parent())
    record = worker.predictions()[-1]
    until(worker.snapshots.exemplars)
    text, media_type = exposition(worker.snapshots, "application/openmetrics-text; version=1.0.0, text/plain; q=0.5")
    assert media_type.startswith("application/openmetrics-text")
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    samples = families["gateway_prediction_duration_seconds"].samples
    [found] = [sample for sample in samples if sample.exemplar]
    assert found.exemplar.labels == {"trace_id": TRACE}
    assert found.exemplar.value == pytest.approx(record.latency_us / 1e6)
    assert float(found.labels["le"]) >= found.exemplar.value
    assert found.labels["route"] == "m"
    older = exposition(worker.snapshots)[0].decode()
    assert TRACE not in older
    assert "gateway_prediction_duration_seconds_bucket" in older


def test_collector_that_is_away_delays_nothing(start_traced, until):
    """With nobody at the endpoint requests are answered as ever, and the worker stops in order."""
    worker = start_traced(OtlpTraces("http://127.0.0.1:9/v1/traces", worker="w0"))
    assert {worker.infer("m", ROW, headers=parent()).status_code for _ in range(20)} == {200}
    worker.stop()


@pytest.mark.parametrize("head", [b"200 OK", b"302 Found\r\nlocation: http://127.0.0.1:9/"])
def test_collector_that_answers_without_end_is_left(until, head):
    """Of an answer no more than the head is read: the next group of spans follows on a new connection."""
    talker = Talker(b"HTTP/1.1 " + head + b"\r\ncontent-length: 99999999999\r\n\r\n", b"x" * 65_536, every_s=0.02)
    traces = OtlpTraces(f"http://127.0.0.1:{talker.start()}/v1/traces", worker="w0")
    for group in (1, 2, 3):
        traces.send([Span("request", TRACE, PARENT, "", 1.0, 2.0, {})])
        until(lambda group=group: talker.connections >= group, within_s=60)
    traces.close()
    talker.close()
