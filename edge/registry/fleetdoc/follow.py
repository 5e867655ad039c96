"""Follows a fleet's document: looks at its tag, and takes up what is signed, newer and not expired.

What was taken up last is kept in the state directory; without a registry the node goes on with it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from edge.config import Node
from edge.errors import BundleError, EdgeError
from edge.registry.digest import Digest
from edge.registry.fleetdoc import artifact, progress
from edge.registry.fleetdoc import state as states
from edge.registry.fleetdoc.document import Document, show_time
from edge.registry.fleetdoc.progress import Now
from edge.registry.fleetdoc.state import State
from edge.registry.reference import Reference
from edge.registry.source import Source, soon_or
from edge.registry.store import ContentStore
from edge.registry.sync.wanted import Wanted

__all__ = ["Follower", "FollowerStatus", "Verify"]

# Raises BundleError unless that content of that repository is signed as it must be; may return a
# line to say.
Verify = Callable[[Reference, Digest], Awaitable[str | None]]

# A trusted clock that moves by so much more than the machine did was set: nobody waited so long.
_JUMP = 60.0
# Of a thousand applications that wait, these are enough to see what goes on.
_MOST_NOTES = 10

_log = logging.getLogger("edge.fleet")


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """For people. Times are trusted ones, in seconds."""

    reference: str
    fleet: str | None = None  # these are None before the first document
    generation: int | None = None
    digest: Digest | None = None
    since: float | None = None
    expires: datetime | None = None
    expired: bool = False
    waiting: dict[str, float] = field(default_factory=dict)  # application -> until when
    reason: str | None = None  # why what the registry has now was not taken up


class Follower:
    """One document for one node. `now`: trusted time; `soak`: how long new versions are watched.
    `signed`: `verify` lets nothing pass that is not.

    All of it on the event loop.
    """

    def __init__(
        self,
        reference: Reference,
        node: Node,
        store: ContentStore,
        *,
        client: Callable[[Reference], Awaitable[Source]],
        verify: Verify | None,
        now: Callable[[], float],
        soak: float,
        signed: bool = False,
    ) -> None:
        self.reference = reference
        self._node = node
        self._store = store
        self._client = client
        self._verify = verify
        self._now = now
        self._soak = soak
        self._signed = signed and verify is not None
        self._path = node.state_dir / "fleet.json"
        self._state: State | None = None
        self._reason: str | None = None
        self._looking = asyncio.Lock()
        self._verified = False  # by the keys of this run
        self._unsaved = False
        self._cached: Now | None = None  # until its next change
        self._looked = (0.0, 0.0)  # trusted time and the machine's, when both were last compared

    async def load(self) -> None:
        """Takes up what an earlier run kept. A damaged file is kept aside, and said so."""
        self._looked = (self._now(), _awake())
        try:
            state = await asyncio.to_thread(states.load, self._path)
        except BundleError as error:
            aside = await asyncio.to_thread(_set_aside, self._path)
            _log.warning("%s; kept as %s, the fleet's document is read anew", error.message, aside)
            return
        if state and state.reference == str(self.reference):
            self._state, self._cached = state, None

    async def follow(self) -> tuple[Wanted, ...]:
        """As `poll`, for who asks at intervals: what is wanted now, whatever came of the look. What
        stands in its way is logged once.
        """
        before = self._reason
        try:
            await self.poll()
        except EdgeError as error:
            if error.message != before:
                _log.warning("fleet: %s; going on with what is here", error.message)
        return self.wanted

    async def poll(self) -> bool:
        """Looks at the document's tag; True if another one was taken up.

        Raises PullError when the registry does not deliver, BundleError when what it has must not
        be taken up. In both cases what the node has stays.
        """
        async with self._looking:
            try:
                found = await self._fetch()
                changed = found is not None and await self._take(found)
                if self._unsaved and self._state:
                    await self._save(self._state)
            except EdgeError as error:
                self._reason = error.message
                raise
            self._verified, self._reason = True, None
            return changed

    @property
    def wanted(self) -> tuple[Wanted, ...]:
        """What the fleet wants of this node now; nothing before the first document."""
        return self._current().wanted

    @property
    def next_change(self) -> float | None:
        """The trusted time from which on `wanted` is another without a new document."""
        return self._current().next_change

    def status(self) -> FollowerStatus:
        state = self._state
        if state is None:
            return FollowerStatus(str(self.reference), reason=self._reason)
        document = state.document
        return FollowerStatus(
            reference=state.reference,
            fleet=document.fleet,
            generation=document.generation,
            digest=state.manifest,
            since=state.since,
            expires=document.expires,
            expired=self._expired(document),
            waiting=dict(self._current().waiting),
            reason=self._reason,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of it, one line each."""
        found = self.status()
        lines = [f"fleet: {found.reason}; going on with what is here"] if found.reason else []
        if found.expired and found.expires:
            lines.append(
                f"fleet: generation {found.generation} expired at {show_time(found.expires)}"
            )
        for name, until in sorted(found.waiting.items())[:_MOST_NOTES]:
            when = show_time(datetime.fromtimestamp(until, UTC))
            lines.append(f"fleet: {name} gets what canaries try at {when}")
        return tuple(lines)

    def _current(self) -> Now:
        if self._state is None:
            return Now((), {})
        self._notice_a_set_clock()
        now = self._now()
        if self._cached is None or (self._cached.next_change or math.inf) <= now:
            self._cached = progress.now_wanted(self._state, self._node, now, self._soak)
        return self._cached

    async def _fetch(self) -> artifact.Found | None:
        """What the tag stands for, if it is another document than the one that is kept."""
        client = await self._client(self.reference)
        # Once in each run all of it is looked at: keys may have changed, or what peers are given.
        known = self._state.manifest if self._state and self._verified else None
        if client.is_silent(self.reference) and (found := await self._of_neighbours(client)):
            return found
        return await soon_or(self._of_registry(client, known), partial(self._of_neighbours, client))

    async def _of_registry(self, client: Source, known: Digest | None) -> artifact.Found | None:
        resolved = await artifact.resolve(client, self.reference, known)
        return None if resolved is None else await self._fetched(client, resolved)

    async def _fetched(self, client: Source, named: artifact.Named) -> artifact.Found:
        # Before anything that it names is fetched: a stranger's document costs one manifest.
        if self._verify and (said := await self._verify(self.reference, named.digest)):
            _log.warning("%s", said)
        found = await artifact.fetch(client, self.reference, named)
        await asyncio.to_thread(self._check, found.document)
        return found

    async def _of_neighbours(self, client: Source) -> artifact.Found | None:
        """A newer document than the one that is kept. Their word for what the tag stands for counts
        because a document proves itself: by its signature, and by its generation.
        """
        newest: artifact.Found | None = None
        kept = self._state.document.generation if self._state else 0
        for resolved in await client.hearsay(self.reference) if self._signed else ():
            try:
                found = await self._fetched(client, artifact.named(self.reference, resolved))
            except EdgeError as error:
                _log.debug("fleet: of a neighbour: %s", error.message)
                continue
            if found.document.generation > max(kept, newest.document.generation if newest else 0):
                newest = found
        return newest

    def _check(self, document: Document) -> None:
        if self._state is not None:
            try:
                progress.check_newer(self._state, document)
            except BundleError as error:
                message = f"{self.reference}: {error.message}"
                raise BundleError(message, hint=error.hint) from None
        if document.expires and self._expired(document):
            raise BundleError(
                f"{self.reference}: its generation {document.generation} expired at"
                f" {show_time(document.expires)}",
                hint="push it again: edge fleet push",
            )

    async def _take(self, found: artifact.Found) -> bool:
        self._notice_a_set_clock()
        state = progress.advance(
            self._state,
            found.document,
            reference=str(self.reference),
            manifest=found.digest,
            node=self._node,
            now=self._now(),
        )
        before, document = self._state, found.document
        if state != before:
            await self._save(state)
        if changed := before is None or before.document.digest != document.digest:
            _log.info('fleet "%s": generation %d', document.fleet, document.generation)
        try:  # for peers; the node itself has what it needs
            await asyncio.to_thread(artifact.keep, self._store, self.reference, found)
        except (EdgeError, OSError) as error:
            _log.warning("fleet: peers do not get the document from here: %s", error)
        return changed

    async def _save(self, state: State) -> None:
        await asyncio.to_thread(states.save, self._path, state)
        self._state, self._unsaved, self._cached = state, False, None

    def _expired(self, document: Document) -> bool:
        return document.expires is not None and document.expires.timestamp() <= self._now()

    def _notice_a_set_clock(self) -> None:
        """A board that boots in 1970 has not waited for fifty years when its clock is set."""
        before, awake_before = self._looked
        now, awake = self._looked = (self._now(), _awake())
        jump = (now - before) - (awake - awake_before)
        if self._state is not None and jump > _JUMP:
            self._state = progress.shifted(self._state, jump)
            self._unsaved, self._cached = True, None


def _awake() -> float:
    """Seconds that count while the machine sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _set_aside(path: Path) -> Path:
    for number in range(1, 10):
        aside = path.with_name(f"{path.name}.damaged-{number}")
        if not aside.exists():
            break
    with suppress(FileNotFoundError):
        path.replace(aside)
    return aside
