"""The triggers of a node beside HTTP: what reads each type, what serves it.

A service is opened when the first application needs it, told of every swap, and closed with the
node. Services are entered and left by the task that calls `update` and leaves `Services`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from edge.application.model import Application
from edge.application.timers import read_cron
from edge.invocation.application import LiveApplication
from edge.invocation.event import EventHandler, Kind
from edge.registry.atomic import write_file

__all__ = ["TYPES", "Services", "Settings", "read_triggers", "show_triggers"]


class Declared(Protocol):
    """A trigger as `edge.application` reads it."""

    @property
    def id(self) -> str: ...


class Service(Protocol):
    """Serves all triggers of one type."""

    async def update(self, items: Sequence[Any]) -> None:
        """Swaps what is served; events under way keep the handler they began with."""

    async def drain(self, timeout: float) -> None:
        """Takes no more events and finishes what is under way, at most `timeout` seconds."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What services are opened with."""

    state_dir: Path


# Makes what a service is told of one trigger: (trigger, application's name, handler).
Item = Callable[[Any, str, EventHandler], Any]


@dataclass(frozen=True, slots=True)
class TriggerType:
    """`read`: its triggers in an application, with the values of the variables; raises ConfigError.
    `make`: the service, not entered yet, and what it is told of each trigger. `show`: what a person
    is told that it serves.
    """

    read: Callable[[Application, Mapping[str, str]], Sequence[Declared]]
    make: Callable[[Settings], tuple[Any, Item]]
    show: Callable[[Any], str]


# The services' modules are loaded when an application needs them: a client of MQTT or Redis costs
# tens of milliseconds and megabytes.
def _cron(settings: Settings) -> tuple[Any, Item]:
    from edge.triggers.cron import Schedule, TimerService

    return TimerService(settings.state_dir / "timers.json", write_file), Schedule


_TYPES: Mapping[Kind, TriggerType] = {
    "cron": TriggerType(lambda app, _values: read_cron(app), _cron, lambda t: f"timer {t.id}"),
}


# Every type of trigger that a node runs.
TYPES = ("http", *_TYPES)


def read_triggers(
    application: Application, values: Mapping[str, str]
) -> dict[Kind, Sequence[Declared]]:
    """An application's triggers by type, as far as this version runs them. Raises ConfigError."""
    found = {kind: type.read(application, values) for kind, type in _TYPES.items()}
    return {kind: triggers for kind, triggers in found.items() if triggers}


class Services:
    """The services that are open, as an async context manager."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[Kind, tuple[Service, Item]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def serving(self) -> bool:
        return bool(self._open)

    async def update(self, live: LiveApplication) -> None:
        """Serves the triggers of `live` and no others."""
        for kind in _TYPES:
            triggers = live.triggers.get(kind, ())
            if not triggers and kind not in self._open:
                continue
            service, item = await self._service(kind)
            name = live.application.name
            await service.update([item(t, name, live.events[t.id]) for t in triggers])

    async def drain(self, timeout: float) -> None:
        """Takes no more events and finishes what is under way, at most `timeout` seconds."""
        async with asyncio.TaskGroup() as group:
            for kind, (service, _) in self._open.items():
                group.create_task(service.drain(timeout), name=f"drain {kind}")

    async def _service(self, kind: Kind) -> tuple[Service, Item]:
        if kind not in self._open:
            service, item = _TYPES[kind].make(self._settings)
            self._open[kind] = await self._stack.enter_async_context(service), item
        return self._open[kind]


def show_triggers(live: LiveApplication) -> list[str]:
    """One line for each trigger that is served beside HTTP."""
    return [_TYPES[kind].show(t) for kind, found in live.triggers.items() for t in found]
