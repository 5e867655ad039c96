"""What serves under a name: a version, where its requests and events come in, who watches it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from edge import config
from edge.invocation.application import LiveApplication
from edge.invocation.event import Event, EventHandler, Kind, Outcome, Status
from edge.node.soak import Soak
from edge.node.table import Mounted
from edge.registry.digest import Digest
from edge.registry.sync.wanted import Wanted
from edge.wasi.http.message import Handler

__all__ = ["Slot", "Version"]


@dataclass(frozen=True, slots=True, eq=False)
class Version:
    """An application as it was when it was prepared: a Candidate."""

    wanted: Wanted
    digest: Digest | None
    live: LiveApplication

    @property
    def name(self) -> str:
        return self.wanted.entry.name

    @property
    def mount(self) -> config.Mount:
        return self.wanted.entry.mount

    @property
    def mounted(self) -> Mounted[Handler]:
        return Mounted(self.mount, self.live.routes, self.live)


class _Port:
    """What a service calls for the events of one trigger, whatever version serves it."""

    __slots__ = ("handle",)

    def __init__(self, handle: EventHandler) -> None:
        self.handle = handle

    def __call__(self, event: Event) -> Outcome | Coroutine[Any, Any, Outcome]:
        return self.handle(event)


@dataclass(slots=True, eq=False)
class Slot:
    """What serves under a name. `before`: loaded still, to return to."""

    version: Version
    before: Version | None = None
    soak: Soak | None = None
    watching: asyncio.Task[None] | None = None
    ports: dict[str, _Port] = field(default_factory=dict)

    # What services see of it
    @property
    def name(self) -> str:
        return self.version.name

    @property
    def triggers(self) -> Mapping[Kind, Any]:
        return self.version.live.triggers

    @property
    def events(self) -> Mapping[str, EventHandler]:
        return self.ports

    @property
    def handler(self) -> Handler:
        return self.version.live if self.soak is None else self.soak.handle

    def connect(self) -> None:
        """Events go to its version from now on, and to nobody where that has no such trigger."""
        events = self.version.live.events
        for id in [id for id in self.ports if id not in events]:
            self.ports.pop(id).handle = _gone
        for id, handle in events.items():
            if self.soak is not None:
                handle = self.soak.event(handle)
            if id in self.ports:
                self.ports[id].handle = handle
            else:
                self.ports[id] = _Port(handle)

    def disconnect(self) -> None:
        """It serves nothing any more."""
        for port in self.ports.values():
            port.handle = _gone


def _gone(_event: Event) -> Outcome:
    return Outcome(Status.BUSY, "the trigger is not served any more")
