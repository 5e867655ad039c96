"""A fleet document as an OCI artifact: one layer, whose media type says what it is.

artifactType, or the media type of the configuration   application/vnd.edge.fleet.v1+json
layers[0]                                              application/vnd.edge.fleet.v1+json
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from edge.errors import BundleError
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.fleetdoc import document as documents
from edge.registry.fleetdoc.document import FLEET, MAX_DOCUMENT, Document
from edge.registry.manifest import (
    IMAGE_MANIFEST,
    Descriptor,
    Manifest,
    read,
)
from edge.registry.reference import Reference
from edge.registry.source import Resolved, Source
from edge.registry.store import ContentStore

__all__ = ["EMPTY", "Found", "Named", "build", "fetch", "keep", "named", "push", "resolve"]

# The OCI image specification's configuration of what has none.
EMPTY = "application/vnd.oci.empty.v1+json"
_EMPTY = b"{}"
_MAX_CONFIG = 64 << 10


@dataclass(frozen=True, slots=True)
class Named:
    """The manifest that a reference stands for."""

    manifest: Manifest
    data: bytes

    @property
    def digest(self) -> Digest:
        return Digest.of(self.data)


@dataclass(frozen=True, slots=True)
class Found:
    """A document, and everything that it came in."""

    document: Document
    named: Named
    config: bytes
    layer: bytes

    @property
    def digest(self) -> Digest:
        return self.named.digest


def build(document: Document) -> Found:
    """The same document always gives the same digest."""
    layer = document.to_bytes()
    manifest = Manifest(
        config=Descriptor(EMPTY, Digest.of(_EMPTY), len(_EMPTY)),
        layers=(Descriptor(FLEET, Digest.of(layer), len(layer)),),
        artifact_type=FLEET,
    )
    return Found(document, Named(manifest, manifest.to_bytes()), _EMPTY, layer)


async def resolve(
    client: Source, reference: Reference, known: Digest | None = None
) -> Named | None:
    """What a reference stands for now; None if that is `known`. Raises as `named`."""
    descriptor = Descriptor(IMAGE_MANIFEST, known, 0) if known else None
    resolved = await client.resolve(reference, descriptor)
    return None if resolved.descriptor.digest == known else named(reference, resolved)


def named(reference: Reference, resolved: Resolved) -> Named:
    """Anything else than a fleet document is a BundleError."""
    assert resolved.data is not None
    found = read(resolved.data, str(reference), resolved.descriptor.media_type)
    if not isinstance(found, Manifest) or FLEET not in (
        found.artifact_type,
        found.config.media_type,
    ):
        raise BundleError(f"{reference}: is not a fleet document", hint="see `edge fleet push`")
    return Named(found, resolved.data)


async def fetch(client: Source, reference: Reference, named: Named) -> Found:
    """The document of a manifest. Raises BundleError, PullError."""
    layers = named.manifest.layers
    if len(layers) != 1 or layers[0].media_type != FLEET:
        raise BundleError(f"{reference}: has not one layer that is a fleet document")
    layer = await _blob(client, reference, layers[0], MAX_DOCUMENT)
    config = await _blob(client, reference, named.manifest.config, _MAX_CONFIG)
    document = await asyncio.to_thread(documents.read, layer, str(reference))
    return Found(document, named, config, layer)


async def push(
    client: RegistryClient,
    reference: Reference,
    found: Found,
    sign: Callable[[Found], Awaitable[None]] | None = None,
) -> None:
    """To a tag. `sign` is called before the tag leads there: no node sees the document without its
    signature.
    """
    manifest = found.named.manifest
    exact = reference.at(found.digest)
    with tempfile.TemporaryDirectory(prefix="edge-fleet-") as directory:
        for blob, data in ((manifest.config, found.config), (manifest.layers[0], found.layer)):
            path = Path(directory) / blob.digest.hex
            await asyncio.to_thread(path.write_bytes, data)
            await client.push_blob(reference, blob, path)
    if sign is not None:
        await client.push_manifest(exact, found.named.data, manifest.media_type)
        await sign(found)
    await client.push_manifest(reference, found.named.data, manifest.media_type)


def keep(store: ContentStore, reference: Reference, found: Found) -> None:
    """Into the content store, by its reference: peers may ask for it. Blocks."""
    manifest = found.named.manifest
    with store.lease():
        store.add(found.config, manifest.config.media_type)
        store.add(found.layer, FLEET)
        data = found.named.data
        store.copy(io.BytesIO(data), Descriptor(manifest.media_type, found.digest, len(data)))
        store.tags.set(str(reference), found.digest)


async def _blob(client: Source, reference: Reference, descriptor: Descriptor, limit: int) -> bytes:
    if descriptor.size > limit:
        raise BundleError(f"{reference}: {descriptor.digest} has more than {limit} bytes")
    return await client.read_blob(reference, descriptor)
