"""Which bundles a node runs: those that somebody signed whom its configuration trusts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edge.config import Registry
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

__all__ = ["Trust"]


class Trust:
    """The policy of each registry and repository. The longest name that fits counts.

    `clock`: trusted time in seconds since 1970. Signatures that were found stay in `store`, so a
    node verifies without a network what it has verified before.
    """

    def __init__(
        self, registries: Iterable[Registry], clock: Callable[[], float], store: ContentStore
    ) -> None:
        self._registries = tuple(registries)
        self._clock = clock
        self._store = store

    async def check(
        self,
        client: RegistryClient | None,
        reference: Reference,
        digest: Digest,
        *,
        keys: Sequence[Path] = (),
    ) -> str | None:
        """Whether `digest`, which is a manifest's, may be used as what `reference` stands for.

        None when it is signed or need not be, a line for people when it is not signed and that is
        only to be said. Otherwise raises BundleError with the reason, PullError when the registry
        does not deliver what is missing, ConfigError for a key that cannot be read.

        `client` None: by what is in the store, without a network. `keys`: one of these must have
        signed, whatever the configuration says.
        """
        raise NotImplementedError
