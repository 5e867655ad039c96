"""Where peers are served: [fleet] listen, by mutual TLS 1.3 only.

Whoever is no member of the fleet costs a handshake, of which few are under way at a time, and gets
nothing. What a member may do is bounded too: connections, headers, bodies, time.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from edge.config import Address
from edge.fleet.listening import listener
from edge.fleet.names import Refused
from edge.fleet.strangers import Strangers

__all__ = ["Limits", "Server", "host_of", "peer_of"]

_log = logging.getLogger("edge.fleet")

_PEER = web.RequestKey("peer", str)
# Seconds until the next attempt when the machine has no more descriptors.
_EXHAUSTED = 1.0

# Where the handshake comes from that is under way: its callbacks run in its task's context.
_coming_from: ContextVar[str] = ContextVar("_coming_from", default="?")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Credentials(Protocol):
    """What this node shows, and whom it believes: see `identity.Identity`."""

    def server_context(self) -> ssl.SSLContext: ...

    def peer_of(self, connection: ssl.SSLObject | ssl.SSLSocket, /) -> str: ...

    # Is told why somebody's handshake is refused, while it is.
    on_refused: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Connections, bytes, seconds."""

    connections: int = 512
    of_a_peer: int = 24
    handshakes: int = 128
    of_an_address: int = 24  # handshakes
    handshake: float = 5.0
    body: int = 1 << 20
    idle: float = 30.0  # also of a request's headers
    # A connection that is used without end would outlive its certificate.
    lasts: float = 3600.0


class _Member(NamedTuple):
    """Who is at the other end of a connection; `until`: the loop's clock."""

    id: str
    transport: asyncio.Transport
    until: float


def peer_of(request: web.Request) -> str:
    """The id in the client's certificate, which the handshake has verified."""
    return request[_PEER]


def host_of(request: web.Request) -> str:
    """Where it came from, link-local addresses with their interface; "" when it is gone."""
    name = request.get_extra_info("peername")
    return _plain_host(name[0]) if name else ""


class Server:
    """As an async context manager. `routes` may be of several owners; their handlers ask `peer_of`
    who it is. `refused` is told where a handshake failed and why, of those that showed something.
    """

    def __init__(
        self,
        credentials: Credentials,
        listen: Address,
        routes: Iterable[web.RouteDef] = (),
        *,
        limits: Limits | None = None,
        refused: Callable[[str, str], None] = lambda _where, _why: None,
    ) -> None:
        self._credentials, self._listen, self._routes = credentials, listen, tuple(routes)
        self._limits = limits or Limits()
        self._refused = refused
        self._accepting: asyncio.Task[None] | None = None
        # Those whose handshake is under way and where they came from, the oldest first.
        self._coming: dict[asyncio.Task[None], str] = {}
        self._peers: dict[RequestHandler, _Member] = {}
        self.address = listen  # with the port it got

    def drop(self, ids: Iterable[str]) -> None:
        """Closes the connections of these nodes: they were revoked."""
        gone = set(ids)
        for member in tuple(self._peers.values()):
            if member.id in gone:
                member.transport.abort()

    async def __aenter__(self) -> Self:
        """Raises EdgeError where it cannot listen."""
        self._context = await asyncio.to_thread(self._credentials.server_context)
        self._credentials.on_refused = lambda why: self._refused(_coming_from.get(), why)
        self._listener = listener(self._listen)
        self.address = Address(*self._listener.getsockname()[:2])
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=0.5,
            keepalive_timeout=self._limits.idle,
            lingering_time=1.0,
            auto_decompress=False,
        )
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        self._strangers = Strangers(loop.time)
        self._accepting = loop.create_task(self._accept(self._listener), name="peers: accept")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._accepting is not None
        for task in (self._accepting, *self._coming):
            task.cancel()
        await asyncio.wait((self._accepting, *self._coming))
        self._listener.close()
        await self._runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._authenticated], client_max_size=self._limits.body)
        app.on_response_prepare.append(self._answering)
        app.add_routes(self._routes)
        return app

    @web.middleware
    async def _authenticated(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        known = self._peers.get(request.protocol)
        if known is not None:
            request[_PEER] = known.id
            return await handler(request)
        connection = request.get_extra_info("ssl_object")
        if connection is None:  # it is gone
            raise web.HTTPForbidden
        # It asks in the turn of the loop in which it came.
        request[_PEER] = self._credentials.peer_of(connection)
        return await handler(request)

    async def _answering(self, request: web.Request, response: web.StreamResponse) -> None:
        # Not which version of which library; and a probe is small.
        response.headers["Server"] = "edge"
        member = self._peers.get(request.protocol)
        if member is not None and asyncio.get_running_loop().time() > member.until:
            response.force_close()

    # Connections

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # Where connections wait already, to accept one leaves nobody else a turn: a burst would
            # take up all the room before any of its handshakes can end.
            await asyncio.sleep(0)
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    await asyncio.sleep(_EXHAUSTED)
                continue
            host = _plain_host(address[0])
            if self._strangers.unwelcome(host) or not self._has_room(host):
                sock.close()
                continue
            task = loop.create_task(self._welcome(sock, host), name=f"peers: {host}")
            self._coming[task] = host
            task.add_done_callback(self._coming.pop)

    def _has_room(self, host: str) -> bool:
        """Where handshakes take up all the room the oldest one ends: a member's takes milliseconds,
        so that who only holds on keeps nobody out.
        """
        limits, server = self._limits, self._runner.server
        assert server is not None
        if len(server.connections) + len(self._coming) >= limits.connections:
            return False
        coming = {task: at for task, at in self._coming.items() if not task.cancelling()}
        near = [task for task, at in coming.items() if at == host]
        if len(near) >= limits.of_an_address:
            near[0].cancel()
        elif len(coming) >= limits.handshakes:
            next(iter(coming)).cancel()
        return len(self._coming) < 2 * limits.handshakes

    async def _welcome(self, sock: socket.socket, host: str) -> None:
        loop, server = asyncio.get_running_loop(), self._runner.server
        assert server is not None
        _coming_from.set(host)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, handler = await loop.connect_accepted_socket(
                server,
                sock,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.handshake,
                ssl_shutdown_timeout=1.0,
            )
        except (OSError, TimeoutError):
            self._strangers.failed(host)  # it went away, or does not speak TLS, or is no member
        else:
            self._admit(transport, handler)

    def _admit(self, transport: asyncio.Transport, handler: RequestHandler) -> None:
        server = self._runner.server
        assert server is not None
        open_now = set(server.connections)
        for gone in self._peers.keys() - open_now:
            del self._peers[gone]
        try:
            id = self._credentials.peer_of(transport.get_extra_info("ssl_object"))
        except Refused:
            self._strangers.failed(_coming_from.get())
            transport.abort()
            return
        self._strangers.passed(_coming_from.get())
        if sum(id == other.id for other in self._peers.values()) >= self._limits.of_a_peer:
            transport.abort()
        elif handler in open_now:
            until = asyncio.get_running_loop().time() + self._limits.lasts
            self._peers[handler] = _Member(id, transport, until)


def _plain_host(host: str) -> str:
    return host.removeprefix("::ffff:")
