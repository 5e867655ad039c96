"""The same fates within this process: no store, call, task, place or object is left of them."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from contextvars import Context
from pathlib import Path

import pytest
from soak_fates import Mixture, parts
from soak_lab import Guest, MiB, eventually, say, sized, write_application

from edge.config import Limits
from edge.engine import _core
from edge.invocation.application import LiveApplication
from edge.node.node import open_node
from edge.registry import local
from edge.triggers.http import HttpServer

REQUESTS = sized(20_000, 2_000)


async def unreachable(url: str, limit: int) -> bytes:
    raise AssertionError(url)


def test_nothing_is_left_of_any_request(
    guest: Guest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # What a failing test would show of them costs more than the requests.
    with caplog.at_level(logging.CRITICAL, "edge"):
        asyncio.run(campaign(write_application(tmp_path, guest, parts()), tmp_path))


async def campaign(application: Path, state: Path) -> None:
    at_first = _core.counters()
    async with open_node(state, Limits(memory=4096 * MiB)) as node:
        budget = node.shared.budget
        everything = (budget.memory, budget.slots)
        loaded = await local.load(application, state_dir=state, fetch=unreachable)
        live = await node.activate(loaded, {})
        async with HttpServer(live, listen=[("127.0.0.1", 0)]) as server:
            mixture = Mixture(server.addresses[0][1])
            await mixture.run(1000)
            before = await settled(server, live)
            await mixture.run(REQUESTS)
            after = await settled(server, live)
            grown = {name: n for name, n in (after - before).items() if n > 20}
            say(f"{REQUESTS} requests within the process: more of {grown or 'nothing'}")
            assert not grown
        assert asyncio.all_tasks() == {asyncio.current_task()}
        live.close()
        assert _core.counters() == at_first
        assert (budget.memory, budget.slots) == everything
        assert not budget.line


async def settled(server: HttpServer, live: LiveApplication) -> Counter[str]:
    """Waits until nothing of a request is there: so many objects of each type."""
    assert await eventually(lambda: not len(server.connections)), "connections left"
    assert await eventually(lambda: _core.counters()["calls"] == 0), _core.counters()
    assert await eventually(lambda: len(asyncio.all_tasks()) == 1), asyncio.all_tasks()
    for sandboxes in live.sandboxes.values():  # how many are kept differs
        if sandboxes._cooling is not None:
            sandboxes._cooling.cancel()
        sandboxes._cool(force=True)
    gc.collect()
    return Counter(name(item) for item in gc.get_objects() if not is_over(item))


def is_over(item: object) -> bool:
    """asyncio keeps timers that were cancelled, with their contexts, until they are many."""
    return isinstance(item, Context) or (isinstance(item, asyncio.Handle) and item.cancelled())


def name(item: object) -> str:
    return f"{type(item).__module__}.{type(item).__qualname__}"
