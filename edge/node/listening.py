"""Where the node serves HTTP: on what the service manager opened, else where edge.toml says."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from edge import config
from edge.errors import ConfigError, EdgeError
from edge.platform.tls import server_tls
from edge.triggers.http import HttpServer
from edge.wasi.http.message import Handler

__all__ = ["PLAIN", "SECURE", "Listening", "listen", "tls_of"]

# FileDescriptorName= of the socket units.
PLAIN, SECURE = "http", "https"

_log = logging.getLogger("edge.node")


@dataclass(slots=True)
class Listening:
    """A handler's servers: one, or one for each scheme. `urls`: where they answer."""

    servers: tuple[HttpServer, ...]
    urls: tuple[str, ...]

    @property
    def handler(self) -> Handler:
        return self.servers[0].handler

    @handler.setter
    def handler(self, handler: Handler) -> None:
        for server in self.servers:
            server.handler = handler

    def shared(self, backlog: int) -> list[tuple[socket.socket, bool]]:
        """Copies of the sockets it listens on, for other processes, and whether they speak TLS; so
        many connections wait there.
        """
        found = [(sock.dup(), server.secure) for server in self.servers for sock in server.sockets]
        for sock, _ in found:
            sock.listen(backlog)
        return found

    async def drain(self, timeout: float) -> None:
        """Accepts no more; what is under way gets `timeout` seconds."""
        async with asyncio.TaskGroup() as group:
            for server in self.servers:
                group.create_task(server.drain(timeout))


async def listen(
    stack: AsyncExitStack,
    http: config.Http,
    handler: Handler,
    sockets: Mapping[str, Sequence[socket.socket]],
) -> Listening:
    """Serves `handler` until `stack` is left. `sockets`: by name, as the service manager opened
    them; where there are some nothing else is listened on.

    Raises EdgeError.
    """
    tls = await asyncio.to_thread(tls_of, http)
    plain, secure = (list(sockets.get(name, ())) for name in (PLAIN, SECURE))
    if secure and tls is None:
        raise ConfigError(
            f"http: a socket named {SECURE} was handed over, but there is no certificate",
            hint="set tls_certificate and tls_key in [http], or disable the socket unit",
        )
    if plain or secure:
        if tls is not None and not secure:
            _log.warning("note: there is a certificate, but no socket named %s", SECURE)
        servers = [(HttpServer(handler, http.settings, sockets=plain), "http")]
        servers += [(HttpServer(handler, http.settings, sockets=secure, tls=tls), "https")]
    else:
        asked = [(address.host, address.port) for address in http.listen]
        scheme = "http" if tls is None else "https"
        servers = [(HttpServer(handler, http.settings, listen=asked, tls=tls), scheme)]
    try:
        for server, _ in servers:
            await stack.enter_async_context(server)
    except OSError as exc:
        raise _cannot_listen(exc, http) from exc
    urls = [
        f"{scheme}://{config.Address(*address[:2])}"
        for server, scheme in servers
        for address in server.addresses
    ]
    return Listening(tuple(server for server, _ in servers), tuple(urls))


def tls_of(http: config.Http) -> ssl.SSLContext | None:
    """What the node speaks TLS with, if it does. Blocks. Raises ConfigError."""
    if http.tls_certificate is None or http.tls_key is None:
        return None
    return server_tls(Path(http.tls_certificate), Path(http.tls_key))


def _cannot_listen(exc: OSError, http: config.Http) -> EdgeError:
    where = ", ".join(map(str, http.listen))
    known = exc.errno is not None and exc.errno in errno.errorcode
    reason = os.strerror(exc.errno or 0) if known else exc.strerror or str(exc)
    hint = None
    if exc.errno == errno.EADDRINUSE:
        hint = "another program listens there; choose another address: --listen, or [http] listen"
    elif isinstance(exc, PermissionError):
        hint = "ports below 1024 are the service manager's to open: enable edge.socket"
    return EdgeError(f"{where}: {reason[:1].lower()}{reason[1:]}", hint=hint)
