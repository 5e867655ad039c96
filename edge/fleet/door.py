"""The door of a fleet: where nodes with a token join, while one is good. TLS, then a line of JSON
each way, then it is over:

    {"ask": "authority"}                          → {"authority": PEM}, whose hash is in the token
    {"ask": "join", "secret", "request", "name"}  → {"certificate", "fleet_name", "issuer", "port",
                                                     "revocations"}, or {"error": why not}

Anybody can reach it, so everything is short: lines, waits, and what it says without a secret.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import ssl
import time
from collections import Counter
from types import TracebackType
from typing import Any, Self

from edge.application.fields import Table, Where, choice, parsed, string
from edge.config import Address
from edge.errors import ConfigError, EdgeError
from edge.fleet.authority import Authority
from edge.fleet.identity import Identity
from edge.fleet.listening import listener
from edge.fleet.names import Refused, node_name
from edge.fleet.token import SECRET_BYTES, hash_of

__all__ = ["DEADLINE", "Door"]

# Seconds for a connection with all that happens on it.
DEADLINE = 10.0
# Bytes of a question: a request for a certificate has 500.
_LINE = 8 << 10
# Connections at once. Beyond, whoever has most of them loses its oldest.
_CONNECTIONS = 32
# Seconds until the next attempt when the machine has no more descriptors.
_EXHAUSTED = 1.0
# Seconds between two lines of the log about who was refused.
_TOLD_EVERY = 5.0

_log = logging.getLogger("edge.fleet")


class Door:
    """Serves while entered. `peers`: the port at which this node is a peer. Raises EdgeError when
    it cannot listen.
    """

    def __init__(
        self, identity: Identity, authority: Authority, listen: Address, peers: int
    ) -> None:
        self._identity, self._authority = identity, authority
        self._listen, self._peers = listen, peers
        self._tasks: dict[asyncio.Task[None], str] = {}  # whose, the oldest first
        self._ending: set[asyncio.Task[None]] = set()
        self._told = time.monotonic() - _TOLD_EVERY
        self.port = 0

    async def __aenter__(self) -> Self:
        self._context = await asyncio.to_thread(self._make_context)
        self._socket = listener(self._listen)
        self.port = self._socket.getsockname()[1]
        self._resume()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pause()
        self._socket.close()
        tasks = (*self._tasks, *self._ending)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _make_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.load_cert_chain(self._authority.door())
        return context

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _pause(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)

    def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, address = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # too many files are open
            _log.warning("joining: %s", error.strerror)
            self._pause()
            loop.call_later(_EXHAUSTED, self._resume)
            return
        connection.setblocking(False)
        host = _plain(address[0])
        task = loop.create_task(self._serve(connection, host), name="joining")
        task.add_done_callback(lambda task: self._ended(task, connection))
        self._tasks[task] = host
        if len(self._tasks) > _CONNECTIONS:
            self._make_room()

    def _make_room(self) -> None:
        [(most, _)] = Counter(self._tasks.values()).most_common(1)
        oldest = next(task for task, host in self._tasks.items() if host == most)
        del self._tasks[oldest]
        self._ending.add(oldest)
        oldest.add_done_callback(self._ending.discard)
        oldest.cancel()

    def _ended(self, task: asyncio.Task[None], connection: socket.socket) -> None:
        connection.close()
        self._tasks.pop(task, None)

    async def _serve(self, connection: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LINE)
        protocol = asyncio.StreamReaderProtocol(reader)
        writer = None
        try:
            async with asyncio.timeout(DEADLINE):
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=DEADLINE
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                answer = await self._answer(await reader.readline(), host)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (EdgeError, OSError, ValueError, TimeoutError) as error:  # of ssl; a long line
            _log.debug("joining: %s: %s", host, error)
        finally:
            if writer is not None:
                writer.transport.abort()

    async def _answer(self, line: bytes, host: str) -> dict[str, Any]:
        try:
            with Table(json.loads(line), Where("question")) as table:
                if table.need("ask", choice("authority", "join")) == "authority":
                    return {"authority": self._authority.certificate.decode()}
                secret = table.need("secret", parsed(_secret))
                request = table.need("request", string).encode()
                name = table.need("name", parsed(node_name))
        except (ConfigError, ValueError, RecursionError):
            return {"error": "the question cannot be read"}
        return await self._admit(secret, request, name, host)

    async def _admit(self, secret: bytes, request: bytes, name: str, host: str) -> dict[str, Any]:
        token = hash_of(secret)[:8]
        revoked = self._identity.revoked
        try:
            issued = await asyncio.to_thread(self._authority.admit, secret, request, name, revoked)
        except Refused as refused:
            self._tell("%s did not join, from %s: %s", name, host, refused)
            return {"error": str(refused)}
        except EdgeError as error:
            _log.error("%s did not join: %s", name, error.message)
            return {"error": "the authority cannot write it down: its log says why"}
        _log.info("%s joined, from %s with token %s: %s", name, host, token, issued.node)
        return {
            "certificate": issued.pem.decode(),
            "fleet_name": self._authority.fleet_name,
            "issuer": self._identity.node,
            "port": self._peers,
            "revocations": self._identity.revocations.data.decode(),
        }

    def _tell(self, text: str, *values: object) -> None:
        """Not of each: whoever knocks all day does not fill the log."""
        now = time.monotonic()
        if now >= self._told + _TOLD_EVERY:
            self._told = now
            _log.warning(text, *values)


def _plain(host: str) -> str:
    """Without the way in which IPv6 sockets write IPv4."""
    return host.removeprefix("::ffff:") if "." in host else host


def _secret(text: str) -> bytes:
    secret = base64.b64decode(text, validate=True)
    if len(secret) != SECRET_BYTES:
        raise ValueError("is no secret")
    return secret
