"""Where peers are served: [fleet] listen, mutual TLS 1.3 only, bounded."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from aiohttp import web

from edge.config import Address
from edge.fleet.identity import Identity

__all__ = ["Server", "peer_of"]

_PEER = web.RequestKey("peer", str)


def peer_of(request: web.Request) -> str:
    """The id in the client's certificate, which the handshake has verified."""
    return request[_PEER]


class Server:
    """As an async context manager. `routes` may be of several owners; their handlers ask `peer_of`
    who it is.
    """

    def __init__(
        self, identity: Identity, listen: Address, routes: Iterable[web.RouteDef] = ()
    ) -> None:
        self._identity, self._listen, self._routes = identity, listen, tuple(routes)
        self.addresses: tuple[Address, ...] = ()

    def drop(self, ids: Iterable[str]) -> None:
        """Closes the connections of these nodes: they were revoked."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
