"""What lasts: connections, and two machines with one key."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from peers_lab import Fleet, group, peers, until

from edge.fleet.server import Limits


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


async def test_no_connection_outlives_what_was_checked_when_it_was_made(fleet: Fleet) -> None:
    async with group(fleet, 2) as (first, second):
        server = second._server
        assert server._runner.server is not None
        opened = server._runner.server

        def lasting() -> int:
            return len(server._peers.keys() & set(opened.connections))

        await until(lasting)
        server._limits = Limits(lasts=0.0)
        server.drop({first.me})
        # Probes keep every other connection in use.
        for _ in range(3):
            await first.ask(second.me, "/edge/v1/apps", 5)
            await until(lambda: not lasting(), 10)
        assert [peer.id for peer in first.alive()] == [second.me]


async def test_a_machine_with_this_nodes_key_is_told_and_others_are_not(fleet: Fleet) -> None:
    own = fleet.member("n")
    async with group(fleet, 1) as (other,), peers(own, "n") as first, peers(own, "n") as copy:
        for liar in (other.address, copy.address):
            assert first.double is None
            first._doubts_at = 0.0
            first.doubled([(liar.host, liar.port)])
            await until(lambda: not first._doubts)
        await until(lambda: first.double)
        assert first.double is not None
        assert str(copy.address) in first.double


async def test_a_burst_of_who_holds_on_keeps_nobody_out(fleet: Fleet) -> None:
    async with group(fleet, 1) as (first,), AsyncExitStack() as opened:
        first._server._limits = Limits(handshakes=8, of_an_address=8)
        at, member = ("127.0.0.1", first.address.port), fleet.member("x")
        # All of them wait already when the node gets a turn.
        *_, last = [opened.enter_context(socket.create_connection(at)) for _ in range(41)]
        last.setblocking(False)
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(
                sock=last, ssl=member.client_context(), server_hostname=first.me
            )
            writer.write(b"GET /edge/v1/apps HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.transport.abort()
