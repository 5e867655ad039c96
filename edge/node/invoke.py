"""One invocation that a person asked for: a request to an application's routes, to one component,
or an event for one of its triggers.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import inspect
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from edge.application.fields import did_you_mean
from edge.application.model import TriggerDeclaration
from edge.errors import ConfigError, EdgeError
from edge.invocation.application import LiveApplication
from edge.invocation.event import Event, Kind
from edge.wasi.http.message import Handler, LocalReply, Request
from edge.wasi.pipe import BytesSource, chunks

__all__ = ["Call", "Part", "invoke"]

# One step of the answer, as JSON: {"status", "headers"} or {"outcome", "reason"}, then {"data"} in
# base64 as often as needed, then {"seconds"}.
Part = Mapping[str, Any]

_TYPES: Mapping[Kind, str] = {
    "mqtt": "dev.edge.mqtt.message",
    "redis": "dev.edge.redis.message",
    "cron": "dev.edge.timer.tick",
}


@dataclass(frozen=True, slots=True)
class Call:
    """What to run and with what. Without a component or trigger: what the application's routes say.

    `path`: below the application's mount. `subject`: an event's topic or channel.
    """

    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    data: bytes = b""
    component: str | None = None
    trigger: str | None = None
    subject: str | None = None


async def invoke(live: LiveApplication, call: Call, host: str | None) -> AsyncGenerator[Part, None]:
    """Runs it and gives the answer as it comes; closing it ends the guest. `host`: of the
    application's mount. Raises EdgeError for a call that cannot be, and for a guest that failed.
    """
    begun = time.monotonic()
    event = _event_trigger(live, call)
    parts = _request(live, call, host) if event is None else _event(live, call, event)
    async with aclosing(parts):
        async for part in parts:
            yield part
    yield {"seconds": round(time.monotonic() - begun, 6)}


# HTTP


async def _request(
    live: LiveApplication, call: Call, host: str | None
) -> AsyncGenerator[Part, None]:
    handler = _handler(live, call)
    authority = host or quote(live.application.name, safe="")
    request = Request(
        call.method,
        "http",
        authority,
        call.path,
        [(b"host", authority.encode()), *_headers(call)],
        BytesSource(call.data),
        "127.0.0.1:0",
    )
    reply = LocalReply(call.method)
    async with _running(handler, request, reply):
        try:
            status, headers = await reply.head()
            yield {"status": status, "headers": [[_text(n), _text(v)] for n, v in headers]}
            async with aclosing(chunks(reply.body)) as body:
                async for data in body:
                    yield _data(data)
        except OSError as exc:
            raise EdgeError(
                f"application {live.application.name}: the answer ended: {exc}"
            ) from exc


@asynccontextmanager
async def _running(handler: Handler, request: Request, reply: LocalReply) -> AsyncIterator[None]:
    """The guest runs while its answer is read, and no longer."""

    async def call() -> None:
        try:
            work = handler(request, reply)
            if work is not None:
                await work
        except EdgeError as exc:
            reply.abort(exc)

    task = asyncio.get_running_loop().create_task(call(), name="invoke")
    try:
        yield
    finally:
        reply.body.close()
        task.cancel()
        await asyncio.wait((task,))


def _handler(live: LiveApplication, call: Call) -> Handler:
    if call.component is None:
        return live
    handler = live.chained(call.component)
    if handler is None:
        raise _no_component(live, call.component)
    return handler


def _headers(call: Call) -> Iterator[tuple[bytes, bytes]]:
    for name, value in call.headers:
        yield name.lower().encode("latin-1"), value.encode("latin-1")
    if call.data:
        yield b"content-length", str(len(call.data)).encode()


# Events


async def _event(
    live: LiveApplication, call: Call, trigger: TriggerDeclaration
) -> AsyncGenerator[Part, None]:
    outcome = live.events[trigger.id](_made(live, call, trigger))
    if inspect.isawaitable(outcome):
        outcome = await outcome
    yield {
        "outcome": outcome.status.value,
        "reason": outcome.reason,
        "content_type": outcome.content_type,
    }
    if outcome.reply:
        yield _data(outcome.reply)


def _made(live: LiveApplication, call: Call, trigger: TriggerDeclaration) -> Event:
    kind: Kind = trigger.type  # type: ignore[assignment]  # live.events has no others
    name = live.application.name
    source = f"/{quote(name, safe='')}/{quote(trigger.id, safe='')}"
    subject = call.subject or _subject(live, trigger, kind)
    _check_subject(live, trigger, subject)
    return Event(
        kind,
        f"{name}/{trigger.id}/{uuid.uuid4()}",
        source,
        _TYPES[kind],
        subject,
        call.data,
        dict(call.headers).get("content-type"),
        datetime.datetime.now(datetime.UTC).timestamp() if kind == "cron" else None,
    )


def _subject(live: LiveApplication, trigger: TriggerDeclaration, kind: Kind) -> str:
    """What the trigger would name itself, where it stands for one topic or channel only."""
    declared = next(one for one in live.triggers[kind].triggers if one.id == trigger.id)
    if kind == "cron":
        return trigger.id
    if kind == "redis":
        return str(declared.channel)
    topic = str(declared.filter.text)
    if "+" in topic or "#" in topic:
        raise ConfigError(
            f"trigger {trigger.id}: {topic} stands for many topics", hint="name one with --subject"
        )
    return topic


def _check_subject(live: LiveApplication, trigger: TriggerDeclaration, subject: str) -> None:
    """A broker would not bring what the trigger does not subscribe to."""
    if trigger.type != "mqtt":
        return
    declared = next(one for one in live.triggers["mqtt"].triggers if one.id == trigger.id)
    if not declared.filter.matches(subject):
        raise ConfigError(
            f'trigger {trigger.id}: "{subject}" is no topic of {declared.filter.text}',
            hint="a topic that it subscribes to: --subject",
        )


def _event_trigger(live: LiveApplication, call: Call) -> TriggerDeclaration | None:
    """The trigger whose event is meant; None: a request."""
    triggers = {t.id: t for t in live.application.triggers if t.id in live.events}
    if call.trigger is not None:
        if call.trigger not in triggers:
            known = ", ".join(sorted(triggers)) or "none"
            hint = did_you_mean(call.trigger, triggers) or f"its triggers of events: {known}"
            name = live.application.name
            raise ConfigError(f"application {name}: has no trigger {call.trigger}", hint=hint)
        return triggers[call.trigger]
    if call.component is not None:
        if live.chained(call.component) is not None:
            return None
        triggers = {id: t for id, t in triggers.items() if t.component == call.component}
        if not triggers:
            raise _no_component(live, call.component)
    elif live.application.http:
        return None
    if len(triggers) != 1:
        known = ", ".join(sorted(triggers))
        raise ConfigError(
            f"application {live.application.name}: has several triggers",
            hint=f"choose one with --trigger: {known}",
        )
    return next(iter(triggers.values()))


def _no_component(live: LiveApplication, component: str) -> ConfigError:
    known = live.application.components
    hint = did_you_mean(component, known) or f"its components: {', '.join(sorted(known))}"
    name = live.application.name
    return ConfigError(f"application {name}: nothing runs a component {component}", hint=hint)


def _data(data: bytes) -> Part:
    return {"data": base64.b64encode(data).decode()}


def _text(value: bytes) -> str:
    return value.decode("latin-1")
