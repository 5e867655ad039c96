"""Guests that never end: they cost their own requests, and nobody else more than a moment."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest
from conftest import Serve
from soak_lab import FULL, Client, Guest, part, request, say, write_application

# A loop's own patience. The whole of it is CPU shared by all of them.
TIMEOUT = 10.0 if FULL else 3.0
MEDIAN = 0.100  # seconds in which others answer


# A Raspberry Pi kernel with 4 KiB pages leaves a process 39 bits of addresses.
CONFINED = ("prlimit", f"--as={1 << 39}")


@pytest.mark.parametrize(
    ("loops", "prefix"), [(64, ()), (48, CONFINED)], ids=["64", "48-in-39-bits"]
)
async def test_endless_loops_leave_room_for_others(
    loops: int, prefix: tuple[str, ...], guest: Guest, serve: Serve, tmp_path: Path
) -> None:
    parts = (
        part("loop", timeout=f"{TIMEOUT:.0f}s", concurrency=64, memory="1MiB"),
        part("hello", memory="1MiB"),
        part("sleeper", memory="1MiB"),
    )
    application = write_application(tmp_path, guest, parts)
    with serve(application, prefix=prefix) as served:
        looping = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop(served.port, looping)) for _ in range(loops)]
            await asyncio.sleep(0.5)  # all of them spin
            small, waiting = [], []
            client = Client(served.port)
            while not looping.is_set():
                small.append(await timed(client, "/hello/x"))
                waiting.append(await timed(client, "/sleeper/1"))
            client.close()
        ended = [task.result() for task in tasks]
        lasted = [seconds for _, seconds in ended]
        say(
            f"{loops} loops: {len(small)} other requests, "
            f"median {statistics.median(small) * 1e3:.1f} ms, worst {max(small) * 1e3:.1f} ms; "
            f"with a wait of 1 ms median {statistics.median(waiting) * 1e3:.1f} ms; "
            f"the loops ended after {min(lasted):.2f} to {max(lasted):.2f} s"
        )
        assert [status for status, _ in ended] == [504] * loops
        assert max(lasted) < 2 * TIMEOUT, "they did not all run at once"
        assert len(small) > 10
        assert statistics.median(small) < MEDIAN
        assert statistics.median(waiting) < MEDIAN


async def loop(port: int, ended: asyncio.Event) -> tuple[int, float]:
    client = Client(port)
    started = time.monotonic()
    try:
        answer = await client.ask(request("/loop/"))
        return answer.status, time.monotonic() - started
    finally:
        ended.set()
        client.close()


async def timed(client: Client, path: str) -> float:
    started = time.monotonic()
    answer = await client.ask(request(path))
    assert answer.status == 200
    return time.monotonic() - started
