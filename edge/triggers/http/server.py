# cython: annotation_typing=False, binding=False
"""The HTTP trigger's server: listening, what its connections share, and its orderly end."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from email.utils import formatdate
from mmap import mmap
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakSet

from edge.config import HttpSettings
from edge.triggers.http.connection import Connection
from edge.triggers.http.deadlines import Deadlines
from edge.triggers.http.intake import MOST, READ
from edge.triggers.http.outbox import Outbox
from edge.wasi.http.message import Handler
from edge.wasi.pipe import BytesSource

# Turns of the loop from an accepted socket to a connection that has read what was there.
_TURNS: Final = 4

# Seconds for the handshakes that are under way when the server ends. Shorter: who is far away is
# cut; longer: a restart waits for whoever has connected and says nothing.
_HANDSHAKES: Final = 2.0


class Accepted(Connection, asyncio.BufferedProtocol):
    """A connection as asyncio's protocol: a compiled class has no parent of Python's."""


class HttpServer:
    """Serves `handler` over HTTP/1.1 while entered; leaving cancels what is still running.

    Listens on each of `listen` (host, port) and on `sockets`, which it then owns. `handler` may be
    replaced at any time: a request goes to the one of the moment its head was complete.
    """

    def __init__(
        self,
        handler: Handler,
        settings: HttpSettings | None = None,
        *,
        listen: Sequence[tuple[str, int]] = (),
        sockets: Sequence[socket.socket] = (),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.handler = handler
        self.settings = settings or HttpSettings()
        self.draining = False
        self.body_buffer = memoryview(mmap(-1, MOST))  # one for all; in memory as far as it is used
        self.buffer = self.body_buffer[:READ]
        self.no_body = BytesSource()
        self._listen = listen
        self._sockets = sockets
        self._tls = tls
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._queued: list[Connection] = []
        # Weak: asyncio does not say that a handshake has failed.
        self._arriving: WeakSet[Connection] = WeakSet()
        self._arrival = asyncio.Event()
        self.outbox: Outbox
        self._date = b""
        self._date_until = 0.0

    @property
    def sockets(self) -> list[Any]:
        """What it listens on: asyncio's TransportSockets."""
        return [sock for server in self._servers for sock in server.sockets]

    @property
    def secure(self) -> bool:
        """It speaks TLS."""
        return self._tls is not None

    @property
    def addresses(self) -> list[Any]:
        """What it listens on: (host, port, …) for each socket, a path for a UNIX socket."""
        return [sock.getsockname() for sock in self.sockets]

    async def __aenter__(self) -> Self:
        self.loop = asyncio.get_running_loop()
        self.connections: Deadlines[Connection] = Deadlines(self.loop)
        self.outbox = Outbox(self.loop)
        try:
            for host, port in self._listen:
                await self._open(host=host, port=port, reuse_address=True)
            for sock in self._sockets:
                await self._open(sock=sock)
        except BaseException:
            self._stop_listening()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.drain(0)

    async def _open(self, **options: Any) -> None:
        def connect() -> Accepted:
            connection = Accepted(self)
            if self._tls is not None:
                self._arriving.add(connection)
            return connection

        if self._tls is not None:
            options["ssl"] = self._tls
            options["ssl_handshake_timeout"] = self.settings.tls_timeout
            options["ssl_shutdown_timeout"] = self.settings.tls_timeout
        options["backlog"] = self.settings.backlog
        self._servers.append(await self.loop.create_server(connect, **options))

    async def _stop_accepting(self) -> None:
        """Who was accepted is served, and what has arrived of requests is read, before anybody is
        told to go; who was not waits for the next owner of an inherited socket.
        """
        for server in self._servers:
            for sock in server.sockets:
                self.loop.remove_reader(sock.fileno())
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    def arrived(self, connection: Connection) -> None:
        """Its handshake is done."""
        self._arriving.discard(connection)
        self._arrival.set()

    async def _handshakes(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_HANDSHAKES):
                while self._arriving:
                    self._arrival.clear()
                    await self._arrival.wait()

    def _stop_listening(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def drain(self, timeout: float) -> None:
        """Accept no more, let what is in flight end for `timeout` seconds, then cancel it."""
        await self._stop_accepting()
        self.draining = True
        self._stop_listening()
        for connection in self.connections:
            connection.drain()
        try:
            async with asyncio.timeout(timeout):
                await self._handshakes()
                await self._settled()
        except TimeoutError:
            for connection in self.connections:
                connection.cut()
            for task in self._tasks:
                self.cancel(task)
            await self._settled()

    async def _settled(self) -> None:
        await self.connections.emptied()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def queue(self, connection: Connection) -> None:
        """Its request is complete, and served once all sockets of this turn have been read.

        Reading them all, then running all their guests, then sending all replies: each step finds
        its code and data where the one before has left them, in the processor's caches.
        """
        if not self._queued:
            self.loop.call_soon(self._serve)
        self._queued.append(connection)

    def _serve(self) -> None:
        queued, self._queued = self._queued, []
        with self.outbox:
            for connection in queued:
                connection.serve()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it as a task that is cancelled, at the latest, when the server ends."""
        task = self.loop.create_task(work, name="http-request")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel it, but not before it has begun: it would not free what it was given."""
        # `inspect` knows nothing of compiled coroutines. One that awaits nothing has not begun.
        if getattr(task.get_coro(), "cr_await", True) is None:
            self.loop.call_soon(task.cancel)
        else:
            task.cancel()

    def date(self) -> bytes:
        """The line of the Date header, at most a second old."""
        now = monotonic()
        if now >= self._date_until:
            self._date = f"date: {formatdate(usegmt=True)}\r\n".encode()
            self._date_until = now + 1
        return self._date
