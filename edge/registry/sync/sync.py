"""Keeps a node at what is wanted of it."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType

from edge import config
from edge.config import ApplicationEntry
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sync.registries import Registries
from edge.registry.sync.state import StateFile
from edge.registry.sync.status import AppStatus
from edge.registry.sync.wanted import Host, Wanted

__all__ = ["Sync"]

# Checks that a digest may run; returns a line to say, or raises EdgeError.
Verify = Callable[[Reference, Digest], Awaitable[str | None]]
# Asks a fleet for what it wants of this node; None: as before.
Follow = Callable[[], Awaitable[Iterable[Wanted] | None]]
# Removes the data of an application.
Purge = Callable[[str], Awaitable[None]]
Note = Callable[[str], None]


class Sync:
    """As an async context manager: leaving it ends all work, at the old or the new version.

        async with Sync(…) as sync:
            await sync.start(entries)       # what was live is live again, without a network
            await sync.run()                # until cancelled

    `clock`: trusted Unix time. `follow`: asked for the fleet's entries at each look.
    """

    def __init__(
        self,
        settings: config.Sync,
        state: StateFile,
        store: ContentStore,
        host: Host,
        registries: Registries,
        *,
        clock: Callable[[], float],
        verify: Verify | None = None,
        follow: Follow | None = None,
        purge: Purge | None = None,
        note: Note = lambda _: None,
        rng: random.Random | None = None,
    ) -> None:
        raise NotImplementedError

    async def __aenter__(self) -> Sync:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        raise NotImplementedError

    async def start(self, entries: Iterable[ApplicationEntry]) -> None:
        """Makes live what was live before, in one swap, and what is on this machine. Uses no
        network. An application that cannot be brought back is reported and does not stop others.

        Raises EdgeError when a newer version wrote the state.
        """
        raise NotImplementedError

    async def run(self) -> None:
        """Follows every tag, until cancelled."""
        raise NotImplementedError

    # What is wanted

    def set_file_entries(self, entries: Iterable[ApplicationEntry]) -> None:
        """edge.toml was read again: works on the difference from now on; see `wait_idle`."""
        raise NotImplementedError

    def set_fleet(self, wanted: Iterable[Wanted]) -> None:
        """What the fleet wants of this node from now on. Before `start`: what it wanted last."""
        raise NotImplementedError

    async def deploy(self, entry: ApplicationEntry, progress: Note = lambda _: None) -> AppStatus:
        """Returns when it is live; a refused one raises EdgeError and leaves nothing."""
        raise NotImplementedError

    async def undeploy(self, name: str, *, purge: bool = False) -> None:
        """Removes what `deploy` added; its data stays, unless it is to be purged. ConfigError when
        it was not deployed.
        """
        raise NotImplementedError

    async def rollback(self, name: str) -> AppStatus:
        """Back to the version before, until the reference moves. EdgeError if there is none."""
        raise NotImplementedError

    async def sync_now(self, name: str | None = None, *, retry: bool = False) -> list[AppStatus]:
        """Looks at one reference, or all, and returns when what they stand for is live or failed;
        the status says which. `retry`: also what was refused before.
        """
        raise NotImplementedError

    def apps(self) -> list[AppStatus]:
        """By name."""
        raise NotImplementedError

    @property
    def last_look(self) -> float | None:
        """When all references were last asked for, in trusted Unix time."""
        raise NotImplementedError

    async def wait_idle(self) -> None:
        """Until nothing is being pulled, prepared or swapped. What soaks is idle."""
        raise NotImplementedError
