"""How a peer is asked, whatever carries it, and the ways in which that fails."""

from __future__ import annotations

from typing import Protocol

from edge.errors import PullError
from edge.fleet.wire import Endpoint

__all__ = ["GOSSIP", "INDIRECT", "PEER", "Excluded", "Impostor", "Transport", "Unanswered"]

# What a peer is asked for, under its address.
PEER, GOSSIP, INDIRECT = "/edge/v1/peer", "/edge/v1/gossip", "/edge/v1/probe"


class Unanswered(PullError):
    """Nobody answered there, in time, with what can be an answer."""


class Impostor(Unanswered):
    """Somebody answered there who does not hold the certificate of that node."""


class Excluded(Unanswered):
    """The node answered, and does not take this one for a member of the fleet."""


class Transport(Protocol):
    """Connections that are bound to the id of who is meant."""

    async def ask(
        self, id: str, endpoint: Endpoint, target: str, body: bytes | None, seconds: float
    ) -> bytes:
        """GET, or POST of a body; what comes back is bounded. Raises Unanswered."""
