"""Spans to an OpenTelemetry collector over OTLP/HTTP (the extra `tracing`), a group a second, from a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from gateway.core.errors import MalformedRequest
from gateway.core.traces import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_SEND_S: Final = 1.0  # between two groups
_WAITING_MAX: Final = 4_096  # spans that wait, of some thousand requests; then the oldest are dropped
_GROUP_MAX: Final = 512
_TIMEOUT_S: Final = 5.0  # of one group with its repetitions; a collector that is slower loses spans, and nobody waits
_CLOSE_S: Final = 2.0


class OtlpTraces:
    """A `Traces` that speaks to one collector."""

    def __init__(self, endpoint: str, *, worker: str) -> None:
        """Take where spans go.

        Args:
            endpoint: The URL of the collector's traces, e.g. `http://127.0.0.1:4318/v1/traces`; its headers and certificates
                are the library's own variables (`OTEL_EXPORTER_OTLP_HEADERS`, …).

        Raises:
            MalformedRequest: the extra is not installed.
        """
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
        except ImportError:
            hint = "pip install 'headgate[tracing]'"
            raise MalformedRequest("tracing.endpoint needs the extra `tracing`", hint=hint) from None
        logging.getLogger("opentelemetry").setLevel(logging.ERROR)  # not a warning for each repetition
        self._resource = Resource.create({"service.name": "headgate", "service.instance.id": worker})
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_TIMEOUT_S, session=_terse_session())
        self._waiting: deque[Span] = deque(maxlen=_WAITING_MAX)
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def send(self, spans: Sequence[Span]) -> None:
        """Queue spans."""
        self._waiting.extend(spans)

    def close(self) -> None:
        """Send what waits."""
        self._is_closing.set()
        self._thread.join(_CLOSE_S)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends what is still repeated

    def _run(self) -> None:
        while not self._is_closing.wait(_SEND_S):
            self._send_waiting()
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP_MAX))]
            self._exporter.export([self._readable(span) for span in group])  # tells the journal what it could not send

    def _readable(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

        trace_id, flags = int(span.trace_id, 16), TraceFlags(TraceFlags.SAMPLED)
        return ReadableSpan(
            name=span.name,
            context=SpanContext(trace_id, int(span.span_id, 16), is_remote=False, trace_flags=flags),
            parent=SpanContext(trace_id, int(span.parent_id, 16), is_remote=True) if span.parent_id else None,
            resource=self._resource,
            attributes=span.attributes,
            kind=SpanKind.SERVER if span.name == "request" else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.failure) if span.failure else Status(),
            start_time=int(span.begin_s * 1e9),
            end_time=int(span.end_s * 1e9),
        )


def _terse_session() -> Any:
    """Return what the exporter posts through: of an answer only the head is read, for its body could be without end."""
    import requests

    class Terse(requests.Session):
        def request(self, *args: Any, **more: Any) -> requests.Response:
            answer = super().request(*args, **{**more, "stream": True})
            answer.close()
            return answer

        def get_redirect_target(self, _: requests.Response) -> None:
            """Follow none, for which the body would be read."""

    return Terse()
