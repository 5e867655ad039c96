"""When a loop pauses for its threads. That they get their turn then, only a node under load shows:
without it a deployment under faults, beside three others, took minutes (tests/soak).
"""

from __future__ import annotations

import asyncio
import os
import time

from edge.platform.threads import Threads


def work() -> int:
    """Lets go of the interpreter again and again, as who writes files does."""
    for _ in range(1000):
        os.stat("/")  # noqa: PTH116 - a system call and nothing else
    return 7


async def test_nothing_is_left_when_they_have_ended() -> None:
    loop = asyncio.get_running_loop()
    with Threads(loop) as threads:
        assert await loop.run_in_executor(threads, work) == 7
        threads._pause()
        assert threads._timer is None
        assert threads._under_way == []


async def test_what_takes_long_makes_ever_fewer_pauses() -> None:
    """It waits for something else: for a network, or for a file that nobody writes."""
    loop = asyncio.get_running_loop()
    pauses = 0
    with Threads(loop) as threads:
        future = loop.run_in_executor(threads, time.sleep, 1.0)
        threads._since -= 100
        while not future.done():
            timer = threads._timer
            await asyncio.sleep(0.01)
            pauses += threads._timer is not timer
    assert 1 <= pauses <= 4


async def test_new_work_does_not_wait_for_the_pause_of_an_old_one() -> None:
    loop = asyncio.get_running_loop()
    with Threads(loop) as threads:
        old = loop.run_in_executor(threads, time.sleep, 1.0)
        threads._wait(3600.0)
        new = loop.run_in_executor(threads, work)
        assert threads._timer is not None
        assert threads._timer.when() < loop.time() + 1
        await new
        await old
