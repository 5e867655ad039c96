"""The other nodes of the fleet: who they are, whether they live, and how they are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import aiohttp

__all__ = ["Neighbour", "Peers"]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A peer that can be asked. `round_trip` in seconds, where it was measured."""

    id: str
    round_trip: float | None = None


class Peers:
    """Neighbours of this node, as an async context manager."""

    me: str
    # Called with the id of a peer and the text of its hint.
    heard: Callable[[str, str], None]

    def alive(self) -> Sequence[Neighbour]:
        """Those that this node has verified itself and that are not penalised."""
        raise NotImplementedError

    def request(
        self,
        id: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Raises PullError for a peer that cannot be asked. Bodies are not decompressed."""
        raise NotImplementedError

    def penalise(self, id: str, reason: str) -> None:
        """It is not asked for a while, and `edge peers` says why."""
        raise NotImplementedError

    def hint(self, text: str) -> None:
        """Tells the fleet; at most 512 bytes."""
        raise NotImplementedError
