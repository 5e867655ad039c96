"""fermyon:spin/redis against a real server: commands, grants, limits, and who lets go of what."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis_lab import Server, certificate, free_port, redis_server, trusting
from remote_lab import Node, error, way_out

from edge.spin.platform import Platform
from edge.spin.redis import UNVERSIONED, RedisConnection

ANY = "redis://127.0.0.1:*"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.client.flushall()
    return running


@pytest.fixture
def node() -> Iterator[Node]:
    with way_out() as made:
        yield made


@contextlib.asynccontextmanager
async def opened(context: Any, url: str) -> AsyncIterator[RedisConnection]:
    connection = await RedisConnection.open(context, url)
    try:
        yield connection
    finally:
        connection.drop()


async def settled_at(server: Server, connections: int) -> None:
    async with asyncio.timeout(20):
        while server.connections() != connections:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # another process is asked, it tells nobody by itself


async def test_every_command_does_what_it_says(node: Node, server: Server) -> None:
    async with opened(node.context(ANY), server.url) as c:
        assert await c.get("k") is None
        await c.set("k", b"\0\r\n$")
        assert await c.get("k") == b"\0\r\n$"
        assert [await c.incr("n"), await c.incr("n")] == [1, 2]
        assert await c.sadd("s", ["a", "b", "a b"]) == 3
        assert sorted(await c.smembers("s")) == ["a", "a b", "b"]
        assert await c.srem("s", ["a", "none"]) == 1
        assert await c.del_(["k", "n", "none"]) == 2
        assert await c.smembers("none") == []


async def test_published_messages_arrive(node: Node, server: Server) -> None:
    with server.client.pubsub() as listener:
        listener.subscribe("news")
        assert listener.get_message(timeout=10)["type"] == "subscribe"
        async with opened(node.context(ANY), server.url) as c:
            await c.publish("news", b"\xff\0")
        assert listener.get_message(timeout=10)["data"] == b"\xff\0"


async def test_execute_gives_each_kind_of_result(node: Node, server: Server) -> None:
    async with opened(node.context(ANY), server.url) as c:
        assert await c.execute("set", [("binary", b"k"), ("int64", -7)]) == [
            ("status", b"OK".decode())
        ]
        assert await c.execute("GET", [("binary", b"k")]) == [("binary", b"-7")]
        assert await c.execute("STRLEN", [("binary", b"k")]) == [("int64", 2)]
        assert await c.execute("PING", []) == [("status", "PONG")]
        script = b"return {1, {'two', false}, redis.status_reply('three')}"
        flat = [("int64", 1), ("binary", b"two"), "nil", ("status", "three")]
        assert await c.execute("EVAL", [("binary", script), ("int64", 0)]) == flat
        nested = b"return {redis.error_reply('MINE no')}"
        assert await error(c.execute("EVAL", [("binary", nested), ("int64", 0)])) == (
            "other",
            "MINE no",
        )
        assert await c.execute("MULTI", []) == [("status", "OK")]
        assert await c.execute("INCR", [("binary", b"k")]) == [("status", "QUEUED")]
        assert await c.execute("EXEC", []) == [("int64", -6)]


async def test_an_argument_is_never_split(node: Node, server: Server) -> None:
    async with opened(node.context(ANY), server.url) as c:
        kind, text = await error(c.execute("SET a b", []))
        assert kind == "other"
        assert "unknown command" in text
        assert await c.get("a") is None


async def test_values_of_the_wrong_type(node: Node, server: Server) -> None:
    server.client.rpush("list", "x")
    server.client.set("word", "x")
    server.client.sadd("bytes", b"\xff")
    async with opened(node.context(ANY), server.url) as c:
        assert await error(c.get("list")) == "type-error"
        assert await error(c.incr("list")) == "type-error"
        assert await error(c.incr("word")) == "type-error"
        assert await error(c.sadd("word", ["x"])) == "type-error"
        assert await error(c.smembers("bytes")) == "type-error"
        assert await c.get("word") == b"x"


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("subscribe", [("binary", b"c")]),
        ("MONITOR", []),
        ("HELLO", [("int64", 3)]),
        ("CLIENT", [("binary", b"reply"), ("binary", b"off")]),
    ],
)
async def test_commands_without_one_answer_are_refused(
    node: Node, server: Server, command: str, arguments: list[Any]
) -> None:
    async with opened(node.context(ANY), server.url) as c:
        kind, text = await error(c.execute(command, arguments))
        assert kind == "other"
        assert command.upper() in text
        assert await c.execute("PING", []) == [("status", "PONG")]


@pytest.mark.parametrize(
    "address",
    [
        *("", "127.0.0.1:6379", "http://127.0.0.1", "redis://", "redis://h:0", "redis://h/x"),
        *("redis://h:1#insecure", "redis://h?x=1", "unix:///run/redis.sock", "redis://[::1"),
        "redis://a b",
    ],
)
async def test_what_is_no_address(node: Node, address: str) -> None:
    assert await error(RedisConnection.open(node.context("*://*:*"), address)) == "invalid-address"


async def test_only_granted_destinations(node: Node, server: Server) -> None:
    async def refused(context: Any, url: str) -> None:
        kind, text = await error(RedisConnection.open(context, url))
        assert kind == "other"
        assert url.rpartition("@")[2] in text
        assert "allowed_outbound_hosts" in text

    await refused(node.context(), server.url)
    await refused(node.context(f"redis://127.0.0.1:{server.port + 1}"), server.url)
    await refused(node.context(f"http://127.0.0.1:{server.port}"), server.url)
    await refused(node.context(ANY), f"rediss://127.0.0.1:{server.port}")
    without = SimpleNamespace(platform=Platform(), outbound=None)
    await refused(without, server.url)
    # A name that leads to this machine does not grant it.
    node.names["db.example"] = ["127.0.0.1"]
    url = f"redis://db.example:{server.port}"
    await refused(node.context(f"redis://db.example:{server.port}"), url)
    assert node.lookups == ["db.example"]


async def test_a_name_is_resolved_once_and_only_what_is_allowed_is_tried(
    node: Node, server: Server
) -> None:
    # The second answer would lead elsewhere; the address that is not granted is passed over.
    node.names["db.example"] = ["127.0.0.2", "127.0.0.1"]
    context = node.context(f"redis://db.example:{server.port}", f"redis://127.0.0.1:{server.port}")
    async with opened(context, f"redis://db.example:{server.port}") as c:
        assert await c.incr("n") == 1
    assert node.lookups == ["db.example"]


async def test_names_without_an_address_and_ports_without_a_server(node: Node) -> None:
    context = node.context("redis://*:*", ANY)
    assert await error(RedisConnection.open(context, "redis://none.example")) == (
        "other",
        "redis://none.example:6379: its name has no address",
    )
    url = f"redis://127.0.0.1:{free_port()}"
    assert await error(RedisConnection.open(context, url)) == (
        "other",
        f"{url}: connection refused",
    )


async def test_too_many_connections(node: Node, server: Server) -> None:
    context = node.context(ANY, connections=2)
    async with opened(context, server.url), opened(context, server.url):
        assert await error(RedisConnection.open(context, server.url)) == "too-many-connections"
    async with opened(context, server.url) as c:
        assert await c.get("k") is None


async def test_a_dropped_connection_is_closed(node: Node, server: Server) -> None:
    connection = await RedisConnection.open(node.context(ANY), server.url)
    await settled_at(server, 1)
    connection.drop()
    connection.drop()
    await settled_at(server, 0)
    assert node.egress.open == 0


async def test_a_connection_whose_handle_nobody_took_is_closed(node: Node, server: Server) -> None:
    await RedisConnection.open(node.context(ANY), server.url)
    await settled_at(server, 0)


async def test_payloads_and_replies_are_bounded(node: Node, server: Server) -> None:
    async with opened(node.context(ANY, max_payload=10_000), server.url) as c:
        kind, text = await error(c.set("k", bytes(10_001)))
        assert (kind, "10000" in text) == ("other", True)
        await c.set("k", bytes(5_000))
        server.client.set("large", bytes(200_000))
        for command in (c.get("large"), c.execute("MGET", [("binary", b"large")] * 20)):
            kind, text = await error(command)
            assert (kind, "larger than 10000" in text) == ("other", True)
        server.client.sadd("many", *range(1000))
        assert (await error(c.smembers("many")))[0] == "other"
        assert await c.get("k") == bytes(5_000), "the connection goes on"


async def test_passwords_are_used_and_never_shown(node: Node, tmp_path: Path) -> None:
    with redis_server(tmp_path, password="s3/cr:et") as server:
        at = f"127.0.0.1:{server.port}"
        async with opened(node.context(ANY), f"redis://:s3%2Fcr%3Aet@{at}/3") as c:
            await c.set("k", b"v")
        async with opened(node.context(ANY), f"redis://default:s3%2Fcr%3Aet@{at}/3") as c:
            assert await c.get("k") == b"v"
        for wrong in (f"redis://:wr0ng@{at}", f"redis://wr0ng:wr0ng@{at}"):
            assert await error(RedisConnection.open(node.context(ANY), wrong)) == (
                "other",
                f"redis://{at}: user name or password is wrong",
            )
        # A slash in a password that is not encoded ends the host: the rest must not come out.
        bad = f"redis://:s3/cr:et@{at}"
        assert await error(RedisConnection.open(node.context(ANY), bad)) == "invalid-address"
        async with opened(node.context(ANY), f"redis://{at}") as c:
            kind, text = await error(c.get("k"))
            assert (kind, text.partition(" ")[0]) == ("other", "NOAUTH")
        kind, text = await error(RedisConnection.open(node.context(ANY), f"redis://{at}/2"))
        assert "password" in text


async def test_tls_checks_the_certificate_against_the_name(node: Node, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    port = free_port()
    options = ("--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key))
    with redis_server(tmp_path, *options, "--tls-auth-clients", "no") as server:
        node.names |= {"localhost": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
        context = node.context("rediss://*:*", "redis://*:*", tls=trusting(cert))
        async with opened(context, f"rediss://localhost:{port}") as c:
            assert await c.incr("n") == 1
        failed = await error(RedisConnection.open(context, f"rediss://other.example:{port}"))
        assert "certificate is not accepted" in failed[1]
        distrusting = node.context("rediss://*:*")
        failed = await error(RedisConnection.open(distrusting, f"rediss://localhost:{port}"))
        assert "certificate is not accepted" in failed[1]
        # Without TLS nothing comes back that could be taken for it.
        hasty = node.context("rediss://*:*", "redis://*:*", tls=trusting(cert), connect=0.2)
        failed = await error(RedisConnection.open(hasty, f"rediss://localhost:{server.port}"))
        assert "no answer in time" in failed[1]


@contextlib.asynccontextmanager
async def answering(reply: bytes | None) -> AsyncIterator[str]:
    """A server that answers everything with that; None: nothing."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(65536) and reply is not None:
                writer.write(reply)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


async def test_a_server_that_does_not_answer(node: Node) -> None:
    async with answering(None) as url:
        context = node.context(ANY, reply=0.2, connect=0.2)
        assert (await error(RedisConnection.open(context, f"{url}/1")))[0] == "other"
    waiting = node.context(ANY, reply=0.2)
    arrived, held = asyncio.Event(), asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await held.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as silent:
        url = f"redis://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        async with opened(waiting, url) as c:
            assert await error(c.get("k")) == ("other", f"{url}: no answer in time")
            assert await error(c.get("k")) == ("other", f"{url}: the connection was lost")
        arrived.clear()
        loop = asyncio.get_running_loop()
        opening = loop.create_task(RedisConnection.open(node.context(ANY), f"{url}/1"))
        await arrived.wait()
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        held.set()


@pytest.mark.parametrize(
    "reply",
    [
        *(b"HTTP/1.1 400 Bad Request\r\n\r\n", b"$x\r\n", b"$-2\r\n\r\n", b":1x\r\n"),
        *(b"\r\n", b"*1\r\n" * 100, b"+" + b"x" * 100_000, b"%1\r\n+a\r\n+b\r\n"),
    ],
)
async def test_a_server_of_another_kind(node: Node, reply: bytes) -> None:
    async with answering(reply) as url, opened(node.context(ANY, reply=5), url) as c:
        kind, text = await error(c.get("k"))
        assert (kind, text) == (
            "other",
            f"{url}: the other side does not speak the protocol of Redis",
        )


@pytest.mark.parametrize(
    "reply", [b"+OK\r\n", b"*0\r\n", b":9223372036854775808\r\n", b"$-1\r\n", b"*-1\r\n"]
)
async def test_replies_that_do_not_fit(node: Node, reply: bytes) -> None:
    async with answering(reply) as url, opened(node.context(ANY), url) as c:
        assert await error(c.incr("k")) == "type-error"
        assert await error(c.del_(["k"])) == "type-error"


async def test_a_lost_connection_is_not_made_again(node: Node, server: Server) -> None:
    async with opened(node.context(ANY), server.url) as c:
        await c.set("k", b"v")
        server.client.client_kill_filter(skipme=True, _type="normal")
        assert await error(c.get("k")) == ("other", f"{server.url}: the connection was lost")
        assert await error(c.get("k")) == ("other", f"{server.url}: the connection was lost")


async def test_the_interface_without_a_version(node: Node, server: Server) -> None:
    def function(name: str) -> Callable[..., Awaitable[Any]]:
        def call(*arguments: Any) -> Awaitable[Any]:
            return UNVERSIONED.functions[name].call(node.context(ANY), server.url, *arguments)

        return call

    assert await function("get")("k") == b""
    await function("set")("k", b"5")
    assert await function("get")("k") == b"5"
    assert await function("incr")("k") == 6
    assert await function("sadd")("s", ["a", "b"]) == 2
    assert sorted(await function("smembers")("s")) == ["a", "b"]
    assert await function("srem")("s", ["a"]) == 1
    assert await function("del")(["k", "s"]) == 2
    await function("publish")("c", b"")
    assert await function("execute")("PING", []) == [("status", "PONG")]
    server.client.rpush("list", "x")
    assert await error(function("get")("list")) == "error"
    denied = UNVERSIONED.functions["get"].call(node.context(), server.url, "k")
    assert await error(denied) == "error"
    await settled_at(server, 0)
