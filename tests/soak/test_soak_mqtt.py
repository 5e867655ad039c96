"""Messages of QoS 1 while everything fails: each is handled at least once, or dead-lettered.

More are published than the guest can handle. Meanwhile the broker is stopped and started, its
connections are cut, the node is killed and started again, and the guest fails at random. An
independent client counts what was handled and what was given up.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from soak_lab import FULL, Guest, MiB, memory, say, sized

sys.path.insert(0, str(Path(__file__).parent.parent / "triggers"))
from mqtt_lab import Mosquitto, Peer, Proxy, mosquitto, proxied

MESSAGES = sized(100_000, 3_000)
# Seconds between two misfortunes, on average.
PEACE = sized(3, 1)
# Published and not yet with the broker; more is published than is handled all the same.
AHEAD = 500
# Seconds: the guest needs 4 ms, a node is restarted, a failing message waits for its turns.
PATIENCE = sized(1500, 100)
# What a node may hold. At rest it is about half of it; all in flight are at most 64 messages.
MAX_PSS = 160 * MiB

MANIFEST = """
spin_manifest_version = 2
[application]
name = "soak"

[[trigger.mqtt]]
id = "readings"
topic = "in/+"
qos = "1"
component = "moody"

[component.moody]
source = "{wasm}"
[component.moody.tool.edge]
memory = "1MiB"
concurrency = 4
[component.moody.tool.edge.trigger.readings]
ordered = "none"
reply_topic = "handled/{{topic.1}}"
dead_letter = "dead/{{application}}/{{component}}"
retries = 3
retry_time = "20s"
"""


@dataclass(slots=True)
class Node:
    """`edge up` behind a proxy, killed and started again; its memory is watched."""

    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    kills: int = 0
    pss: list[int] = field(default_factory=list)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        self.process.kill()
        self.process.wait()
        self.kills += 1

    def stop(self) -> int:
        """As an operator would. Its exit code; it is gone in any case."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(150)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def measure(self) -> None:
        assert self.process is not None
        try:
            self.pss.append(memory(self.process.pid)["Pss"])
        except (OSError, IndexError, KeyError):
            pass  # it was just killed


@contextmanager
def counted(broker: Mosquitto, folder: Path) -> Iterator[Path]:
    """A client of the broker's makers, in a process of its own, writes down what it sees."""
    seen = folder / "seen"
    command = ["stdbuf", "-oL", "mosquitto_sub", "-p", str(broker.port), "-V", "mqttv311"]
    command += ["-i", "counter", "-c", "-q", "1", "-t", "handled/+", "-t", "dead/#", "-F", "%t %p"]
    with seen.open("wb") as out:
        process = subprocess.Popen(command, stdout=out)
    try:
        yield seen
    finally:
        process.terminate()
        process.wait(20)


@asynccontextmanager
async def misfortunes(node: Node, proxy: Proxy, broker: Mosquitto) -> AsyncIterator[Counter[str]]:
    """Things happen to node, connections and broker until the block is left."""
    happened: Counter[str] = Counter()
    chance = random.Random(3)
    whole = asyncio.Lock()  # what was stopped is started again

    async def cut() -> None:
        proxy.cut()

    async def restart_broker() -> None:
        await asyncio.to_thread(broker.stop)
        await asyncio.sleep(chance.uniform(0, 1))
        await asyncio.to_thread(broker.start)

    async def restart_node() -> None:
        await asyncio.to_thread(node.kill)
        await asyncio.sleep(chance.uniform(0, 1))
        node.start()

    async def go_on() -> None:
        # Each at least once, then as it happens.
        kinds = [restart_node, cut, restart_broker]
        while True:
            await asyncio.sleep(chance.uniform(PEACE / 2, PEACE * 3 / 2))
            one = kinds.pop() if kinds else chance.choice((cut, cut, restart_node, restart_broker))
            async with whole:
                await one()
            happened[one.__name__] += 1

    async def watch() -> None:
        while True:
            node.measure()
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(go_on()), group.create_task(watch())]
        yield happened
        async with whole:
            for task in tasks:
                task.cancel()


def texts() -> list[str]:
    """Every 500th can never be handled, and every 70th is refused."""
    kinds = {0: "poison", 1: "refuse"}
    return [
        f"{kinds.get(0 if n % 500 == 499 else 1 if n % 70 == 69 else 2, 'reading')} {n}"
        for n in range(MESSAGES)
    ]


async def publish(peer: Peer, wanted: list[str]) -> None:
    """Each until the broker has it; paho repeats what a broken connection left open."""
    room = asyncio.Semaphore(AHEAD)

    async def one(text: str, number: int) -> None:
        try:
            await peer.publish(f"in/{number % 8}", text.encode())
        finally:
            room.release()

    async with asyncio.TaskGroup() as group:
        for number, text in enumerate(wanted):
            await room.acquire()
            group.create_task(one(text, number))


def read(seen: Path) -> tuple[Counter[str], Counter[str]]:
    """What was handled and what was given up, and how often."""
    handled: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    for line in seen.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            topic, _, text = line.rstrip("\n").partition(" ")
            (handled if topic.startswith("handled/") else dead)[text] += 1
    return handled, dead


async def accounted(seen: Path, wanted: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Waits until every message is accounted for."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while True:
        handled, dead = await asyncio.to_thread(read, seen)
        left = [text for text in wanted if text not in handled and text not in dead]
        if not left or asyncio.get_running_loop().time() > end:
            assert not left, f"{len(left)} lost: {left[:10]}"
            return handled, dead
        await asyncio.sleep(sized(5, 1))


def test_every_message_is_handled_or_dead_lettered_whatever_happens(
    tmp_path: Path, guest: Guest
) -> None:
    # Not a coroutine: those have two minutes.
    asyncio.run(campaign(tmp_path, guest))


async def campaign(tmp_path: Path, guest: Guest) -> None:
    application = tmp_path / "application"
    application.mkdir()
    (application / "spin.toml").write_text(MANIFEST.format(wasm=guest("moody")))
    wanted = texts()
    loop = asyncio.get_running_loop()
    with (
        mosquitto(tmp_path / "broker", "max_inflight_messages 200") as broker,
        counted(broker, tmp_path) as seen,
    ):
        async with proxied(broker) as proxy, Peer(broker.port) as peer:
            command = [str(Path(sys.executable).parent / "edge"), "up", str(application)]
            command += ["--state-dir", str(tmp_path / "state"), "--mqtt", proxy.url]
            node = Node([*command, "--listen", "127.0.0.1:0"], tmp_path / "log")
            node.start()
            try:
                await peer.subscribe("edge/+/status")
                assert (await peer.get()).payload == b"online", node.log.read_text()
                began = loop.time()
                async with misfortunes(node, proxy, broker) as happened:
                    await publish(peer, wanted)
                    published = loop.time() - began
                    handled, dead = await accounted(seen, wanted)
                took = loop.time() - began
            finally:
                stopped = await asyncio.to_thread(node.stop)
            # It may have been started again a moment before, and not be serving yet.
    assert stopped in (0, -signal.SIGTERM, 128 + signal.SIGTERM)

    again = (handled + dead).total() - MESSAGES
    say(
        f"{MESSAGES} messages: published in {published:.0f} s, accounted for after {took:.0f} s; "
        f"{len(handled)} handled, {len(dead)} dead letters, {again} seen again; "
        f"{dict(happened)}; PSS at most {max(node.pss) / MiB:.0f} MiB"
    )
    assert set(wanted) == set(handled) | set(dead), "none was lost and none made up"
    assert not [text for text in handled if not text.startswith("reading")]
    assert {text for text in wanted if not text.startswith("reading")} <= set(dead)
    assert len(happened) == 3, "everything that may happen did"
    assert max(node.pss) < MAX_PSS
    if FULL:
        assert node.kills > 10
