"""Keeps a node at what is wanted of it: looks at references, and takes each change all the way.

Knows no Wasm and no HTTP: `worker` takes one application from what is wanted to what serves,
`rounds` says when.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from types import TracebackType

from edge import config
from edge.config import ApplicationEntry
from edge.errors import ConfigError, EdgeError
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import MakeRoom, sweep
from edge.registry.sync.boot import Boot
from edge.registry.sync.delivery import Delivery, Verify
from edge.registry.sync.desired import merged
from edge.registry.sync.missing import not_deployed, unknown
from edge.registry.sync.pace import Pace
from edge.registry.sync.record import Record
from edge.registry.sync.registries import Registries
from edge.registry.sync.rounds import Rounds
from edge.registry.sync.state import State
from edge.registry.sync.statefile import StateFile
from edge.registry.sync.status import AppStatus
from edge.registry.sync.tally import Tally
from edge.registry.sync.wanted import Host, Wanted
from edge.registry.sync.worker import Note, Worker, silent, uninterrupted

__all__ = ["Follow", "Purge", "Sync"]

# Applications that a command looks at, at a time.
_AT_ONCE = 4

# Asks a fleet for what it wants of this node; None: that is not known, or as before.
Follow = Callable[[], Awaitable[Iterable[Wanted] | None]]
# Removes the data of an application.
Purge = Callable[[str], Awaitable[None]]
_log = logging.getLogger("edge.sync")


class Sync:
    """As an async context manager: leaving it ends all work, at the old or the new version.

        async with Sync(…) as sync:
            await sync.start(entries)       # what was live is live again, without a network
            await sync.run()                # until cancelled

    `clock`: trusted Unix time. `follow`: asked for the fleet's entries at each look.
    """

    def __init__(
        self,
        settings: config.Sync,
        state: StateFile,
        store: ContentStore,
        host: Host,
        registries: Registries,
        *,
        clock: Callable[[], float],
        verify: Verify | None = None,
        follow: Follow | None = None,
        purge: Purge | None = None,
        note: Note = _log.info,
        rng: random.Random | None = None,
    ) -> None:
        self._settings, self._state, self._store = settings, state, store
        self._clock, self._follow, self._purge, self._note = clock, follow, purge, note
        self._records: dict[str, Record] = {}
        self._file: tuple[ApplicationEntry, ...] = ()
        self._fleet: tuple[Wanted, ...] | None = None  # None: not known yet
        self._following = asyncio.Lock()
        self._last_look: float | None = None
        self._collected = -math.inf
        pace = Pace(settings, rng or random.Random())  # noqa: S311 - no secret
        delivery = Delivery(
            store,
            registries,
            verify=verify,
            timeout=settings.timeout,
            make_room=MakeRoom(store, self.kept, note),
            note=note,
        )
        self._worker = Worker(
            self._records,
            state,
            store,
            host,
            delivery,
            pace,
            clock=clock,
            wake=lambda: self._rounds.wake(),
            purged=self._purged,
            note=note,
        )
        self._boot = Boot(state, host, delivery, self._worker.prepare_known)
        self._rounds = Rounds(
            self._records, pace,
            look=self._look, work=self._work, rest=self._rest, polls=self._polls,
        )  # fmt: skip

    async def __aenter__(self) -> Sync:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._worker.stage.close()

    async def start(self, entries: Iterable[ApplicationEntry]) -> None:
        """Makes live what was live before, in one swap, and what is on this machine. Uses no
        network. An application that cannot be brought back is reported and does not stop others.

        Raises EdgeError when a newer version wrote the state.
        """
        if said := await asyncio.to_thread(self._state.load):
            self._note(said)
        self._file = tuple(entries)
        self._merge()
        with self._noted():
            await self._worker.stage.recover()
        for name in self._state.now.purging:
            with self._noted():
                await self._purged(name)
        with self._noted():
            await self._state.change(lambda state: state.booted(self._clock()))
        with self._noted():
            await self._boot.run([record for record in self._records.values() if record.wanted])
        await self._worker.bring([r for r in self._records.values() if r.brings_itself])

    @contextmanager
    def _noted(self) -> Iterator[None]:
        """A disk that is full is no reason not to boot."""
        try:
            yield
        except (EdgeError, OSError) as error:
            self._note(f"{error}")

    async def run(self) -> None:
        """Follows every tag, until cancelled."""
        await self._rounds.run()

    # What is wanted

    def set_file_entries(self, entries: Iterable[ApplicationEntry]) -> None:
        """edge.toml was read again: works on the difference from now on, and looks at the files
        that it names; see `wait_idle`.
        """
        self._file = tuple(entries)
        self._merge()
        for record in self._records.values():
            if record.wanted and record.wanted.entry.path is not None:
                record.due = 0.0
        self._rounds.wake()

    def set_fleet(self, wanted: Iterable[Wanted]) -> None:
        """What the fleet wants of this node from now on. Before `start`: what it wanted last."""
        self._fleet = tuple(wanted)
        self._merge()

    def hinted(self, reference: Reference, *, of_fleet: bool = False) -> None:
        """A neighbour saw a tag move, perhaps that of the fleet's document: it is looked at now."""
        self._rounds.hinted(reference)
        if of_fleet and self._follow is not None:
            self._rounds.look()

    async def deploy(self, entry: ApplicationEntry, progress: Note = silent) -> None:
        """Returns when it is live; a refused one raises EdgeError and leaves nothing."""
        if any(entry.name == other.name for other in self._file):
            raise ConfigError(
                f'edge.toml has an application "{entry.name}", which wins over a deployed one',
                hint="change it there, or deploy with another --name",
            )
        wanted = Wanted(entry, "deploy", self._settings.soak)
        try:
            async with self._claimed(entry.name) as record:
                error = record.error, record.failures, record.failed
                try:
                    await self._worker.update(
                        record, wanted, retry=True, by_hand=True, deploy=True, progress=progress
                    )
                except EdgeError:
                    record.error, record.failures, record.failed = error
                    raise
                record.wanted = wanted
        finally:
            self._worker.stage.garbage = True
            self._merge()

    async def undeploy(self, name: str, *, purge: bool = False) -> None:
        """Removes what `deploy` added; its data stays, unless it is to be purged. ConfigError when
        it was not deployed.
        """
        if purge and name in self._state.now.purging:  # it failed before
            async with self._claimed(name):
                await uninterrupted(self._purged(name))
            return
        if name not in self._state.now.deployed:
            raise not_deployed(name, self._records)
        async with self._claimed(name) as record:
            await uninterrupted(self._undeploy(record, purge=purge))
        self._merge()

    async def rollback(self, name: str) -> None:
        """Back to the version before, until the reference moves. EdgeError if there is none."""
        self._known(name)
        async with self._claimed(name) as record:
            await self._worker.go_back(record)

    async def sync_now(self, name: str | None = None, *, retry: bool = False) -> None:
        """Looks at one reference, or all, and returns when what they stand for is live or failed.
        Of a single one the failure is raised. `retry`: also what was refused before.
        """
        if name is not None:
            self._known(name)
            async with self._claimed(name) as record:
                await self._worker.attempt(record, retry=retry, by_hand=True)
                if record.error is not None:
                    raise record.error
            return
        await self._look()
        left = iter(list(self._records))
        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(self._sync_each(left, retry=retry), name=f"sync now {number}")

    async def _sync_each(self, left: Iterator[str], *, retry: bool) -> None:
        for name in left:
            async with self._claimed(name) as record:
                await self._worker.attempt(record, retry=retry, by_hand=True)

    def apps(self) -> list[AppStatus]:
        """By name."""
        now, state = self._clock(), self._state.now
        known = (r for r in self._records.values() if r.wanted or r.serving)
        return [r.status(state.app(r.name), now) for r in sorted(known, key=lambda r: r.name)]

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever what `apps` says may have changed."""
        self._rounds.changed = changed

    def deployed(self, name: str) -> ApplicationEntry | None:
        """As it was deployed; None when it was not."""
        return self._state.now.deployed.get(name)

    def kept(self) -> frozenset[Digest]:
        """What must stay in the content store however little room there is: what serves, and what
        a boot or the end of a watch returns to.
        """
        apps = self._state.now.apps.values()
        versions = (version for app in apps for version in (app.live, app.trial))
        serving = [record.serving for record in list(self._records.values())]  # also in threads
        return frozenset(v.digest for v in (*versions, *serving) if v is not None)

    @property
    def last_look(self) -> float | None:
        """When all references were last asked for, in trusted Unix time."""
        return self._last_look

    @property
    def tally(self) -> Tally:
        return self._worker.tally

    async def wait_idle(self) -> None:
        """Until nothing is being pulled, prepared or swapped. What soaks is idle."""
        await self._rounds.wait_idle()

    # Of all of them

    def _merge(self) -> None:
        """What is wanted may have changed: what differs is due."""
        fleet = self._kept_fleet() if self._fleet is None else self._fleet
        deployed = self._state.now.deployed.values()
        wanted = merged(self._file, deployed, fleet, soak=self._settings.soak)
        for name in {**self._records, **wanted, **self._state.now.apps}:
            record = self._records.setdefault(name, Record(name))
            if record.wanted != wanted.get(name) or record.wanted is None:
                record.wanted = wanted.get(name)
                record.forget_failures()
                record.due = 0.0
        self._rounds.wake()

    def _kept_fleet(self) -> Iterable[Wanted]:
        """A node that has lost its fleet's document goes on with what that wanted last."""
        if self._follow is None:
            return
        for app in self._state.now.apps.values():
            if app.fleet and app.live:
                yield Wanted(app.live.entry, "fleet", self._settings.soak)

    async def _look(self) -> None:
        self._last_look = self._clock()
        if self._follow is None:
            return
        try:
            async with self._following:
                wanted = await self._follow()
        except EdgeError as error:
            self._note(f"fleet: {error.message}")
        else:
            if wanted is not None:
                self.set_fleet(wanted)

    def _polls(self) -> bool:
        return self._follow is not None or any(r.needs_look for r in self._records.values())

    async def _work(self, record: Record) -> None:
        async with record.lock:
            await self._worker.attempt(record)
            self._drop(record)

    async def _rest(self) -> float:
        """Removes what is not needed any more; returns when that may be done again."""
        now = asyncio.get_running_loop().time()
        again = self._collected + self._settings.interval
        if not self._worker.stage.garbage:
            return math.inf
        if now < again:
            return again
        self._collected, self._worker.stage.garbage = now, False
        try:
            await self._worker.tidy()
            done = await asyncio.to_thread(sweep, self._store, self.kept() | self._state.now.former)
        except (EdgeError, OSError) as error:
            self._note(f"garbage collection: {error}")
            return math.inf
        if done is None:  # somebody is writing
            self._worker.stage.garbage = True
        return now + self._settings.interval

    # For commands

    @asynccontextmanager
    async def _claimed(self, name: str) -> AsyncIterator[Record]:
        """An application, for one command: what was under way by itself is stopped."""
        record = self._records.setdefault(name, Record(name))
        record.claims += 1
        try:
            if record.work is not None:
                record.work.cancel()
            async with record.lock:
                record.due = math.inf
                yield record
        except OSError as error:
            told = error.strerror or str(error)
            raise EdgeError(f"{error.filename or name}: {told}") from error
        finally:
            record.claims -= 1
            self._drop(record)
            self._rounds.wake()

    def _drop(self, record: Record) -> None:
        """Nothing is left of it."""
        gone = record.wanted is None and record.serving is None and not record.claims
        if gone and record.name not in self._state.now.apps:
            self._records.pop(record.name, None)

    async def _undeploy(self, record: Record, *, purge: bool) -> None:
        name = record.name

        def change(state: State) -> State:
            state = state.undeploy(name)
            return replace(state, purging=state.purging | {name}) if purge else state

        others = (*self._file, *(wanted.entry for wanted in self._fleet or ()))
        if any(name == entry.name for entry in others):
            await self._state.change(lambda state: state.undeploy(name))
            self._note(f"{name}: edge.toml or the fleet wants it, too: it stays, with its data")
            return
        await self._worker.remove(record, change)
        await self._purged(name)

    async def _purged(self, name: str) -> None:
        """Removes the data of what is gone, if that was asked for."""
        if name not in self._state.now.purging:
            return
        if self._purge is not None:
            await self._purge(name)
        await self._state.change(lambda state: replace(state, purging=state.purging - {name}))

    def _known(self, name: str) -> Record:
        record = self._records.get(name)
        if record is None or not (record.wanted or record.serving):
            raise unknown(name, self._records)
        return record
