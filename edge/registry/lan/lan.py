"""Sharing between the nodes of a fleet: what this node gives its neighbours, and gets of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from aiohttp import web

from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.lan.board import Board
from edge.registry.lan.bringing import Bringing
from edge.registry.lan.hints import Hints
from edge.registry.lan.neighbours import Neighbours, is_alive
from edge.registry.lan.serving import Serving, Who
from edge.registry.lan.source import LanSource
from edge.registry.lan.talk import Talk, Unanswered
from edge.registry.reference import Reference
from edge.registry.source import Resolved
from edge.registry.store import ContentStore

__all__ = ["Lan"]

# Neighbours that are asked for a manifest at a time, and in all: of a tag each may say something
# else, and a few that lie are not all of them.
_AT_ONCE, _ASKED = 4, 16
# Different answers about one tag that are looked at.
_MOST_ANSWERS = 4
# All of a fleet know a new node within so many seconds.
_SETTLING = 3.0
# Seconds for which a registry that did not answer is taken not to, where others can be asked.
_SILENT = 30.0
_MOST_REGISTRIES = 256


class Lan:
    """Of one node while it is in a fleet, as an async context manager.

        async with Lan(peers, store, document=…, moved=…, upload=…) as lan:
            routes = lan.routes(peer_of)      # for the port that neighbours reach, and only there
            registries.lan = lan              # from now on bundles come from neighbours first

    `settling`: seconds from entering it on, in which neighbours are only being found: no blob is
    fetched before.
    `document`: the reference of the fleet document that this node follows. `moved`: told of a tag
    that a neighbour saw move, to look at; it may be none of this node's. `upload`: bytes a second
    for all neighbours together; 0: no bound. All of it on the event loop.
    """

    def __init__(
        self,
        neighbours: Neighbours,
        store: ContentStore,
        *,
        document: Reference | None = None,
        moved: Callable[[Reference], None] = lambda _: None,
        upload: int = 0,
        settling: float = _SETTLING,
        rng: random.Random | None = None,
    ) -> None:
        self._neighbours, self._store = neighbours, store
        self._document, self._upload = document, upload
        self._settling, self._settled = settling, 0.0
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, keeps no secret
        self._talk = Talk(neighbours)
        self._board = Board(neighbours.me, partial(is_alive, neighbours))
        self.bringing = Bringing(neighbours, self._talk, self._board, store)
        self.hints = Hints(neighbours.hint, moved, self._rng)
        self._serving: list[Serving] = []
        self._silent: dict[str, float] = {}  # registry -> until when

    async def __aenter__(self) -> Self:
        self._neighbours.heard = self.hints.hear
        self._settled = asyncio.get_running_loop().time() + self._settling
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._neighbours.heard = _deaf
        self.hints.close()
        for serving in self._serving:
            serving.close()
        await self.bringing.aclose()

    def routes(self, who: Who) -> list[web.RouteDef]:
        """For a server that lets in neighbours only; `who` says which one sent a request."""
        serving = Serving(self._store, self._board, who, self._document, self._upload)
        self._serving.append(serving)
        return serving.routes()

    def source(self, registry: RegistryClient) -> LanSource:
        """A registry with the neighbours beside it."""
        return LanSource(registry, self)

    # For sources

    async def settled(self) -> None:
        """Waits until most neighbours have been found: of a site whose power comes back each node
        would fetch for itself otherwise.
        """
        await asyncio.sleep(self._settled - asyncio.get_running_loop().time())

    @property
    def has_neighbours(self) -> bool:
        return bool(self._neighbours.alive())

    async def manifests(self, reference: Reference) -> Sequence[Resolved]:
        """What neighbours hold by a digest, or say of a tag; each once."""
        ids = [neighbour.id for neighbour in self._neighbours.alive()]
        self._rng.shuffle(ids)
        most = 1 if reference.digest else _MOST_ANSWERS
        # Everybody has the same for a digest, so all may be asked who has it.
        left = iter(ids if reference.digest else ids[:_ASKED])
        found: dict[Digest, Resolved] = {}

        async def ask() -> None:
            for id in left:
                if len(found) >= most:
                    return
                try:
                    answer = await self._talk.manifest(id, reference)
                except Unanswered:
                    continue
                if answer is not None:
                    found[answer.descriptor.digest] = answer

        async with asyncio.TaskGroup() as group:
            for number in range(_AT_ONCE):
                group.create_task(ask(), name=f"ask for a manifest {number}")
        return list(found.values())[:most]

    def answered(self, registry: str, *, in_time: bool) -> None:
        self._silent.pop(registry, None)
        if not in_time:
            self._silent[registry] = asyncio.get_running_loop().time() + _SILENT
            if len(self._silent) > _MOST_REGISTRIES:
                del self._silent[next(iter(self._silent))]

    def is_silent(self, registry: str) -> bool:
        until = self._silent.get(registry, 0.0)
        return until > asyncio.get_running_loop().time() and self.has_neighbours


def _deaf(_id: str, _text: str) -> None:
    """Nobody listens to hints any more."""
