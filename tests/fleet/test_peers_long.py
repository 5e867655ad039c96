"""What lasts: connections, and two machines with one key."""

from __future__ import annotations

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
