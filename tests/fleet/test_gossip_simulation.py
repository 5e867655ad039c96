"""Large fleets in one process (air.py). `EDGE_SOAK=full`: 200 nodes."""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import os
import sys
import tracemalloc

import pytest
from air import Air, Node, acquainted, in_the_air, simulated, until

from edge.fleet.wire import Facts, Record

COUNT = 200 if os.environ.get("EDGE_SOAK") == "full" else 30


def say(line: str) -> None:
    sys.stderr.write(f"\n{COUNT} simulated nodes: {line}\n")


# A larger one takes minutes to get acquainted in one process: each with each.
STRANGERS_MOST = 60


async def fleet(air: Air) -> list[Node]:
    """All of them, which know each other."""
    if COUNT > STRANGERS_MOST:
        return acquainted(air, COUNT)
    first = air.node(0)
    found = [first, *(air.node(number, first) for number in range(1, COUNT))]
    seconds = await until(lambda: all(len(node.knows()) == COUNT - 1 for node in found), 60)
    say(f"switched on together, all know all after {seconds:.1f} s")
    return found


@in_the_air
async def test_a_large_fleet(air: Air) -> None:
    nodes = await fleet(air)
    await asyncio.sleep(120)  # what happened at the start is over

    before = [(node.bytes, node.packets) for node in nodes]
    await asyncio.sleep(60)
    octets = [node.bytes - sent for node, (sent, _) in zip(nodes, before, strict=True)]
    packets = [node.packets - sent for node, (_, sent) in zip(nodes, before, strict=True)]
    mean, most = sum(octets) / COUNT, max(octets)
    say(
        f"idle, a node sends and receives {mean / 1e3:.0f} kB in {sum(packets) / COUNT:.0f} packets"
        f" a minute, {most / 1e3:.0f} kB at most"
    )
    assert mean < 100e3
    assert most < 400e3

    victim = nodes[COUNT // 2]
    air.stop(victim)
    others = [node for node in nodes if node is not victim]
    seconds = await until(lambda: all(node.buried(victim) for node in others), 15)
    say(f"a power cut of one is known to all after {seconds:.1f} s")
    assert all(len(node.knows()) == COUNT - 2 for node in others)

    newcomer = air.node(COUNT, nodes[3])
    everybody = [*others, newcomer]
    seconds = await until(lambda: all(COUNT in node.knows() for node in others), 3)
    await until(lambda: len(newcomer.knows()) == COUNT - 1, 3)
    say(f"a new one is known to all after {seconds:.1f} s")

    air.apart = {node.number for node in everybody[: COUNT // 3]}
    few, many = everybody[: COUNT // 3], everybody[COUNT // 3 :]

    def separated() -> bool:
        return all(node.knows() <= air.apart for node in few) and not any(
            node.knows() & air.apart for node in many
        )

    apart = await until(separated, 120)
    air.apart = set()
    healed = await until(lambda: all(len(node.knows()) == COUNT - 1 for node in everybody), 120)
    say(f"a third cut off is known to all after {apart:.1f} s, healed {healed:.1f} s after its end")
    # Who was taken for dead has said that it is not, and that is still on its way.
    agreed = await until(lambda: len({node.table.digest for node in everybody}) == 1, 30)
    say(f"all agree {agreed:.1f} s later")


@in_the_air
async def test_a_peer_costs_little_memory(air: Air) -> None:
    first = air.node(0)
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        others = [
            Record(
                base64.b32encode(hashlib.sha256(b"%d" % n).digest()).decode().lower()[:52],
                Facts(f"node-{n}", 7466, "0.1.0", "aarch64", f"{n:016x}", n, n),
                ((f"10.0.0.{n}", 7466), (f"fd00::{n:x}", 7466)),
                1_795_000_000 + n,
            )
            for n in range(1, 201)
        ]
        for record in others:
            assert first.table.take(record, 0.0)
        del others, record
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / 200
    finally:
        tracemalloc.stop()
    say(f"a peer takes {each:.0f} bytes of memory")
    assert each < 2048


@in_the_air
async def test_a_fleet_that_is_too_large_is_bounded(air: Air) -> None:
    first = air.node(0)
    for number in range(1, 400):
        id = base64.b32encode(hashlib.sha256(b"%d" % number).digest()).decode().lower()[:52]
        first.table.take(Record(id, Facts("x", 1)), 0.0)
    assert len(first.table.peers) == 256


def test_time_jumps() -> None:
    async def wait() -> None:
        await asyncio.sleep(86_400)

    begun = asyncio.new_event_loop()
    begun.close()
    simulated(wait())
    with pytest.raises(AssertionError, match="not within"):
        simulated(_never())


async def _never() -> None:
    await until(lambda: False, 3600)


@in_the_air
async def test_made_up_adverts_keep_nobody_from_being_found(air: Air) -> None:
    first, second = air.node(0), air.node(1)
    for number in range(1000, 1250):
        id = hashlib.sha256(b"%d" % number).digest()
        made_up = base64.b32encode(id).decode().lower()[:52]
        holes = [(f"10.9.{number % 250}.{last}", 7466) for last in range(1, 9)]
        first.life.prober.heard(made_up, holes)
    first.life.prober.heard(second.id, [second.at])
    first.life.wake()
    at_once = 0

    def found() -> bool:
        nonlocal at_once
        at_once = max(at_once, first.life.prober._trying)
        return 1 in first.knows()

    await until(found, 120)
    assert at_once <= 16
