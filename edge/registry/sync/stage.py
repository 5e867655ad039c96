"""Changes of what is live: the content store's names, the state, the host, in this order.

A crash between any two of them leaves the old or the new version, whole: what the state names, a
name of the content store protects from before the state says it until after.

    application/NAME          its live version, and the one before
    application/NAME/trial    the one that is watched
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edge.errors import EdgeError
from edge.platform.messages import ROLLED_BACK
from edge.registry.store import ContentStore
from edge.registry.sync.record import Record
from edge.registry.sync.shielded import uninterrupted
from edge.registry.sync.state import App, State, Version
from edge.registry.sync.statefile import StateFile
from edge.registry.sync.wanted import Candidate, Host, Wanted

__all__ = ["Stage"]

T = TypeVar("T")

_log = logging.getLogger("edge.sync")


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """One application that goes live; `before`: what the state was."""

    name: str
    wanted: Wanted
    version: Version
    candidate: Candidate
    before: State
    done: asyncio.Future[None]
    deploy: bool
    watched: bool

    def state(self, state: State) -> State:
        """With this version."""
        return _deployed(state.change(self.name, self._app), self.wanted, deploy=self.deploy)

    def _app(self, app: App) -> App:
        app = app.tried(self.version) if self.watched else app.lives(self.version)
        return replace(app, fleet=self.wanted.source == "fleet")


class Stage:
    """`changed` is called after each change that happened by itself; `clock`: trusted time."""

    def __init__(
        self,
        state: StateFile,
        store: ContentStore,
        host: Host,
        *,
        clock: Callable[[], float],
        changed: Callable[[Record], None],
        note: Callable[[str], None],
    ) -> None:
        self._state = state
        self._store = store
        self._host = host
        self._clock = clock
        self._changed = changed
        self._note = note
        self._settling: dict[asyncio.Task[None], Record] = {}
        # Between a name and the state that needs it nothing is tidied.
        self._turn = asyncio.Lock()
        self._waiting: list[_Step] = []
        self._pulling: list[str] = []  # references
        self.garbage = True  # what an earlier run left

    async def close(self) -> None:
        """Waits for what watches have reported."""
        while self._settling:
            await asyncio.wait(self._settling)

    async def recover(self) -> None:
        """Gives the names anew that the state needs, where those of the store were damaged."""
        if said := await asyncio.to_thread(self._recover):
            self._note(said)

    def _recover(self) -> str | None:
        store, apps = self._store, self._state.now.apps.items()
        with store.lease():
            if (said := store.tags.recover()) is None:
                return None
            former = {_live(name): v for name, app in apps for v in app.previous}
            live = {_live(name): app.live for name, app in apps}
            trials = {_trial(name): app.trial for name, app in apps}
            for names in (former, live | trials):  # the newest last
                found = {tag: v.digest for tag, v in names.items() if v}
                store.tags.set_all({t: d for t, d in found.items() if store.size(d) is not None})
        return said

    async def settled(self, record: Record) -> None:
        """Waits until the state knows what a watch has reported."""
        while tasks := [task for task, of in self._settling.items() if of is record]:
            await asyncio.wait(tasks)

    async def go_live(
        self,
        record: Record,
        wanted: Wanted,
        version: Version,
        candidate: Candidate,
        *,
        deploy: bool,
    ) -> None:
        """Puts a version in the place of what serves; with a soak time it is watched. EdgeError,
        and nothing has changed, when the host refuses it. Not to be cancelled.
        """
        if record.follows is not None:
            await record.follows.wait()
        before, serving = self._state.now, record.serving
        live = before.app(record.name).live
        watched = bool(wanted.soak) and serving is not None and _same(serving, live)
        version = replace(version, since=self._clock())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        step = _Step(record.name, wanted, version, candidate, before, done, deploy, watched)
        try:
            await self._go(step, record.passed)
        except BaseException:
            self._host.discard(candidate)
            await self._restore(record.name, before)
            raise
        record.serving, record.soaking, record.since = version, watched, version.since
        self.garbage = True
        if watched and serving is not None:
            self._watch(record, wanted.soak, version, serving)

    async def _go(self, step: _Step, queued: asyncio.Event | None) -> None:
        """Those that come while others are on their way go together: with a thousand names each
        write of them takes as long for one as for a hundred.
        """
        self._waiting.append(step)
        if queued is not None:
            queued.set()
        async with self._turn:
            if not step.done.done():
                waiting, self._waiting = self._waiting, []
                await self._go_together(waiting)
        await step.done

    async def _go_together(self, steps: list[_Step]) -> None:
        try:
            await self._go_all(steps)
        except Exception as error:  # it is the caller's of each step
            if len(steps) == 1:
                steps[0].done.set_exception(error)
                return
            for step in steps:
                await self._restore(step.name, step.before)
            for step in steps:  # which of them is it?
                await self._go_together([step])
        else:
            for step in steps:
                step.done.set_result(None)

    async def _go_all(self, steps: list[_Step]) -> None:
        tags = {_tag(step.name, trial=step.watched): step.version.digest for step in steps}
        await asyncio.to_thread(self._store.tags.set_all, tags)

        def change(state: State) -> State:
            for step in steps:
                state = step.state(state)
            return state

        await self._state.change(change)
        await self._host.swap({step.name: step.candidate for step in steps})

    async def go_back(
        self, record: Record, version: Version, candidate: Candidate, reason: str
    ) -> None:
        """By hand, from the live version to an earlier one. Not to be cancelled."""
        before, now = self._state.now, self._clock()
        version = replace(version, since=now)
        try:
            async with self._turn:
                await self._name(record.name, version, trial=False)
                await self._state.change(
                    lambda state: state.change(
                        record.name, lambda app: app.went_back(version, reason, now)
                    )
                )
                await self._host.swap({record.name: candidate})
        except BaseException:
            self._host.discard(candidate)
            await self._restore(record.name, before)
            raise
        record.serving, record.soaking, record.since = version, False, now
        self.garbage = True

    async def accept(self, record: Record, wanted: Wanted, *, deploy: bool) -> None:
        """What serves is what is wanted: nothing is refused any more. Not to be cancelled."""
        serving = record.serving
        assert serving is not None

        def change(app: App) -> App:
            live = app.live and replace(app.live, entry=wanted.entry)
            known = app.live is not None and serving.identity == app.live.identity
            return replace(
                app,
                live=live if known else app.live,
                refused=(),
                fleet=wanted.source == "fleet",
            )

        record.refused.clear()
        app = self._state.now.apps.get(record.name)
        if deploy or app is None or change(app) != app:
            await self._state.change(
                lambda state: _deployed(state.change(record.name, change), wanted, deploy=deploy)
            )

    async def reinstate(
        self, record: Record, version: Version, candidate: Candidate, reason: str | None
    ) -> None:
        """Ends a watch: what was before serves again. With a reason, what was watched is refused.
        Not to be cancelled.
        """
        trial = record.serving
        await self._host.swap({record.name: candidate})
        record.serving, record.soaking, record.since = version, False, self._clock()
        if trial is not None and reason is not None:
            await self._refuse(record, trial, reason)
        else:
            await self._change_app(record.name, lambda app: replace(app, trial=None))

    async def remove(self, record: Record, change: Callable[[State], State]) -> None:
        """It is not wanted any more. Not to be cancelled."""
        await self._state.change(lambda state: change(state).forget(record.name))
        if record.serving is not None:
            await self._host.swap({record.name: None})
            record.serving, record.soaking = None, False
        await asyncio.to_thread(self._unname, record.name)
        self.garbage = True

    @asynccontextmanager
    async def owning(self, reference: str | None) -> AsyncIterator[None]:
        """While it is pulled its name stays; later `tidy` removes it, unless somebody else had
        brought it here.
        """
        if reference is None:
            yield
            return
        self._pulling.append(reference)
        try:
            async with self._turn:
                await uninterrupted(self._own(reference))
            yield
        finally:
            self._pulling.remove(reference)

    async def _own(self, reference: str) -> None:
        if reference in self._state.now.pulled:
            return
        if await asyncio.to_thread(self._store.tags.get, reference) is None:
            own = frozenset((reference,))
            await self._state.change(lambda state: replace(state, pulled=state.pulled | own))

    async def tidy(self, used: Callable[[], set[str]]) -> None:
        """Takes back the names in the content store that nobody needs. `used`: references."""
        async with self._turn:
            unused = self._state.now.pulled - used() - set(self._pulling)
            await asyncio.to_thread(self._remove_names, unused)
            if unused:
                await self._state.change(lambda state: replace(state, pulled=state.pulled - unused))

    # What a watch finds

    def _watch(self, record: Record, seconds: float, version: Version, before: Version) -> None:
        def failed(reason: str) -> None:
            if record.serving is not version:
                return
            record.serving, record.soaking, record.since = before, False, self._clock()
            record.refused[version.identity] = reason
            old, new = before.digest.hex[:12], version.digest.hex[:12]
            _log.warning(
                "%s: %s is bad: %s; %s serves again", record.name, new, reason, old,
                extra={"MESSAGE_ID": ROLLED_BACK, "EDGE_APP": record.name, "EDGE_DIGEST": new},
            )  # fmt: skip
            self._settle(record, self._refuse(record, version, reason))

        def passed() -> None:
            if record.serving is version:
                self._settle(record, self._keep(record, version))

        self._host.watch(record.name, seconds, failed, passed)

    def _settle(self, record: Record, work: Coroutine[Any, Any, None]) -> None:
        async def run() -> None:
            try:
                await work
            except EdgeError as error:  # a full disk: after a restart it is tried again
                self._note(f"{record.name}: {error.message}")
            self._changed(record)

        task = asyncio.get_running_loop().create_task(run(), name=f"settle {record.name}")
        self._settling[task] = record
        task.add_done_callback(self._settling.pop)

    async def _refuse(self, record: Record, version: Version, reason: str) -> None:
        now = self._clock()
        await self._change_app(record.name, lambda app: app.failed(version, reason, now))
        self.garbage = True
        await asyncio.to_thread(self._store.tags.remove, _trial(record.name))

    async def _keep(self, record: Record, version: Version) -> None:
        def change(app: App) -> App:
            return app.lives(version) if app.trial == version else app

        try:
            async with self._turn:
                await self._name(record.name, version, trial=False)
                await self._change_app(record.name, change)
        finally:
            # Only now: a version that is said to have proved itself outlives a power cut.
            if record.serving is version:
                record.soaking = False
        record.refused.clear()
        self.garbage = True
        await asyncio.to_thread(self._store.tags.remove, _trial(record.name))

    # Names and state

    async def _change_app(self, name: str, change: Callable[[App], App]) -> None:
        """Unless it was removed meanwhile."""
        await self._state.change(
            lambda state: state.change(name, change) if name in state.apps else state
        )

    async def _restore(self, name: str, before: State) -> None:
        """As if it had not been tried."""
        app, entry = before.apps.get(name), before.deployed.get(name)

        def change(state: State) -> State:
            state = state.change(name, lambda _: app) if app else state.forget(name)
            return state.deploy(entry) if entry else state.undeploy(name)

        try:
            await self._state.change(change)
            if app and app.live:
                await self._name(name, app.live, trial=False)
            else:
                await asyncio.to_thread(self._unname, name)
            if app and app.trial is None:
                await asyncio.to_thread(self._store.tags.remove, _trial(name))
        except EdgeError as error:
            self._note(f"{name}: {error.message}")

    async def _name(self, name: str, version: Version, *, trial: bool) -> None:
        tag = _tag(name, trial=trial)
        await asyncio.to_thread(self._store.tags.set, tag, version.digest)

    def _unname(self, name: str) -> None:
        self._store.tags.remove(_live(name))
        self._store.tags.remove(_trial(name))

    def _remove_names(self, unused: frozenset[str]) -> None:
        """Also what a crash left between a name and the state."""
        apps = self._state.now.apps
        known = {_live(name) for name, app in apps.items() if app.live}
        known |= {_trial(name) for name, app in apps.items() if app.trial}
        tags = self._store.tags.all()
        for tag in tags:
            if tag in unused or (tag.startswith(_live("")) and tag not in known):
                self._store.tags.remove(tag)


def _tag(name: str, *, trial: bool) -> str:
    return _trial(name) if trial else _live(name)


def _live(name: str) -> str:
    # No reference of a registry: those begin with a host.
    return f"application/{name}"


def _trial(name: str) -> str:
    return f"application/{name}/trial"


def _same(one: Version, other: Version | None) -> bool:
    return other is not None and one.identity == other.identity


def _deployed(state: State, wanted: Wanted, *, deploy: bool) -> State:
    return state.deploy(wanted.entry) if deploy else state
