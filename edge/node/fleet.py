"""A node in its fleet, while there is a membership: from its start on, or from when it joins.

A node without one loads nothing of discovery, peers and cryptography.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from edge import config
from edge.errors import EdgeError
from edge.node.membership import Membership
from edge.platform.dates import Clock
from edge.registry.store import ContentStore
from edge.registry.sync.registries import Registries
from edge.registry.sync.sync import Sync

if TYPE_CHECKING:
    from edge.node.peering import Peering

__all__ = ["FleetService", "Hosted"]

# Seconds between two attempts to listen, growing: an address may come with the network.
_FIRST, _LAST = 2.0, 60.0

_log = logging.getLogger("edge.fleet")


@dataclass(frozen=True, slots=True)
class Hosted:
    """The parts of a node that its fleet has to do with."""

    settings: config.Daemon
    date: Clock  # trusted time
    sync: Sync
    store: ContentStore
    registries: Registries
    generation: Callable[[], int | None]  # of the fleet's document


class FleetService:
    """Belongs to a daemon, as an async context manager."""

    def __init__(self, hosted: Hosted) -> None:
        settings = hosted.settings
        self._hosted = hosted
        self._membership = Membership(settings.node, settings.fleet, hosted.date)
        self._peering: Peering | None = None
        self._changing = asyncio.Lock()
        self._opening: asyncio.Task[None] | None = None
        self._problem: str | None = None

    async def __aenter__(self) -> Self:
        """Peers come later: what a node serves does not wait for them."""
        self._membership.changed = self.refresh
        await self._membership.__aenter__()
        if self._membership.identity is not None:
            self._hosted.registries.expect_lan()
            self._open_soon(0.0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._membership.__aexit__(kind, error, trace)
        await self._stop_opening()
        async with self._changing:
            await self._close()

    async def refresh(self) -> None:
        """Brings the node in touch with its peers as its membership is now, or ends that."""
        await self._stop_opening()
        async with self._changing:
            await self._close()
            await self._open()
        if self._problem is not None:
            self._open_soon(_FIRST)

    def _open_soon(self, pause: float) -> None:
        work = self._open_later(pause)
        self._opening = asyncio.get_running_loop().create_task(work, name="fleet")

    async def _open_later(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            async with self._changing:
                await self._open()
            if self._problem is None:
                return
            pause = min(max(pause * 2, _FIRST), _LAST)

    async def _stop_opening(self) -> None:
        task, self._opening = self._opening, None
        if task is not None:
            task.cancel()
            await asyncio.wait((task,))

    async def _open(self) -> None:
        identity, self._problem = self._membership.identity, None
        if identity is None:
            return
        peering = (await asyncio.to_thread(_peering))(
            self._hosted, identity, self._membership.authority
        )
        try:
            self._peering = await peering.__aenter__()
        except EdgeError as error:
            self._problem = f"no peers: {error.message}" + (
                f" ({error.hint})" if error.hint else ""
            )
            _log.warning("%s", self._problem)

    async def _close(self) -> None:
        peering, self._peering = self._peering, None
        if peering is not None:
            await peering.__aexit__(None, None, None)

    # For the node API

    @property
    def readings(self) -> Mapping[str, Callable[[], Any]]:
        """What is answered, by path: JSON, some of it awaited."""
        return {
            "/v1/fleet": self._membership.about,
            "/v1/fleet/members": self._membership.members,
            "/v1/fleet/apps": self.apps,
            "/v1/peers": self.peers,
        }

    @property
    def operations(self) -> Mapping[str, Callable[[object], Awaitable[Any]]]:
        """What is done, by path."""
        return {f"/v1/fleet/{name}": do for name, do in self._membership.operations.items()}

    def notes(self) -> tuple[str, ...]:
        """What the node's operator should know."""
        own = () if self._problem is None else (self._problem,)
        peers = () if self._peering is None else self._peering.notes()
        return (*self._membership.notes(), *own, *peers)

    def about(self) -> dict[str, Any] | None:
        """Which fleet this node is in, and how many peers live."""
        about = self._membership.about()
        if about is None or self._peering is None:
            return about
        return {**about, "alive": len(self._peering.peers.alive())}

    def counts(self) -> dict[str, int] | None:
        """How many peers are known, and how many of them live; None without a fleet."""
        if self._peering is None:
            return None
        peers = self._peering.peers
        return {"known": len(peers.peers()), "alive": len(peers.alive())}

    def peers(self) -> dict[str, Any]:
        """As `edge peers --json` has it."""
        found: dict[str, Any] = {"node": None, "peers": [], "reports": []}
        if self._peering is not None:
            found = self._peering.view()
        return {"fleet": self._membership.about(), **found, "notes": self.notes()}

    async def apps(self) -> list[dict[str, Any]]:
        """What the peers run. Raises EdgeError."""
        if self._peering is None:
            hint = "`edge fleet join` brings it into one"
            raise EdgeError("this node is in no fleet", hint=hint)
        return await self._peering.apps()


def _peering() -> type[Peering]:
    """Takes seconds on a small board."""
    from edge.node.peering import Peering

    return Peering
