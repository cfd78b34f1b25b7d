"""A gateway in its own processes, traced: settings to collector, and the scrape's way back to the trace."""

from __future__ import annotations

import httpx

from tests.integration.serving.collector import Collector

TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_trace_goes_from_the_caller_to_the_collector_and_the_scrape(start_gateway, until, write_linear_model, tmp_path):
    """A worker sends the spans of a traced request, its record has the trace, and the admin port shows it as an exemplar."""
    collector = Collector()
    gateway = start_gateway("--workers", "1", environment={"HEADGATE_TRACING_ENDPOINT": collector.endpoint})
    gateway.register("delays", write_linear_model(tmp_path / "1.onnx"))
    body = {"instances": [[0.5] * 20]}
    headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
    url = f"{gateway.url}/v1/models/delays:predict"
    until(lambda: httpx.post(url, json=body, headers=headers).status_code == 200, within_s=60)
    until(lambda: {span.name for span in collector.spans} >= {"request", "queue", "run", "record"}, within_s=60)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert collector.names == {"headgate w0"}

    def scraped(accept: str) -> str:
        return httpx.get(f"{gateway.admin_url}/metrics", headers={"accept": accept}).text

    until(lambda: f'trace_id="{TRACE}"' in scraped("application/openmetrics-text;version=1.0.0"), within_s=60, every_s=0.5)
    assert TRACE not in scraped("text/plain;version=0.0.4")
    gateway.stop()
    collector.close()
