"""Opens zeroconf's sockets on interfaces of ours, and closes them with a goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Sequence

from zeroconf import IPVersion
from zeroconf.asyncio import AsyncZeroconf

from edge.fleet.fence import fence
from edge.fleet.interfaces import Interface, bindings

__all__ = ["close", "opened", "restrict"]

_GOODBYE = 1.5  # seconds; three packets, an eighth of a second apart
# Linux: without it a socket hears what any process's membership brings, on any interface.
_IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 49, 29


async def opened(here: Sequence[Interface]) -> AsyncZeroconf:
    """Raises OSError."""
    # What it warns of is other people's packets and addresses that have just gone.
    logging.getLogger("zeroconf").setLevel(logging.ERROR)
    every = bindings(here)
    try:
        zc = AsyncZeroconf(every, ip_version=IPVersion.All)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:
            raise
        # A kernel without IPv6.
        four = [one for one in every if isinstance(one, str) and ":" not in one]
        zc = AsyncZeroconf(four, ip_version=IPVersion.V4Only)
    loop = asyncio.get_running_loop()
    starting = loop.create_task(zc.zeroconf.async_wait_for_start(), name="mdns start")
    try:
        # A cancelled wait would cancel what closing it waits for.
        await asyncio.shield(starting)
        restrict(zc)
    except BaseException:
        await asyncio.wait([starting])
        await close(zc)
        raise
    return zc


def restrict(zc: AsyncZeroconf) -> None:
    """Has each socket hear what was sent to it on its own interface, from the local network.

    To be called again after interfaces have changed.
    """
    for reader in zc.zeroconf.engine.readers:
        fence(reader.sock)
        with contextlib.suppress(OSError):  # an IPv4 socket
            reader.sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL, 0)
        with contextlib.suppress(OSError):
            reader.sock.setsockopt(socket.IPPROTO_IP, _IP_MULTICAST_ALL, 0)


async def close(zc: AsyncZeroconf) -> None:
    """Says goodbye."""
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE):
                await zc.async_unregister_all_services()
    finally:
        await zc.async_close()
