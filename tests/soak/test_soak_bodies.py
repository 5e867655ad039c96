"""Large bodies up and down through a guest: every byte, in bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from pathlib import Path

import pytest
from conftest import Serve
from soak_lab import Guest, MiB, forget_peak, memory, part, request, say, sized, write_application

SIZE = sized(100_000_000, 8_000_000)
# What a process may grow by for each body under way: up to 512 KiB up and 128 KiB down, and an
# allocator's habits.
ROOM = 16 * MiB


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
@pytest.mark.parametrize("clients", [1, 4])
async def test_large_bodies_pass_in_bounded_memory(
    clients: int, framing: str, guest: Guest, serve: Serve, tmp_path: Path
) -> None:
    application = write_application(tmp_path, guest, [part("echo")])
    with serve(application) as served:
        pid = served.process.pid
        await transfer(served.port, framing, 1_000_000)
        before = memory(pid)["Rss"]
        forget_peak(pid)
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(transfer(served.port, framing, SIZE))
        elapsed = time.monotonic() - started
        grown = memory(pid)["Peak"] - before
        say(
            f"{clients} × {SIZE / 1e6:.0f} MB up and down, {framing}: "
            f"{clients * SIZE / 1e6 / elapsed:.0f} MB/s each way, peak {grown / MiB:.1f} MiB above "
            f"{before / MiB:.0f} MiB"
        )
        assert grown < clients * ROOM


async def test_a_slow_reader_bounds_what_is_kept_for_it(
    guest: Guest, serve: Serve, tmp_path: Path
) -> None:
    """The client sends as fast as it can and reads a little at a time."""
    application = write_application(tmp_path, guest, [part("echo")])
    with serve(application) as served:
        pid = served.process.pid
        await transfer(served.port, "chunked", 1_000_000)
        before = memory(pid)["Rss"]
        forget_peak(pid)
        await transfer(served.port, "content-length", SIZE // 4, pause=0.001)
        grown = memory(pid)["Peak"] - before
        say(f"{SIZE / 4e6:.0f} MB to a slow reader: peak {grown / MiB:.1f} MiB")
        assert grown < ROOM


async def transfer(port: int, framing: str, size: int, pause: float = 0) -> None:
    """Sends that many bytes and reads them back. Fails when they are not the same."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.TaskGroup() as group:
            sent = group.create_task(send(writer, framing, size))
            received = group.create_task(receive(reader, pause))
        assert received.result() == (size, sent.result())
    finally:
        writer.close()


async def send(writer: asyncio.StreamWriter, framing: str, size: int) -> str:
    known = framing == "content-length"
    header = f"content-length: {size}" if known else "transfer-encoding: chunked"
    writer.write(request("/echo/", "connection: close", header, method="POST"))
    digest, chance = hashlib.sha256(), random.Random(size)
    block = chance.randbytes(1_000_003)  # a prime: never in step with anybody's buffers
    for start in range(0, size, len(block)):
        data = block[: size - start]
        digest.update(data)
        writer.write(data if framing != "chunked" else b"%x\r\n%b\r\n" % (len(data), data))
        await writer.drain()
    if framing == "chunked":
        writer.write(b"0\r\n\r\n")
    return digest.hexdigest()


async def receive(reader: asyncio.StreamReader, pause: float) -> tuple[int, str]:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    assert b" 200 " in head
    digest, size = hashlib.sha256(), 0
    async for data in content(reader, chunked=b"transfer-encoding: chunked" in head):
        digest.update(data)
        size += len(data)
        if pause:
            await asyncio.sleep(pause)
    return size, digest.hexdigest()


async def content(reader: asyncio.StreamReader, *, chunked: bool):  # type: ignore[no-untyped-def]
    if not chunked:
        while data := await reader.read(65536):
            yield data
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        while size:
            data = await reader.read(min(size, 65536))
            assert data, "cut"
            size -= len(data)
            yield data
        await reader.readexactly(2)
