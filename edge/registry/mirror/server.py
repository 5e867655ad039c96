"""The mirror as a server: where it listens, whom it lets in, how many at a time."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import re
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType

from aiohttp import web

from edge.config import Address
from edge.config import Mirror as Settings
from edge.errors import ConfigError, EdgeError
from edge.platform.crowd import bounded
from edge.registry.digest import Digest
from edge.registry.mirror.answers import Refusal, refusals
from edge.registry.mirror.holdings import Holdings
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.mirror.pending import Pending
from edge.registry.mirror.pushing import Pushing
from edge.registry.mirror.reading import Reading
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

__all__ = ["Mirror"]

Pushed = Callable[[Reference, Digest], None]

_READS = ("GET", "HEAD")

_TAKEN = (
    "another program, or another node, listens there: choose another in [mirror] of edge.toml;"
    ' "": no registry'
)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(?::([0-9]{1,5}))?")


class Mirror:
    """The registry of this node, as an async context manager; without `listen` it does nothing.

    `note` gets a line for what is worth one. `pushed` is called on the loop for each tag or digest
    that somebody pushed, once all of it is here.
    """

    def __init__(
        self,
        settings: Settings,
        store: ContentStore,
        *,
        note: Callable[[str], None] = lambda _: None,
        pushed: Pushed = lambda _reference, _digest: None,
        limits: MirrorLimits | None = None,
    ) -> None:
        self._settings, self._store = settings, store
        self._note, self.pushed = note, pushed
        self._limits = limits or MirrorLimits()
        self._addresses: tuple[Address, ...] = ()
        self._open = AsyncExitStack()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with the port it got."""
        return self._addresses

    async def __aenter__(self) -> Mirror:
        if self._settings.listen is not None:
            async with self._open:
                await self._listen(self._settings.listen)
                self._open = self._open.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def _listen(self, address: Address) -> None:
        await _only_this_machine(address)
        runner = web.AppRunner(
            self._application(),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=1.0,
            # Also of a connection's first request, from its first byte to the end of its headers.
            keepalive_timeout=self._limits.silence,
            # A body that is refused is read for so long, for a client that listens only then.
            lingering_time=self._limits.silence / 3,
            auto_decompress=False,
        )
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        loop = asyncio.get_running_loop()
        assert runner.server is not None
        door = bounded(runner.server, self._limits.connections)
        try:
            server = await loop.create_server(door, address.host, address.port)
        except OSError as error:
            raise _not_listening(address, error) from error
        self._open.callback(server.close)
        self._addresses = tuple(Address(*sock.getsockname()[:2]) for sock in server.sockets)

    def _application(self) -> web.Application:
        pending = Pending(self._store, self._limits)
        self._open.callback(pending.close)
        holdings = Holdings(self._store, self._name, self._is_this)
        app = web.Application(middlewares=[refusals, self._guard])
        app.on_response_prepare.append(_signed)
        app.add_routes(Reading(self._store, holdings, pending, self._limits).routes())
        if self._settings.accept_pushes:
            pushing = Pushing(
                self._store, holdings, pending, self._name, self._accepted, self._limits
            )
            self._open.push_async_callback(pushing.aclose)
            app.add_routes(pushing.routes())
        return app

    def _accepted(self, reference: Reference, digest: Digest) -> None:
        self._note(f"{reference}: pushed, {digest}")
        self.pushed(reference, digest)

    def _name(self) -> str:
        """What references to what was pushed here call this registry."""
        return str(self._addresses[0])

    def _is_this(self, registry: str) -> bool:
        """Whether a reference's registry is this one, by whichever name of this machine."""
        host, port = _host_and_port(registry)
        return _is_loopback(host) and any(port == address.port for address in self._addresses)

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        # A web page of a stranger, in a browser on this machine, may have got us as its own host's
        # address, or may send what needs no permission of ours.
        if not _is_loopback(_host_and_port(request.host)[0]):
            raise Refusal(421, "DENIED", "this registry is reached as localhost or 127.0.0.1")
        if request.method not in _READS:
            if "Origin" in request.headers:
                raise Refusal(403, "DENIED", "web pages may not change this registry")
            if not self._settings.accept_pushes:
                raise _read_only()
        return await handler(request)


def _read_only() -> Refusal:
    return Refusal(
        405,
        "UNSUPPORTED",
        "this node's registry is read-only; for a first try it takes pushes with "
        "accept_pushes = true in [mirror] of edge.toml",
        {"Allow": ", ".join(_READS)},
    )


def _not_listening(address: Address, error: OSError) -> EdgeError:
    taken = error.errno == errno.EADDRINUSE
    return EdgeError(
        f"mirror.listen: {address}: {os.strerror(error.errno or 0).lower()}",
        hint=_TAKEN if taken else None,
    )


async def _only_this_machine(address: Address) -> None:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host or None, address.port, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(f"mirror.listen: {address.host}: {error.strerror}") from error
    if not all(_is_loopback(str(item[4][0])) for item in found):
        raise ConfigError(
            f'mirror.listen: "{address}" can be reached from other machines',
            hint="the mirror serves this machine only, like 127.0.0.1:7465",
        )


def _host_and_port(text: str) -> tuple[str, int | None]:
    match = _HOST.fullmatch(text)
    if match is None:
        return "", None
    return match[1].strip("[]"), int(match[2]) if match[2] else None


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _signed(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "edge"  # and not which version of which library
    response.headers["Docker-Distribution-API-Version"] = "registry/2.0"
