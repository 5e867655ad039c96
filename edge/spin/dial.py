"""Where a guest's connection to a server may go, and streams to there.

A name is resolved once; only an address that the grants allow is connected to, while TLS checks
the certificate against the name. Speaks no protocol of a server.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.application.addresses import Endpoint
    from edge.spin.platform import Outbound

__all__ = [
    "Denied",
    "Streams",
    "connect",
    "granted",
    "permitted",
    "reason",
    "streams",
    "tls_for",
    "trusted_streams",
]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

# Addresses of one name that are tried; each gets its share of the time to connect.
_ADDRESSES_MAX = 4

# Seconds of silence before the kernel asks whether the other side is still there, between two
# questions, and how many without an answer end the connection: 90 s in all. This wakes no process.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class Denied(Exception):
    """A component may not connect there; its text is for the guest and names the grant."""


def granted(outbound: Outbound | None, endpoint: Endpoint) -> Outbound:
    """The way out to there, as far as names tell. Raises Denied."""
    if outbound is None or not outbound.allows(endpoint.scheme, endpoint.host, endpoint.port):
        raise Denied(f"{endpoint} is not among the component's allowed_outbound_hosts")
    return outbound


async def permitted(outbound: Outbound, endpoint: Endpoint) -> list[str]:
    """The addresses of the endpoint that may be connected to, at least one.

    Raises Denied, or OSError when the name has no address.
    """
    scheme, host, port = endpoint.scheme, endpoint.host, endpoint.port
    # An address needs no resolver, whose few threads may all be waiting for other names.
    addresses = [host] if _is_address(host) else await outbound.lookup(host)
    allowed = [a for a in addresses if outbound.allows_address(scheme, host, a, port)]
    if not allowed:
        raise Denied(
            f"{endpoint} leads to an address of this machine or a special one, which the"
            " component's allowed_outbound_hosts must name as an address"
        )
    return allowed[:_ADDRESSES_MAX]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def connect(outbound: Outbound, endpoint: Endpoint, timeout: float) -> socket.socket:
    """Connected to the first permitted address that answers. Raises Denied and OSError."""
    return await _first(await permitted(outbound, endpoint), endpoint.port, timeout)


async def _first(addresses: Sequence[str], port: int, timeout: float) -> socket.socket:
    failure: OSError = OSError("no address")
    for address in addresses:
        try:
            async with asyncio.timeout(timeout / len(addresses)):
                return await _connect(address, port)
        except OSError as exc:
            failure = exc
    raise failure


async def _connect(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
        _keep_alive(sock)
    except BaseException:
        sock.close()
        raise
    return sock


async def streams(sock: socket.socket, endpoint: Endpoint, tls: ssl.SSLContext | None) -> Streams:
    """Over a socket that is connected to the endpoint and closed with them. Raises OSError."""
    try:
        context = await tls_for(endpoint, tls)
        name = endpoint.host.rstrip(".") if context else None
        return await asyncio.open_connection(sock=sock, ssl=context, server_hostname=name)
    except BaseException:
        sock.close()
        raise


async def trusted_streams(
    endpoint: Endpoint, tls: ssl.SSLContext | None, timeout: float
) -> Streams:
    """To a server that the operator or the manifest names. Raises OSError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout):
        # Not asyncio's own race of addresses: cancelled, it forgets a socket.
        found = await loop.getaddrinfo(endpoint.host, None, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        sock = await _first(addresses[:_ADDRESSES_MAX], endpoint.port, timeout)
        return await streams(sock, endpoint, tls)


def _keep_alive(sock: socket.socket) -> None:
    """The kernel finds out when the other side is gone without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        sock.setsockopt(socket.IPPROTO_TCP, option, value)


async def tls_for(endpoint: Endpoint, tls: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """What checks the endpoint's certificate: `tls`, else what the system trusts; None: no TLS."""
    if not endpoint.tls:
        return None
    return tls or await asyncio.to_thread(_default_tls)


@functools.cache
def _default_tls() -> ssl.SSLContext:
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
