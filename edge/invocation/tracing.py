"""Traces: the spans of invocations, and who caused what (W3C Trace Context).

Only where a node traces: handlers are wrapped then, and nobody else pays for it. A guest sees the
`traceparent` of its own span, and what it sends is marked with that unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

from edge.application.routes import Match
from edge.invocation.event import Event, EventHandler, Kind, Outcome, Status
from edge.wasi.http.incoming import METHODS
from edge.wasi.http.message import Headers, Reply, Request

__all__ = ["Carrier", "Responder", "Span", "SpanKind", "Tracer", "traced", "traced_events"]

Work = Coroutine[Any, Any, None] | None

NAMES = ("traceparent", "tracestate")
_FIELDS = frozenset(name.encode() for name in NAMES)

Carrier = tuple[tuple[str, str], ...]
"""What is sent on of a span: `traceparent`, perhaps `tracestate`."""

SpanKind = Literal["server", "consumer", "internal"]
_KINDS: Mapping[Kind, tuple[SpanKind, str]] = {
    "mqtt": ("consumer", "pubsub"),
    "redis": ("consumer", "pubsub"),
    "cron": ("internal", "timer"),
}


class Span(Protocol):
    """One invocation."""

    @property
    def carrier(self) -> Carrier: ...

    def end(
        self, invocation: str = "", status: int = 0, fault: BaseException | str | None = None
    ) -> None:
        """Its first call counts. `status`: of an HTTP answer, 0 without one; `fault`: what was
        wrong, None where it went well.
        """


class Tracer(Protocol):
    """Makes spans."""

    def begin(
        self,
        carrier: Iterable[tuple[str, str]],
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, str],
    ) -> Span:
        """`carrier`: what came with the event."""


class Responder(Protocol):
    """What answers requests of a route."""

    def __call__(self, request: Request, reply: Reply, match: Match[Any], /) -> Work: ...


def traced(
    respond: Responder, tracer: Tracer, application: str, component: str, route: str
) -> Responder:
    """A span for each request."""
    attributes = {**_names(application, component), "faas.trigger": "http", "http.route": route}

    def answer(request: Request, reply: Reply, match: Match[Any]) -> Work:
        method = request.method if request.method in METHODS else "_OTHER"
        span = request.span = tracer.begin(
            _carried(request.headers),
            f"{method} {route}",
            "server",
            {
                **attributes,
                "http.request.method": method,
                "url.path": request.target.partition("?")[0],
            },
        )
        request.headers = marked(request.headers, span.carrier)
        try:
            work = respond(request, reply, match)
        except BaseException as exc:
            span.end(fault=exc)
            raise
        return None if work is None else _watched(work, span)

    return answer


async def _watched(work: Coroutine[Any, Any, None], span: Span) -> None:
    try:
        await work
    except BaseException as exc:
        span.end(fault=exc)
        raise


def traced_events(
    handle: EventHandler, tracer: Tracer, application: str, component: str, kind: Kind, id: str
) -> EventHandler:
    """A span for each event, and for each attempt at it."""
    span_kind, trigger = _KINDS[kind]
    attributes = {**_names(application, component), "faas.trigger": trigger, "edge.trigger": id}

    def answer(event: Event) -> Outcome | Coroutine[Any, Any, Outcome]:
        span = tracer.begin(
            [pair for pair in event.attributes if pair[0] in NAMES],
            f"process {id}",
            span_kind,
            {**attributes, **_messaging(event)},
        )
        found = handle(replace(event, span=span))
        return _ended(found, span) if isinstance(found, Outcome) else _awaited(found, span)

    return answer


async def _awaited(work: Coroutine[Any, Any, Outcome], span: Span) -> Outcome:
    try:
        return _ended(await work, span)
    except BaseException as exc:
        span.end(fault=exc)
        raise


def _ended(outcome: Outcome, span: Span) -> Outcome:
    span.end(fault=None if outcome.status is Status.DONE else outcome.reason or "failed")
    return outcome if outcome.reply is None else replace(outcome, trace=span.carrier)


def marked(headers: Headers, carrier: Carrier) -> Headers:
    """These headers, with the trace that they belong to."""
    kept = [pair for pair in headers if pair[0] not in _FIELDS]
    return [*kept, *((name.encode(), value.encode()) for name, value in carrier)]


def _carried(headers: Headers) -> list[tuple[str, str]]:
    found = [(n.decode(), v.decode("latin-1")) for n, v in headers if n in _FIELDS]
    # Of several nobody knows which one is meant.
    return found if sum(name == NAMES[0] for name, _ in found) == 1 else []


def _names(application: str, component: str) -> dict[str, str]:
    return {"edge.application": application, "edge.component": component}


def _messaging(event: Event) -> dict[str, str]:
    if event.kind == "cron":
        return {}
    return {"messaging.system": event.kind, "messaging.destination.name": event.subject}
