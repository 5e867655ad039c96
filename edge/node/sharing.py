"""What a node shares with its neighbours: it joins them, its content store, registries and sync."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edge import config
from edge.registry.lan.lan import Lan
from edge.registry.lan.neighbours import Neighbours
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sync.registries import Registries
from edge.registry.sync.sync import Sync

__all__ = ["sharing"]


@asynccontextmanager
async def sharing(
    neighbours: Neighbours,
    settings: config.Fleet,
    store: ContentStore,
    registries: Registries,
    sync: Sync,
) -> AsyncIterator[Lan]:
    """Until it is left, what this node needs comes from its neighbours first. The routes of what it
    gives are for the server that only they reach: `lan.routes(peer_of)`.
    """
    document = Reference.parse(settings.document) if settings.document else None

    def moved(reference: Reference) -> None:
        of_fleet = document is not None and (document.name, document.wanted) == (
            reference.name,
            reference.wanted,
        )
        sync.hinted(reference, of_fleet=of_fleet)

    async with Lan(
        neighbours, store, document=document, moved=moved, upload=settings.upload
    ) as lan:
        registries.lan = lan
        try:
            yield lan
        finally:
            registries.lan = None
