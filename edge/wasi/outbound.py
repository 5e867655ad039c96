"""What an invocation may reach over the network, and whatever of that is still under way.

Which addresses a name may lead to is decided here, for HTTP and sockets alike. A name is resolved
once, what it resolved to is checked, and only a checked address is connected to: a name that means
something else the next time (DNS rebinding) gains nothing. An address is

 - refused when it lies in a blocked network, whoever named it;
 - accepted when it is public or of a private network (the devices next to a board);
 - else (loopback, link-local, multicast, reserved) accepted only when the grants name it as an
   address, by a network or by the host `*`, or when the name is `localhost` and it is loopback.

Knows neither HTTP nor WASI, and opens no connection itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from edge.application.hosts import AllowedHosts

if TYPE_CHECKING:
    from edge.wasi.http.exchange import RemoteRequest
    from edge.wasi.http.message import Handler, Reply

__all__ = ["Address", "Egress", "Grants", "HttpClient", "Limits", "Outbound", "Resolver"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")  # Linux connects 0.0.0.0 to itself
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

# Addresses a guest learned by looking up names; the oldest is forgotten for one more.
_LEARNED_MAX = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one invocation. Times in seconds; a guest's own request options replace them."""

    connections: int = 16  # requests and sockets open at once
    connect: float = 10.0
    first_byte: float = 60.0
    between_bytes: float = 60.0
    # Components calling each other, one waiting for the next. Below the default concurrency of one
    # component, so that a loop is told from a lack of room.
    depth: int = 8


def _no_component(_id: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Grants:
    """What a component may reach.

    `chain` finds the handler of another component of the application by its id; `origin` is the
    application's own: requests to oneself go there, through its routes.
    """

    hosts: AllowedHosts = field(default_factory=AllowedHosts)
    blocked: tuple[Network, ...] = ()
    chain: Callable[[str], Handler | None] = _no_component
    origin: Handler | None = None
    limits: Limits = field(default_factory=Limits)

    def allows_address(self, scheme: str, name: str | None, address: str, port: int) -> bool:
        """May a connection go to `address`, which `name` (None: nobody) resolved to?"""
        plain = plain_address(address)
        if any(plain in network for network in self.blocked):
            return False
        if not _is_special(plain) or self.hosts.allows(scheme, str(plain), port):
            return True
        return plain.is_loopback and name is not None and name.lower().rstrip(".") == "localhost"


class HttpClient(Protocol):
    """Sends requests to other machines."""

    async def send(self, request: RemoteRequest, reply: Reply) -> None:
        """Ends once the reply is finished or aborted. Raises nothing but cancellation."""


class Resolver:
    """Names to addresses by the system's resolver, in threads of its own.

    Their number is small because a resolver that does not answer holds each for many seconds; those
    who wait have timeouts. `lookup` blocks and raises OSError.
    """

    __slots__ = ("_executor", "_lookup")

    WORKERS = 8

    def __init__(self, lookup: Callable[[str], list[str]] | None = None) -> None:
        self._lookup = lookup or _system_lookup
        self._executor: ThreadPoolExecutor | None = None

    async def resolve(self, name: str) -> list[str]:
        """Addresses in the order to try them, at least one. Raises OSError."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self.WORKERS, thread_name_prefix="resolver")
        loop = asyncio.get_running_loop()
        addresses = await loop.run_in_executor(self._executor, self._lookup, name)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        return addresses

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
            self._executor = None


class Egress:
    """What all invocations of a node share on their way out. `limit`: connections of all."""

    __slots__ = ("http", "limit", "open", "resolver")

    def __init__(
        self, resolver: Resolver | None = None, http: HttpClient | None = None, limit: int = 256
    ) -> None:
        self.resolver = resolver or Resolver()
        self.http = http
        self.limit = limit
        self.open = 0


class Outbound:
    """The way out of one invocation; owns its tasks until `close`.

    `depth` counts the invocations that wait for this one; `authority` is the host that requests to
    oneself carry; `trace`: what others are told of the trace it belongs to, in the words of W3C.
    """

    __slots__ = ("_learned", "_open", "_tasks", "authority", "depth", "egress", "grants", "trace")

    def __init__(
        self, grants: Grants, egress: Egress, *, depth: int = 0, authority: str = "localhost"
    ) -> None:
        self.grants = grants
        self.egress = egress
        self.depth = depth
        self.authority = authority
        self.trace: tuple[tuple[str, str], ...] = ()
        self._open = 0
        # task -> whether it may go on to its end when the invocation is over
        self._tasks: dict[asyncio.Task[None], Callable[[], bool]] = {}
        self._learned: dict[tuple[str, str], None] = {}  # addresses and the names that gave them

    def allows(self, scheme: str, host: str, port: int) -> bool:
        return self.grants.hosts.allows(scheme, host, port)

    def allows_address(self, scheme: str, name: str | None, address: str, port: int) -> bool:
        return self.grants.allows_address(scheme, name, address, port)

    def allows_socket(self, scheme: str, address: str, port: int) -> bool:
        """May a socket reach the address: granted as such, or by a name this guest looked up?"""
        plain = str(plain_address(address))
        if self.allows(scheme, plain, port):
            return self.allows_address(scheme, None, plain, port)
        return any(
            self.allows(scheme, name, port) and self.allows_address(scheme, name, plain, port)
            for known, name in self._learned
            if known == plain
        )

    async def lookup(self, name: str) -> list[str]:
        """The addresses of a name. Sockets may then reach them as far as the name is granted."""
        addresses = await self.egress.resolver.resolve(name)
        for address in addresses:
            self._learned[str(plain_address(address)), name] = None
            if len(self._learned) > _LEARNED_MAX:
                del self._learned[next(iter(self._learned))]
        return addresses

    def acquire(self) -> bool:
        """Count one more connection; False when there are too many. Pairs with `release`."""
        egress = self.egress
        if self._open >= self.grants.limits.connections or egress.open >= egress.limit:
            return False
        self._open += 1
        egress.open += 1
        return True

    def release(self) -> None:
        self._open -= 1
        self.egress.open -= 1

    def start(
        self,
        work: Coroutine[Any, Any, None],
        *,
        name: str,
        may_finish: Callable[[], bool] = lambda: False,
    ) -> asyncio.Task[None]:
        """Run `work` as a task of this invocation.

        `close` cancels it, unless `may_finish()` then: it waits for its end.
        """
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks[task] = may_finish
        task.add_done_callback(self._ended)
        return task

    @property
    def busy(self) -> bool:
        """There is something for `close` to wait for."""
        return bool(self._tasks)

    def cancel(self) -> None:
        """End everything now; nothing waits."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Returns when no task is left. Cancelled meanwhile, it ends what it waits for."""
        for task, may_finish in self._tasks.items():
            if not may_finish():
                task.cancel()
        try:
            while self._tasks:
                await asyncio.wait(self._tasks)
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)


def plain_address(text: str) -> Address:
    """An address, as IPv4 when it is an IPv4 address in the clothes of IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_special(address: Address) -> bool:
    return (
        address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
        or address in _THIS_NETWORK
    )


def _system_lookup(name: str) -> list[str]:
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
