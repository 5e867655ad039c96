"""What large fleets tell each other, by simulation (tests/fleet/air.py), and what a look at a
registry costs, by a node that looks.

`scale.py NODES…` simulates fleets of other sizes.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
# The tests' own modules come last: some have the names of libraries.
sys.path[:0] = [str(HERE), str(HERE.parent / "guests")]
sys.path += [str(HERE.parent), str(HERE.parent / "fleet")]

from air import Air, Node, acquainted, simulated, until  # noqa: E402
from density import CONFIG  # noqa: E402
from registry_lab import docker_registry  # noqa: E402
from servers import START_SECONDS, free_port, running  # noqa: E402
from serving import guest  # noqa: E402

from edge.fleet.wire import PEERS_MOST  # noqa: E402

Row = tuple[str, str, dict[str, list[float]]]

SIZES = (8, 200)
# Simulated seconds: until what happened at the start is over; of which traffic is counted.
SETTLED, COUNTED = 60.0, 60.0
# Seconds between two looks at a tag here, and for how long they are counted.
INTERVAL, WATCHED = 1, 20
HEALTH = "/.well-known/spin/health"


def rows() -> Iterator[Row]:
    for count in SIZES:
        found = measured(count)
        what = f"{count:,} simulated nodes, one network"
        yield f"{what}: each sends and receives in a minute", "kB", {"edge": [found.kilobytes]}
        yield f"{what}: packets of each in a minute", "", {"edge": [found.packets]}
        yield f"{what}: a power cut is known to all after", "s", {"edge": [found.cut]}
        yield f"{what}: a new node is known to all after", "s", {"edge": [found.new]}
    size = looked_at()
    yield "a look at a tag that has not moved: both ways", "bytes", {"edge": [size]}


@dataclass
class Found:
    kilobytes: float = 0.0  # of each node in a minute, both ways
    packets: float = 0.0
    cut: float = float("nan")  # seconds
    new: float = float("nan")


def measured(count: int) -> Found:
    found = Found()

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            air = Air(group)
            await _life(air, count, found)
            for task in air.tasks.values():
                task.cancel()

    random.seed(7)
    simulated(run())
    return found


async def _life(air: Air, count: int, found: Found) -> None:
    nodes = acquainted(air, count)
    await asyncio.sleep(SETTLED)
    before = [(node.bytes, node.packets) for node in nodes]
    await asyncio.sleep(COUNTED)
    octets = sum(node.bytes - sent for node, (sent, _) in zip(nodes, before, strict=True))
    packets = sum(node.packets - sent for node, (_, sent) in zip(nodes, before, strict=True))
    found.kilobytes = octets / count / 1e3 * 60 / COUNTED
    found.packets = packets / count * 60 / COUNTED
    if count > PEERS_MOST:
        return  # nobody knows all
    found.cut = await _cut(air, nodes)
    found.new = await _new(air, nodes, count)


async def _cut(air: Air, nodes: list[Node]) -> float:
    victim = nodes.pop(len(nodes) // 2)
    air.stop(victim)
    return await until(lambda: all(node.buried(victim) for node in nodes), 60)


async def _new(air: Air, nodes: list[Node], count: int) -> float:
    air.node(count, nodes[3])
    return await until(lambda: all(count in node.knows() for node in nodes), 60)


# --- a look at a registry -------------------------------------------------------------------------


@dataclass
class Relay:
    """Passes on what comes to a port, and counts it."""

    to: str
    port: int = field(default_factory=free_port)
    bytes: int = 0
    looks: int = 0

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # it was closed
            host, _, port = self.to.rpartition(":")
            server = socket.create_connection((host, int(port)))
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                self.bytes += len(data)
                self.looks += data.startswith(b"HEAD ")
                other.sendall(data)
        except OSError:
            pass
        other.close()


@contextmanager
def relay(to: str) -> Iterator[Relay]:
    passing = Relay(to)
    with socket.create_server(("127.0.0.1", passing.port)) as listener:
        threading.Thread(target=passing.serve, args=(listener,), daemon=True).start()
        yield passing
        listener.shutdown(socket.SHUT_RDWR)


def looked_at() -> float:
    """Bytes of HTTP that a look costs, the question and its answer."""
    edge = str(Path(sys.executable).parent / "edge")
    with TemporaryDirectory() as name, docker_registry(Path(name)) as registry:
        folder = Path(name)
        made = folder / "hello.wasm"
        shutil.copyfile(guest("hello"), made)
        subprocess.run([edge, "push", made, f"{registry}/hello:1", "--insecure"], check=True)
        with relay(registry) as passing:
            port, reference = free_port(), f"127.0.0.1:{passing.port}/hello:1"
            config = folder / "edge.toml"
            more = f'[sync]\ninterval = "{INTERVAL}s"\n[registry."127.0.0.1:{passing.port}"]\n'
            more += f'insecure = true\n[[application]]\nname = "a"\nreference = "{reference}"\n'
            config.write_text(CONFIG.format(folder=folder, port=port) + more)
            with running([edge, "run", "--config", str(config)], port, HEALTH):
                _live(port)
                before, looks = passing.bytes, passing.looks
                time.sleep(WATCHED)
                return (passing.bytes - before) / (passing.looks - looks)


def _live(port: int) -> None:
    """Returns when the application is there, and nothing of its arrival is under way."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30):
            time.sleep(2 * INTERVAL)
            return
        time.sleep(0.1)
    raise TimeoutError("the application does not answer")


if __name__ == "__main__":
    for size in map(int, sys.argv[1:]):
        print(f"{size:,}", measured(size), flush=True)
