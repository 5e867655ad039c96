"""The other nodes of the fleet: who they are, whether they live, and how they are asked.

What others say of a node is a rumor until its own certificate was seen. Composes static peers,
probing, gossip, and the client and the server of this node; knows nothing of what is shared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import aiohttp
from aiohttp import web

from edge.config import Address
from edge.errors import PullError
from edge.fleet import client, server
from edge.fleet.client import Client
from edge.fleet.life import Life
from edge.fleet.probe import Start, Times
from edge.fleet.reports import Reports
from edge.fleet.routes import routes
from edge.fleet.server import Server
from edge.fleet.static import StaticPeers, split
from edge.fleet.statics import Statics
from edge.fleet.table import Peer, Table
from edge.fleet.wire import BODY_MOST, Endpoint, Facts, Record, hint_text, show_address

__all__ = ["Facts", "Identity", "Neighbour", "Peers", "Settings"]

_log = logging.getLogger("edge.fleet")

# Seconds that a peer is not asked, the first time and at most.
_PENALTY, _PENALTY_MOST = 60.0, 3600.0
# Seconds for which it is worth saying that peers refuse this node.
_EXCLUDED = 300.0
# Probes in a row that failed while others reach a peer, after which it is nobody to ask.
_FAILED = 2
# Seconds between two attempts at where this node joined, while it knows nobody.
_INTRODUCED = 30.0
_REASON_MOST = 200
# Seconds between two looks at where somebody says this node is, too, and for one; and within which
# it would be said again.
_DOUBTED, _IDENTIFY, _SEEN_AGAIN = 60.0, 3.0, 900.0

# How this node is, and where it may be reached if it serves at that port.
Tell = Callable[[int], tuple[Facts, tuple[Endpoint, ...]]]


class Identity(client.Credentials, server.Credentials, Protocol):
    """See `identity.Identity`."""

    @property
    def node(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """`static`: addresses of peers; `introduced`: by id, those of who is known already."""

    listen: Address
    static: tuple[str, ...] = ()
    introduced: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    times: Times = field(default_factory=Times)
    limits: server.Limits = field(default_factory=server.Limits)


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A peer that can be asked. `round_trip` in seconds, where it was measured."""

    id: str
    round_trip: float | None = None


class Peers:
    """Neighbours of this node, as an async context manager.

    `tell` is asked every few seconds. `applications`: what `/edge/v1/apps` answers, as JSON.
    `learned` is called with each peer of which something new is known. `now`: the loop's clock;
    `date`: trusted time.
    """

    def __init__(
        self,
        identity: Identity,
        settings: Settings,
        *,
        tell: Tell,
        date: Callable[[], float],
        applications: Callable[[], object] = list,
        learned: Callable[[Peer], None] = lambda _: None,
        now: Callable[[], float],
    ) -> None:
        self.me = identity.node
        self.heard: Callable[[str, str], None] = lambda _id, _text: None
        self.reports = Reports(now)
        self.excluded: str | None = None
        self._excluded_at = 0.0
        self._settings, self._tell, self._now = settings, tell, now
        self._introduced = dict(settings.introduced)
        self._introduced_at = self._doubts_at = now()
        self._doubts: tuple[Endpoint, ...] = ()
        self._told_at = now()
        self._client = Client(identity)
        self.table = Table(Record(self.me, tell(settings.listen.port)[0], (), int(date())))
        self.life = Life(
            self.table,
            self._client,
            now,
            times=settings.times,
            reports=self.reports,
            hinted=lambda id, text: self.heard(id, text),
            excluded=self._was_excluded,
            before=self._before,
            learned=learned,
        )
        self._statics = Statics(
            identify=self._client.identify,
            heard=self._found,
            known=self._is_known,
            report=self.reports.add,
            now=now,
        )
        self._static = StaticPeers(settings.static, self._resolved)
        self._identity = identity
        self._routes = routes(self.life.gossip, self.life.prober, applications, now)

    @property
    def address(self) -> Address:
        """Where it serves, with the port it got."""
        return self._server.address

    def serve(self, more: Iterable[web.RouteDef]) -> None:
        """Answers peers under these, too; before it is entered."""
        self._routes.extend(more)

    async def __aenter__(self) -> Self:
        """Raises EdgeError where it cannot listen."""
        settings = self._settings
        self._server = Server(
            self._identity,
            settings.listen,
            self._routes,
            limits=settings.limits,
            refused=self._refused,
        )
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._client)
            await stack.enter_async_context(self._server)
            self._change()
            await stack.enter_async_context(self._static)
            running = asyncio.get_running_loop().create_task(self.life.run(), name="peers")
            stack.push_async_callback(_ended, running)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self.life.goodbye()
        finally:
            await self._stack.aclose()

    # Neighbours

    def alive(self) -> Sequence[Neighbour]:
        """Those that this node has verified itself and that are not penalised."""
        now = self._now()
        return [
            Neighbour(peer.id, peer.round_trip)
            for peer in self.table.alive()
            if peer.penalised <= now and peer.attempts < _FAILED
        ]

    @asynccontextmanager
    async def request(
        self,
        id: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Raises PullError for a peer that cannot be asked. Bodies are not decompressed."""
        peer = self.table.peers.get(id)
        if peer is None or peer.endpoint is None or not peer.lives:
            raise PullError(f"peer {id[:12]}: is not there")
        async with self._client.request(
            id, peer.endpoint, method, path, headers=headers, timeout=timeout
        ) as response:
            yield response

    def penalise(self, id: str, reason: str) -> None:
        """It is not asked for a while, and `edge peers` says why."""
        peer = self.table.peers.get(id)
        if peer is None:
            return
        shown = "".join(c if " " <= c <= "~" else "?" for c in reason[:_REASON_MOST])
        peer.penalties += 1
        seconds = min(_PENALTY * 2.0 ** min(peer.penalties - 1, 10), _PENALTY_MOST)
        peer.penalty, peer.penalised = shown, self._now() + seconds
        _log.warning("peer %s is not asked for %.0f s: %s", peer.record.facts.name, seconds, shown)

    def hint(self, text: str) -> None:
        """Tells the fleet, each once. What no hint can be is not told."""
        try:
            self.life.gossip.hint(hint_text(text))
        except ValueError as error:
            _log.debug("hint: %s", error)

    # What discovery and the identity say

    def discovered(self, id: str, name: str, endpoints: Sequence[Endpoint]) -> None:
        """Somebody advertises that this node is there: a hint."""
        self.life.prober.heard(id, endpoints, name)
        self.life.wake()

    def tell_again(self) -> None:
        """This node may have something new to say of itself."""
        self._told_at = self._now()
        self.life.wake()

    def network_changed(self) -> None:
        """Names may mean other addresses, and this node may have others."""
        self._static.again()
        self.tell_again()

    def vanished(self, id: str) -> None:
        """It said goodbye to the network, or somebody did in its name."""
        self.life.prober.doubt(id)
        self.life.wake()

    def doubled(self, endpoints: Sequence[Endpoint]) -> None:
        """Somebody advertises this node's own id elsewhere: whether that is so, TLS shows."""
        now = self._now()
        if now >= self._doubts_at:
            self._doubts_at, self._doubts = now + _DOUBTED, tuple(endpoints)
            self.life.wake()

    async def _doubt(self, endpoints: Sequence[Endpoint]) -> None:
        for endpoint in endpoints:
            with suppress(PullError):
                if await self._client.identify(endpoint, _IDENTIFY) == self.me:
                    self.table.doubled(endpoint, self._now() + 2 * _SEEN_AGAIN)
                    _log.warning("%s", self.double)
                    return

    def revoked(self, ids: frozenset[str]) -> None:
        """What is under way with them ends, and nothing more is heard of them."""
        self.table.refuse(ids)
        self._client.drop(ids)
        self._server.drop(ids)

    def introduce(self, places: Mapping[str, tuple[str, ...]]) -> None:
        """By id, where others may be: looked at while nobody is known."""
        self._introduced = {**places, **self._introduced}

    async def ask(
        self,
        id: str,
        path: str,
        seconds: float,
        *,
        body: bytes | None = None,
        most: int = BODY_MOST,
    ) -> bytes:
        """What a living peer answers, of so many bytes at most. Raises PullError."""
        peer = self.table.peers.get(id)
        if peer is None or peer.endpoint is None:
            raise PullError(f"peer {id[:12]}: is not there")
        return await self._client.ask(id, peer.endpoint, path, body, seconds, most)

    @property
    def is_excluded(self) -> bool:
        """Whether peers refuse this node, as far as it was told so lately."""
        return self.excluded is not None and self._now() - self._excluded_at < _EXCLUDED

    @property
    def double(self) -> str | None:
        """That another machine is this node, too, as far as it was told so lately."""
        if not self.table.is_doubled(self._now()):
            return None
        at = ", ".join(map(show_address, self.table.double))
        return (
            f"another machine says that it is this node{at and f', at {at}'}: was its card copied,"
            " or a backup restored twice? (`edge fleet leave` on one of them, then join anew)"
        )

    @property
    def unreached(self) -> str | None:
        """Which peers of the configuration are not there; a wrong address looks like that."""
        found = [f"{peer} ({why})" for peer, why in self._static.problems.items()]
        found += [f"{peer} (no node of this fleet answers)" for peer in self._statics.silent]
        return f"[fleet] peers: {', '.join(found)}" if found else None

    # Around the loop

    def _before(self, start: Start) -> float:
        now = self._now()
        if doubts := self._doubts:
            self._doubts = ()
            start(self._doubt(doubts))
        if now >= self._told_at:
            self._told_at = now + self._settings.times.interval
            self._change()
        if now >= self._introduced_at:
            self._introduced_at = now + _INTRODUCED
            self._introduce()
        return min(self._statics.due(start), self._told_at)

    def _change(self) -> None:
        if self.table.change(*self._tell(self._server.address.port)):
            self.life.gossip.spread(self.me)

    def _introduce(self) -> None:
        if any(True for _ in self.table.alive()):
            return
        for id, places in self._introduced.items():
            self._found(id, [split(text) for text in places])

    def _resolved(self, peer: str, endpoints: Sequence[Endpoint]) -> None:
        self._statics.resolved(peer, endpoints)
        self.life.wake()

    def _found(self, id: str, endpoints: Sequence[Endpoint]) -> None:
        self.life.prober.heard(id, endpoints)
        self.life.wake()

    def _is_known(self, endpoint: Endpoint) -> bool:
        return any(
            endpoint in (peer.endpoint, *peer.candidates) and not peer.attempts
            for peer in self.table.alive()
        )

    def _was_excluded(self, why: str) -> None:
        if self.excluded is None:
            _log.warning("a peer refuses this node: %s", why)
        self.excluded, self._excluded_at = why, self._now()

    def _refused(self, where: str, why: str) -> None:
        self.reports.add(where, f"wanted to connect, and was refused: {why}")

    @property
    def now(self) -> float:
        """By the clock of all moments here."""
        return self._now()

    def peers(self) -> list[Peer]:
        """All that are known, by name."""
        return sorted(self.table.peers.values(), key=lambda peer: (peer.record.facts.name, peer.id))


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))
