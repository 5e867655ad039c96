"""What people and tools may ask of a node that runs. Knows no HTTP: `api` carries it.

What is read here comes from outside: it is checked, and a mistake names its place.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib.metadata
import logging
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from edge import config
from edge.application.fields import Where, did_you_mean
from edge.errors import ConfigError, EdgeError
from edge.invocation.application import LiveApplication
from edge.node.detail import NOTHING, detail
from edge.node.entry import read_entry
from edge.node.invoke import Call, Part, invoke
from edge.registry.digest import Digest
from edge.registry.disk import NoRoom, explained
from edge.registry.layout import import_file
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import MakeRoom
from edge.registry.sync.status import AppStatus

__all__ = ["Control", "Facts", "Running", "Syncing"]

_log = logging.getLogger("edge.node")


class Syncing(Protocol):
    """What keeps applications at what is wanted of them: see `registry.sync.Sync`."""

    def apps(self) -> Sequence[AppStatus]: ...

    def kept(self) -> frozenset[Digest]: ...

    def deployed(self, name: str) -> config.ApplicationEntry | None: ...

    async def deploy(
        self, entry: config.ApplicationEntry, progress: Callable[[str], None], /
    ) -> None: ...

    async def undeploy(self, name: str, *, purge: bool) -> None: ...

    async def rollback(self, name: str) -> None: ...

    async def sync_now(self, name: str | None, *, retry: bool) -> None: ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What a node says of itself. Moments are seconds since 1970; sizes are bytes."""

    listening: tuple[str, ...] = ()  # URLs
    mirror: tuple[str, ...] = ()  # URLs
    page: tuple[str, ...] = ()  # URLs
    last_sync: float | None = None
    generation: int | None = None  # of the fleet document
    fleet: Mapping[str, Any] | None = None  # which one this node is in
    stored: int | None = None  # in the content store
    journal: str | None = None  # the unit whose journal has the log of this process
    notes: tuple[str, ...] = ()  # what its operator should know


class Running(Protocol):
    """The daemon, as far as it is controlled from outside."""

    @property
    def settings(self) -> config.Daemon: ...

    @property
    def sync(self) -> Syncing: ...

    @property
    def store(self) -> ContentStore: ...

    def pushed(self, reference: Reference, digest: Digest, /) -> None:
        """The store has something new for this reference."""

    def live(self, name: str) -> LiveApplication | None:
        """The version that serves now."""

    async def facts(self) -> Facts: ...

    async def reload(self) -> Sequence[str]:
        """Reads the configuration again; what its operator should know. Raises ConfigError when it
        is wrong: the old one goes on then.
        """


class Control:
    """The operations of the node API. What they return is JSON."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._begun = time.monotonic()
        self._importing = False

    def apps(self) -> list[dict[str, Any]]:
        return [_app(status) for status in self._running.sync.apps()]

    def app(self, name: str) -> dict[str, Any]:
        """One of them, and what it is made of."""
        status, live = self._known(name), self._running.live(name)
        return {**_app(status), **(NOTHING if live is None else detail(live))}

    async def status(self) -> dict[str, Any]:
        settings, facts = self._running.settings, await self._running.facts()
        states = Counter(status.state for status in self._running.sync.apps())
        return {
            "name": settings.node.name,
            "labels": dict(settings.node.labels),
            "version": importlib.metadata.version("edge"),
            "uptime": round(time.monotonic() - self._begun, 3),
            "state_dir": _plain(settings.node.state_dir),
            "listening": facts.listening,
            "mirror": facts.mirror,
            "page": facts.page,
            "applications": dict(sorted(states.items())),
            "last_sync": _moment(facts.last_sync),
            "generation": facts.generation,
            "fleet": facts.fleet,
            "journal": facts.journal,
            "store": {"used": facts.stored, "quota": settings.quota},
            "notes": (*facts.notes, *await asyncio.to_thread(_forgotten, settings.node.state_dir)),
        }

    def entry(self, request: object) -> config.ApplicationEntry:
        """What somebody asks to be deployed; what is not given stays as it was deployed before."""
        return read_entry(request, Where("deploy"), self._running.sync.deployed)

    async def deploy(
        self, entry: config.ApplicationEntry, progress: Callable[[str], None]
    ) -> dict[str, Any]:
        """Returns when it is live."""
        await self._running.sync.deploy(entry, progress)
        return self.app(entry.name)

    async def undeploy(self, name: str, *, purge: bool) -> None:
        if not purge:  # a purge may have failed when the application was gone already
            self._known(name)
        await self._running.sync.undeploy(name, purge=purge)

    async def rollback(self, name: str) -> dict[str, Any]:
        self._known(name)
        await self._running.sync.rollback(name)
        return self.app(name)

    async def sync(self, name: str | None, *, retry: bool) -> list[dict[str, Any]]:
        """Looks at one application's reference, or at everything; how they are then."""
        if name is not None:
            self._known(name)
        await self._running.sync.sync_now(name, retry=retry)
        return self.apps() if name is None else [self.app(name)]

    async def receive(self, body: AsyncIterable[bytes]) -> IO[bytes]:
        """An import, once all of it is here; to be handed to `take_in`. One at a time, and never
        more than the content store may hold. Raises EdgeError.
        """
        if self._importing:
            raise EdgeError("another import is under way", hint="wait for it, then try again")
        self._importing = True
        file = None
        try:
            file = await asyncio.to_thread(self._running.store.spool)
            async for piece in body:
                await asyncio.to_thread(self._spool, file, piece)
        except BaseException:
            self._importing = False
            if file is not None:
                file.close()
            raise
        return file

    def _spool(self, file: IO[bytes], piece: bytes) -> None:
        store, spooled = self._running.store, file.tell()
        with explained(store.directory):
            try:
                store.check_room(spooled + len(piece), spooled=spooled)
            except NoRoom:
                if not self._make_room():
                    raise
                store.check_room(spooled + len(piece), spooled=spooled)
            file.write(piece)

    def _make_room(self) -> bool:
        return MakeRoom(self._running.store, self._running.sync.kept, _log.info)()

    async def take_in(self, file: IO[bytes], title: str, name: str | None) -> list[str]:
        """Brings in the bundles of an OCI layout, a tar that can be read at any place, and closes
        it; their references. Who follows one of them looks at it soon.
        """
        store, room = self._running.store, self._make_room
        try:
            called = Reference.parse(name) if name else None
            found = await asyncio.to_thread(import_file, file, title, store, called, make_room=room)
        finally:
            self._importing = False
            file.close()
        for bundle in found:
            self._running.pushed(bundle.reference, bundle.digest)
        return [str(bundle.reference.at(bundle.digest)) for bundle in found]

    async def reload(self) -> list[str]:
        return list(await self._running.reload())

    async def invoke(self, name: str, call: Call) -> AsyncGenerator[Part, None]:
        """Runs one component now; what it answers, as it comes."""
        status = self._known(name)
        live = self._running.live(name)
        if live is None:
            why = f": {status.reason}" if status.reason else ""
            raise EdgeError(f"application {name}: is {status.state}, and nothing serves{why}")
        async with aclosing(invoke(live, call, status.mount.host)) as parts:
            async for part in parts:
                yield part

    def _known(self, name: str) -> AppStatus:
        known = {status.name: status for status in self._running.sync.apps()}
        if name not in known:
            hint = did_you_mean(name, known) or "`edge apps` lists what this node has"
            raise ConfigError(f"application {name}: is not on this node", hint=hint)
        return known[name]


def _forgotten(state_dir: Path) -> list[str]:
    """Of each list of applications that was damaged and kept aside, until somebody removes it."""
    return [
        f"{path.name} was damaged: deploy again what is missing, then remove that file"
        for path in sorted(state_dir.glob("apps.json.damaged-*"))
    ]


def _app(status: AppStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "mount": {"path": status.mount.path, "host": status.mount.host},
        "state": status.state,
        "reason": status.reason or None,
        "since": _moment(status.since),
        "source": status.source,
        "reference": status.reference,
        "digest": _text(status.digest),
        "previous": _text(status.previous),
    }


def _plain(path: Path) -> str:
    """As people would write it: without the `..` of a configuration's relative paths."""
    return os.path.normpath(path)


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _moment(seconds: float | None) -> str | None:
    """As RFC 3339 has it."""
    if seconds is None:
        return None
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.UTC)
    return moment.isoformat().replace("+00:00", "Z")
