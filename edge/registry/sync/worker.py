"""Takes one application from what is wanted to what serves.

Whatever stands in the way leaves what serves as it is, and is the record's error.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from edge.config import ApplicationEntry
from edge.errors import EdgeError, PullError
from edge.platform.messages import FAILED
from edge.registry.blobs import in_thread
from edge.registry.digest import Digest
from edge.registry.disk import NoRoom
from edge.registry.local import LocalApplication
from edge.registry.store import ContentStore
from edge.registry.sync.delivery import Delivery, Found, registry_of
from edge.registry.sync.entries import identity
from edge.registry.sync.pace import Pace, Pause
from edge.registry.sync.record import Record, is_transient
from edge.registry.sync.shielded import uninterrupted
from edge.registry.sync.stage import Stage
from edge.registry.sync.state import State, Version
from edge.registry.sync.statefile import StateFile
from edge.registry.sync.tally import Tally
from edge.registry.sync.wanted import Candidate, Host, Wanted

__all__ = ["Note", "Worker", "silent", "uninterrupted"]

# A compilation takes a board's core; more at once take its memory.
_PREPARES = 2
# Of those that need no registry at the first start of a node: each waits for the disk, together.
_BROUGHT = 32
BY_HAND = "rolled back by hand"

Note = Callable[[str], None]

_log = logging.getLogger("edge.sync")


def silent(_: str) -> None:
    """For who wants no progress."""


class Worker:
    """Knows every record; works on one whose lock its caller holds. `clock`: trusted time;
    `purged`: ends a purge that has not come to its end.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        state: StateFile,
        store: ContentStore,
        host: Host,
        delivery: Delivery,
        pace: Pace,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        purged: Callable[[str], Coroutine[Any, Any, None]],
        note: Note,
    ) -> None:
        self._records = records
        self._state, self._store, self._host = state, store, host
        self._delivery, self._pace = delivery, pace
        self._clock, self._wake = clock, wake
        self._purged = purged
        self._paused: dict[str, Pause] = {}
        self._prepares = asyncio.Semaphore(_PREPARES)
        self.tally = Tally()
        self.stage = Stage(state, store, host, clock=clock, changed=self._again, note=note)

    async def attempt(
        self, record: Record, *, retry: bool = False, by_hand: bool = False, network: bool = True
    ) -> None:
        """As far as it gets. `by_hand`: neither what is watched, nor a registry that does not
        answer, nor what could not be made live before holds it up. `retry`: nor what went back.
        """
        began = time.monotonic()
        try:
            if record.wanted is None:
                await uninterrupted(self.remove(record, lambda state: state))
            elif by_hand or not self._is_paused(record, record.wanted):
                if by_hand:
                    record.failed = None
                await self.update(
                    record, record.wanted, retry=retry, by_hand=by_hand, network=network
                )
                self.tally.succeeded += 1
                if record.error is None:
                    record.told = ""
        except EdgeError as error:
            self._failed(record, error)
        except OSError as error:
            subject = error.filename or record.name
            self._failed(record, EdgeError(f"{subject}: {error.strerror or error}"))
        except Exception as error:  # the border of one retry loop
            _log.exception("%s: an error of edge itself", record.name)
            self._failed(record, EdgeError(f"{record.name}: an error of edge itself: {error!r}"))
        self.tally.seconds += time.monotonic() - began

    async def bring(self, records: Iterable[Record]) -> None:
        """Attempts each, many at a time, without a network; they go live in their order."""
        left = iter(_in_order(records))

        async def work() -> None:
            for record in left:
                record.due = math.inf
                try:
                    async with record.lock:
                        await self.attempt(record, network=False)
                finally:  # also when the node is stopped: nobody waits for it then
                    if record.passed is not None:
                        record.passed.set()
                    record.follows = record.passed = None

        async with asyncio.TaskGroup() as group:
            for number in range(_BROUGHT):
                group.create_task(work(), name=f"start {number}")

    async def update(
        self,
        record: Record,
        wanted: Wanted,
        *,
        retry: bool = False,
        by_hand: bool = False,
        deploy: bool = False,
        network: bool = True,
        progress: Note = silent,
    ) -> None:
        """All the way. Raises EdgeError; then nothing has changed."""
        await self.stage.settled(record)
        if record.serving is None:  # the data of one that had its name is not to be found again
            await uninterrupted(self._purged(record.name))
        if record.soaking and not by_hand:
            return
        if wanted.not_before is not None and self._clock() < wanted.not_before:
            record.succeeded()
            return
        with ExitStack() as lease:
            if wanted.entry.path is not None:  # its bundle has no name before it is live
                await in_thread(lease.enter_context, self._store.lease())
            progress("asking the registry" if wanted.entry.reference else "reading")
            found = await self._find(record, wanted, network=network)
            done = await self._is_done(record, wanted, found.digest, retry=retry, deploy=deploy)
            if not done:
                await self._delivery.trust(wanted.entry, found)
                try:
                    async with self.stage.owning(
                        wanted.entry.reference if found.resolved else None
                    ):
                        await self._go(
                            record, wanted, found, retry=retry, deploy=deploy, tell=progress
                        )
                except EdgeError as error:
                    if not is_transient(error):
                        record.failed = identity(found.digest, wanted.entry)
                    raise
        if found.instead_of is not None and record.error is None:
            self._tell(record, found.instead_of)
            record.error = found.instead_of
            record.due = min(record.due, self._paused_until(wanted.entry))

    async def _go(
        self, record: Record, wanted: Wanted, found: Found, *, retry: bool, deploy: bool, tell: Note
    ) -> None:
        tell("pulling")
        digest, local = await self._bring(wanted.entry, found)
        # An index is known by what it chooses only now.
        if digest != found.digest and await self._is_done(
            record, wanted, digest, retry=retry, deploy=deploy
        ):
            return
        tell("preparing")
        candidate = await self._prepare(wanted, local, digest, check=True)
        version = Version(digest, wanted.entry, 0)
        tell("going live")
        await self._replace(record, wanted, version, candidate, deploy=deploy)
        record.succeeded()
        record.forget_failures()

    async def _replace(
        self,
        record: Record,
        wanted: Wanted,
        version: Version,
        candidate: Candidate,
        *,
        deploy: bool,
    ) -> None:
        """What is watched has not proved itself: what was before it is what to return to."""
        try:
            known = await self._before_soak(record)
        except BaseException:
            self._host.discard(candidate)
            raise

        async def replace_it() -> None:
            if known is not None and record.soaking:
                await self.stage.reinstate(record, *known, None)
            elif known is not None:
                self._host.discard(known[1])
            await self.stage.go_live(record, wanted, version, candidate, deploy=deploy)

        await uninterrupted(replace_it())

    async def _before_soak(self, record: Record) -> tuple[Version, Candidate] | None:
        live = self._state.now.app(record.name).live
        if not record.soaking or live is None:
            return None
        return live, await self._load(record, live)

    async def go_back(self, record: Record) -> None:
        """To the version before, by hand. Raises EdgeError."""
        await self.stage.settled(record)
        app = self._state.now.app(record.name)
        if record.soaking and (known := await self._before_soak(record)):
            await uninterrupted(self.stage.reinstate(record, *known, BY_HAND))
        elif app.live is not None and app.previous:
            entry = record.wanted.entry if record.wanted else app.live.entry
            version = replace(app.previous[0], entry=entry)
            candidate = await self._load(record, version)
            await uninterrupted(self.stage.go_back(record, version, candidate, BY_HAND))
        else:
            raise EdgeError(
                f"{record.name}: no version before this one is kept",
                hint=f"`edge sync {record.name} --retry` tries again what its reference stands for;"
                " `edge deploy` with a digest brings any version",
            )
        record.succeeded()

    async def remove(self, record: Record, change: Callable[[State], State]) -> None:
        """It is not wanted any more. Not to be cancelled."""
        await self.stage.remove(record, change)
        record.wanted = None
        record.succeeded()
        for other in self._records.values():  # their routes may be free now
            if other.error is not None and not is_transient(other.error):
                self._again(other)

    async def tidy(self) -> None:
        """Takes back what was kept for what is not wanted any more."""
        await self.stage.tidy(self._references)

    def _references(self) -> set[str]:
        entries = (r.wanted.entry for r in self._records.values() if r.wanted)
        return {entry.reference for entry in entries if entry.reference}

    # Parts

    async def prepare_known(
        self, wanted: Wanted, local: LocalApplication, digest: Digest
    ) -> Candidate:
        """What was good before is not asked whether it is."""
        return await self._prepare(wanted, local, digest, check=False)

    async def _bring(
        self, entry: ApplicationEntry, found: Found
    ) -> tuple[Digest, LocalApplication]:
        try:
            return await self._delivery.bring(entry, found)
        except NoRoom:  # what is not wanted any more may have kept its names until now
            await self.tidy()
            return await self._delivery.bring(entry, found)

    async def _prepare(
        self, wanted: Wanted, local: LocalApplication, digest: Digest, *, check: bool
    ) -> Candidate:
        async with self._prepares:
            return await self._host.prepare(wanted, local, digest, check=check)

    async def _load(self, record: Record, version: Version) -> Candidate:
        local = await self._delivery.read(version.entry, version.digest, verify=True)
        source = record.wanted.source if record.wanted else "deploy"
        return await self.prepare_known(Wanted(version.entry, source, 0), local, version.digest)

    async def _find(self, record: Record, wanted: Wanted, *, network: bool) -> Found:
        registry = registry_of(wanted.entry)
        try:
            found = await self._delivery.find(wanted.entry, network=network)
        except PullError as error:
            if network and is_transient(error):
                self._pause(wanted.entry, error)
            raise
        if found.instead_of is not None and network:
            self._pause(wanted.entry, found.instead_of)
        elif self._paused.pop(registry, None):
            for other in self._records.values():
                if other.error and other.wanted and registry_of(other.wanted.entry) == registry:
                    self._again(other)
        return found

    async def _is_done(
        self, record: Record, wanted: Wanted, digest: Digest, *, retry: bool, deploy: bool
    ) -> bool:
        """Whether nothing is to be done for what was found: it serves, or is known as bad."""
        target = identity(digest, wanted.entry)
        if record.serving is not None and record.serving.identity == target:
            await uninterrupted(self.stage.accept(record, wanted, deploy=deploy))
            record.succeeded()
            return True
        if retry:
            return False
        if record.refusal(self._state.now.app(record.name), target) is not None:
            record.succeeded()
            return True
        now = asyncio.get_running_loop().time()
        return record.failed == target and now < record.retry

    # Failures

    def _tell(self, record: Record, error: EdgeError) -> None:
        """Once, until something else is wrong or nothing is: a network may be gone for a week."""
        if record.told == error.message:
            return
        record.told = error.message
        hint = f" ({error.hint})" if error.hint else ""
        _log.warning(
            "%s: %s%s", record.name, error.message, hint,
            extra={"MESSAGE_ID": FAILED, "EDGE_APP": record.name},
        )  # fmt: skip

    def _failed(self, record: Record, error: EdgeError) -> None:
        self._tell(record, error)
        record.error, record.failures = error, record.failures + 1
        self.tally.undelivered += is_transient(error)
        self.tally.failed += not is_transient(error)
        now = asyncio.get_running_loop().time()
        if is_transient(error) and record.wanted is not None:
            until = self._paused_until(record.wanted.entry)
            if until <= now:
                until = now + self._pace.undelivered(record.failures)
            record.due = min(record.due, until)
        else:  # at the next look, unless that finds the same
            record.retry = now + self._pace.bad(record.failures)

    def _pause(self, entry: ApplicationEntry, error: PullError) -> None:
        now, registry = asyncio.get_running_loop().time(), registry_of(entry)
        before = self._paused.get(registry)
        if before is None or before.until <= now:
            failures = before.failures + 1 if before else 1
            until = now + self._pace.undelivered(failures)
            self._paused[registry] = Pause(error, entry.reference or "", failures, until)

    def _is_paused(self, record: Record, wanted: Wanted) -> bool:
        pause = self._paused.get(registry_of(wanted.entry))
        if pause is None or pause.until <= asyncio.get_running_loop().time():
            return False
        if self._delivery.may_do_without(wanted.entry):
            return False
        self._failed(record, pause.told(wanted.entry.reference or ""))
        return True

    def _paused_until(self, entry: ApplicationEntry) -> float:
        pause = self._paused.get(registry_of(entry))
        return pause.until if pause else 0.0

    def _again(self, record: Record) -> None:
        record.due, record.retry = 0.0, 0.0
        self._wake()


def _in_order(records: Iterable[Record]) -> list[Record]:
    found, before = list(records), None
    for record in found:
        record.follows, before = before, asyncio.Event()
        record.passed = before
    return found
