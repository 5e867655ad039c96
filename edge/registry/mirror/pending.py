"""Blobs that were pushed and that no manifest names yet: they are kept, for a while.

On the event loop, like all of the mirror.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack

from edge.registry.blobs import in_thread
from edge.registry.digest import Digest
from edge.registry.mirror.answers import Refusal
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.store import ContentStore

__all__ = ["Pending"]


class Pending:
    """Holds a lease of the store for as long as there are any."""

    def __init__(self, store: ContentStore, limits: MirrorLimits) -> None:
        self._store, self._limits = store, limits
        self._until: dict[tuple[str, Digest], float] = {}  # the oldest first
        self._leases: list[ExitStack] = []
        self._adding = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._until)

    def has(self, repository: str, digest: Digest) -> bool:
        return (repository, digest) in self._until

    async def add(self, repository: str, digest: Digest, commit: Callable[[], None]) -> None:
        """Keeps the blob that `commit`, in a thread, makes one."""
        if len(self._until) >= (most := self._limits.pending_blobs):
            raise Refusal(429, "TOOMANYREQUESTS", f"{most} blobs wait for their manifests")
        self._adding += 1
        try:
            await self._take_lease()
            await in_thread(commit)
            self._until.pop((repository, digest), None)
            now = asyncio.get_running_loop().time()
            self._until[repository, digest] = now + self._limits.pending
        finally:
            self._adding -= 1
            self._expire()

    def named(self, repository: str, digests: Iterable[Digest]) -> None:
        """A manifest that is here to stay names these."""
        for digest in digests:
            self._until.pop((repository, digest), None)
        self._expire()

    def close(self) -> None:
        self._until.clear()
        self._expire()

    async def _take_lease(self) -> None:
        if not self._leases:  # two that begin at once hold two; both end with the last blob
            with ExitStack() as lease:
                await in_thread(lease.enter_context, self._store.lease())
                self._leases.append(lease.pop_all())

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        while self._until and self._until[key := next(iter(self._until))] <= loop.time():
            del self._until[key]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._until:
            self._timer = loop.call_at(next(iter(self._until.values())), self._expire)
        elif not self._adding:
            while self._leases:
                self._leases.pop().close()
