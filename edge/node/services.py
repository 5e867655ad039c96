"""The triggers of a node beside HTTP: what reads each type, what serves it.

A service is opened when the first application needs it, told of every swap, and closed with the
node: all by the task that entered `Services`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from edge import config
from edge.application.channels import read_redis
from edge.application.fields import did_you_mean
from edge.application.messages import DeclaredBroker, read_broker, read_mqtt
from edge.application.model import Application
from edge.application.timers import read_cron
from edge.errors import ConfigError
from edge.invocation.event import EventHandler, Kind
from edge.platform.atomic import write_file

__all__ = [
    "Declared",
    "Served",
    "Services",
    "Settings",
    "read_triggers",
    "show_trigger",
    "show_triggers",
    "trigger_notes",
    "type_notes",
]

# Seconds that events under way get when nobody needs their server any more, and those in which it
# may be told so.
_HANDOVER = 5.0
_GOODBYE = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What services are opened with. `several`: applications may name several brokers."""

    state_dir: Path
    mqtt: config.Mqtt = field(default_factory=config.Mqtt)  # without a URL: the application's
    credentials: Path | None = None  # systemd's directory of them
    several: bool = False


@dataclass(frozen=True, slots=True)
class Declared:
    """An application's triggers of one type, and the server it names for them; None: none."""

    triggers: tuple[Any, ...]
    server: Any = None


class Service(Protocol):
    """Serves all triggers of one type while entered."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> Any: ...

    async def update(self, items: Sequence[Any], /) -> None:
        """Swaps what is served; events under way keep the handler they began with."""

    async def drain(self, timeout: float, /) -> None:
        """Takes no more events and finishes what is under way, at most `timeout` seconds."""


# Makes what a service is told of one trigger: (trigger, application's name, handler).
Item = Callable[[Any, str, EventHandler], Any]


@dataclass(frozen=True, slots=True)
class TriggerType:
    """`read`: its triggers in an application, with the values of the variables. `make`: a service
    for them, and what that is told of each trigger. `show`: what a person is told that is served.
    `server`: which server a service is made for; another one needs another service. Raise
    ConfigError.
    """

    read: Callable[[Application, Mapping[str, str]], Declared]
    make: Callable[[Settings, Any], tuple[Service, Item]]
    show: Callable[[Any], str]
    server: Callable[[Settings, Declared], Any] = lambda _settings, _declared: None


# The services' modules are loaded when an application needs them: a client of MQTT or Redis costs
# tens of milliseconds and megabytes.
def _mqtt(settings: Settings, broker: config.Mqtt) -> tuple[Service, Item]:
    from edge.triggers.mqtt import MqttService, Subscription

    state_dir = settings.state_dir
    if settings.several and broker.url != settings.mqtt.url:
        # Sessions are of a broker and a user: each has a file and a client identifier of its own.
        name = hashlib.sha256(f"{broker.url}\0{broker.username}".encode()).hexdigest()[:12]
        state_dir = state_dir / "mqtt" / name
        if broker.client_id:
            broker = replace(broker, client_id=f"{broker.client_id}-{name}")
    service = MqttService(broker, state_dir=state_dir, credentials=settings.credentials)
    return service, Subscription


def _redis(_settings: Settings, _server: None) -> tuple[Service, Item]:
    from edge.triggers.redis import ChannelSubscription, RedisService

    return RedisService(), ChannelSubscription


def _cron(settings: Settings, _server: None) -> tuple[Service, Item]:
    from edge.triggers.cron import Schedule, TimerService

    return TimerService(settings.state_dir / "timers.json", write_file), Schedule


def _read_mqtt(application: Application, values: Mapping[str, str]) -> Declared:
    broker = read_broker(application, values)
    if broker is not None:
        config.parse_mqtt_url(broker.address, "spin.toml: application.trigger.mqtt.address")
    return Declared(read_mqtt(application, values), broker)


def _broker(given: config.Mqtt, declared: DeclaredBroker | None) -> config.Mqtt:
    """The broker that the node names, otherwise the application's. Raises ConfigError."""
    if given.url:
        return given
    if declared is None:
        raise ConfigError(
            "mqtt: no broker is named",
            hint="give one with --mqtt mqtt://HOST or --mqtt embedded, in edge.toml: "
            '[mqtt] url = "mqtt://HOST", or in spin.toml: '
            '[application.trigger.mqtt] address = "mqtt://HOST"',
        )
    found = replace(
        given, url=declared.address, username=declared.username, password=declared.password
    )
    return found if declared.keepalive is None else replace(found, keepalive=declared.keepalive)


_TYPES: Mapping[Kind, TriggerType] = {
    "mqtt": TriggerType(
        _read_mqtt,
        _mqtt,
        lambda trigger: f"subscribed to {trigger.filter.subscription}",
        lambda settings, declared: _broker(settings.mqtt, declared.server),
    ),
    "redis": TriggerType(
        lambda app, values: Declared(read_redis(app, values)),
        _redis,
        lambda trigger: f"channel {trigger.channel} of {trigger.address}",
    ),
    "cron": TriggerType(
        lambda app, _values: Declared(read_cron(app)),
        _cron,
        lambda trigger: f"timer {trigger.id}",
    ),
}


def read_triggers(application: Application, values: Mapping[str, str]) -> dict[Kind, Declared]:
    """An application's triggers by type, as far as this version runs them. Raises ConfigError."""
    found = {kind: type.read(application, values) for kind, type in _TYPES.items()}
    return {kind: declared for kind, declared in found.items() if declared.triggers}


def type_notes(application: Application) -> list[str]:
    """What this version leaves out of an application. Raises ConfigError when that is all of it."""
    left_out = [type for type in application.trigger_types if type not in ("http", *_TYPES)]
    if len(left_out) == len(application.trigger_types):
        raise ConfigError(
            f"{application.name}: has no trigger that this version runs",
            hint=f"it runs {', '.join(('http', *_TYPES))}",
        )
    return [_unknown(type) for type in left_out]


def _unknown(type: str) -> str:
    meant = did_you_mean(type, ("http", *_TYPES))
    note = f"[[trigger.{type}]]: not a trigger that this version runs"
    return f"{note} ({meant})" if meant else note


def show_trigger(kind: Kind, trigger: Any) -> str:
    """What a person is told that is served."""
    return _TYPES[kind].show(trigger)


def show_triggers(triggers: Mapping[Kind, Declared]) -> list[str]:
    """One line for each trigger that is served beside HTTP."""
    return [
        f"{show_trigger(kind, trigger)} for {trigger.component}"
        for kind, declared in triggers.items()
        for trigger in declared.triggers
    ]


def trigger_notes(triggers: Mapping[Kind, Declared]) -> list[str]:
    """What their author should know and may ignore, one line each."""
    return [
        note
        for declared in triggers.values()
        for trigger in declared.triggers
        for note in getattr(trigger, "notes", ())
    ]


class Served(Protocol):
    """An application as services see it: its triggers by type, what runs them by their ids."""

    @property
    def name(self) -> str: ...

    @property
    def triggers(self) -> Mapping[Kind, Any]: ...

    @property
    def events(self) -> Mapping[str, EventHandler]: ...


@dataclass(slots=True)
class _Running:
    service: Service
    item: Item
    shown: list[Any] = field(default_factory=list)


# A type of trigger, and the server that its service is made for.
_Key = tuple[Kind, Any]


class Services:
    """The services that are open, as an async context manager: one for each type of trigger and
    each server that applications name.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._running: dict[_Key, _Running] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        async with AsyncExitStack() as stack:
            for running in self._running.values():
                stack.push_async_exit(running.service)

    async def prepare(self, *applications: Served) -> None:
        """Opens what these need. Raises EdgeError; what was served goes on then."""
        for application in applications:
            for kind, declared in application.triggers.items():
                key = kind, self._server(kind, declared)
                if key not in self._running:
                    service, item = _TYPES[kind].make(self._settings, key[1])
                    await service.__aenter__()
                    self._running[key] = _Running(service, item)

    async def update(self, *applications: Served) -> None:
        """Serves the triggers of these, which were prepared, and no others."""
        wanted: dict[_Key, list[Any]] = {}
        for application in applications:
            for kind, declared in application.triggers.items():
                key = kind, self._server(kind, declared)
                item, events = self._running[key].item, application.events
                items = [item(t, application.name, events[t.id]) for t in declared.triggers]
                wanted.setdefault(key, []).extend(items)
        # First: another service may have to do with the same server.
        for key in [key for key in self._running if key not in wanted]:
            await _end(self._running.pop(key))
        for key, items in wanted.items():
            running = self._running[key]
            if running.shown != items:
                await running.service.update(items)
                running.shown = items

    async def ready(self) -> None:
        """Until all that was last shown is served, however long servers are away."""
        for running in tuple(self._running.values()):
            await _ready(running.service)

    async def drain(self, timeout: float) -> None:
        """Takes no more events and finishes what is under way, at most `timeout` seconds."""
        async with asyncio.TaskGroup() as group:
            for (kind, _), running in self._running.items():
                group.create_task(running.service.drain(timeout), name=f"drain {kind}")

    def figures(self, kind: Kind) -> list[dict[str, Any]]:
        """What those of one type count, one for each server. JSON."""
        return [
            figures()
            for (of, _), running in self._running.items()
            if of == kind and (figures := getattr(running.service, "figures", None)) is not None
        ]

    def _server(self, kind: Kind, declared: Declared) -> Any:
        return _TYPES[kind].server(self._settings, declared)


async def _ready(service: Service) -> None:
    ready = getattr(service, "ready", None)  # timers wait for nobody
    if ready is not None:
        await ready()


async def _end(running: _Running) -> None:
    """Nobody needs it any more: its server is told so, if that is there."""
    service = running.service
    if running.shown:
        await service.update(())
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await _ready(service)
    await service.drain(_HANDOVER)
    await service.__aexit__(None, None, None)
