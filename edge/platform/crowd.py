"""A server that takes so many connections and no more: each is a file, and some memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from typing import Protocol

__all__ = ["bounded"]


class _Server(Protocol):
    """As aiohttp's: it makes a protocol for each connection, and knows them."""

    @property
    def connections(self) -> Sized: ...

    def __call__(self) -> asyncio.BaseProtocol: ...


def bounded(server: _Server, most: int) -> Callable[[], asyncio.BaseProtocol]:
    """What `create_server` calls for each connection; those beyond `most` are told 503."""
    return lambda: server() if len(server.connections) < most else _Full()


class _Full(asyncio.Protocol):
    """Of one connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
            b"Connection: close\r\n\r\n"
        )
        transport.close()
