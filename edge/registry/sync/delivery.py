"""From what is wanted to a bundle in the content store: resolved, trusted, pulled, read.

Knows no node and no state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from edge.config import ApplicationEntry
from edge.errors import BundleError, ConfigError, EdgeError, PullError, Refused
from edge.registry import bundle, local, transfer
from edge.registry.client import Resolved
from edge.registry.digest import Digest
from edge.registry.download import download
from edge.registry.local import LocalApplication
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sync.registries import Registries

__all__ = ["Delivery", "Found", "Verify", "registry_of"]

# A registry that says nothing for so long does not answer; it is asked again soon.
_ANSWER_SECONDS = 15.0
# Indexes of which it is known what they choose.
_REMEMBERED = 1024

# Whether a digest may run as what a reference stands for: returns a line to say, or raises
# EdgeError.
Verify = Callable[[Reference, Digest], Awaitable[str | None]]


class Found(NamedTuple):
    """What an entry stands for now."""

    digest: Digest
    resolved: Resolved | None = None  # None: all of it is here
    # Why the registry does not count: this is what the content store had.
    instead_of: PullError | None = None


class Delivery:
    """For one content store. `timeout`: seconds for one bundle; `make_room`: as of a pull."""

    def __init__(
        self,
        store: ContentStore,
        registries: Registries,
        *,
        verify: Verify | None,
        timeout: float,
        make_room: Callable[[], bool],
        note: Callable[[str], None],
    ) -> None:
        self._store = store
        self._registries = registries
        self._verify = verify
        self._timeout = timeout
        self._make_room = make_room
        self._note = note
        # What an index was last found to choose; to ask it again would cost two requests.
        self._chosen: dict[Digest, Digest] = {}

    async def find(self, entry: ApplicationEntry, *, network: bool = True) -> Found:
        """What it stands for. Files of this machine become a bundle. Raises EdgeError."""
        if entry.reference is None:
            return Found(await self._build(entry, download if network else _no_network))
        reference = Reference.parse(entry.reference)
        try:
            if not network:
                raise PullError(f"{reference}: waits for the network")
            resolved = await self._resolve(reference)
        except Refused:
            raise
        except PullError as error:
            kept = await asyncio.to_thread(self._kept, reference)
            if kept is None:
                raise
            return Found(kept, instead_of=error)
        return Found(
            self._chosen.get(resolved.descriptor.digest, resolved.descriptor.digest), resolved
        )

    async def trust(self, entry: ApplicationEntry, found: Found) -> None:
        """Before anything of it is fetched. Raises EdgeError when it must not run here."""
        if self._verify is None or entry.reference is None:
            return
        # What was signed is what the tag stands for, which may be an index.
        digest = found.resolved.descriptor.digest if found.resolved else found.digest
        if said := await self._verify(Reference.parse(entry.reference), digest):
            self._note(said)

    async def bring(self, entry: ApplicationEntry, found: Found) -> tuple[Digest, LocalApplication]:
        """The bundle, verified and whole. Raises EdgeError."""
        if entry.reference is None:
            return found.digest, await self.read(entry, found.digest, verify=True)
        reference = Reference.parse(entry.reference)
        digest = found.digest
        if found.resolved:
            digest = await self._pull(reference, found.resolved)
        try:
            return digest, await self.read(entry, digest, verify=True)
        except BundleError:
            if found.resolved is None or await asyncio.to_thread(self._whole, reference):
                raise
        # A blob had changed on this disk, and was removed when it was read.
        digest = await self._pull(reference, found.resolved)
        return digest, await self.read(entry, digest, verify=True)

    def may_do_without(self, entry: ApplicationEntry) -> bool:
        """Whether a registry that does not answer need not hold it up: neighbours have digests."""
        if not self._registries.has_neighbours() or entry.reference is None:
            return False
        return Reference.parse(entry.reference).digest is not None

    async def read(
        self, entry: ApplicationEntry, digest: Digest, *, verify: bool
    ) -> LocalApplication:
        """A bundle that is here. Raises EdgeError."""
        name = entry.reference or entry.name
        return await asyncio.to_thread(bundle.read, self._store, digest, name=name, verify=verify)

    async def _resolve(self, reference: Reference) -> Resolved:
        client = await self._registries.client(reference)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await transfer.resolve(client, reference, self._store)
        except TimeoutError:
            seconds = f"{_ANSWER_SECONDS:.0f} s"
            raise PullError(f"{reference}: the registry does not answer in {seconds}") from None

    async def _pull(self, reference: Reference, resolved: Resolved) -> Digest:
        client = await self._registries.client(reference)
        try:
            async with asyncio.timeout(self._timeout):
                digest = await transfer.pull(
                    client, reference, self._store, resolved=resolved, make_room=self._make_room
                )
        except TimeoutError:
            seconds = f"{self._timeout:.0f} s"
            raise PullError(f"{reference}: is not here after {seconds}") from None
        if digest != resolved.descriptor.digest:
            if len(self._chosen) >= _REMEMBERED:
                self._chosen.clear()
            self._chosen[resolved.descriptor.digest] = digest
        return digest

    def _kept(self, reference: Reference) -> Digest | None:
        try:
            return transfer.complete(self._store, reference)
        except EdgeError:
            return None

    def _whole(self, reference: Reference) -> bool:
        return self._kept(reference) is not None

    async def _build(self, entry: ApplicationEntry, fetch: local.Fetch) -> Digest:
        assert entry.path is not None
        state_dir = self._store.directory.parent
        try:
            found = await local.load(entry.path, state_dir=state_dir, fetch=fetch)
            return await asyncio.to_thread(bundle.build, found, self._store)
        except OSError as error:
            shown = error.filename or entry.path
            raise ConfigError(f"{shown}: {error.strerror or error}") from error


async def _no_network(url: str, limit: int) -> bytes:
    raise PullError(f"{url}: waits for the network")


def registry_of(entry: ApplicationEntry) -> str:
    """Whom to ask; "" for this machine."""
    return Reference.parse(entry.reference).registry if entry.reference else ""
