"""A registry with neighbours beside it, as a source of bundles.

What a tag stands for only the registry says. What a digest names, neighbours have too: blobs are
asked of them first, small things when the registry does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from edge.errors import PullError, Refused
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.lan.bringing import Bringing
from edge.registry.lan.gather import Wish
from edge.registry.lan.hints import Hints
from edge.registry.manifest import Descriptor
from edge.registry.reference import Reference
from edge.registry.source import SOON, BlobWriter, Memory, Resolved, soon_or

__all__ = ["LanSource", "Shared"]

# What is smaller costs less to fetch than to ask all neighbours for.
SMALL = 16 << 10

T = TypeVar("T")


class Shared(Protocol):
    """What the sources of a node have in common."""

    @property
    def bringing(self) -> Bringing: ...

    @property
    def hints(self) -> Hints: ...

    async def settled(self) -> None:
        """Waits until neighbours had the time to be found."""

    async def manifests(self, reference: Reference) -> Sequence[Resolved]:
        """What neighbours hold by a digest, or say of a tag; each once."""

    def answered(self, registry: str, *, in_time: bool) -> None:
        """Whether a registry did, now."""

    def is_silent(self, registry: str) -> bool:
        """Whether it did not, a moment ago, and there are neighbours to ask."""

    @property
    def has_neighbours(self) -> bool: ...


class LanSource:
    """For references of the registry that `registry` is a client of."""

    def __init__(self, registry: RegistryClient, shared: Shared) -> None:
        self._registry, self._shared = registry, shared

    async def resolve(self, reference: Reference, known: Descriptor | None = None) -> Resolved:
        if reference.digest is not None:
            if known is not None and known.digest == reference.digest:
                return Resolved(known, None)
            return await self._manifest(reference)
        found = await self._asked_soon(reference, self._registry.resolve(reference, known))
        digest = known.digest if known else None
        self._shared.hints.found(reference, found.descriptor.digest, digest)
        return found

    async def pull_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        into: BlobWriter,
        *,
        received: Callable[[int], None] = lambda _: None,
    ) -> None:
        async def uplink(received: Callable[[int], None]) -> None:
            pulled = self._registry.pull_blob(reference, descriptor, into, received=received)
            await self._asked(reference, pulled)

        wish = Wish(reference, descriptor, into, received)
        if descriptor.size > SMALL:
            await self._shared.settled()
        if not self._shared.has_neighbours:
            await uplink(received)
        elif descriptor.size > SMALL:
            await self._shared.bringing.bring(wish, uplink)
        else:
            await self._small(wish, uplink)

    async def read_blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        into = Memory()

        async def uplink(received: Callable[[int], None]) -> None:
            pulled = self._registry.pull_blob(reference, descriptor, into, received=received)
            await self._asked(reference, pulled)

        await self._small(Wish(reference, descriptor, into, lambda _: None), uplink)
        return bytes(into.data)

    async def referrers(
        self, reference: Reference, digest: Digest, artifact_type: str
    ) -> tuple[Descriptor, ...] | None:
        return await self._asked_soon(
            reference, self._registry.referrers(reference, digest, artifact_type)
        )

    async def hearsay(self, reference: Reference) -> Sequence[Resolved]:
        return await self._shared.manifests(reference)

    def is_silent(self, reference: Reference) -> bool:
        return self._shared.is_silent(reference.registry)

    async def _small(
        self, wish: Wish, uplink: Callable[[Callable[[int], None]], Awaitable[None]]
    ) -> None:
        """The registry first, unless it is known not to answer."""
        bringing = self._shared.bringing
        if self.is_silent(wish.reference) and await bringing.bring_from_anybody(wish):
            return
        try:
            await uplink(wish.received)
        except PullError:
            if not await bringing.bring_from_anybody(wish):
                raise

    async def _manifest(self, reference: Reference) -> Resolved:
        """By its digest: of the registry, or of a neighbour when that does not answer soon."""

        async def of_neighbours() -> Resolved | None:
            return next(iter(await self._shared.manifests(reference)), None)

        if self.is_silent(reference) and (found := await of_neighbours()):
            return found
        asked = self._asked_soon(reference, self._registry.resolve(reference))
        return await soon_or(asked, of_neighbours)

    async def _asked_soon(self, reference: Reference, answer: Awaitable[T]) -> T:
        """Of something small: a registry that takes long for it is silent already meanwhile."""
        loop, registry = asyncio.get_running_loop(), reference.registry
        timer = loop.call_later(SOON, lambda: self._shared.answered(registry, in_time=False))
        try:
            return await self._asked(reference, answer)
        finally:
            timer.cancel()

    async def _asked(self, reference: Reference, answer: Awaitable[T]) -> T:
        """Remembers whether the registry answered, whatever it said."""
        try:
            found = await answer
        except PullError as error:
            self._shared.answered(reference.registry, in_time=isinstance(error, Refused))
            raise
        self._shared.answered(reference.registry, in_time=True)
        return found
