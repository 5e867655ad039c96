"""Very many requests of every fate: memory stays flat, and nothing of them is left."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from conftest import Serve, Served
from soak_fates import Mixture, parts
from soak_lab import (
    Guest,
    descriptors,
    eventually,
    memory,
    say,
    sized,
    slope,
    threads,
    write_application,
)

REQUESTS = sized(400_000, 4_000)
STEP = sized(10_000, 500)
# Bytes per request, over the second half of them. One small object lost by each would be 50 at
# least. A short run shows only what is lost in tens of kilobytes: meanwhile slots of the pool are
# used for the first time, each of which keeps up to 192 KiB of memory and stack.
MAX_SLOPE = sized(20, 12_000)


def test_memory_stays_flat_and_nothing_is_left(guest: Guest, serve: Serve, tmp_path: Path) -> None:
    with serve(write_application(tmp_path, guest, parts())) as served:
        asyncio.run(campaign(served))


async def campaign(served: Served) -> None:
    pid, mixture = served.process.pid, Mixture(served.port)
    await mixture.exhaust_stacks()
    await mixture.run(STEP)  # pools, caches and buffers reach their size
    opened, running = descriptors(pid), threads(pid)
    points, started = [], time.monotonic()
    for done in range(STEP, REQUESTS + STEP, STEP):
        await mixture.run(STEP)
        points.append((done, memory(pid)["Pss"]))
    elapsed = time.monotonic() - started
    later = slope(points[len(points) // 2 :])
    sizes = [round(size / 1e6, 1) for _, size in points]
    say(
        f"{REQUESTS} requests in {elapsed:.0f} s: PSS {sizes[0]} MB at first, {sizes[-1]} MB "
        f"in the end, slope {later * 1e4 / 1024:.1f} KiB per 10,000 requests\n{sizes}\n"
        + mixture.report()
    )
    assert await eventually(lambda: descriptors(pid) <= opened), descriptors(pid)
    assert threads(pid) <= running
    assert later < MAX_SLOPE
