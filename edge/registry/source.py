"""Where bundles come from, for who only reads: a registry, perhaps with neighbours beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

from edge.errors import BundleError, PullError, Refused
from edge.registry.digest import Digest
from edge.registry.manifest import Descriptor
from edge.registry.reference import Reference

__all__ = ["SOON", "BlobWriter", "Memory", "Resolved", "Source", "soon_or"]

T = TypeVar("T")


class Resolved(NamedTuple):
    """What a reference stands for now. `data` is None when that is what was known before."""

    descriptor: Descriptor
    data: bytes | None


class BlobWriter(Protocol):
    """Where a blob goes. All of it blocks, and is called from threads, one call at a time."""

    @property
    def written(self) -> int: ...

    def write(self, data: bytes | bytearray) -> None: ...

    def restart(self) -> None: ...

    def commit(self, descriptor: Descriptor) -> None:
        """Raises BundleError if what was written has another size or digest."""


class Source(Protocol):
    """All that is read is verified by its digest; every failure is a PullError (Refused: final), or
    a BundleError where what came is not what was named.
    """

    async def resolve(self, reference: Reference, known: Descriptor | None = None) -> Resolved:
        """What a reference stands for now; with `known`, it is asked cheaply whether that is so."""

    async def pull_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        into: BlobWriter,
        *,
        received: Callable[[int], None] = ...,
    ) -> None:
        """Writes a blob and commits it. `received`: of each piece; less after a retry."""

    async def read_blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A small blob, in memory: for what must be verified before it is kept."""

    async def referrers(
        self, reference: Reference, digest: Digest, artifact_type: str
    ) -> tuple[Descriptor, ...] | None:
        """Manifests that refer to a manifest; None: the registry cannot tell."""

    async def hearsay(self, reference: Reference) -> Sequence[Resolved]:
        """What neighbours say that a tag stands for, each answer once. Nothing vouches for it: only
        for who proves what comes by a signature, when the registry does not answer.
        """

    def is_silent(self, reference: Reference) -> bool:
        """Whether its registry did not answer a moment ago, and there are neighbours to ask."""


# Seconds that a registry has for a small thing before others are asked for it, too.
SOON = 3.0


async def soon_or(first: Coroutine[Any, Any, T], second: Callable[[], Awaitable[T | None]]) -> T:
    """What `first` gives. When that takes long, or fails in a way that may pass: what `second`
    gives, if that is anything.
    """
    task = asyncio.get_running_loop().create_task(first, name="ask a registry")
    try:
        await asyncio.wait((task,), timeout=SOON)
        if not task.done() and (found := await second()) is not None:
            return found
        return await task
    except Refused:
        raise
    except PullError:
        if (found := await second()) is not None:
            return found
        raise
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # it was told, or does not matter any more


class Memory:
    """A blob that stays in memory, not kept before it is known to be good."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def written(self) -> int:
        return len(self.data)

    def write(self, data: bytes | bytearray) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()

    def commit(self, descriptor: Descriptor) -> None:
        found = Digest.of(bytes(self.data))
        if len(self.data) != descriptor.size or found != descriptor.digest:
            raise BundleError(f"blob {descriptor.digest}: its digest is {found}")
