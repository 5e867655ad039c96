# cython: annotation_typing=False, binding=False
"""An application made live: its components ready to run, its routes ready to be asked.

What it serves is fixed once it is made: a change makes another one, and requests under way keep the
one they began with. Its components may still sleep, until their first event.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any
from urllib.parse import quote

from edge.application.headers import RequestHeaders
from edge.application.model import Application, HttpTrigger, StaticResponse, Wagi
from edge.application.routes import CHAINED, RESERVED, Match, Route, Router
from edge.errors import ComponentError, ConfigError, EdgeError, TooLarge
from edge.invocation.cloudevents import EventInvoker
from edge.invocation.event import KINDS, Event, EventHandler, Kind, Outcome, Status
from edge.invocation.handlers import event_entry
from edge.invocation.http import HttpInvoker
from edge.invocation.meter import Meter
from edge.invocation.native import NativeInvoker
from edge.invocation.sandbox import Sandboxes
from edge.invocation.sizes import limited
from edge.invocation.tracing import traced, traced_events
from edge.invocation.wagi import WagiInvoker
from edge.invocation.waking import Load, Waking, wake_first
from edge.wasi.http.message import Handler, Reply, Request

_HANDLER = "wasi:http/incoming-handler@"
_COMMANDS = ("_start", "wasi:cli/run@")

Work = Coroutine[Any, Any, None] | None
Responder = Callable[[Request, Reply, Match[Any]], Work]


class LiveApplication:
    """Answers the HTTP requests of one application: a Handler.

    `sandboxes`: those of each component that has a trigger. `triggers`: what services of other
    types of trigger are told, by type; `events`: what runs their events, by the triggers' ids.
    `base_path`: where it is mounted, a path without a trailing slash or "/"; requests come with
    what is below it. `load` makes the sandboxes that are not given, each when its component's first
    event comes.
    """

    def __init__(
        self,
        application: Application,
        sandboxes: Mapping[str, Sandboxes],
        triggers: Mapping[Kind, Any] | None = None,
        base_path: str = "/",
        load: Load | None = None,
    ) -> None:
        self.application = application
        self.triggers = triggers or {}
        self.sandboxes = sandboxes
        self._base_path = base_path
        self._health = _text(200, b"OK")
        self._info = _json({"name": application.name, "version": application.version})
        self._waking = None if load is None else Waking(load)
        self._connect()

    def _connect(self) -> None:
        """From triggers to the components that are awake, and to those that must be woken."""
        application = self.application
        responders = [(t, self._responder(t)) for t in application.http]
        self._router = Router([(t.route, respond) for t, respond in responders if t.route])
        self._chained = {t.component: self._chained_to(t) for t in application.http if t.component}
        self.events: Mapping[str, EventHandler] = {
            t.id: self._event_handler(t.id, t.type, t.component)
            for t in application.triggers
            if t.type in KINDS and t.component
        }

    @property
    def name(self) -> str:
        return self.application.name

    @property
    def routes(self) -> tuple[Route, ...]:
        """Those that requests reach."""
        lost = {id(one.route) for one in self._router.unreachable}
        return tuple(t.route for t in self.application.http if t.route and id(t.route) not in lost)

    @property
    def unreachable(self) -> list[str]:
        """Routes that no request reaches, as their author wrote them."""
        return [lost.route.text for lost in self._router.unreachable]

    def __call__(self, request: Request, reply: Reply) -> Work:
        path = request.target.partition("?")[0]
        if path.startswith(RESERVED):
            return self._well_known(path, reply)
        match = self._router.match(path)
        if match is None:
            return _respond(StaticResponse(404), reply)
        return match.target(request, reply, match)

    def chained(self, component: str) -> Handler | None:
        """What answers `http://<component>.spin.internal`."""
        return self._chained.get(component)

    def probe(self, component: str) -> Handler | None:
        """As `chained`, for the node's own questions: they are not counted."""
        sandboxes = self.sandboxes.get(component)
        trigger = next((t for t in self.application.http if t.component == component), None)
        if sandboxes is None or trigger is None:
            return self.chained(component)
        return _called(sandboxes, trigger, Meter())

    def command(self) -> tuple[Sandboxes, int]:
        """The application's only component, which is a command, and its start function."""
        name, found = self.application.name, list(self.sandboxes.values())
        wagi = [trigger for trigger in self.application.http if trigger.wagi]
        if len(found) != 1 or not wagi:
            raise ConfigError(
                f"{name}: is not a single command", hint="a command exports wasi:cli/run or _start"
            )
        return found[0], _entry(found[0], command=True)

    def close(self) -> None:
        """Keeps nothing ready any more; requests under way go on."""
        if self._waking is not None:
            self._waking.close()
        for sandboxes in self.sandboxes.values():
            sandboxes.close()

    def _well_known(self, path: str, reply: Reply) -> Work:
        known = {"health": self._health, "info": self._info}
        return _respond(known.get(path.removeprefix(RESERVED), StaticResponse(404)), reply)

    def _responder(self, trigger: HttpTrigger) -> Responder:
        if trigger.response is not None:
            response = trigger.response
            return lambda _request, reply, _match: _respond(response, reply)
        assert trigger.component is not None
        sandboxes = self.sandboxes.get(trigger.component)
        if sandboxes is None:
            wake = partial(self._wake, trigger.component)
            return lambda request, reply, _match: wake_first(wake, self, request, reply)
        route, base = trigger.route or CHAINED, self._base_path
        if trigger.wagi is not None:
            respond = _wagi(sandboxes, trigger.wagi, base)
        else:
            respond = _http(sandboxes, route, base)
        return _traced(respond, sandboxes, base.rstrip("/") + route.text)

    async def _wake(self, component: str) -> None:
        """Returns when its sandboxes are there. Raises EdgeError."""
        if component in self.sandboxes:
            return
        assert self._waking is not None
        sandboxes = await self._waking.wake(component)
        before = self.sandboxes
        if component in before:
            return
        self.sandboxes = {**before, component: sandboxes}
        try:
            self._connect()
        except EdgeError:
            self.sandboxes = before
            raise

    async def _wake_for(self, id: str, component: str, event: Event) -> Outcome:
        try:
            await self._wake(component)
        except EdgeError as exc:
            return Outcome(Status.FAILED, exc.message)
        outcome = self.events[id](event)
        return outcome if isinstance(outcome, Outcome) else await outcome

    def _event_handler(self, id: str, kind: Kind, component: str) -> EventHandler:
        sandboxes = self.sandboxes.get(component)
        if sandboxes is None:
            return partial(self._wake_for, id, component)
        found = event_entry(kind, component, sandboxes.component.code.plan)
        authority = quote(self.application.name, safe="")
        handle: EventHandler
        if found.native is None:
            handle = EventInvoker(sandboxes, found.export, authority).handle
        else:
            handle = NativeInvoker(sandboxes, found.export, found.native, authority)
        if (tracer := sandboxes.node.tracer) is None:
            return handle
        return traced_events(handle, tracer, self.application.name, component, kind, id)

    def _chain(self, component: str, request: Request, reply: Reply) -> Work:
        return self._chained[component](request, reply)

    def _chained_to(self, trigger: HttpTrigger) -> Handler:
        assert trigger.component is not None
        component = trigger.component
        sandboxes = self.sandboxes.get(component)
        if sandboxes is None:
            wake = partial(self._wake, component)
            return partial(wake_first, wake, partial(self._chain, component))
        return _called(sandboxes, trigger)


def _called(sandboxes: Sandboxes, trigger: HttpTrigger, meter: Meter | None = None) -> Handler:
    """Another component's call: it sees the route `/...`, whatever its own is."""
    if trigger.wagi is None:
        respond = _http(sandboxes, CHAINED, meter=meter)
    else:
        respond = _wagi(sandboxes, trigger.wagi, meter=meter)
    if meter is None:
        respond = _traced(respond, sandboxes, CHAINED.text)

    def handle(request: Request, reply: Reply) -> Work:
        match = Match(CHAINED, respond, path_info=request.target.partition("?")[0])
        return respond(request, reply, match)

    return handle


def _traced(respond: Responder, sandboxes: Sandboxes, route: str) -> Responder:
    profile, tracer = sandboxes.profile, sandboxes.node.tracer
    if tracer is None:
        return respond
    return traced(respond, tracer, profile.application, profile.component, route)


def _http(
    sandboxes: Sandboxes, route: Route, base_path: str = "/", meter: Meter | None = None
) -> Responder:
    export = _entry(sandboxes, command=False)
    invoke = HttpInvoker(sandboxes, export, meter)
    headers = RequestHeaders(route, base_path=base_path)

    def respond(request: Request, reply: Reply, match: Match[Any]) -> Work:
        request.route = headers, match
        return invoke(request, reply)

    return _limited(respond, sandboxes)


def _limited(respond: Responder, sandboxes: Sandboxes) -> Responder:
    options = sandboxes.profile.options
    if not options.request_size and not options.response_size:
        return respond

    def answer(request: Request, reply: Reply, match: Match[Any]) -> Work:
        try:
            reply = limited(options, request, reply)
        except TooLarge as exc:
            sandboxes.meter.refused(exc)
            raise
        return respond(request, reply, match)

    return answer


def _wagi(
    sandboxes: Sandboxes, wagi: Wagi, base_path: str = "/", meter: Meter | None = None
) -> Responder:
    export = _entry(sandboxes, command=True)
    invoke = WagiInvoker(sandboxes, export, wagi.argv, base_path, meter)
    return _limited(invoke.respond, sandboxes)


def entry(component: str, exports: Mapping[str, int], *, command: bool) -> int:
    """The number of the function that a trigger calls: the handler's, or that of a command.

    Raises ComponentError when there is none.
    """
    wanted = "_start or wasi:cli/run@0.2" if command else "wasi:http/incoming-handler@0.2"
    found = [
        n for name, n in exports.items() if name.startswith(_COMMANDS if command else _HANDLER)
    ]
    if len(found) == 1:
        return found[0]
    wagi = not command and any(name.startswith(_COMMANDS) for name in exports)
    raise ComponentError(
        f"component {component}: exports {', '.join(exports) or 'nothing'}, "
        f"where {'one' if found else 'the'} {wanted} is needed",
        hint='it is a command: give its trigger executor = { type = "wagi" }' if wagi else None,
    )


def _entry(sandboxes: Sandboxes, *, command: bool) -> int:
    return entry(sandboxes.profile.component, sandboxes.component.exports, command=command)


def _respond(response: StaticResponse, reply: Reply) -> Work:
    reply.start(response.status, list(response.headers))
    reply.write(response.body)
    reply.finish()
    return None


def _text(status: int, body: bytes) -> StaticResponse:
    return StaticResponse(status, ((b"content-type", b"text/plain"),), body)


def _json(content: dict[str, str]) -> StaticResponse:
    body = json.dumps({key: value for key, value in content.items() if value}).encode()
    return StaticResponse(200, ((b"content-type", b"application/json"),), body)
