"""What sharing needs of who knows the other nodes of the fleet.

Knows no certificates and no discovery: who implements this has authenticated each neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import aiohttp

__all__ = ["Heard", "Neighbour", "Neighbours", "is_alive"]

# Is told who hinted, and the text of the hint: at most a few hundred characters of a stranger's.
Heard = Callable[[str, str], None]


class Neighbour(Protocol):
    """Another node of this fleet."""

    @property
    def id(self) -> str: ...

    @property
    def round_trip(self) -> float | None:
        """Seconds, where it was measured."""


def is_alive(neighbours: Neighbours, id: str) -> bool:
    """Whether that one may be asked."""
    return any(neighbour.id == id for neighbour in neighbours.alive())


class Neighbours(Protocol):
    """The other nodes of this node's fleet. All of it on the event loop."""

    me: str
    # Set by who wants to hear of hints; called on the loop, and does not raise.
    heard: Heard

    def alive(self) -> Sequence[Neighbour]:
        """Those that are thought to live and may be asked: not this node, none that is penalised.
        Cheap: it is called for each blob.
        """

    def request(
        self,
        id: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Sends one request to the very node with that id, and gives the head of its answer;
        leaving closes it, whatever is left of its body.

        `path`: from "/" on, with its query. No redirect is followed and nothing is decompressed.
        Raises PullError, also for an id that is not known any more; while the body is read errors
        of the connection may be aiohttp's and OSErrors. The caller has at most eight requests under
        way to one neighbour, some of which wait for seconds.
        """

    def penalise(self, id: str, reason: str) -> None:
        """It lied or stalled: it is not asked for a while, and people are shown why."""

    def hint(self, text: str) -> None:
        """Tells the other nodes that a tag moved; each hears of it at most once, soon. It is not
        waited for.
        """
