"""The live applications of a node: one table that requests and events read, and the one place where
it is changed.

What serves changes between two turns of the loop and never halfway: a request or an event goes to
the version of the moment it came, and stays with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from edge import config
from edge.application.overrides import overridden
from edge.errors import ConfigError, EdgeError
from edge.invocation.application import LiveApplication
from edge.invocation.event import Kind
from edge.node import health, variables
from edge.node.front import answer
from edge.node.node import Node
from edge.node.services import Services, type_notes
from edge.node.settling import Settling
from edge.node.slot import Slot, Version
from edge.node.soak import Soak
from edge.node.table import Mounted, Table
from edge.platform.messages import LIVE
from edge.registry.digest import Digest
from edge.registry.local import LocalApplication
from edge.registry.sync.wanted import Candidate, Wanted
from edge.wasi.http.message import Handler

if TYPE_CHECKING:
    from edge.node.workers.crew import Crew

__all__ = ["Applications", "Version"]

_log = logging.getLogger("edge.node")

# Seconds within which a new version is watched, if it is to be.
_WATCHED = 5.0


class Server(Protocol):
    """What HTTP requests come from."""

    handler: Handler


class Applications:
    """As an async context manager: leaving it ends what is watched and retires everything.

    A Host for sync. `settings` may be replaced: it counts for what is prepared or watched later.
    `crew`: other processes that serve the same.
    """

    def __init__(
        self,
        node: Node,
        services: Services,
        settings: config.Daemon,
        *,
        credentials: Path | None = None,
        crew: Crew | None = None,
    ) -> None:
        self.settings = settings
        self._crew = crew
        self._node = node
        self._services = services
        self._credentials = credentials
        self._table: Table[Handler] = Table()
        self._slots: dict[str, Slot] = {}
        self._server: Server | None = None
        self._told: Callable[[], None] = lambda: None
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling = Settling()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = {*self._tasks, *(s.watching for s in self._slots.values() if s.watching)}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for slot in self._slots.values():
            for version in (slot.version, slot.before):
                if version is not None:
                    version.live.close()

    # What others see

    @property
    def handler(self) -> Handler:
        """Answers the node's HTTP requests."""
        return self._table.only or partial(answer, self._table)

    def serve(self, server: Server, changed: Callable[[], None] = lambda: None) -> None:
        """Requests come from there: it always has the handler of the moment. `changed`: called
        when other versions serve.
        """
        self._server, self._told = server, changed
        server.handler = self.handler

    def live(self, name: str) -> LiveApplication | None:
        slot = self._slots.get(name)
        return None if slot is None else slot.version.live

    def versions(self) -> Sequence[Version]:
        """Those that serve."""
        return [slot.version for slot in self._slots.values()]

    # Host

    async def prepare(
        self, wanted: Wanted, local: LocalApplication, digest: Digest | None, *, check: bool = True
    ) -> Version:
        """See Host."""
        entry = wanted.entry
        application = overridden(
            replace(local.application, name=entry.name), self.settings.defaults, entry.options
        )
        notes = (*application.notes, *type_notes(application))
        values = await variables.values(entry, self._credentials)
        local = replace(local, application=application)
        live = await self._node.load(
            local if self._crew is None else self._crew.own(local),
            values,
            base_path=entry.mount.path,
            asleep=not check,
        )
        version = Version(wanted, digest, live)
        try:
            async with self._changing:
                await self._services.prepare(live)
            if check:
                for note in (*notes, *(f"no request reaches {r}" for r in live.unreachable)):
                    _log.warning("application %s: note: %s", entry.name, note)
                await health.instantiate(live)
                await health.check(live)
            if self._crew is not None:
                await self._crew.prepare(version, local, values)
        except BaseException:
            self._retire(version)
            self._forget(entry.name)
            raise
        return version

    async def swap(self, changes: Mapping[str, Candidate | None]) -> None:
        """See Host."""
        versions = {name: _version(candidate) for name, candidate in changes.items()}
        mounted = {n: None if v is None else v.mounted for n, v in versions.items()}
        async with self._changing:
            self._changed(mounted)  # raises where it cannot be
            await self._services.prepare(*(v.live for v in versions.values() if v))
            # From here to the last assignment nothing else runs: a version may have failed and
            # been taken back while services were opened.
            table = self._changed(mounted)
            before = {name: self._slots.get(name) for name in versions}
            for name, version in versions.items():
                self._replace(name, version)
            self._show(table)
            self._place_everywhere(versions)
            after = [(old, self._slots.get(name)) for name, old in before.items()]
            if any(_triggers(old) != _triggers(new) for old, new in after):
                await self._update_services()
        if self._crew is not None:
            await self._crew.placed()
        if self._server is not None:  # else it boots, with thousands perhaps
            for version in filter(None, versions.values()):
                _tell(version)
        self._settling.changed(len(changes), of=len(self._slots))

    def watch(
        self, name: str, seconds: float, failed: Callable[[str], None], passed: Callable[[], None]
    ) -> None:
        """See Host. Where there is no version before it, one that fails goes on."""
        slot = self._slots[name]
        self._unwatch(slot)
        slot.soak = Soak(
            slot.version.live, self.settings.sync, partial(self._failed, slot, failed, passed)
        )
        slot.watching = asyncio.get_running_loop().create_task(
            self._watch(slot, slot.soak, seconds, passed), name=f"watch {name}"
        )
        self._place(slot)

    def discard(self, candidate: Candidate) -> None:
        """See Host."""
        version = _version(candidate)
        if version is not None and not self._in_use(version):
            self._retire(version)
            self._forget(version.name)

    # Changing what serves. None of it awaits.

    def _changed(self, mounted: Mapping[str, Mounted[Handler] | None]) -> Table[Handler]:
        """Raises ConfigError also where a version that is watched could not be taken back, unless
        it was meant to be somewhere else from now on.
        """
        table = self._table.change(mounted)
        for name, slot in self._slots.items():
            if name not in mounted and slot.before and slot.before.mount == slot.version.mount:
                table.change({name: slot.before.mounted})
        return table

    def _replace(self, name: str, version: Version | None) -> None:
        old = self._slots.pop(name, None)
        if old is not None:
            self._unwatch(old)
            self._forget_before(old)
        if version is None:
            if old is not None:
                old.disconnect()
                self._retire(old.version)
            self._forget(name)
            return
        slot = Slot(version, ports=old.ports if old else {})
        self._slots[name] = slot
        if old is not None and version.wanted.soak > 0:
            slot.before = old.version
            asyncio.get_running_loop().call_later(_WATCHED, self._forget_before, slot)
        elif old is not None:
            self._retire(old.version)
        slot.connect()

    def _forget_before(self, slot: Slot) -> None:
        """Where nobody watches there is nothing to return to."""
        if slot.soak is None and slot.before is not None:
            self._retire(slot.before)
            slot.before = None

    def _show(self, table: Table[Handler]) -> None:
        self._table = table
        if self._server is not None:
            self._server.handler = self.handler
        self._told()

    def _place(self, slot: Slot) -> None:
        """What stands in front of the version, or the version itself, has changed."""
        mounted = replace(slot.version.mounted, target=slot.handler)
        slot.connect()
        self._show(self._table.change({slot.name: mounted}))
        self._place_everywhere((slot.name,))

    def _place_everywhere(self, names: Iterable[str]) -> None:
        if self._crew is not None:
            slots = ((name, self._slots.get(name)) for name in names)
            self._crew.place({n: (s.version, s.soak) if s else None for n, s in slots})

    # Watching

    async def _watch(
        self, slot: Slot, soak: Soak, seconds: float, passed: Callable[[], None]
    ) -> None:
        await soak.run(seconds)
        if slot.soak is not soak:
            return
        slot.watching = None
        self._unwatch(slot)
        self._place(slot)
        self._forget_before(slot)
        passed()

    def _failed(
        self,
        slot: Slot,
        failed: Callable[[str], None],
        passed: Callable[[], None],
        reason: str,
    ) -> None:
        """Called where the failure shows, perhaps by the guest that failed: the version before
        serves when this returns, everything else follows.
        """
        bad, before = slot.version, slot.before
        slot.soak = slot.before = None
        slot.version = before or bad
        gone, told = bad if before else None, partial(failed, reason)
        try:
            self._place(slot)
        except ConfigError as exc:  # it was elsewhere, and its place has been given away
            _log.error("%s: bad, but it stays: %s: %s", slot.name, reason, exc.message)
            slot.version, gone, told = bad, before, partial(passed)
            self._place(slot)
        asyncio.get_running_loop().call_soon(self._after_failure, slot, gone, told)

    def _after_failure(self, slot: Slot, gone: Version | None, told: Callable[[], None]) -> None:
        self._unwatch(slot)
        if gone is not None:
            if gone.live.triggers != slot.triggers:
                self._start(self._follow(), f"services of {slot.name}")
            self._retire(gone)
        told()

    def _unwatch(self, slot: Slot) -> None:
        if slot.soak is not None:
            slot.soak.end()
            slot.soak = None
        if slot.watching is not None:
            slot.watching.cancel()
            slot.watching = None

    # Services, and what is left behind

    async def _follow(self) -> None:
        async with self._changing:
            await self._services.prepare(*(slot.version.live for slot in self._slots.values()))
            await self._update_services()

    async def _update_services(self) -> None:
        try:
            await self._services.update(*self._slots.values())
        except (EdgeError, OSError) as exc:
            _log.error("events beside HTTP are not served as they should be: %s", exc)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _in_use(self, version: Version) -> bool:
        slot = self._slots.get(version.name)
        return slot is not None and version in (slot.version, slot.before)

    def _retire(self, version: Version) -> None:
        """Requests under way go on, nothing is kept ready."""
        version.live.close()
        self._settling.retired()
        if self._crew is not None:
            self._crew.retire(version)

    def _forget(self, name: str) -> None:
        """What was counted of an application goes with it."""
        if name not in self._slots:
            self._node.meters.drop(name)


def _version(candidate: Candidate | None) -> Version | None:
    assert candidate is None or isinstance(candidate, Version)
    return candidate


def _tell(version: Version) -> None:
    what = version.digest.hex[:12] if version.digest else "what is at its path"
    _log.info(
        "application %s: %s serves", version.name, what,
        extra={"MESSAGE_ID": LIVE, "EDGE_APP": version.name, "EDGE_DIGEST": str(version.digest)},
    )  # fmt: skip


def _triggers(slot: Slot | None) -> Mapping[Kind, Any]:
    return {} if slot is None else slot.triggers
