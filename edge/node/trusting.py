"""Whom a node believes: signatures of what it runs, and its fleet's document."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edge import config
from edge.registry.digest import Digest
from edge.registry.fleetdoc.follow import Follower
from edge.registry.reference import Reference
from edge.registry.signatures.trust import Trust
from edge.registry.store import ContentStore
from edge.registry.sync.registries import Registries
from edge.registry.sync.wanted import Wanted

__all__ = ["Trusting"]


class Trusting:
    """The trust of a configuration, and the follower of its fleet document if it names one."""

    def __init__(
        self,
        settings: config.Daemon,
        store: ContentStore,
        registries: Registries,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = settings.fleet
        self._store = store
        self._registries = registries
        self._clock = clock
        self._trust = self._of_documents = Trust(settings.registries, clock, store)
        self.follower = self._follower(settings)

    def update(self, configured: Iterable[config.Registry]) -> None:
        """From the next version on. The fleet and its keys are those of the start: where it is a
        registry's policy that has its document signed, a policy that does not is none for it.
        """
        self._trust = Trust(configured, self._clock, self._store)
        if self._fleet.keys or self._trust.requires(self._fleet.document):
            self._of_documents = self._trust

    async def load(self) -> None:
        """What the fleet wanted when the node last ran."""
        if self.follower is not None:
            await self.follower.load()

    async def verify(self, reference: Reference, digest: Digest) -> str | None:
        """Raises EdgeError for what must not run; may return a line to say."""
        client = await self._registries.client(reference)
        return await self._trust.check(client, reference, digest)

    async def follow(self) -> Iterable[Wanted] | None:
        """What the fleet wants now; None: it is not known, what it wanted last goes on."""
        if self.follower is None:
            return None
        wanted = await self.follower.follow()
        return wanted if self.knows_fleet else None

    @property
    def knows_fleet(self) -> bool:
        """Whether there is a document, of now or of an earlier run."""
        return self.generation is not None

    @property
    def generation(self) -> int | None:
        """Of the fleet's document; None: there is none."""
        return self.follower.status().generation if self.follower else None

    async def _verify_document(self, reference: Reference, digest: Digest) -> str | None:
        client = await self._registries.client(reference)
        return await self._of_documents.check(client, reference, digest, keys=self._fleet.keys)

    def _follower(self, settings: config.Daemon) -> Follower | None:
        if settings.fleet.document is None:
            return None
        return Follower(
            Reference.parse(settings.fleet.document),
            settings.node,
            self._store,
            client=self._registries.client,
            verify=self._verify_document,
            now=self._clock,
            soak=settings.sync.soak,
            signed=bool(self._fleet.keys) or self._trust.requires(self._fleet.document),
        )
