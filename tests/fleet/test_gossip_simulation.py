"""Large fleets in one process: what they tell each other, without a network and without waiting.

The nodes are real but for TLS and HTTP, which an air in between stands for. Time is that of the
loop, which jumps to what is due next. `EDGE_SOAK=full`: 200 nodes.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import hashlib
import os
import random
import selectors
import sys
import tracemalloc
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from edge.errors import EdgeError
from edge.fleet.asking import GOSSIP, INDIRECT, PEER, Impostor, Unanswered
from edge.fleet.life import Life
from edge.fleet.probe import Times
from edge.fleet.reports import Reports
from edge.fleet.table import Table
from edge.fleet.wire import Endpoint, Facts, Record, Status

COUNT = 200 if os.environ.get("EDGE_SOAK") == "full" else 30
# Of HTTP, TLS and TCP around a question and its answer: what `tcpdump` showed of one probe.
AROUND, PACKETS = 460, 4


class Jumping(selectors.DefaultSelector):
    """Where nothing is to be read, the time until the next timer is over at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.passed += timeout or 0.0
        return super().select(0)


class Simulated(asyncio.SelectorEventLoop):
    """A loop of which the clock shows what has passed by its timers."""

    def __init__(self) -> None:
        self.selector = Jumping()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.passed


def simulated(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Simulated) as runner:
        runner.run(work)


@dataclass(eq=False)
class Node:
    """One node of the air."""

    number: int
    air: Air
    bytes: int = 0
    packets: int = 0
    runs: bool = False

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.id = base64.b32encode(hashlib.sha256(b"%d" % self.number).digest()).decode()
        self.id = self.id.rstrip("=").lower()
        self.at: Endpoint = (f"10.0.{self.number // 250}.{self.number % 250 + 1}", 7466)
        facts = Facts(f"node-{self.number}", 7466, "0.1.0", "aarch64", "0123456789abcdef", 7, 12)
        self.table = Table(Record(self.id, facts, (self.at,), 1_795_000_000))
        self.life = Life(
            self.table,
            self,
            loop.time,
            times=Times(),
            reports=Reports(loop.time),
            hinted=lambda _id, _text: None,
            excluded=lambda _: None,
            before=lambda _: float("inf"),
        )

    async def ask(
        self, id: str, endpoint: Endpoint, target: str, body: bytes | None, seconds: float
    ) -> bytes:
        """A transport."""
        question = len(target) + len(body or b"")
        answer = await self.air.carry(self, id, endpoint, target, body, seconds)
        for node in (self, self.air.nodes[endpoint]):
            node.bytes += question + len(answer) + AROUND
            node.packets += PACKETS + 2 * ((question + len(answer)) // 1400)
        return answer

    async def answer(self, by: Node, target: str, body: bytes | None) -> bytes:
        path, _, query = target.partition("?")
        if path == PEER:
            return self.life.gossip.probed(by.id, by.at[0], query.partition("=")[2])
        if path == GOSSIP:
            assert body is not None
            return self.life.gossip.told(by.id, by.at[0], body)
        assert path == INDIRECT
        return await self.life.prober.favour(query.partition("=")[2])

    def knows(self) -> set[int]:
        """Numbers of those that it takes for alive."""
        alive = (peer for peer in self.table.peers.values() if peer.lives and peer.endpoint)
        return {self.air.numbers[peer.id] for peer in alive}

    def buried(self, other: Node) -> bool:
        peer = self.table.peers.get(other.id)
        return peer is not None and peer.record.status >= Status.DEAD


@dataclass
class Air:
    """What carries questions. `apart`: nodes that are in another part of the network."""

    group: asyncio.TaskGroup
    nodes: dict[Endpoint, Node] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    apart: set[int] = field(default_factory=set)
    tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def node(self, number: int, told: Node | None = None) -> Node:
        """Another one begins, and was told of one."""
        node = Node(number, self)
        self.nodes[node.at], self.numbers[node.id] = node, number
        self.start(node)
        if told is not None:
            node.life.prober.heard(told.id, [told.at])
        return node

    def start(self, node: Node) -> None:
        node.runs = True
        self.tasks[node.number] = self.group.create_task(node.life.run())

    def stop(self, node: Node) -> None:
        """Its power is cut."""
        node.runs = False
        self.tasks[node.number].cancel()

    async def carry(
        self,
        by: Node,
        id: str,
        endpoint: Endpoint,
        target: str,
        body: bytes | None,
        seconds: float,
    ) -> bytes:
        delay = random.uniform(0.001, 0.02)
        await asyncio.sleep(delay)
        to = self.nodes.get(endpoint)
        if to is None or not to.runs or (to.number in self.apart) != (by.number in self.apart):
            await asyncio.sleep(seconds - delay)
            raise Unanswered("no answer in time")
        if to.id != id:
            raise Impostor("its certificate is another node's")
        try:
            found = await to.answer(by, target, body)
        except EdgeError as error:
            raise Unanswered(error.message) from error
        await asyncio.sleep(delay)
        return found


async def until(true: Callable[[], bool], seconds: float) -> float:
    """By the simulated clock."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    while not true():
        assert loop.time() - begun < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.1)
    return loop.time() - begun


def say(line: str) -> None:
    sys.stderr.write(f"\n{COUNT} simulated nodes: {line}\n")


# A larger one takes minutes to get acquainted in one process: each with each.
STRANGERS_MOST = 60


async def fleet(air: Air) -> list[Node]:
    """All of them, which know each other."""
    if COUNT > STRANGERS_MOST:
        return acquainted(air)
    first = air.node(0)
    found = [first, *(air.node(number, first) for number in range(1, COUNT))]
    seconds = await until(lambda: all(len(node.knows()) == COUNT - 1 for node in found), 60)
    say(f"switched on together, all know all after {seconds:.1f} s")
    return found


def acquainted(air: Air) -> list[Node]:
    """As if they had been on for long."""
    found = [air.node(number) for number in range(COUNT)]
    for node in found:
        for other in found:
            if node.table.take(other.table.me, 0.0):
                node.table.found(node.table.peers[other.id], other.at)
    return found


def in_the_air(test: Callable[[Air], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """As a test of its own time."""

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            air = Air(group)
            await test(air)
            for task in air.tasks.values():
                task.cancel()

    def tested() -> None:
        random.seed(7)
        simulated(run())

    tested.__name__ = test.__name__
    return tested


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
    assert len({node.table.digest for node in everybody}) == 1


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
