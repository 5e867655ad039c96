"""Members of fleets, made without a network: authorities, identities, clocks, TLS on loopback."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edge.fleet import authority, certificates, identity, join, keeping
from edge.fleet.authority import Authority
from edge.fleet.identity import Identity
from edge.fleet.keeping import Kept, Membership

# 2026-12-01
NOW = 1_796_083_200.0
HOUR, DAY, YEAR = 3600.0, 86400.0, 365 * 86400.0


@dataclass
class Clock:
    """Trusted time, as a test has it."""

    now: float = NOW
    is_set: bool = True

    def __call__(self) -> float:
        return self.now


def kept(folder: Path) -> Kept:
    return Kept(folder / keeping.DIRECTORY)


def member(folder: Path, clock: Clock) -> Identity:
    found = identity.load(folder, clock)
    assert found is not None
    return found


def founded(folder: Path, clock: Clock, name: str = "site") -> tuple[Authority, Identity]:
    """A fleet whose first node is in that folder."""
    made = authority.found(folder / authority.DIRECTORY, name, clock)
    join.found(kept(folder), made, "first")
    return made, member(folder, clock)


def admitted(made: Authority, folder: Path, clock: Clock, name: str = "other") -> Identity:
    """A further node, with what a door would have given it."""
    files, key = kept(folder), certificates.new_key()
    issued = made.admit_self(certificates.new_request(key), name)
    files.write(files.key, key)
    files.write(files.authority, made.certificate)
    files.write(files.certificate, issued.pem)
    issuer = made.members[0].node
    files.write_membership(
        Membership(issued.node, made.fleet, made.fleet_name, issuer, (), issued.until)
    )
    return member(folder, clock)


class Served:
    """What a server of TLS has seen. Whoever gets in is greeted."""

    def __init__(self) -> None:
        self.port = 0
        self.peers: list[str] = []
        self.heard = b""


@asynccontextmanager
async def serving(own: Identity) -> AsyncIterator[Served]:
    served = Served()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.peers.append(own.peer_of(writer.get_extra_info("ssl_object")))
        writer.write(b"hello")
        served.heard += await reader.read(100)
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=own.server_context())
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()


async def greeted(
    port: int, context: ssl.SSLContext, expected: str, *, seconds: float = 10
) -> tuple[bytes, ssl.SSLObject]:
    """What a server says first. In TLS 1.3 only then a client knows that it was let in."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=expected
        )
        try:
            writer.write(b"secret of the client")
            data = await reader.read(100)
            if not data:
                raise ConnectionResetError("the server hung up")
            return data, writer.get_extra_info("ssl_object")
        finally:
            writer.transport.abort()
