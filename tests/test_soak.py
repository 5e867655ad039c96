"""Hundreds of thousands of requests of every fate: nothing grows, nothing is left. `make soak`."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Serve, Served

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "200000"))
CLIENTS = 32
# Two hundred bytes a request would be a lost object each; allocators alone stay far below.
MAX_SLOPE = 50  # bytes of resident memory per request, over the second half

ROUTES = ("hello", "echo", "status", "late_trap", "exit", "silent", "sleeper", "counter", "lies")
MANIFEST = """
spin_manifest_version = 2

[application]
name = "soak"
version = "1.0.0"
"""
COMPONENT = """
[[trigger.http]]
route = "/{name}/..."
component = "{id}"

[component.{id}]
source = "{wasm}"

[component.{id}.tool.edge]
timeout = "2s"
concurrency = 32
queue = 200
reuse = {reuse}
"""

# path -> what may come: a status, or "cut" for a connection that ends early
FATES: tuple[tuple[str, bytes, set[int | str]], ...] = (
    ("/hello/a", b"", {200}),
    ("/hello/b", b"", {200}),
    ("/status/404", b"", {404}),
    ("/echo/x", b"x" * 10_000, {200}),
    ("/echo/y", b"y" * 200_000, {200}),
    ("/counter/", b"", {200}),
    ("/counter/trap", b"", {200, 500, "cut"}),
    ("/counter/leak", b"", {200}),
    ("/late_trap/quick/trap", b"", {500, 502, "cut"}),
    ("/exit/0", b"", {500}),
    ("/silent/", b"", {500}),
    ("/silent/error", b"", {500}),
    ("/sleeper/5", b"", {200}),
    ("/lies/drop-twice", b"", {500}),
    ("/lies/string-outside", b"", {500}),
    ("/lies/realloc-outside", b"", {500}),
    ("/nowhere", b"", {404}),
)
# What a client that loses interest was doing: a guest that sleeps, a body half sent, one half read.
LEFT = ("/sleeper/1000", "/echo/x", "/echo/y")


@pytest.mark.soak
def test_nothing_grows_over_requests_of_every_fate(
    guest: Callable[[str], Path], serve: Serve, tmp_path: Path
) -> None:
    parts = [
        COMPONENT.format(
            name=name,
            id=name.replace("_", "-"),
            wasm=guest(name),
            reuse=100 if name == "counter" else 1,
        )
        for name in ROUTES
    ]
    (tmp_path / "spin.toml").write_text(MANIFEST + "".join(parts))
    with serve(tmp_path) as served:
        asyncio.run(soak(served))


async def soak(served: Served) -> None:
    await batch(served, 2000)  # caches, pools and buffers reach their size
    files, threads = resources(served)
    sizes: list[tuple[int, int]] = []
    step = max(1000, REQUESTS // 40)
    for done in range(0, REQUESTS, step):
        await batch(served, step)
        sizes.append((done + step, resident(served)))
    await asyncio.sleep(3)  # guests of clients that left
    later = sizes[len(sizes) // 2 :]
    slope = statistics.linear_regression(*zip(*later, strict=True)).slope
    sys.stderr.write(
        f"{REQUESTS} requests: {sizes[0][1] >> 20} to {sizes[-1][1] >> 20} MiB, "
        f"{slope:.1f} bytes a request\n"
    )
    assert slope < MAX_SLOPE, sizes
    assert resources(served) <= (files, threads)


async def batch(served: Served, requests: int) -> None:
    todo = iter(range(requests))
    seen: Counter[str] = Counter()

    async def client(number: int) -> None:
        chance = random.Random(number)
        for _ in todo:
            if chance.random() < 0.1:
                await leave(served, chance)
            else:
                path, body, expected = chance.choice(FATES)
                fate = await ask(served, path, body)
                # Where everybody asks at once, being refused is an answer too.
                assert fate in expected | {503}, f"{path}: {fate}"
                seen[f"{path} {fate}"] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            group.create_task(client(number))
    assert seen["/hello/a 200"]


async def ask(served: Served, path: str, body: bytes) -> int | str:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        method = "POST" if body else "GET"
        head = f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = await asyncio.wait_for(reader.read(-1), 30)
    except (ConnectionError, asyncio.IncompleteReadError):
        return "cut"
    finally:
        writer.close()
    head, _, content = answer.partition(b"\r\n\r\n")
    if not head or not complete(head, content):
        return "cut"
    return int(head.split()[1])


def complete(head: bytes, content: bytes) -> bool:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(content) == int(line[15:])
    return content.endswith(b"0\r\n\r\n")


async def leave(served: Served, chance: random.Random) -> None:
    """A client that goes away in the middle."""
    path = chance.choice(LEFT)
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    try:
        length = 0 if "sleeper" in path else 500_000
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n"
        writer.write(head.encode() + b"z" * (length // 2))
        if path == "/echo/y":
            await asyncio.wait_for(reader.read(100), 10)
        else:
            await asyncio.sleep(chance.random() * 0.01)
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()


def resident(served: Served) -> int:
    fields = Path(f"/proc/{served.process.pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def resources(served: Served) -> tuple[int, int]:
    """Open files and threads of the server."""
    process = Path(f"/proc/{served.process.pid}")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))
