"""`edge run`: a node at work. Composes everything, says when it is ready, reloads, drains.

boot      what was live is live again, without a network; then it listens, and says READY
at work   sync follows the references; the API and SIGHUP change what is wanted
end       SIGTERM: no more events, those under way finish; a second signal ends at once
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edge import config
from edge.errors import EdgeError
from edge.invocation.application import LiveApplication
from edge.node import claim, configuration, statedir
from edge.node.answers import Reading
from edge.node.api import Api
from edge.node.control import Control, Facts
from edge.node.homeassistant import home_assistant
from edge.node.listening import Listening, listen
from edge.node.logs import log_routes
from edge.node.manager import Manager
from edge.node.metrics.exposition import routes as metrics_routes
from edge.node.metrics.figures import Figures
from edge.node.node import Node
from edge.node.parts import Parts, compose
from edge.node.signals import Signals, cancel_on_sigterm
from edge.platform.journal import stderr_is_journal
from edge.platform.journalctl import own_unit
from edge.platform.recent import Recent
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

if TYPE_CHECKING:
    from edge.node.page import Page

__all__ = ["Daemon", "run"]

# Seconds that events under way get after SIGTERM or Ctrl-C.
DRAIN = 30.0
# Seconds between two looks at whether the time is worth keeping.
_TIME_LOOK = 600.0

_log = logging.getLogger("edge.node")

# Reads edge.toml, if there is one: the configuration, and notes for its author. Blocks.
Read = Callable[[], tuple[config.Daemon, tuple[str, ...]]]


async def run(read: Read, say: Callable[[str], None]) -> int:
    """Runs a node until it is told to stop. `say`: a line on standard output.

    Raises EdgeError for what keeps it from serving.
    """
    cancel_on_sigterm()
    settings, notes = await asyncio.to_thread(read)
    await asyncio.to_thread(statedir.make, settings.node.state_dir)
    with claim.claimed(settings.node.state_dir) as restored, Recent().attached() as recent:
        if restored:
            _log.info("the restore that was interrupted is complete")
            settings, notes = await asyncio.to_thread(read)
        for note in notes:
            _log.warning("note: %s", note)
        await _serve(read, say, settings, notes, recent)
    return 0


async def _serve(
    read: Read,
    say: Callable[[str], None],
    settings: config.Daemon,
    notes: Sequence[str],
    recent: Recent,
) -> None:
    manager = Manager()
    async with AsyncExitStack() as stack:
        async with manager.starting():
            opening = open_daemon(read, settings, notes, manager, recent)
            daemon = await stack.enter_async_context(opening)
        signals = Signals()
        for url in daemon.listening:
            say(f"listening on {url}")
        manager.ready(daemon.summary())
        async with manager.watching(daemon.guests, daemon.summary):
            await daemon.work(signals, manager)
            manager.stopping()
            await daemon.drain(signals.stop)


class Daemon:
    """A node at work, as signals and the API see it. Made by `open_daemon`."""

    def __init__(
        self, read: Read, settings: config.Daemon, notes: Sequence[str], parts: Parts
    ) -> None:
        self.settings = settings
        self.sync = parts.sync
        self.listening: tuple[str, ...] = ()
        self.page: Page | None = None
        self._read = read
        self._notes = tuple(notes)
        self._parts = parts
        self._http: Listening | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self.figures = Figures(
            parts.guests, parts.crew, parts.applications, parts.services, parts.sync, parts.fleet,
            partial(statedir.stored, parts.store), settings.quota, parts.clock, time.monotonic(),
        )  # fmt: skip

    # For the API

    @property
    def store(self) -> ContentStore:
        return self._parts.store

    @property
    def guests(self) -> Node:
        return self._parts.guests

    def live(self, name: str) -> LiveApplication | None:
        return self._parts.applications.live(name)

    async def facts(self) -> Facts:
        parts, follower = self._parts, self._parts.trusting.follower
        return Facts(
            listening=self.listening,
            mirror=tuple(f"http://{address}" for address in parts.mirror.addresses),
            page=self.page.urls if self.page else (),
            last_sync=parts.sync.last_look,
            generation=parts.trusting.generation,
            fleet=parts.fleet.about(),
            stored=await asyncio.to_thread(statedir.stored, parts.store),
            journal=own_unit() if stderr_is_journal() else None,
            notes=(
                *self._notes,
                *self._clock_notes(),
                *(parts.crew.notes() if parts.crew else ()),
                *(follower.notes if follower else ()),
                *parts.fleet.notes(),
                *(self.page.notes if self.page else ()),
            ),
        )

    async def reload(self) -> list[str]:
        """See `control.Running`."""
        async with self._reloading:
            fresh, notes = await asyncio.to_thread(self._read)
            old = self.settings
            changes = configuration.diff(old, fresh)
            # What is not named here goes on as it was: the next reload compares with that.
            self.settings = replace(
                old, applications=fresh.applications, registries=fresh.registries
            )
            self._parts.registries.update(fresh.registries)
            self._parts.trusting.update(fresh.registries)
            self.sync.set_file_entries(fresh.applications)
            self._notes = (*notes, *map(_restart_note, changes.restart))
            return list(self._notes)

    # At work

    def summary(self) -> str:
        """One line for who looks at the service."""
        count = len(self._parts.applications.versions())
        text = f"serving {count} application{'' if count == 1 else 's'}"
        bad = [app.name for app in self.sync.apps() if app.state in ("failed", "rolled back")]
        named = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
        return f"{text}; not as wanted: {named}" if bad else text

    async def listen(self, stack: AsyncExitStack, manager: Manager) -> None:
        """Serves HTTP, and says to `manager` what it serves. Raises EdgeError."""
        applications, crew = self._parts.applications, self._parts.crew
        http, handler = self._parts.own.http, applications.handler
        self._http = await listen(stack, http, handler, manager.sockets)
        applications.serve(self._http, lambda: manager.status(self.summary()))
        self.listening = self._http.urls
        if crew is not None:
            await stack.enter_async_context(crew)
            await crew.start(self._http.shared(self.settings.http.settings.backlog))

    async def work(self, signals: Signals, manager: Manager) -> None:
        """Until it is told to stop."""
        async with asyncio.TaskGroup() as group:
            working = [
                group.create_task(self.sync.run(), name="sync"),
                group.create_task(self._reload_on(signals.reload, manager), name="reload"),
                group.create_task(self._save_time(), name="clock"),
            ]
            await signals.stop.wait()
            for task in working:
                task.cancel()

    async def drain(self, stop: asyncio.Event) -> None:
        """Takes no more events and finishes those under way; a second signal ends them."""
        stop.clear()
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(self._drain(), name="drain")
            second = group.create_task(stop.wait(), name="second signal")
            await asyncio.wait((drain, second), return_when=asyncio.FIRST_COMPLETED)
            drain.cancel()
            second.cancel()

    def pushed(self, reference: Reference, _digest: Digest) -> None:
        """Somebody pushed to this node: what follows that reference looks at once."""
        for app in self.sync.apps():
            if app.reference == str(reference):
                work = self._look(app.name)
                job = asyncio.get_running_loop().create_task(work, name=f"pushed {app.name}")
                self._jobs.add(job)
                job.add_done_callback(self._jobs.discard)

    async def close(self) -> None:
        for job in self._jobs:
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs)

    async def _look(self, name: str) -> None:
        try:
            await self.sync.sync_now(name)
        except EdgeError as exc:
            _log.warning("application %s: %s", name, exc.message)

    async def _drain(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._parts.services.drain(DRAIN))
            if self._http is not None:
                group.create_task(self._http.drain(DRAIN))
            if self._parts.crew is not None:
                group.create_task(self._parts.crew.drain(DRAIN))

    async def _reload_on(self, event: asyncio.Event, manager: Manager) -> None:
        while True:
            await event.wait()
            event.clear()
            manager.reloading()
            try:
                notes = await self.reload()
            except EdgeError as exc:
                manager.not_reloaded(exc.message, exc.hint)
                continue
            for note in notes:
                _log.warning("note: %s", note)
            manager.reloaded(self.summary())

    async def _save_time(self) -> None:
        """For the next boot, which may have no clock. Written is once an hour, looked oftener: the
        clock may be set after the start, of a board that is not on for long.
        """
        while True:
            try:
                await asyncio.to_thread(self._parts.clock.save)
            except OSError as exc:
                _log.warning("the time is not kept for the next boot: %s", exc.strerror)
            await asyncio.sleep(_TIME_LOOK)

    def _clock_notes(self) -> list[str]:
        if self._parts.clock.is_set:
            return []
        return ["the machine's clock is behind: the date is the last one known"]


@asynccontextmanager
async def open_daemon(
    read: Read,
    settings: config.Daemon,
    notes: Sequence[str],
    manager: Manager,
    recent: Recent,
) -> AsyncIterator[Daemon]:
    """A node that serves what it served before, and that can be asked and told. `read`: for a
    reload. `recent`: what it logs. Raises EdgeError.
    """
    async with AsyncExitStack() as stack:
        parts = await compose(stack, settings)
        daemon = Daemon(read, settings, notes, parts)
        parts.mirror.pushed = daemon.pushed
        stack.push_async_callback(daemon.close)
        await parts.sync.start(settings.applications)
        await stack.enter_async_context(parts.mirror)
        await daemon.listen(stack, manager)
        await stack.enter_async_context(parts.fleet)
        control = Control(daemon)
        routes = (*log_routes(recent), *metrics_routes(daemon.figures))
        readings: dict[str, Reading] = {**parts.fleet.readings, "/v1/metrics": daemon.figures}
        api = Api(
            control,
            settings.node.socket,
            settings.node.group,
            readings=readings,
            operations=parts.fleet.operations,
            routes=routes,
        )
        await stack.enter_async_context(api)
        await stack.enter_async_context(
            home_assistant(settings, parts.sync, parts.applications, parts.guests.meters)
        )
        if settings.page.listen is not None:
            from edge.node.page import page_of

            holds = parts.crew.holds if parts.crew else None
            page = page_of(settings, control, readings, routes, holds)
            daemon.page = await stack.enter_async_context(page)
        stack.callback(recent.end)
        yield daemon


def _restart_note(section: str) -> str:
    return f"[{section}] changed: it takes effect at the next start"
