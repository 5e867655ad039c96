"""Bodies of any size in bounded memory, clients that leave, and the server's orderly end."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import random
import socket
import struct
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from http_lab import HELLO, App, Client, Lab, chunked, get, lab, post, until

from edge.triggers.http import HttpServer
from edge.triggers.http.connection import Connection
from edge.triggers.http.intake import MOST
from edge.triggers.http.parser import RequestParser
from edge.triggers.http.reply import Reply as HttpReply
from edge.wasi.http.message import Reply, Request
from edge.wasi.pipe import CAPACITY

MIB = 1 << 20


def resident() -> int:
    """Bytes of memory of this process that are its own."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_100_mb_up_and_down_in_bounded_memory(framing: str) -> None:
    size, block = 100 * MIB, bytes(range(256)) * 256
    sent, received = hashlib.sha256(), hashlib.sha256()
    async with lab() as at, await at.client() as client:

        async def upload() -> None:
            header = (
                f"Content-Length: {size}" if framing == "length" else "Transfer-Encoding: chunked"
            )
            client.send(get("/echo", header, method="POST"))
            for _ in range(size // len(block)):
                sent.update(block)
                client.send(block if framing == "length" else b"10000\r\n" + block + b"\r\n")
                await client.writer.drain()
            client.send(b"" if framing == "length" else b"0\r\n\r\n")

        async with asyncio.TaskGroup() as group:
            group.create_task(upload())
            assert (await client.head())[0] == 200
            before = resident()
            peak = 0
            while chunk := int(await client.reader.readline(), 16):
                received.update(await client.reader.readexactly(chunk))
                await client.reader.readexactly(2)
                peak = max(peak, resident())
            await client.reader.readexactly(2)
        assert received.digest() == sent.digest()
        assert peak - before < 16 * MIB
        assert (await client.ask(HELLO)).status == 200


async def test_a_client_that_does_not_read_stops_the_handler_and_its_own_upload() -> None:
    async with lab() as at, await at.client(limit=1000) as client:
        client.send(get("/echo", f"Content-Length: {64 * MIB}", method="POST"))
        client.send(bytes(64 * MIB))
        await until(lambda: len(at.server.connections) == 1 and at.app.running == 1)
        (connection,) = at.server.connections
        await until(lambda: not connection._transport.is_reading())
        await asyncio.sleep(0.2)
        body = at.app.requests[0].body
        assert not body.ended
        assert body.size <= MOST  # type: ignore[attr-defined]
        assert connection._transport.get_write_buffer_size() <= 2 * 131_072
        client.writer.transport.abort()


async def test_a_handler_that_does_not_read_stops_the_upload() -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/slow", f"Content-Length: {8 * MIB}", method="POST") + bytes(8 * MIB))
        await until(lambda: at.app.running == 1)
        (connection,) = at.server.connections
        await until(lambda: not connection._transport.is_reading())
        assert at.app.requests[0].body.size <= 2 * 65_536  # type: ignore[attr-defined]
        client.writer.transport.abort()


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize(("read", "least", "most"), [(1000, 0, 3), (65_536, 0, 4), (MIB, 4, 8)])
async def test_what_waits_for_a_handler_grows_with_what_it_has_read_to_a_bound(
    read: int, least: int, most: int, framing: str
) -> None:
    """`read` in bytes; `least` and `most` in pieces."""
    size = 16 * MIB
    async with lab() as at, await at.client() as client:
        if framing == "length":
            head, body = f"Content-Length: {size}", bytes(size)
        else:
            head, body = "Transfer-Encoding: chunked", chunked(bytes(size))
        client.send(get(f"/part/{read}", head, method="POST") + body)
        await until(lambda: at.app.running == 1)
        (connection,) = at.server.connections
        await until(lambda: at.app.read == read and not connection._transport.is_reading())
        waiting = at.app.requests[0].body.size  # type: ignore[attr-defined]
        assert least * CAPACITY < waiting <= most * CAPACITY
        client.writer.transport.abort()


async def test_a_client_that_leaves_cancels_its_handler() -> None:
    async with lab() as at:
        async with await at.client() as client:
            client.send(get("/slow"))
            await until(lambda: at.app.running == 1)
            client.writer.transport.abort()
        # A reset says that nobody waits; the end of input alone could be a half-closed client.
        await until(lambda: at.app.cancelled == 1)
        async with await at.client() as client:
            client.send(post(b"x" * 1000, "/record")[:-500])
            await until(lambda: at.app.running == 1)
        await until(lambda: at.app.cancelled == 2)
        async with await at.client() as client:
            client.send(get("/endless"))
            await client.head()
        await until(lambda: not at.app.running)
        assert not len(at.server.connections)


async def test_a_client_that_is_gone_does_not_keep_its_handler_for_long() -> None:
    async with lab(half_closed_timeout=0.3) as at:
        async with await at.client() as client:
            client.send(get("/slow"))
            await until(lambda: at.app.running == 1)
        await until(lambda: at.app.cancelled == 1)


async def test_a_half_closed_client_gets_no_reply_to_half_a_request() -> None:
    for rest in (post(b"four", "/record")[:-2], b"GET / HT"):
        async with lab() as at, await at.client() as client:
            client.send(get("/slow") + rest)
            client.writer.write_eof()
            await asyncio.sleep(0.05)
            at.app.gate.set()
            assert (await client.answer()).body == b"/slow"
            assert await client.closed() == b""
            assert len(at.app.requests) == 1


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_while_its_body_waits_is_missed(how: str) -> None:
    loop = asyncio.get_running_loop()
    async with lab(half_closed_timeout=0.3) as at:
        with socket.create_connection(("127.0.0.1", at.port)) as sock:
            sock.setblocking(False)
            # More than the server reads ahead, less than the kernel holds.
            await loop.sock_sendall(sock, post(bytes(180_000), "/slow"))
            await until(lambda: at.app.running == 1)
            (connection,) = at.server.connections
            await until(lambda: not connection._transport.is_reading())
            if how == "reset":
                linger = struct.pack("ii", 1, 0)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await until(lambda: at.app.cancelled == 1)


async def test_a_half_closed_client_gets_its_replies() -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/slow/1") + get("/twice") + HELLO)
        client.writer.write_eof()
        await asyncio.sleep(0.05)
        at.app.gate.set()
        assert [(await client.answer()).body for _ in range(3)] == [b"/slow/1", b"onetwo", b"hello"]
        assert await client.closed() == b""


async def test_a_handler_begins_before_it_is_cancelled() -> None:
    """What it was given, a guest perhaps, is freed by its own `finally`."""
    freed: list[int] = []

    async def handler(request: Request, reply: Reply) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            freed.append(1)

    async with lab() as at:
        at.server.handler = handler
        async with await at.client() as client:
            client.send(HELLO)
            await until(lambda: len(at.server.connections))
            (connection,) = at.server.connections
            spawn = at.server.spawn

            def spawn_and_lose(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                at.server.loop.call_soon(connection.connection_lost, None)
                return spawn(work)

            at.server.spawn = spawn_and_lose  # type: ignore[method-assign]
            await until(lambda: freed)
    assert freed == [1]


async def test_the_reader_of_a_body_sees_that_it_is_cut() -> None:
    seen: list[Exception | None] = []

    async def handler(request: Request, reply: Reply) -> None:
        try:
            while not request.body.ended:
                await request.body.wait_readable()
                request.body.read_nowait(100)
        finally:
            seen.append(request.body.error)

    async with lab() as at:
        at.server.handler = handler
        async with await at.client() as client:
            client.send(post(b"x" * 1000)[:-500])
            await until(lambda: at.server._tasks)
            await asyncio.sleep(0.02)
        await until(lambda: seen)
        assert isinstance(seen[0], ConnectionResetError)


async def test_drain_finishes_what_is_in_flight() -> None:
    async with lab() as at, await at.client() as busy, await at.client() as idle:
        assert (await idle.ask(HELLO)).status == 200
        port = at.port
        busy.send(get("/slow"))
        await until(lambda: at.app.running == 1)
        async with asyncio.TaskGroup() as group:
            drained = group.create_task(at.server.drain(10))
            assert await idle.closed() == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            at.app.gate.set()
            answer = await busy.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await busy.closed() == b""
            busy.writer.close()
            await drained


async def test_who_has_connected_and_not_asked_yet_is_served_before_the_end() -> None:
    async with (
        lab() as at,
        await at.client() as early,
        await at.client() as late,
        asyncio.TaskGroup() as group,
    ):
        early.send(HELLO)  # nobody has read it
        drained = group.create_task(at.server.drain(10))
        await until(lambda: at.server.draining)
        late.send(HELLO)
        for client in (early, late):
            assert (await client.answer()).status == 200
            assert await client.closed() == b""
            client.writer.close()
        await drained


async def test_drain_cancels_what_does_not_finish() -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/slow"))
        await until(lambda: at.app.running == 1)
        await at.server.drain(0.05)
        assert at.app.cancelled == 1
        assert await client.closed() in (b"", b"(reset)")


async def test_leaving_the_server_leaves_nothing_behind() -> None:
    async with lab() as at:
        clients = [await at.client() for _ in range(5)]
        for client, target in zip(clients, ("/slow", "/endless", "/twice", "/after"), strict=False):
            client.send(get(target))
        await until(lambda: at.app.running == 4)
    assert not at.app.running
    for client in clients:
        await client.close()


KINDS = ("/hello", "/echo", "/slow", "/twice", "/endless", "/cut", "/early", "/record", "/nowhere")


async def test_nothing_of_a_connection_is_left_however_it_ends() -> None:
    pick = random.Random(7)
    rounds, at_once = 24, 20
    sizes = []

    async def one(at: Lab) -> None:
        async with await at.client() as client:
            for _ in range(pick.randint(1, 3)):
                data = post(bytes(pick.randint(0, 100_000)), pick.choice(KINDS))
                if pick.random() < 0.3:
                    data = data[: pick.randint(0, len(data))]
                if pick.random() < 0.1:
                    data = data.replace(b"HTTP/1.1", b"HTTP/9.9")
                client.send(data)
                await asyncio.sleep(pick.random() / 200)
            if pick.random() < 0.5:
                client.writer.transport.abort()
            elif pick.random() < 0.5:
                client.writer.write_eof()
                await asyncio.sleep(0.005)
            client.writer.transport.abort()

    async with lab() as at:
        for _ in range(rounds):
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(one(at))
            at.app.gate.set()
            await until(lambda: not at.app.running and not len(at.server.connections))
            at.app.gate.clear()
            at.app.requests.clear()
            at.app.seen.clear()
            gc.collect()
            sizes.append(resident())
        left = [
            o for o in gc.get_objects() if isinstance(o, (Connection, RequestParser, HttpReply))
        ]
        assert not left
        assert not at.server._tasks
    assert max(sizes[rounds // 2 :]) - min(sizes[: rounds // 2]) < 4 * MIB


async def test_an_idle_connection_costs_little() -> None:
    async with lab() as at:
        clients = [await at.client() for _ in range(100)]
        for client in clients:
            await client.ask(post(bytes(50_000), "/record"))
        at.app.requests.clear()
        at.app.seen.clear()
        gc.collect()
        before = resident()
        more = [await at.client() for _ in range(100)]
        for client in more:
            await client.ask(post(bytes(50_000), "/record"))
        at.app.requests.clear()
        at.app.seen.clear()
        gc.collect()
        # Both ends are in this process; the client's half is the larger one.
        assert (resident() - before) / len(more) < 30_000
        for client in clients + more:
            client.writer.transport.abort()


async def test_sockets_can_be_inherited() -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        inherited = parent.dup()
        async with HttpServer(App(), sockets=[inherited]) as server:
            client = Client(*await asyncio.open_connection(*server.addresses[0]))
            async with client:
                assert (await client.ask(HELLO)).status == 200


async def test_a_unix_socket_serves_too(tmp_path: Path) -> None:
    path = str(tmp_path / "http")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    app = App()
    async with HttpServer(app, sockets=[sock]) as server:
        assert server.addresses == [path]
        async with Client(*await asyncio.open_unix_connection(path)) as client:
            assert (await client.ask(HELLO)).status == 200
            assert (await client.ask(get("/", version="1.0"))).status == 200
            assert app.requests[0].client == "unix"
            client.send(get("/cut"))
        async with Client(*await asyncio.open_unix_connection(path)) as client:
            client.send(get("/cut"))
            assert (await client.head())[0] == 200
            assert not (await client.closed()).endswith(b"0\r\n\r\n")
