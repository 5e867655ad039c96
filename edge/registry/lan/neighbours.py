"""What sharing needs of who knows the other nodes of the fleet.

Knows no certificates and no discovery: who implements this has authenticated each neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import aiohttp

__all__ = ["Heard", "Neighbour", "Neighbours"]

# Is told who hinted, and the text of the hint: at most a few hundred characters of a stranger's.
Heard = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another node of this fleet."""

    id: str
    round_trip: float | None = None  # seconds, as last measured


class Neighbours(Protocol):
    """The other nodes of this node's fleet. All of it on the event loop."""

    @property
    def me(self) -> str:
        """This node's own id."""

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
        headers: Mapping[str, str] = ...,
        json: object = None,
        timeout: float = ...,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Sends one request to the very node with that id, and gives the head of its answer;
        leaving closes it, whatever is left of its body.

        `path`: from "/" on, with its query. `json`: a body. `timeout`: seconds until it is
        connected, until the head has come, and between two pieces of the body; how long all of it
        may take is the caller's business. No redirect is followed and nothing is decompressed.
        Raises aiohttp.ClientError, OSError or TimeoutError when it cannot be had (also for an id
        that is not known any more). The caller has at most eight under way to one neighbour.
        """

    def penalise(self, id: str, reason: str) -> None:
        """It lied or stalled: it is not asked for a while, and people are shown why."""

    def hint(self, text: str) -> None:
        """Tells the other nodes that a tag moved; each hears of it at most once, soon. It is not
        waited for.
        """
