"""Real mosquitto brokers, each in a directory of its own, and a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

# Debian puts it where a user's PATH does not look.
MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Mosquitto:
    """A broker with one plain listener on `port`; `more` are lines of its configuration."""

    directory: Path
    more: str = ""
    anonymous: bool = True
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.directory / "mosquitto.conf"
        # As root it would change to a user who may not write here.
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user}persistence true\npersistence_location {self.directory}/\n"
            "persistent_client_expiration 1d\nmax_queued_messages 0\nmax_queued_bytes 0\n"
            f"log_dest file {self.directory}/log\n"
            f"listener {self.port} 127.0.0.1\n"
            f"allow_anonymous {'true' if self.anonymous else 'false'}\n{self.more}\n"
        )
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._answers()

    def _answers(self) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert self.process is not None
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < end, "mosquitto does not listen"
                time.sleep(0.02)
            else:
                return

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(20)
            self.process = None

    def log(self) -> str:
        return (self.directory / "log").read_text()


@contextlib.contextmanager
def mosquitto(directory: Path, more: str = "", *, anonymous: bool = True) -> Iterator[Mosquitto]:
    if not Path(MOSQUITTO).exists():
        pytest.skip("needs mosquitto")
    directory.mkdir(exist_ok=True)
    broker = Mosquitto(directory, more, anonymous)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


class Proxy:
    """A TCP proxy on a port of its own whose connections can be cut or held."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.up = True
        self.passed = asyncio.Event()
        self.passed.set()
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Ends every connection with a reset: what was on its way is lost."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    def hold(self) -> None:
        """Passes nothing on, in neither direction, until `release`."""
        self.passed.clear()

    def release(self) -> None:
        self.passed.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self.up:
                raise ConnectionRefusedError
            upstream, out = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        self._pairs.add((writer, out))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, out))
                group.create_task(self._pump(upstream, writer))
        except* OSError:
            pass
        finally:
            self._pairs.discard((writer, out))
            writer.transport.abort()
            out.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.passed.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@contextlib.asynccontextmanager
async def proxied(broker: Mosquitto) -> AsyncIterator[Proxy]:
    async with Proxy(broker.port) as proxy:
        yield proxy
