"""HTTP to other machines: the node's one aiohttp session, and what its errors mean to guests.

Guests of different grants share connections, so each connection is checked against the grants of
the request that is about to use it: a new one before it is made (the resolver returns only what may
be reached), a kept one by its peer's address. Redirects, cookies, proxies and compression are the
guest's business. Trailers do not cross this client: aiohttp has none.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterable, Callable
from contextvars import ContextVar
from ssl import SSLContext
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from edge.wasi.http.errors import ErrorCode, HttpError, failure
from edge.wasi.http.exchange import RemoteRequest
from edge.wasi.http.fields import content_length
from edge.wasi.http.message import Reply
from edge.wasi.outbound import Egress, Resolver
from edge.wasi.pipe import CAPACITY, Pipe, chunks

__all__ = ["Client", "open_egress"]

# Seconds an unused connection is kept. Longer saves handshakes and holds files.
_KEEP_ALIVE = 15.0

# Bytes of a status line and of one header; servers that send more are refused.
_LINE_MAX = 16_384

# RFC 9110 §9.3: methods whose body has no meaning. An unknown length alone does not give them one.
_BODYLESS = ("GET", "HEAD")

# The request that the current task serves: the resolver is given no more than a host name.
_current: ContextVar[_Call] = ContextVar("outbound request")

_ERRNO_CODES: dict[int | None, ErrorCode] = {
    errno.ECONNREFUSED: "connection-refused",
    errno.ECONNRESET: "connection-terminated",
    errno.EPIPE: "connection-terminated",
    errno.ETIMEDOUT: "connection-timeout",
    errno.EHOSTUNREACH: "destination-IP-unroutable",
    errno.ENETUNREACH: "destination-IP-unroutable",
    errno.EMFILE: "connection-limit-reached",
    errno.ENFILE: "connection-limit-reached",
}


class Client:
    """Sends guests' requests. The session is made by the first of them; `close` ends it."""

    def __init__(self, resolver: Resolver, *, tls: SSLContext | None = None) -> None:
        self._resolver = resolver
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: RemoteRequest, reply: Reply) -> None:
        call = _Call(request)
        _current.set(call)
        try:
            response = await self._head(call, request)
            try:
                await _receive(response, request, reply)
            finally:
                # What was read to its end has given its connection back already.
                response.close()
        except (OSError, aiohttp.ClientError, ValueError, HttpError) as error:
            reply.abort(call.explain(error))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _head(self, call: _Call, request: RemoteRequest) -> aiohttp.ClientResponse:
        url = _url(request)
        headers = [(name.decode(), value.decode()) for name, value in request.headers]
        async with asyncio.timeout(request.connect) as timer:
            call.timer = timer
            return await self._opened().request(
                request.method,
                url,
                headers=headers,
                data=_data(request),
                allow_redirects=False,
            )

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(
                    resolver=_CheckedResolver(self._resolver),
                    use_dns_cache=False,
                    limit=0,  # the egress counts
                    keepalive_timeout=_KEEP_ALIVE,
                    ssl=self._tls or True,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                skip_auto_headers=("accept", "accept-encoding", "content-type", "user-agent"),
                auto_decompress=False,
                trust_env=False,
                read_bufsize=CAPACITY,
                max_line_size=_LINE_MAX,
                max_field_size=_LINE_MAX,
            )
        return self._session


def open_egress(*, limit: int = 256, lookup: Callable[[str], list[str]] | None = None) -> Egress:
    """The way out of a node. Whoever opens it closes its `http` and its `resolver`."""
    resolver = Resolver(lookup)
    return Egress(resolver, Client(resolver), limit)


class _Call:
    """One request inside aiohttp: what its connector and resolver must know of it."""

    def __init__(self, request: RemoteRequest) -> None:
        self.request = request
        self.timer: asyncio.Timeout | None = None
        self.connected = False
        self.resolving = False
        self.prohibited = False

    def on_connected(self) -> None:
        """The time to connect is over, that until the response begins."""
        self.connected = True
        if self.timer is not None:
            loop = asyncio.get_running_loop()
            self.timer.reschedule(loop.time() + self.request.first_byte)

    def explain(self, error: Exception) -> HttpError:
        # aiohttp wraps what the body's iterator raises in an error of its own.
        body = self.request.body.error if self.request.body is not None else None
        for known in (error, body):
            if isinstance(known, HttpError):
                return known
        return failure(self._code(error))

    def _code(self, error: Exception) -> ErrorCode:
        if self.prohibited:
            return "destination-IP-prohibited"
        if isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ClientOSError):
            return self._timeout()
        for kind, code in _EXCEPTION_CODES:
            if isinstance(error, kind):
                return code
        if isinstance(error, aiohttp.ClientConnectorDNSError):
            return _dns_code(error.os_error)
        if isinstance(error, aiohttp.ClientConnectorError):
            return _ERRNO_CODES.get(error.os_error.errno, "destination-unavailable")
        if isinstance(error, OSError):
            return _ERRNO_CODES.get(error.errno, "connection-terminated")
        return ("internal-error", None)

    def _timeout(self) -> ErrorCode:
        if self.resolving:
            return "DNS-timeout"
        return "connection-read-timeout" if self.connected else "connection-timeout"


# The first that fits, so the special before the general.
_EXCEPTION_CODES: tuple[tuple[type[Exception], ErrorCode], ...] = (
    (aiohttp.ClientConnectorCertificateError, "TLS-certificate-error"),
    (aiohttp.ClientSSLError, "TLS-protocol-error"),
    (aiohttp.ServerDisconnectedError, "connection-terminated"),
    (aiohttp.ClientPayloadError, "HTTP-response-incomplete"),
    (aiohttp.ClientResponseError, "HTTP-protocol-error"),
    (aiohttp.InvalidURL, "HTTP-request-URI-invalid"),
    (UnicodeError, "HTTP-protocol-error"),
    (ValueError, "HTTP-request-URI-invalid"),
)


class _CheckedResolver(AbstractResolver):
    """Resolves a name to those of its addresses that the current request may reach."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        call = _current.get()
        call.resolving = True
        addresses = await self._resolver.resolve(host)
        call.resolving = False
        allowed = [a for a in addresses if call.request.allows_address(a)]
        if not allowed:
            call.prohibited = True
            raise OSError(errno.EACCES, "the name leads to prohibited addresses")
        return [_result(host, address, port) for address in allowed]

    async def close(self) -> None:
        return


class _Connector(aiohttp.TCPConnector):
    async def connect(self, *args: Any, **kwargs: Any) -> Any:
        call = _current.get()
        while True:
            connection = await super().connect(*args, **kwargs)
            transport = connection.transport
            peer = transport.get_extra_info("peername") if transport is not None else None
            if peer is not None and call.request.allows_address(peer[0]):
                call.on_connected()
                return connection
            # Kept from another request of other grants. A new one leads to a checked address.
            connection.close()


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        proto=0,
        flags=socket.AI_NUMERICHOST,
    )


async def _receive(response: aiohttp.ClientResponse, request: RemoteRequest, reply: Reply) -> None:
    reply.start(response.status, [(n.lower(), v) for n, v in response.raw_headers])
    content = response.content
    while reply.error is None:
        async with asyncio.timeout(request.between_bytes):
            data = await content.readany()
        if not data:
            reply.finish()
            return
        reply.write(data)
        await reply.wait_writable()


def _url(request: RemoteRequest) -> URL:
    path, _, query = request.target.partition("?")
    return URL.build(
        scheme=request.scheme,
        host=request.host,
        port=request.port,
        path=path,
        query_string=query,
        encoded=True,
    )


def _data(request: RemoteRequest) -> bytes | AsyncIterable[bytes] | None:
    """The body as aiohttp takes it: at once if it is complete already, with its length."""
    body = request.body
    if body is None:
        return None
    if content_length(request.headers) is not None:
        return chunks(body)
    if body.ended and body.error is None:
        return _buffered(body) or None
    if request.method in _BODYLESS and not body.size and body.error is None:
        body.close()
        return None
    return chunks(body)


def _buffered(body: Pipe) -> bytes:
    parts = []
    while data := body.read_nowait(body.size):
        parts.append(data)
    return b"".join(parts)


def _dns_code(error: OSError) -> ErrorCode:
    rcode = {
        socket.EAI_NONAME: "NXDOMAIN",
        socket.EAI_AGAIN: "SERVFAIL",
        socket.EAI_FAIL: "SERVFAIL",
    }.get(error.errno or 0)
    return ("DNS-error", (rcode, None))
