"""Where a guest's connection to a server may go, and streams to there.

A name is resolved once; only an address that the grants allow is connected to, while TLS checks
the certificate against the name. Speaks no protocol of a server.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.application.addresses import Endpoint
    from edge.spin.platform import Outbound

__all__ = ["Denied", "Streams", "connect", "connect_trusted", "default_tls", "permitted", "reason"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

# Addresses of one name that are tried; each gets its share of the time to connect.
_ADDRESSES_MAX = 4

# Seconds of silence before the kernel asks whether the other side is still there, between two
# questions, and how many without an answer end the connection: 90 s in all. This wakes no process.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class Denied(Exception):
    """A component may not connect there; its text is for the guest and names the grant."""


async def permitted(outbound: Outbound | None, endpoint: Endpoint) -> list[str]:
    """The addresses of the endpoint that may be connected to, at least one.

    Raises Denied, or OSError when the name has no address.
    """
    scheme, host, port = endpoint.scheme, endpoint.host, endpoint.port
    if outbound is None or not outbound.allows(scheme, host, port):
        raise Denied(f"{endpoint} is not among the component's allowed_outbound_hosts")
    addresses = await outbound.lookup(host)
    allowed = [a for a in addresses if outbound.allows_address(scheme, host, a, port)]
    if not allowed:
        raise Denied(
            f"{endpoint} leads to an address of this machine or a special one, which the"
            " component's allowed_outbound_hosts must name as an address"
        )
    return allowed[:_ADDRESSES_MAX]


async def connect(
    endpoint: Endpoint, addresses: Sequence[str], tls: ssl.SSLContext | None, timeout: float
) -> Streams:
    """Streams to the first of the addresses that answers. Raises OSError."""
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(timeout / len(addresses)):
                return await _open(address, endpoint, tls)
        except OSError as exc:
            failure = exc
    raise failure


async def connect_trusted(
    endpoint: Endpoint, tls: ssl.SSLContext | None, timeout: float
) -> Streams:
    """Streams to a server that the operator or the manifest names. Raises OSError."""
    async with asyncio.timeout(timeout):
        return await _open(endpoint.host, endpoint, tls, happy_eyeballs_delay=0.25)


async def _open(
    host: str, endpoint: Endpoint, tls: ssl.SSLContext | None, **options: float
) -> Streams:
    context = (tls or default_tls()) if endpoint.tls else None
    reader, writer = await asyncio.open_connection(
        host,
        endpoint.port,
        ssl=context,
        server_hostname=endpoint.host.rstrip(".") if context else None,
        **options,  # type: ignore[arg-type]
    )
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    return reader, writer


@functools.cache
def default_tls() -> ssl.SSLContext:
    """The certificates that the system trusts. Reading them takes some 20 ms, once."""
    return ssl.create_default_context()


def reason(exc: Exception) -> str:
    """Why there is no connection, in few words and without addresses or secrets."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {exc.verify_message}"
    if isinstance(exc, TimeoutError) and exc.errno is None:
        return "no answer in time"
    if isinstance(exc, ssl.SSLError):
        return f"TLS failed: {exc.reason or 'no answer'}"
    if isinstance(exc, socket.gaierror):
        return "its name has no address"
    if isinstance(exc, OSError) and exc.errno:
        return os.strerror(exc.errno).lower()
    return "the connection failed"
