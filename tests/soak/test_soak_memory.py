"""More clients than memory: what fits is admitted, the others are told to come back."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from pathlib import Path

from conftest import Serve
from soak_lab import (
    Answer,
    Client,
    Guest,
    MiB,
    forget_peak,
    memory,
    part,
    request,
    say,
    sized,
    write_application,
)

BUDGET = 512 * MiB
GUEST = 64  # MiB that it touches
CLIENTS = 200
ROUNDS = sized(5, 1)


async def test_guests_beyond_the_budget_wait_or_are_refused(
    guest: Guest, serve: Serve, tmp_path: Path
) -> None:
    parts = (
        # Its own memory beside the 64 MiB that it asks for, so that seven fit into the budget.
        part("touch", memory="65MiB", concurrency=64, queue=64, queue_timeout="2s"),
        part("hello", memory="1MiB"),
    )
    application = write_application(tmp_path, guest, parts)
    with serve(application, "--memory", "512MiB") as served:
        pid = served.process.pid
        await fetch(served.port, "/touch/1")
        before = memory(pid)["Rss"]
        forget_peak(pid)
        seen: Counter[int] = Counter()
        others: list[float] = []
        for _ in range(ROUNDS):
            async with asyncio.TaskGroup() as group:
                paths = [f"/touch/{GUEST}/250"] * CLIENTS
                tasks = [group.create_task(fetch(served.port, path)) for path in paths]
                while not all(task.done() for task in tasks):
                    started = time.monotonic()
                    assert (await fetch(served.port, "/hello/x")).status == 200
                    others.append(time.monotonic() - started)
                    await asyncio.sleep(0.05)
            for task in tasks:
                answer = task.result()
                seen[answer.status] += 1
                if answer.status == 503:
                    assert int(answer.headers["retry-after"]) >= 1
                else:
                    assert answer.body == b"ok"
        grown = memory(pid)["Peak"] - before
        after = memory(pid)["Rss"] - before
        say(
            f"{CLIENTS} clients × {ROUNDS}, {GUEST} MiB each, "
            f"budget {BUDGET // MiB} MiB: {dict(seen)}, "
            f"peak {grown / MiB:.0f} MiB above {before / MiB:.0f} MiB, {after / MiB:.0f} MiB kept; "
            f"others answered in {statistics.median(others) * 1e3:.1f} ms at the median"
        )
        assert set(seen) == {200, 503}
        assert seen[200] >= ROUNDS * 7
        assert grown < BUDGET + 16 * MiB
        # A guest that ended has given back what it touched.
        assert after < 32 * MiB
        # What is too little for another of them is enough for a small guest.
        assert statistics.median(others) < 0.1


async def fetch(port: int, path: str) -> Answer:
    client = Client(port)
    try:
        return await client.ask(request(path))
    finally:
        client.close()
