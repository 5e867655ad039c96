"""Large bodies: up, down and both at once, through a guest; megabytes a second, what they cost the
processor, and the memory that they take meanwhile.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from load import CORE
from servers import Server, edge, wasmtime_serve
from serving import Row, guest, in_turn

MiB = 1 << 20
# Size of a body, connections at once, bodies on each in a round.
SIZES = ((1 * MiB, 4, 24), (64 * MiB, 2, 1))
WAYS = ("up", "down", "echoed")
SECONDS = 120
CLIENT = Path(__file__).parent / "load_bodies.py"


def rows(rounds: int) -> Iterator[Row]:
    for way in WAYS:
        wasm = guest("echo" if way == "echoed" else "bytes")
        with ExitStack() as stack:
            servers = {
                "edge": stack.enter_context(edge(wasm, concurrency=64)),
                "wasmtime serve": stack.enter_context(wasmtime_serve(wasm)),
            }
            for size, connections, times in SIZES:
                yield from _measured(way, size, connections, times, servers, rounds)


def _measured(
    way: str, size: int, connections: int, times: int, servers: dict[str, Server], rounds: int
) -> Iterator[Row]:
    rate: dict[str, list[float]] = {name: [] for name in servers}
    cost: dict[str, list[float]] = {name: [] for name in servers}
    more: dict[str, list[float]] = {name: [] for name in servers}
    megabytes = size * connections * times / 1e6
    for server in servers.values():
        send(server, way, size, connections, 1)
    for number in range(rounds):
        for name, server in in_turn(servers, number):
            idle, before = server.forget_peak(), server.cpu()
            rate[name].append(megabytes / send(server, way, size, connections, times))
            cost[name].append(1e6 * (server.cpu() - before) / megabytes)
            more[name].append((server.peak() - idle) / MiB)
    row = f"{size // MiB} MiB {way}"
    yield row, "MB/s", rate
    yield f"{row}: processor time of a megabyte", "µs", cost
    yield f"{row}: memory meanwhile", "MiB", more


def send(server: Server, way: str, size: int, connections: int, times: int) -> float:
    """Seconds from the first byte to the last, by a process on the core of the load."""
    what = json.dumps([server.port, way, size, connections, times])
    done = subprocess.run(
        ["taskset", "-c", CORE, sys.executable, str(CLIENT), what],
        stdout=subprocess.PIPE,
        check=True,
        timeout=SECONDS,
    )
    return float(done.stdout)
