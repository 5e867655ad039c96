"""Redis with connections cut at random: what was acknowledged is kept, and messages come again.

EDGE_SOAK=full makes it long.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_lab import Server, redis_server
from soak_lab import sized

from edge import config
from edge.application.addresses import RedisAddress
from edge.application.channels import RedisTrigger
from edge.invocation.event import DONE, Event, Outcome
from edge.spin.kv_redis import RedisKeyValue
from edge.spin.platform import KeyValueError
from edge.triggers.redis import ChannelSubscription, RedisService

CUTS = sized(5000, 200)
ROUNDS = sized(200, 20)  # each with a pause before the next connection


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with redis_server(tmp_path) as running:
        yield running


async def test_increments_under_cuts_are_what_was_acknowledged_or_tried(server: Server) -> None:
    acknowledged: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    store = RedisKeyValue("app", "default", config.KeyValue(type="redis", url=server.url))
    stop = asyncio.Event()

    async def guest(key: str) -> None:
        while not stop.is_set():
            tried[key] += 1
            with contextlib.suppress(KeyValueError):
                await store.increment(key, 1)
                acknowledged[key] += 1

    async def cutter() -> None:
        for _ in range(CUTS):
            before = acknowledged.total()
            async with asyncio.timeout(30):
                while acknowledged.total() < before + random.randint(1, 50):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            server.client.client_kill_filter(_type="normal", skipme=True)
        stop.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(cutter())
        for number in range(20):
            group.create_task(guest(f"k{number % 4}"))
    with contextlib.suppress(KeyValueError):
        await store.get("k0")  # of the connection that was cut last
    for key in tried:
        final = int(await store.get(key) or 0)
        assert acknowledged[key] <= final <= tried[key]
    assert acknowledged.total() > CUTS
    await store.close()
    assert server.connections() == 0


async def test_a_trigger_under_cuts_hears_again_each_time(server: Server) -> None:
    random.seed(7)
    heard: Counter[bytes] = Counter()
    news = asyncio.Event()

    async def slow(event: Event) -> Outcome:
        await asyncio.sleep(random.random() / 100)
        heard[event.data] += 1
        news.set()
        return DONE

    trigger = RedisTrigger("t", "component", RedisAddress.parse(server.url), "c")
    async with RedisService() as service:
        await service.update([ChannelSubscription(trigger, "app", slow)])
        for number in range(ROUNDS):
            data = b"%d" % number
            async with asyncio.timeout(60):
                while not server.client.publish("c", data):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)  # nobody was subscribed
                while not heard[data]:
                    news.clear()
                    await news.wait()
            server.client.client_kill_filter(_type="pubsub")
        await service.drain(10)
    assert set(heard.values()) == {1}, "at most once"
