"""Connections to peers: HTTP over TLS 1.3, each made to one id at one address.

Who answers with another certificate gets nothing, not even a request. No proxy, no cookies, no
redirects, nothing decompressed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Protocol, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from edge.fleet.asking import Excluded, Impostor, Unanswered
from edge.fleet.names import Refused
from edge.fleet.wire import BODY_MOST, Endpoint

__all__ = ["Client", "Credentials"]

# At the same time, to all peers: of questions, and of what is shared. Questions never wait for what
# takes long.
_QUESTIONS, _SHARED = 64, 512
# Seconds that an unused one is kept: longer than between two probes.
_KEPT = 15.0
# Addresses whose names are kept for connections that are open.
_NAMES_MOST = 2048
_CONNECT = 5.0
_REASON_MOST = 160
# What OpenSSL finds, as people see it: who signed it, and whose it is.
_CERTIFICATES = {
    **dict.fromkeys((18, 19, 20, 21), "its certificate is not one of this fleet"),
    62: "its certificate is another node's",
}


class Credentials(Protocol):
    """What this node shows, and whom it believes: see `identity.Identity`."""

    def client_context(self) -> ssl.SSLContext: ...

    def anybody_context(self) -> ssl.SSLContext: ...

    def peer_of(self, connection: ssl.SSLObject | ssl.SSLSocket, /) -> str: ...


class Client:
    """As an async context manager."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._book = _AddressBook()
        self._open: dict[aiohttp.ClientResponse, str] = {}
        self._dropped: frozenset[str] = frozenset()

    async def __aenter__(self) -> Self:
        context = await asyncio.to_thread(self._credentials.client_context)
        self._questions = self._session(context, _QUESTIONS)
        self._shared = self._session(context, _SHARED)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._questions.close()
        await self._shared.close()

    def _session(self, context: ssl.SSLContext, limit: int) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=limit,
                ssl=context,
                resolver=self._book,
                use_dns_cache=False,
                keepalive_timeout=_KEPT,
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            trust_env=False,
        )

    async def ask(
        self,
        id: str,
        endpoint: Endpoint,
        target: str,
        body: bytes | None,
        seconds: float,
        most: int = BODY_MOST,
    ) -> bytes:
        """See `asking.Transport`. `most`: bytes of an answer."""
        method = "GET" if body is None else "POST"
        timeout = aiohttp.ClientTimeout(total=seconds)
        async with self._request(
            self._questions, id, endpoint, method, target, data=body, timeout=timeout
        ) as response:
            try:
                return await _body(response, most)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise _unanswered(error) from error

    def request(
        self,
        id: str,
        endpoint: Endpoint,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """The head of the answer, whatever its status. Raises Unanswered."""
        return self._request(
            self._shared, id, endpoint, method, target, headers=headers, timeout=timeout
        )

    @asynccontextmanager
    async def _request(
        self,
        session: aiohttp.ClientSession,
        id: str,
        endpoint: Endpoint,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if id in self._dropped:
            raise Unanswered("it was revoked")
        if session.closed:
            raise Unanswered("this node is leaving")
        try:
            response = await session.request(
                method,
                f"https://{self._book.name(endpoint)}:{endpoint[1]}{target}",
                headers=headers,
                data=data,
                timeout=timeout or aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
                server_hostname=id,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise _unanswered(error) from error
        self._open[response] = id
        try:
            yield response
        finally:
            del self._open[response]
            response.release() if response.content.at_eof() else response.close()

    async def identify(self, endpoint: Endpoint, seconds: float) -> str:
        """Which node of the fleet answers there. Raises Unanswered."""
        context = await asyncio.to_thread(self._credentials.anybody_context)
        try:
            async with asyncio.timeout(seconds):
                _, writer = await asyncio.open_connection(*endpoint, ssl=context)
        except (OSError, TimeoutError) as error:
            raise _unanswered(error) from error
        try:
            return self._credentials.peer_of(writer.get_extra_info("ssl_object"))
        except Refused as error:
            raise Impostor(str(error)) from error
        finally:
            writer.transport.abort()

    def drop(self, ids: frozenset[str]) -> None:
        """They were revoked: what is under way with them ends."""
        self._dropped |= ids
        for response, id in tuple(self._open.items()):
            if id in ids:
                response.close()


class _AddressBook(AbstractResolver):
    """Lets a URL name an address of any kind, link-local ones as well, and asks no name server."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, endpoint: Endpoint) -> str:
        host = endpoint[0]
        name = f"a{host.encode().hex()}"
        if len(self._names) >= _NAMES_MOST:
            self._names.clear()
        self._names[name] = host
        return name

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = self._names.get(host)
        if found is None:
            raise OSError(f"{host} is no address of a peer")
        return [
            ResolveResult(
                hostname=host,
                host=found,
                port=port,
                family=socket.AF_INET6 if ":" in found else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None: ...


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    if response.status not in (200, 204):
        raise Unanswered(f"it answers {response.status}")
    found = bytearray()
    async for piece in response.content.iter_any():
        found += piece
        if len(found) > most:
            raise Unanswered(f"it answers with more than {most >> 10} KiB")
    return bytes(found)


def _unanswered(error: Exception) -> Unanswered:
    """In the words of TLS, if it was about certificates."""
    for cause in _causes(error):
        if isinstance(cause, aiohttp.ClientError):  # some are ssl's as well, without its fields
            continue
        if isinstance(cause, ssl.SSLCertVerificationError):
            return Impostor(_CERTIFICATES.get(cause.verify_code) or _plain(cause.verify_message))
        if isinstance(cause, ssl.SSLError) and "ALERT" in (cause.reason or ""):
            return Excluded(_alert(cause.reason or ""))
    if isinstance(error, TimeoutError):
        return Unanswered("no answer in time")
    return Unanswered(_plain(str(error) or type(error).__name__))


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and len(found) < 8:
        found.append(error)
        known = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
        error = known if known not in (None, error) else error.__cause__ or error.__context__
    return found


def _alert(reason: str) -> str:
    said = reason.partition("ALERT_")[2].lower().replace("_", " ")
    return f"it does not take this node for one of the fleet: {said or 'no reason'}"


def _plain(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:_REASON_MOST])
