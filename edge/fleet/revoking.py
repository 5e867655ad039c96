"""A newer list of revocations is fetched from whichever peer says that it has one.

Anybody may say so: who does not deliver is left out for a while, so that liars who stall only cost
time, and the others are asked meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Protocol

from edge.errors import EdgeError
from edge.fleet.names import Refused
from edge.fleet.table import Peer

__all__ = ["Revocations"]

_log = logging.getLogger("edge.fleet")

# Peers that are asked at the same time; seconds that one is left out that did not deliver.
_AT_ONCE, _LEFT_OUT = 3, 300.0
_LEFT_OUT_MOST = 1024


class Known(Protocol):
    """See `identity.Identity`."""

    @property
    def revocations(self) -> Numbered: ...

    async def take_revocations(self, data: bytes) -> bool: ...


class Numbered(Protocol):
    """A list."""

    @property
    def number(self) -> int: ...


class Revocations:
    """Of one node. `ask` brings the list of a peer; it raises EdgeError."""

    def __init__(self, known: Known, ask: Callable[[str], Awaitable[bytes]]) -> None:
        self._known, self._ask = known, ask
        self._asked: set[str] = set()
        self._left_out: dict[str, float] = {}

    def due(self, alive: Iterable[Peer], now: float) -> Iterator[str]:
        """Ids of those to `fetch` from now. To be called again and again."""
        number = self._known.revocations.number
        claims = [
            peer.id
            for peer in alive
            if peer.record.facts.revocations > number
            and peer.id not in self._asked
            and self._left_out.get(peer.id, now) <= now
        ]
        random.shuffle(claims)
        for id in claims[: _AT_ONCE - len(self._asked)]:
            self._asked.add(id)
            yield id

    async def fetch(self, id: str) -> None:
        """Takes the list of a peer, if it is newer."""
        number = self._known.revocations.number
        try:
            newer = await self._known.take_revocations(await self._ask(id))
            if newer or self._known.revocations.number > number:
                return
            _log.warning("%s has no newer list of revocations, and says so", id[:12])
        except (EdgeError, Refused) as error:
            _log.warning("the list of revocations of %s: %s", id[:12], error)
        finally:
            self._asked.discard(id)
        self._leave_out(id)

    def _leave_out(self, id: str) -> None:
        self._left_out.pop(id, None)
        self._left_out[id] = asyncio.get_running_loop().time() + _LEFT_OUT
        if len(self._left_out) > _LEFT_OUT_MOST:
            del self._left_out[next(iter(self._left_out))]
