"""HTTP to one registry: TLS, authentication, redirects, retries, and a deadline for everything.

Knows URLs and status codes; what is behind them, `client` knows.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from edge.errors import PullError, Refused
from edge.platform.dates import Clock
from edge.registry.answers import Busy, is_failure, read_some, refusal, translated
from edge.registry.auth import Authenticator, TokenRequest
from edge.registry.credentials import Credential, DockerConfig
from edge.registry.reference import Reference
from edge.registry.tls import client_context

__all__ = [
    "Body",
    "Exchange",
    "Patience",
    "RegistrySettings",
    "Transport",
    "expect",
    "new_session",
]

# Registries send blobs to object stores: one redirect. More than a few is a loop.
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_TOKEN = 1 << 20

T = TypeVar("T")

# Makes a request's body anew: after a 401 it is sent again.
Body = Callable[[], bytes | aiohttp.FormData | AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How one registry is reached, and who we are there."""

    insecure: bool = False  # plain HTTP; on loopback that is so anyway
    ca_file: Path | None = None  # an authority trusted beside the system's; makes loopback TLS too
    username: str | None = None  # None: as Docker's configuration says
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, and how long and how often something is tried again. In seconds."""

    total: float = 60.0  # from the first try; progress starts it anew
    attempts: int = 6
    first: float = 0.5  # the longest first pause; it doubles
    longest: float = 15.0
    connect: float = 10.0
    silence: float = 30.0  # between two bytes
    exchange: float = 30.0  # of a small document, however it trickles
    slowest: float = 8192.0  # bytes a second of a large one


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request: what `name` stands for in messages, where it goes."""

    name: str
    method: str
    url: str  # absolute, or a path of the registry
    scope: str
    size: int = 0  # of what is large in it, the body of the request or of the answer
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None

    @classmethod
    def of(
        cls, reference: Reference, method: str, path: str, *, push: bool = False, **more: Any
    ) -> Exchange:
        """About a reference's repository, by a path below it."""
        actions = "pull,push" if push else "pull"
        known: dict[str, Any] = {
            "name": str(reference),
            "url": f"/v2/{reference.repository}/{path}",
            "scope": f"repository:{reference.repository}:{actions}",
        }
        return cls(method=method, **(known | more))


def new_session(patience: Patience) -> aiohttp.ClientSession:
    """Bytes come as they are sent: digests are of them. No cookies, no proxies of others."""
    timeout = aiohttp.ClientTimeout(sock_connect=patience.connect, sock_read=patience.silence)
    return aiohttp.ClientSession(
        timeout=timeout,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "edge", "Accept-Encoding": "identity"},
    )


class Transport:
    """A registry as something to send requests to.

    `note` is told, in a line, what is being waited for.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        registry: str,
        settings: RegistrySettings,
        docker: DockerConfig,
        patience: Patience,
        note: Callable[[str], None],
        clock: Clock | None = None,
    ) -> None:
        self._session, self._registry, self._settings = session, registry, settings
        self._clock = clock
        self._docker, self._patience, self._note = docker, patience, note
        # The one registry whose host is not its name.
        host = "registry-1.docker.io" if registry == "docker.io" else registry
        self._base = URL(f"{_scheme(registry, settings)}://{host}")
        self._auth = Authenticator(registry, self._credential, self._token)
        # By whether the machine's clock is set: until then, dates are checked by trusted time.
        self._tls: dict[bool, ssl.SSLContext] = {}

    @asynccontextmanager
    async def send(self, exchange: Exchange) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, whatever it is but one that asks for a login, or a PullError.

        While it is read: errors of the connection and the deadline are PullErrors too.
        """
        seconds = self._patience.exchange + exchange.size / self._patience.slowest
        async with translated(exchange.name, seconds):
            response = await self._authorized(exchange)
            try:
                if is_failure(response.status):
                    raise await refusal(exchange.name, response, self._auth.hint)
                yield response
            finally:
                response.close()

    async def retry(self, attempt: Callable[[], Awaitable[T]], progress: Callable[[], int]) -> T:
        """What `attempt` returns, tried again after PullErrors that may pass.

        While `progress` grows between attempts, patience begins anew.
        """
        clock = asyncio.get_running_loop().time
        started, failed, reached = clock(), 0, progress()
        while True:
            try:
                return await attempt()
            except Refused:
                raise
            except PullError as error:
                if progress() > reached:
                    started, failed, reached = clock(), 0, progress()
                failed += 1
                pause = self._pause(failed, error)
                if failed >= self._patience.attempts or self._over(clock() + pause - started):
                    raise
                self._note(f"{error.message}; trying again in {pause:.1f} s")
            await asyncio.sleep(pause)

    def _pause(self, failed: int, error: PullError) -> float:
        """Full jitter: boards that failed together do not come back together."""
        longest = min(self._patience.longest, self._patience.first * 2 ** (failed - 1))
        asked = error.retry_after if isinstance(error, Busy) else 0.0
        return asked + random.uniform(0, longest)  # noqa: S311 – spreads load, keeps no secret

    def _over(self, elapsed: float) -> bool:
        return elapsed > self._patience.total

    async def _authorized(self, exchange: Exchange) -> aiohttp.ClientResponse:
        authorization = await self._auth.known(exchange.scope)
        response = await self._follow(exchange, authorization)
        if response.status != 401 or not self._is_own(response.url):
            return response
        offered = response.headers.getall("WWW-Authenticate", [])
        response.close()
        return await self._follow(exchange, await self._auth.answer(offered, exchange.scope))

    async def _follow(
        self, exchange: Exchange, authorization: str | None
    ) -> aiohttp.ClientResponse:
        """Redirects by hand: what proves who we are goes to the registry and nowhere else."""
        url = self._resolved(self._base, exchange.url, exchange.name)
        for _ in range(_MAX_REDIRECTS):
            headers = dict(exchange.headers)
            if authorization and self._is_own(url):
                headers["Authorization"] = authorization
            response = await self._session.request(
                exchange.method,
                url,
                headers=headers,
                data=exchange.body() if exchange.body else None,
                ssl=await self._context(),
                allow_redirects=False,
            )
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None or exchange.body:
                return response
            response.close()
            url = self._resolved(url, location, exchange.name)
        raise Refused(f"{exchange.name}: more than {_MAX_REDIRECTS} redirects")

    def _resolved(self, base: URL, target: str, name: str) -> URL:
        """An absolute URL that may be asked: encrypted, unless all of the registry is not."""
        try:
            # As it was written: signatures of object stores are of the exact text.
            url = base.join(URL(target, encoded=True))
            plain = url.scheme == "http" and self._base.scheme == "http"
            reachable = url.host and not url.user and not url.password
        except ValueError:
            raise Refused(f"{name}: the registry sends to {target[:200]!a}, not a URL") from None
        if reachable and (url.scheme == "https" or (plain and self._may_be_plain(url.host or ""))):
            return url
        raise Refused(
            f"{name}: the registry sends to {str(url.with_query(None))[:200]}, which is not safe",
            hint="a proxy before the registry may lack X-Forwarded-Proto",
        )

    def _may_be_plain(self, host: str) -> bool:
        return self._settings.insecure or _is_loopback(host)

    def _is_own(self, url: URL) -> bool:
        return url.origin() == self._base.origin()

    async def _context(self) -> ssl.SSLContext | bool:
        if self._base.scheme == "http":
            return True
        clock = None if self._clock is None or self._clock.is_set else self._clock
        known = self._tls.get(clock is None)
        if known is None:  # reads hundreds of certificates
            known = await asyncio.to_thread(client_context, self._settings.ca_file, clock)
            self._tls[clock is None] = known
        return known

    async def _credential(self) -> Credential | None:
        if self._settings.username is not None:
            return Credential(self._settings.username, self._settings.password)
        return await self._docker.find(self._registry)

    async def _token(self, request: TokenRequest) -> bytes:
        """Not by `send`: a token server has its own origin, and gets no token."""
        name = f"{self._registry}: token"
        async with translated(name, self._patience.exchange):
            response = await self._session.request(
                "POST" if request.form else "GET",
                self._resolved(self._base, request.url, name),
                headers={"Authorization": request.authorization} if request.authorization else {},
                data=dict(request.form) if request.form else None,
                ssl=await self._context(),
                allow_redirects=False,
            )
            try:
                if response.status != 200:
                    raise await refusal(name, response, self._auth.hint)
                return await read_some(response, _MAX_TOKEN)
            finally:
                response.close()


async def expect(exchange: Exchange, response: aiohttp.ClientResponse, *statuses: int) -> None:
    """Raises Refused for an answer of another status."""
    if response.status not in statuses:
        raise await refusal(exchange.name, response, "")


def _scheme(registry: str, settings: RegistrySettings) -> str:
    host = URL(f"//{registry}")
    plain = settings.insecure or (_is_loopback(host.host or "") and host.explicit_port != 443)
    return "http" if plain and settings.ca_file is None else "https"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
