"""Peers that the configuration names, for networks that multicast does not pass: their addresses.

Like what is discovered, an address is a hint: who answers there is asked by who connects.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from types import TracebackType
from typing import Self

__all__ = ["DEFAULT_PORT", "StaticPeers", "split"]

_log = logging.getLogger(__name__)

DEFAULT_PORT = 7466
_DEADLINE = 5.0  # of one name; resolvers by themselves may take half a minute
_AGAIN = 600.0  # a name that resolved is looked up again: leases and zones change seldom
_RETRY_FIRST, _RETRY_MAX = 5.0, 300.0  # one that did not
_THREADS = 2  # a resolver that hangs holds one: it must not hold those of everybody
_MAX_ADDRESSES = 8

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}")

Address = tuple[str, int]


def split(peer: str) -> Address:
    """ "10.0.0.7", "pi.lan:7466", "[fd00::7]:7466", "fd00::7". Raises ValueError."""
    host, digits = peer, str(DEFAULT_PORT)
    if not _is_ip(peer):
        head, colon, tail = peer.rpartition(":")
        if colon and not tail.endswith("]"):
            host, digits = head, tail
    if host.startswith("[") and host.endswith("]") and _is_ip(host[1:-1]):
        host = host[1:-1]
    if not _HOST.fullmatch(host) and not _is_ip(host):
        raise ValueError("must be a host, or a host and a port")
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits[:6]) < 65536):
        raise ValueError("its port is not a number up to 65535")
    return host, int(digits)


class StaticPeers:
    """Keeps the addresses of configured peers, while it is entered.

    `found` gets a peer as it was written and its addresses, at first and when they change.
    """

    def __init__(
        self, peers: Sequence[str], found: Callable[[str, tuple[Address, ...]], None]
    ) -> None:
        """Raises ValueError for a peer that is no host and port."""
        self._peers = {peer: split(peer) for peer in peers}
        self._found = found
        self._known: dict[str, tuple[Address, ...]] = {}
        self._task: asyncio.Task[None] | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._now = asyncio.Event()
        self.problems: dict[str, str] = {}  # peer -> why it has no address at the moment

    async def __aenter__(self) -> Self:
        names = []
        for peer, (host, port) in self._peers.items():
            if _is_ip(host):
                self._found(peer, ((host, port),))
            else:
                names.append(peer)
        if names:
            loop = asyncio.get_running_loop()
            self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="peers")
            self._task = loop.create_task(self._follow(names), name="static peers")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    def again(self) -> None:
        """Looks names up at once: the network has changed."""
        self._now.set()

    async def _follow(self, names: Sequence[str]) -> None:
        retry = _RETRY_FIRST
        while True:
            self._now.clear()
            # One after another: however many names, two threads at most.
            for peer in names:
                await self._resolve(peer)
            if self.problems:
                delay, retry = retry, min(2 * retry, _RETRY_MAX)
            else:
                delay, retry = _AGAIN, _RETRY_FIRST
            try:
                async with asyncio.timeout(delay * random.uniform(0.9, 1.1)):  # noqa: S311
                    await self._now.wait()
            except TimeoutError:
                pass

    async def _resolve(self, peer: str) -> None:
        host, port = self._peers[peer]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_DEADLINE):
                addresses = await loop.run_in_executor(self._executor, _addresses, host, port)
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            self._failed(peer, str(error) or f"not resolved within {_DEADLINE:g} s")
            return
        self.problems.pop(peer, None)
        if addresses != self._known.get(peer):
            self._known[peer] = addresses
            self._found(peer, addresses)

    def _failed(self, peer: str, why: str) -> None:
        if peer not in self.problems:
            _log.warning("peer %s: %s", peer, why)
        self.problems[peer] = why


def _is_ip(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(host: str, port: int) -> tuple[Address, ...]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys((_scoped(*address), port) for *_, address in found)
    return tuple(addresses)[:_MAX_ADDRESSES]


def _scoped(host: str, _port: int, _flow: int = 0, scope: int = 0) -> str:
    return f"{host}%{scope}" if scope else host
