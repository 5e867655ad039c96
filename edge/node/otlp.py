"""Spans by the OpenTelemetry SDK, sent to a collector by OTLP over HTTP.

The only importer of opentelemetry, an extra: loaded where edge.toml has `[traces]`.
"""

from __future__ import annotations

import importlib.metadata
import logging
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from edge import config
from edge.errors import EdgeError
from edge.invocation.meter import outcome_of
from edge.invocation.tracing import Carrier, SpanKind
from edge.platform.sums import cut

__all__ = ["OtlpTracer"]

# Spans that wait to be sent. What comes then is lost: that is not the guests' loss.
_QUEUE, _BATCH = 2048, 256
# Seconds between two batches, and for one of them with all its attempts.
_PAUSE, _PATIENCE = 5.0, 3.0

_KINDS: Mapping[SpanKind, trace.SpanKind] = {
    "server": trace.SpanKind.SERVER,
    "consumer": trace.SpanKind.CONSUMER,
    "internal": trace.SpanKind.INTERNAL,
}
# What is no failure of a guest or its node.
_NO_ERROR = ("ok", "cancelled")
_NOTHING = Context()

_log = logging.getLogger("edge.node")


class OtlpTracer:
    """A Tracer. `node`: its name."""

    def __init__(self, settings: config.Traces, node: str) -> None:
        version = importlib.metadata.version("edge")
        resource = Resource.create(
            {
                "service.name": "edge",
                "service.version": version,
                "service.instance.id": node,
                "host.name": socket.gethostname(),
            }
        )
        # It tells of each attempt; we tell what changes.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._exporter = _Exporter(f"{settings.endpoint}/v1/traces")
        self._provider = TracerProvider(
            ParentBasedTraceIdRatio(settings.ratio), resource, shutdown_on_exit=False
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(self._exporter, _QUEUE, 1000 * _PAUSE, _BATCH)
        )
        self._propagator = TraceContextTextMapPropagator()
        self._tracer = self._provider.get_tracer("edge", version)

    def begin(
        self,
        carrier: Iterable[tuple[str, str]],
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str],
    ) -> _Span:
        """See Tracer."""
        parent = self._propagator.extract(dict(carrier), _NOTHING)
        span = self._tracer.start_span(name, parent, _KINDS[kind], attributes)
        sent: dict[str, str] = {}
        self._propagator.inject(sent, trace.set_span_in_context(span, _NOTHING))
        return _Span(span, tuple(sent.items()))

    def close(self) -> None:
        """Sends what waits, as far as the collector takes it; blocks for seconds at most."""
        self._exporter.closing = True
        self._provider.shutdown()


class _Exporter(SpanExporter):
    """Says when the collector does not take spans, and when it does again."""

    def __init__(self, url: str) -> None:
        self.closing = False
        self._url = url
        self._inner = OTLPSpanExporter(url, timeout=_PATIENCE)
        self._away = False
        self._lost = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Called by a thread of the SDK's."""
        if self._away and self.closing:  # nobody waits for it at the end
            return SpanExportResult.FAILURE
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._away:
                _log.info("traces: %s takes them again, %d are lost", self._url, self._lost)
            self._away, self._lost = False, 0
            return result
        if not self._away:
            _log.warning("traces: %s does not take them: they are lost until it does", self._url)
        self._away = True
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)


class _Span:
    """See Span."""

    __slots__ = ("_span", "carrier")

    def __init__(self, span: trace.Span, carrier: Carrier) -> None:
        self._span: trace.Span | None = span
        self.carrier = carrier

    def end(
        self, invocation: str = "", status: int = 0, fault: BaseException | str | None = None
    ) -> None:
        span, self._span = self._span, None
        if span is None:
            return
        outcome = _outcome(fault)
        span.set_attribute("edge.outcome", outcome)
        if invocation:
            span.set_attribute("faas.invocation_id", invocation)
        if status:
            span.set_attribute("http.response.status_code", status)
        if outcome not in _NO_ERROR:
            span.set_attribute("error.type", outcome)
            span.set_status(trace.Status(trace.StatusCode.ERROR, cut(_said(fault))))
        span.end()


def _outcome(fault: BaseException | str | None) -> str:
    if fault is None:
        return "ok"
    return "failed" if isinstance(fault, str) else outcome_of(fault)


def _said(fault: Any) -> str:
    return fault.message if isinstance(fault, EdgeError) else str(fault)
