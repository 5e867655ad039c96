"""Fleets in one process: what nodes tell each other, without a network and without waiting.

The nodes are real but for TLS and HTTP, which an air in between stands for. Time is that of the
loop, which jumps to what is due next.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from edge.errors import EdgeError
from edge.fleet.asking import GOSSIP, INDIRECT, PEER, Impostor, Unanswered
from edge.fleet.life import Life
from edge.fleet.probe import Times
from edge.fleet.reports import Reports
from edge.fleet.table import Table
from edge.fleet.wire import Endpoint, Facts, Record, Status

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


def acquainted(air: Air, count: int) -> list[Node]:
    """As if they had been on for long."""
    found = [air.node(number) for number in range(count)]
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
