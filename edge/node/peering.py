"""A member of a fleet at work: its peers, how they are found, what they share.

Only members load it.

discovery  ──► hints ──► peers ──► what is shared on the LAN
identity   ──► whose certificate counts, renewed and revoked
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import logging
import platform
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Any, Self

from edge.config import Address
from edge.fleet import issuing, keeping, netlink, remembered
from edge.fleet.authority import Authority
from edge.fleet.discovery import Advert, Discovery
from edge.fleet.identity import MAX_REVOCATIONS, Identity
from edge.fleet.interfaces import followed, hosts
from edge.fleet.peers import Facts, Peers, Settings
from edge.fleet.renewing import Renewing
from edge.fleet.revoking import Revocations
from edge.fleet.server import peer_of
from edge.fleet.table import Peer
from edge.fleet.wire import Endpoint, show_address
from edge.node import peerview
from edge.node.fleet import Hosted
from edge.node.sharing import sharing
from edge.platform.files import unreadable
from edge.registry.lan.lan import Lan
from edge.registry.sync.status import AppStatus

__all__ = ["Peering"]

_log = logging.getLogger("edge.fleet")

# Seconds for a list of revocations or a certificate.
_ASK = 10.0
# Seconds in which changes of the network gather.
_SETTLED = 1.0
# Seconds until peers are remembered for the next start, and between two times.
_FIRST_KEPT, _KEPT = 60.0, 1800.0
# Applications that a node tells its peers of by name.
_APPS_MOST = 2000


class Peering:
    """One membership at work, as an async context manager."""

    def __init__(self, hosted: Hosted, identity: Identity, authority: Authority | None) -> None:
        fleet = hosted.settings.fleet
        self.identity, self._authority = identity, authority
        self.discovery: Discovery | None = None
        self._hosted, self._settings = hosted, hosted.settings
        self._apps, self._generation = hosted.sync.apps, hosted.generation
        self._tasks: set[asyncio.Task[None]] = set()
        self._revocations = Revocations(identity, self.ask_for_revocations)
        self._works = False
        self._version = importlib.metadata.version("edge")
        self._own: tuple[Endpoint, ...] | None = None
        directory = self._settings.node.state_dir / keeping.DIRECTORY
        self._file = directory / "peers.json"
        self._known: remembered.Places = {}
        self.peers = Peers(
            identity,
            Settings(
                fleet.listen, static=fleet.peers, introduced={identity.issuer: identity.introduced}
            ),
            tell=self._tell,
            date=hosted.date,
            applications=self._told_apps,
            learned=self._learned,
            now=asyncio.get_running_loop().time,
        )
        self.peers.table.refuse(identity.revoked)
        identity.on_revoked = self._revoked
        self._renewing = Renewing(identity, hosted.date, self._renew)

    async def __aenter__(self) -> Self:
        """Raises EdgeError where it cannot listen."""
        self._known = await asyncio.to_thread(remembered.load, self._file)
        self.peers.introduce(self._known)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            lan = await stack.enter_async_context(self._sharing())
            self.peers.serve(issuing.routes(self.identity, self._authority))
            self.peers.serve(lan.routes(peer_of))
            await stack.enter_async_context(self.peers)
            self._works = True
            try:
                stack.enter_context(netlink.Watcher(self._network_changed, _SETTLED))
            except OSError as error:
                _log.warning("the network is not watched for changes: %s", unreadable(error))
            if self._settings.fleet.discovery:
                self.discovery = self._discovery()
                await stack.enter_async_context(self.discovery)
            self._start(self._renewing.run(), "renewing")
            self._start(self._remember(), "remember peers")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    def _sharing(self) -> AbstractAsyncContextManager[Lan]:
        hosted = self._hosted
        return sharing(
            self.peers, self._settings.fleet, hosted.store, hosted.registries, hosted.sync
        )

    # For people

    def view(self) -> dict[str, Any]:
        """As `edge peers --json` has it."""
        return peerview.view(self.peers, self._hosted.date())

    def notes(self) -> tuple[str, ...]:
        """What the node's operator should know."""
        problem = self.discovery.problem if self.discovery is not None else None
        excluded = self.peers.excluded if self.peers.is_excluded else None
        refused = excluded and f"a peer refuses this node: {excluded}"
        every = (problem, refused, self.peers.double, self.peers.unreached)
        return tuple(note for note in every if note)

    async def apps(self) -> list[dict[str, Any]]:
        """Of each living peer what it runs, or why that is not known."""
        return await peerview.applications(self.peers)

    def _discovery(self) -> Discovery:
        facts, address = self._facts(self.peers.address.port), self.peers.address
        me = Advert(
            self.identity.node,
            facts.name,
            self.identity.fleet,
            ((address.host, address.port),),
            facts.inventory,
            facts.arch,
            facts.version,
        )
        return Discovery(
            me,
            interfaces=self._settings.fleet.interfaces,
            heard=lambda advert: self.peers.discovered(advert.id, advert.name, advert.addresses),
            gone=self.peers.vanished,
            doubled=lambda advert: self.peers.doubled(advert.addresses),
        )

    # What this node says of itself

    def _tell(self, port: int) -> tuple[Facts, tuple[Endpoint, ...]]:
        facts = self._facts(port)
        if self.discovery is not None:
            self.discovery.update(facts.inventory)
        if self._works:
            self._look_for_revocations()
        return facts, self._endpoints(self._settings.fleet.listen, port)

    def _facts(self, port: int) -> Facts:
        apps = self._apps()
        return Facts(
            self._settings.node.name[:64],
            port,
            self._version,
            platform.machine(),
            _inventory(apps, self._generation()),
            self._generation(),
            len(apps),
            self.identity.revocations.number,
        )

    def _endpoints(self, listen: Address, port: int) -> tuple[Endpoint, ...]:
        if listen.host not in ("::", "0.0.0.0"):  # noqa: S104
            return ((listen.host, port),)
        if self._own is None:
            self._own = tuple((host, port) for host in self._hosts())
        return self._own

    def _hosts(self) -> list[str]:
        try:
            found = hosts(followed(netlink.interfaces(), self._settings.fleet.interfaces))
        except OSError:
            return []
        return [host for host in found if not host.startswith("fe80:")]

    def _network_changed(self, _: object) -> None:
        self._own = None
        self.peers.network_changed()

    def _told_apps(self) -> object:
        apps = self._apps()
        shown = [
            [app.name, app.state, app.digest and str(app.digest), app.reference]
            for app in apps[:_APPS_MOST]
        ]
        return {"total": len(apps), "apps": shown}

    # What the identity needs of peers

    def _revoked(self, ids: frozenset[str]) -> None:
        self.peers.revoked(ids)
        self.peers.tell_again()

    def _learned(self, peer: Peer) -> None:
        if peer.record.facts.revocations > self.identity.revocations.number:
            self._look_for_revocations()

    def _look_for_revocations(self) -> None:
        for id in self._revocations.due(self.peers.table.alive(), self.peers.now):
            self._start(self._revocations.fetch(id), "revocations")

    async def ask_for_revocations(self, id: str) -> bytes:
        """The list that a peer has. Raises PullError."""
        return await self.peers.ask(id, issuing.REVOCATIONS, _ASK, most=MAX_REVOCATIONS)

    async def _renew(self, request: bytes) -> bytes:
        identity, authority = self.identity, self._authority
        if authority is not None:
            issued = await asyncio.to_thread(
                authority.renew, identity.node, request, identity.revoked
            )
            return issued.pem
        return await self.peers.ask(identity.issuer, issuing.RENEW, _ASK, body=request)

    async def _remember(self) -> None:
        """For a start at which nobody is heard of."""
        pause = _FIRST_KEPT
        while True:
            await asyncio.sleep(pause)
            pause = _KEPT
            places = self._places()
            if places and places != self._known:
                self._known = places
                try:
                    await asyncio.to_thread(remembered.save, self._file, places)
                except OSError as error:
                    _log.warning("%s: %s", self._file, unreadable(error))

    def _places(self) -> remembered.Places:
        """Those that were known before stay, if they live: a file that changes wears cards."""
        alive = {peer.id: peer for peer in self.peers.table.alive()}
        chosen = [*(id for id in self._known if id in alive), *sorted(alive)]
        return {
            id: tuple(show_address(at) for at in alive[id].places if "%" not in at[0])
            for id in list(dict.fromkeys(chosen))[: remembered.MOST]
        }

    # Tasks

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _inventory(apps: Sequence[AppStatus], generation: int | None) -> str:
    """Changes with what a node runs."""
    digests = sorted(f"{app.name} {app.digest}" for app in apps)
    text = "\n".join((str(generation), *digests))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
