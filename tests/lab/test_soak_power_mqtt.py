"""A machine whose power is cut while messages of QoS 1 are handled: the broker, which is elsewhere,
goes on. What the node acknowledged was handled, its effect is in the store and its reply with the
broker, or it is a dead letter with the reason; what it did not acknowledge comes again.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mqtt_lab import Mosquitto, Peer, Proxy, mosquitto
from power_lab import APPLICATION, CUTS, Guest, Victim, kept, ledger, say, victim
from vm_machine import KIND, PATIENCE, needs_vm

pytestmark = needs_vm

BATCH = 120
# docs/mqtt.md: what is handled again after the end of a node.
RECEIVE_MAXIMUM = 64

TRIGGER = """
[[trigger.mqtt]]
id = "events"
topic = "in/+"
qos = "1"
component = "ledger"
"""
OPTIONS = """
[component.ledger.tool.edge.trigger.events]
ordered = "none"
reply_topic = "handled/{topic.1}"
dead_letter = "dead/ledger"
"""
PUBLISH, PUBACK = 3, 4


class Wire:
    """Packets of one direction of a connection."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The first byte and the body of each that is complete."""
        self._rest += data
        while True:
            try:
                size, at = _number(self._rest, 1)
            except IndexError:
                return
            if len(self._rest) < at + size:
                return
            yield self._rest[0], self._rest[at : at + size]
            self._rest = self._rest[at + size :]


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends (MQTT 5, 1.5.5)."""
    value = 0
    for place in range(4):
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("not MQTT")


class Witness(Proxy):
    """Sees what the node acknowledges, before the broker does."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.acknowledged: set[str] = set()
        self._delivered: dict[int, str] = {}

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passed: asyncio.Event | None = None,
    ) -> None:
        wire, see = Wire(), self._to_node if passed is None else self._from_node
        while data := await reader.read(65536):
            for first, body in wire.feed(data):
                see(first, body)
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError

    def _to_node(self, first: int, body: bytes) -> None:
        if first >> 4 == PUBLISH and first & 6:
            (size,) = struct.unpack_from(">H", body)
            (identifier,) = struct.unpack_from(">H", body, 2 + size)
            properties, at = _number(body, 4 + size)
            self._delivered[identifier] = body[at + properties :].decode()

    def _from_node(self, first: int, body: bytes) -> None:
        if first >> 4 == PUBACK:
            (identifier,) = struct.unpack_from(">H", body)
            assert len(body) == 2 or body[2] < 128, "a message was refused"
            self.acknowledged.add(self._delivered.pop(identifier))


@dataclass(slots=True)
class Campaign:
    node: Victim
    witness: Witness
    peer: Peer
    replied: Counter[str]
    # Why it was given up, by message.
    dead: dict[str, str]
    published: list[str]

    async def run(self) -> None:
        for number in range(CUTS):
            await self.boot()
            before = len(self.witness.acknowledged)
            async with asyncio.TaskGroup() as group:
                for _ in range(BATCH):
                    self.published.append(f"message-{len(self.published)}")
                    payload = self.published[-1].encode()
                    group.create_task(self.peer.publish(f"in/{number % 3}", payload))
            await self.until("it acknowledges", partial(self.acknowledges, before + 4))
            await asyncio.to_thread(self.node.cut_within, 0.5, 40)
            disk, more = self.node.disk, len(self.witness.acknowledged) - before
            say(
                f"cut {number + 1}: {more} messages acknowledged since the start;"
                f" {disk.lost} of {disk.unflushed} unflushed sectors lost"
            )
        await self.boot()
        everything = set(self.published)
        await self.until("all are acknowledged", lambda: self.witness.acknowledged == everything)

    async def boot(self) -> None:
        """It has what it acknowledged."""
        acknowledged = set(self.witness.acknowledged)
        await asyncio.to_thread(self.node.boot)
        handled = await self.handled()
        lost = sorted(acknowledged - set(handled) - set(self.dead))
        assert not lost, f"{len(lost)} of {len(acknowledged)} lost: {lost[:5]}"
        await self.until("its replies are there", lambda: acknowledged <= self.final())
        await asyncio.to_thread(self.node.is_whole)

    def final(self) -> set[str]:
        """What the broker was told an outcome of."""
        return set(self.replied) | set(self.dead)

    async def handled(self) -> dict[str, int]:
        found = await asyncio.to_thread(kept, self.node.machine)
        return {key.removeprefix("event "): int(times) for key, times in found.items()}

    def acknowledges(self, count: int) -> bool:
        return len(self.witness.acknowledged) >= count

    async def until(self, what: str, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            self.node.machine.alive(deadline, f"not yet: {what}")
            await asyncio.sleep(0.02)


def test_messages_that_were_acknowledged_were_handled_for_good(
    tmp_path: Path, guest: Guest
) -> None:
    # Not a coroutine: those have two minutes.
    with mosquitto(tmp_path / "broker") as broker, victim(tmp_path, seed=2) as node:
        asyncio.run(campaign(node, broker, guest("ledger")))


async def campaign(node: Victim, broker: Mosquitto, wasm: Path) -> None:
    began, replied, dead = time.monotonic(), Counter[str](), dict[str, str]()
    witness = Witness(broker.port)
    async with witness, Peer(broker.port) as peer:
        with node.machine.reachable(witness.port) as address:
            settings = f'[mqtt]\nurl = "mqtt://{address}"\nclient_id = "vm"\n{APPLICATION}'
            node.install(ledger(wasm, TRIGGER, OPTIONS), settings)
            await peer.subscribe("handled/+")
            await peer.subscribe("dead/#")
            running = Campaign(node, witness, peer, replied, dead, [])
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(read(peer, replied, dead))
                await running.run()
                reading.cancel()
            handled = await running.handled()
            node.cut()
    assert set(handled) | set(dead) == set(running.published), "none lost, none made up"
    assert running.final() == set(running.published)
    again = sum(handled.values()) - len(handled)
    say(
        f"MQTT, {KIND.__name__}: {CUTS} cuts in {time.monotonic() - began:.0f} s;"
        f" {len(running.published)} messages acknowledged, {len(handled)} handled, {again} times"
        f" again, dead letters: {dead}; {sum(node.lost)} sectors"
        f" lost, at {sum(lost > 0 for lost in node.lost)} cuts"
    )
    assert again <= RECEIVE_MAXIMUM * CUTS


async def read(peer: Peer, replied: Counter[str], dead: dict[str, str]) -> None:
    while True:
        message = await peer.messages.get()
        text = message.payload.decode()
        if message.topic.startswith("handled/"):
            replied[text] += 1
        else:
            dead[text] = str(dict(getattr(message.properties, "UserProperty", ())))
            say(f"dead letter: {text}: {dead[text]}")
