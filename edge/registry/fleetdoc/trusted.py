"""Whose fleet documents a node takes up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from edge import config
from edge.errors import ConfigError
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.fleetdoc.follow import Verify
from edge.registry.reference import Reference
from edge.registry.sync.registries import Registries, configured

__all__ = ["Check", "verifier"]


class Check(Protocol):
    """What `Trust.check` is."""

    async def __call__(
        self,
        client: RegistryClient | None,
        reference: Reference,
        digest: Digest,
        *,
        keys: Sequence[Path] = (),
    ) -> str | None: ...


def verifier(settings: config.Daemon, registries: Registries, check: Check) -> Verify:
    """By `fleet.keys`, or by what the configuration says of the document's registry.

    Who may write the document decides what every node runs, so a node that is told nothing about
    signatures follows none: ConfigError.
    """
    reference = Reference.parse(settings.fleet.document or "")
    entry = configured(settings.registries, reference)
    if not settings.fleet.keys and (entry is None or entry.signatures == "off"):
        raise ConfigError(
            f"edge.toml: fleet.document: no key says whose {reference} may be",
            hint='fleet.keys = ["fleet.pub"]; or, for a first try, signatures = "warn" in'
            f' [registry."{reference.registry}"]',
        )

    async def verify(reference: Reference, digest: Digest) -> str | None:
        client = await registries.client(reference)
        return await check(client, reference, digest, keys=settings.fleet.keys)

    return verify
