"""What a node knows of who has a blob, and of who fetches it for all. On the event loop.

Each blob has a home among the nodes, by rendezvous hash. The home keeps who was the first to ask
for it: that one uses the uplink, the others wait for it. Nobody fetches for another: who is told to
fetch had asked, because it needs the blob itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from edge.registry.digest import Digest
from edge.registry.manifest import Descriptor

__all__ = ["Board", "Fetch"]

T = TypeVar("T")

# Blobs that are kept in mind, some hundred bytes each; the oldest are forgotten first.
MOST_BLOBS = 1024
# Nodes that are named for one blob: enough to choose from.
MOST_HOLDERS = 16
# Seconds after which somebody else is told to fetch what was never said to have come.
_APPOINTED = 900.0
# Seconds in which who has just asked lives, known or not.
_FRESH = 10.0


@dataclass(slots=True, eq=False)
class Fetch:
    """A blob that this node gets over the uplink."""

    descriptor: Descriptor
    received: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self, size: int) -> None:
        self.received += size


@dataclass(slots=True)
class _Place:
    """One blob, at its home."""

    holders: dict[str, None] = field(default_factory=dict)  # the latest last
    fetcher: str | None = None
    since: float = 0.0


class Board:
    """Of one node. `is_alive`: whether another one is thought to live."""

    def __init__(self, me: str, is_alive: Callable[[str], bool]) -> None:
        self._me, self._is_alive = me, is_alive
        self._fetches: dict[Digest, Fetch] = {}
        self._places: OrderedDict[Digest, _Place] = OrderedDict()
        self._recent: OrderedDict[Digest, None] = OrderedDict()
        self._begun = asyncio.Event()

    # What this node does

    @contextmanager
    def fetching(self, descriptor: Descriptor) -> Iterator[Fetch]:
        """While the blob comes over the uplink; who waits for it is told how it goes."""
        fetch = self._fetches[descriptor.digest] = Fetch(descriptor)
        begun, self._begun = self._begun, asyncio.Event()
        begun.set()
        try:
            yield fetch
        finally:
            del self._fetches[descriptor.digest]
            fetch.ended.set()

    def fetch(self, digest: Digest) -> Fetch | None:
        return self._fetches.get(digest)

    async def begun(self, digest: Digest) -> Fetch:
        """Waits until this node fetches it; a deadline is the caller's."""
        while (found := self._fetches.get(digest)) is None:
            await self._begun.wait()
        return found

    def came(self, digest: Digest) -> None:
        """It is here, though no name may lead to it yet."""
        _remember(self._recent, digest, None)

    def has_come(self, digest: Digest) -> bool:
        return digest in self._recent

    # What others do

    def appoint(self, digest: Digest, asker: str, lost: str | None) -> str:
        """Who is to fetch a blob that `asker` needs: who asked first, unless it is gone or `lost`,
        which is what the asker says.
        """
        place = self._place(digest)
        now = asyncio.get_running_loop().time()
        if not self._stands(place, lost, now):
            place.fetcher, place.since = asker, now
        assert place.fetcher is not None
        return place.fetcher

    def appointed(self, digest: Digest) -> str | None:
        """Who fetches it, if anybody does."""
        place = self._places.get(digest)
        now = asyncio.get_running_loop().time()
        return place.fetcher if place and self._stands(place, None, now) else None

    def has(self, digest: Digest, id: str) -> None:
        """That node says so."""
        place = self._place(digest)
        place.holders.pop(id, None)
        place.holders[id] = None
        if len(place.holders) > MOST_HOLDERS:
            del place.holders[next(iter(place.holders))]
        place.fetcher = None

    def holders(self, digest: Digest) -> tuple[str, ...]:
        """Nodes that said so and live."""
        place = self._places.get(digest)
        return tuple(filter(self._is_alive, place.holders)) if place else ()

    def _place(self, digest: Digest) -> _Place:
        found = self._places.get(digest) or _Place()
        _remember(self._places, digest, found)
        return found

    def _stands(self, place: _Place, lost: str | None, now: float) -> bool:
        fetcher, age = place.fetcher, now - place.since
        if fetcher is None or fetcher == lost or age > _APPOINTED:
            return False
        return age < _FRESH or fetcher == self._me or self._is_alive(fetcher)


def _remember(known: OrderedDict[Digest, T], digest: Digest, value: T) -> None:
    known[digest] = value
    known.move_to_end(digest)
    if len(known) > MOST_BLOBS:
        known.popitem(last=False)
