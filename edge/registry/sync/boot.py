"""What a node does with its applications before it has a network: what was live is live again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

from edge.config import ApplicationEntry
from edge.errors import EdgeError
from edge.platform.messages import FAILED
from edge.registry.digest import Digest
from edge.registry.local import LocalApplication
from edge.registry.sync.delivery import Delivery
from edge.registry.sync.entries import fingerprint
from edge.registry.sync.record import Record
from edge.registry.sync.state import App, State, Version
from edge.registry.sync.statefile import StateFile
from edge.registry.sync.wanted import Candidate, Host, Wanted

__all__ = ["Boot"]

# At a time, of thousands.
_WORKERS = 2

Prepare = Callable[[Wanted, LocalApplication, Digest], Awaitable[Candidate]]

_log = logging.getLogger("edge.sync")


class _Ready(NamedTuple):
    record: Record
    version: Version
    candidate: Candidate


class Boot:
    """Every application by its own: one that is broken does not stop the others."""

    def __init__(
        self,
        state: StateFile,
        host: Host,
        delivery: Delivery,
        prepare: Prepare,
    ) -> None:
        self._state = state
        self._host = host
        self._delivery = delivery
        self._prepare = prepare

    async def run(self, records: list[Record]) -> None:
        """Makes them live in one swap, without a network. Those that fail know why."""
        left = iter(records)
        found: list[_Ready] = []
        async with asyncio.TaskGroup() as group:
            for number in range(_WORKERS):
                group.create_task(self._work(left, found), name=f"boot {number}")
        await self._swap(found)
        await self._state.change(lambda state: _configured(state, found))

    async def _work(self, left: Iterator[Record], found: list[_Ready]) -> None:
        for record in left:
            ready = await self._one(record)
            if ready is not None:
                found.append(ready)

    async def _one(self, record: Record) -> _Ready | None:
        app = self._state.now.app(record.name)
        for version in _choices(record, app):
            try:
                candidate = await self._load(record, version)
            except Exception as error:  # of one application: the others are to serve
                self._failed(record, error)
            else:
                return _Ready(record, version, candidate)
        return None

    async def _load(self, record: Record, version: Version) -> Candidate:
        assert record.wanted is not None
        local = await self._delivery.read(version.entry, version.digest, verify=False)
        wanted = replace(record.wanted, entry=version.entry)
        return await self._prepare(wanted, local, version.digest)

    async def _swap(self, found: list[_Ready]) -> None:
        if not found:
            return
        try:
            await self._host.swap({ready.record.name: ready.candidate for ready in found})
        except Exception:
            for ready in list(found):  # which of them is it?
                try:
                    await self._host.swap({ready.record.name: ready.candidate})
                except Exception as error:
                    self._host.discard(ready.candidate)
                    self._failed(ready.record, error)
                    found.remove(ready)
        for record, version, _ in found:
            record.serving, record.since = version, version.since

    def _failed(self, record: Record, error: Exception) -> None:
        known = error
        if not isinstance(known, EdgeError):
            if not isinstance(error, OSError):
                _log.error("%s: an error of edge itself", record.name, exc_info=error)
            known = EdgeError(f"{record.name}: {str(error) or type(error).__name__}")
        if record.error is None:
            record.error = known
            _log.warning(
                "%s: %s", record.name, known.message,
                extra={"MESSAGE_ID": FAILED, "EDGE_APP": record.name},
            )  # fmt: skip


def _choices(record: Record, app: App) -> Iterator[Version]:
    """What was live as it is configured now, and as it was; then what was before it."""
    live = app.live
    if live is None or record.wanted is None:
        return
    if app.trial is None and _only_configured(record.wanted.entry, app, live):
        yield replace(live, entry=record.wanted.entry)
    yield live
    yield from app.previous


def _only_configured(entry: ApplicationEntry, app: App, live: Version) -> bool:
    """Whether it is the same application with another configuration, which has not failed yet."""
    same = (entry.reference, entry.path) == (live.entry.reference, live.entry.path)
    configuration = fingerprint(entry)
    failed = any(refusal.identity.configuration == configuration for refusal in app.refused)
    return same and not failed and configuration != live.identity.configuration


def _configured(state: State, found: list[_Ready]) -> State:
    """What serves with another configuration than before is what a boot returns to."""
    apps = dict(state.apps)
    for record, version, _ in found:
        app = apps[record.name]
        if app.live and app.live.digest == version.digest and app.live != version:
            apps[record.name] = replace(app, live=version)
    return replace(state, apps=apps)
