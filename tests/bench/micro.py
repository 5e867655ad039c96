"""One process, no HTTP: micro.py STATE '{"hello": PATH, "python": PATH, "javascript": PATH}'.

Prints JSON: for each row p50 and p99 in µs. Instantiations are store + instances + drop; "ready" is
the wait of an event for an instance made ahead of it; an invocation is a whole wasi:http one, from
the parsed request to the finished reply, its bytes thrown away.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from pathlib import Path

from edge.invocation.application import LiveApplication
from edge.node.node import Node, open_node
from edge.registry import local
from edge.wasi.context import Context
from edge.wasi.http.message import Headers, Request
from edge.wasi.pipe import BytesSource

MEMORY = 128 << 20
# How often: enough for a p99, and a second or two in all.
TIMES = {"hello": 20_000, "python": 300, "javascript": 2_000}
LABELS = {"hello": "small guest", "python": "Python guest", "javascript": "JavaScript guest"}


class Nowhere:
    """A reply whose bytes nobody wants."""

    error: Exception | None = None

    def __init__(self) -> None:
        self.started = False
        self.written = 0
        self.finished = False

    def start(self, status: int, headers: Headers) -> None:
        assert status == 200, status
        self.started = True

    def writable(self) -> int:
        return 65_536

    def write(self, data: bytes) -> None:
        self.written += len(data)

    async def wait_writable(self) -> None:
        return

    def finish(self, trailers: Headers | None = None) -> None:
        self.finished = True

    def abort(self, error: Exception) -> None:
        raise error


def request() -> Request:
    headers = [(b"host", b"127.0.0.1"), (b"user-agent", b"bench"), (b"accept", b"*/*")]
    return Request(
        method="GET",
        scheme="http",
        authority="127.0.0.1",
        target="/some/path",
        headers=headers,
        body=BytesSource(b""),
        client="127.0.0.1:1",
    )


def figures(nanoseconds: list[int]) -> dict[str, float]:
    ordered = sorted(nanoseconds)
    size = len(ordered)
    return {"p50": ordered[size // 2] / 1000, "p99": ordered[size * 99 // 100] / 1000}


async def nothing_to_fetch(url: str, limit: int) -> bytes:
    raise AssertionError(url)


async def activate(node: Node, wasm: str, folder: Path) -> LiveApplication:
    loaded = await local.load(Path(wasm), state_dir=folder, fetch=nothing_to_fetch)
    return await node.activate(loaded, {}, progress=lambda _: None)


def instantiate(live: LiveApplication, times: int) -> list[int]:
    (sandboxes,) = live.sandboxes.values()
    took = []
    for _ in range(times):
        start = time.perf_counter_ns()
        sandboxes.component.instantiate(Context(), MEMORY).close()
        took.append(time.perf_counter_ns() - start)
    return took


async def take_ready(live: LiveApplication, times: int) -> list[int]:
    (sandboxes,) = live.sandboxes.values()
    took = []
    for _ in range(times):
        start = time.perf_counter_ns()
        sandbox = sandboxes.take()
        took.append(time.perf_counter_ns() - start)
        sandboxes.give(sandbox)
        await asyncio.sleep(0.005)  # the loop makes the next one ready meanwhile
    return took[times // 10 :]


async def invoke(live: LiveApplication, times: int) -> list[int]:
    took = []
    for _ in range(times):
        reply, event = Nowhere(), request()
        start = time.perf_counter_ns()
        rest = live(event, reply)
        if rest is not None:
            await rest
        took.append(time.perf_counter_ns() - start)
        assert reply.finished
    return took


async def measure(folder: Path, wasm: dict[str, str]) -> dict[str, dict[str, float]]:
    rows: dict[str, dict[str, float]] = {}
    async with open_node(folder) as node:
        for name, path in wasm.items():
            live = await activate(node, path, folder)
            label, times = LABELS[name], TIMES[name]
            for run in (times // 10, times):  # the first warms up
                gc.collect()
                rows[f"instantiate, {label}"] = figures(instantiate(live, run))
            if name == "hello":
                rows[f"whole invocation, {label}"] = figures(await invoke(live, times))
            else:
                rows[f"instantiate, {label}, ready"] = figures(await take_ready(live, 200))
                rows[f"whole invocation, {label}"] = figures(await invoke(live, times // 4))
            live.close()
    return rows


print(json.dumps(asyncio.run(measure(Path(sys.argv[1]), json.loads(sys.argv[2])))))
