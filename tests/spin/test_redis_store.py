"""Key-value stores on a real Redis server: what they keep, share, survive and refuse."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis_lab import Server, free_port, redis_server

from edge import config
from edge.errors import ConfigError
from edge.spin.kv_redis import RedisKeyValue
from edge.spin.platform import KeyValueError


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.client.flushall()
    return running


def settings(url: str, **more: Any) -> config.KeyValue:
    return config.KeyValue(type="redis", url=url, **more)


@contextlib.asynccontextmanager
async def store(
    url: str, application: str = "app", label: str = "default", **more: Any
) -> AsyncIterator[RedisKeyValue]:
    opened = RedisKeyValue(application, label, settings(url, **more))
    try:
        yield opened
    finally:
        await opened.close()


async def all_keys(s: RedisKeyValue) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        keys, cursor = await s.keys(cursor)
        found += keys
        if cursor is None:
            return sorted(found)


async def test_what_is_set_is_there_until_it_is_deleted(server: Server) -> None:
    async with store(server.url) as s:
        assert await s.get("k") is None
        assert not await s.exists("k")
        await s.set("k", b"\0\xff")
        assert (await s.get("k"), await s.exists("k")) == (b"\0\xff", True)
        await s.delete("k")
        await s.delete("k")
        assert await s.get("k") is None
        await s.set("empty", b"")
        assert await s.get("empty") == b""
        assert server.client.get("edge:app:default:empty") == b""


async def test_batches(server: Server) -> None:
    async with store(server.url) as s:
        await s.set_many([("a", b"1"), ("b", b"2"), ("ü ", b"3")])
        assert await s.get_many(["b", "none", "ü ", "a"]) == [b"2", None, b"3", b"1"]
        await s.delete_many(["a", "none", "ü "])
        assert await all_keys(s) == ["b"]
        await s.set_many([])
        await s.delete_many([])
        assert await s.get_many([]) == []


async def test_fifty_at_once_lose_no_increment(server: Server) -> None:
    async with store(server.url) as one, store(server.url) as other:

        async def many(s: RedisKeyValue) -> list[int]:
            return [await s.increment("n", 1) for _ in range(20)]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(many(s)) for s in (one, other) for _ in range(25)]
        assert sorted(n for task in tasks for n in task.result()) == list(range(1, 1001))
        assert await one.increment("n", -1001) == -1
        assert await one.get("n") == b"-1"


async def test_a_swap_happens_only_where_nothing_changed(server: Server) -> None:
    async with store(server.url) as s:
        assert await s.swap("k", None, b"1")
        assert not await s.swap("k", None, b"2")
        assert not await s.swap("k", b"2", b"3")
        assert not await s.swap("none", b"", b"3")
        assert await s.swap("k", b"1", b"")
        assert await s.swap("k", b"", b"4")
        assert (await s.get("k"), await s.exists("none")) == (b"4", False)

        async def add(by: int) -> None:
            while True:
                old = await s.get("sum")
                if await s.swap("sum", old, b"%d" % (int(old or 0) + by)):
                    return

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(add(number))
        assert await s.get("sum") == b"190"


async def test_stores_see_their_own_keys_only(server: Server) -> None:
    names = [("a", "b"), ("a:b", "c"), ("a", "c"), ("*", "b"), ("[ab]", "b"), ("a%3Ab", "c")]
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(store(server.url, *name)) for name in names]
        for number, s in enumerate(stores):
            await s.set(f"{number}", b"x")
            await s.set("*", b"x")
        for number, s in enumerate(stores):
            assert await all_keys(s) == ["*", f"{number}"]
            await s.delete("*")
            assert await all_keys(s) == [f"{number}"]


async def test_keys_come_in_pages_also_from_among_many_others(server: Server) -> None:
    server.client.mset({f"other:{n}": b"" for n in range(20_000)})
    server.client.mset({"edge:app:default:\udcff".encode(errors="surrogateescape"): b""})
    async with store(server.url) as s:
        await s.set_many([(f"k{n}", b"") for n in range(3000)])
        first, cursor = await s.keys()
        assert first
        assert cursor is not None
        assert await all_keys(s) == sorted(f"k{n}" for n in range(3000))
        for wrong in ("", "-1", "x", "9" * 30, "1 MATCH *"):
            with pytest.raises(KeyValueError, match="cursor"):
                await s.keys(wrong)


async def test_values_of_others(server: Server) -> None:
    server.client.rpush("edge:app:default:list", "x")
    server.client.set("edge:app:default:word", "x")
    server.client.set("edge:app:default:most", str(2**63 - 1))
    server.client.set("edge:app:default:large", bytes((16 << 20) + 1))
    async with store(server.url) as s:
        with pytest.raises(KeyValueError, match="somebody else"):
            await s.get("list")
        for key in ("word", "most"):
            with pytest.raises(KeyValueError, match="not an integer"):
                await s.increment(key, 1)
        with pytest.raises(KeyValueError, match="larger than"):
            await s.get("large")
        assert await s.get("word") == b"x"


async def test_a_server_that_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge.stores")
    with redis_server(tmp_path, "--appendonly", "yes", password="s3cret") as server:
        url = f"redis://:s3cret@127.0.0.1:{server.port}/2"
        async with store(url) as s:
            await s.set("k", b"v")
            server.stop()
            for _ in range(3):
                with pytest.raises(KeyValueError, match=r"lost|refused"):
                    await s.get("k")
            server.start()
            assert await s.get("k") == b"v"
    told = [record.getMessage() for record in caplog.records]
    where = f"key-value store default: redis://127.0.0.1:{server.port}/2"
    assert told == [f"{where}: connection refused", f"{where} is there again"]


async def test_a_server_that_hangs_is_left_and_asked_again(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with store(server.url, timeout=0.3) as s:
            await s.set("k", b"v")
            assert server.process is not None
            server.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(KeyValueError, match=r"in time|lost"):
                    await s.get("k")
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert await s.get("k") == b"v"


async def test_a_server_that_hangs_is_left_also_by_who_does_not_wait(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        async with store(server.url, timeout=1.0) as s:
            await s.set("k", b"v")
            link = s._client and s._client._link
            server.process.send_signal(signal.SIGSTOP)
            try:
                async with asyncio.timeout(30):
                    while link is not None and not link.closed:
                        # As guests whose own time is shorter than the store's.
                        with contextlib.suppress(KeyValueError, TimeoutError):
                            async with asyncio.timeout(0.1):
                                await s.set("k", b"w")
            finally:
                server.process.send_signal(signal.SIGCONT)
            assert await s.get("k") in (b"v", b"w")


async def test_who_gives_up_takes_nothing_from_the_others(server: Server) -> None:
    async with store(server.url) as s:
        await s.set_many([(f"{n}", b"%d" % n) for n in range(20)])
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(s.get(f"{n}")) for n in range(20)]
        await asyncio.sleep(0)  # all are sent
        for task in tasks[::2]:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks[::2])
        assert [task.result() for task in tasks[1::2]] == [b"%d" % n for n in range(1, 20, 2)]


async def test_who_gives_up_while_it_connects_leaves_it_to_the_others(server: Server) -> None:
    async with store(server.url) as s:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(s.increment("n", 1)) for _ in range(3)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks)
        assert sorted(task.result() for task in tasks[1:]) == [1, 2]


async def test_closing_ends_what_is_under_way(server: Server) -> None:
    async with store(server.url) as s:
        await s.set("k", b"v")
        task = asyncio.get_running_loop().create_task(s.get("k"))
        await asyncio.sleep(0)
    with pytest.raises(KeyValueError):
        await task


async def test_a_wrong_password(tmp_path: Path) -> None:
    with redis_server(tmp_path, password="s3cret") as server:
        async with store(f"redis://:wr0ng@127.0.0.1:{server.port}") as s:
            with pytest.raises(KeyValueError, match="password is wrong") as raised:
                await s.get("k")
            assert "wr0ng" not in str(raised.value)


async def test_no_server_and_no_address() -> None:
    async with store(f"redis://127.0.0.1:{free_port()}") as s:
        with pytest.raises(KeyValueError, match="connection refused"):
            await s.get("k")
    with pytest.raises(ConfigError, match="key-value store cache: url") as raised:
        RedisKeyValue("app", "cache", settings("http://:s3cret@localhost"))
    assert "s3cret" not in raised.value.message
