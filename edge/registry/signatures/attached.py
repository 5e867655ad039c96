"""Where signatures are: beside a manifest in its repository, and in the content store.

cosign 2's place is a tag made of the digest; cosign 3's are the manifest's referrers, or in a
registry that cannot tell them, an index at another tag made of it. Knows nothing of keys.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import replace

from edge.errors import BundleError, PullError
from edge.registry.answers import NotFound
from edge.registry.digest import Digest
from edge.registry.manifest import (
    IMAGE_MANIFEST,
    MAX_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    read,
)
from edge.registry.reference import Reference
from edge.registry.signatures import attestation
from edge.registry.signatures.verify import Attached
from edge.registry.source import Resolved, Source
from edge.registry.store import ContentStore

__all__ = [
    "CREATED",
    "EMPTY",
    "bundles",
    "fetch",
    "keep",
    "listed",
    "of_neighbours",
    "of_registry",
    "of_store",
    "referrers_tag",
    "signature_tag",
]

# What a list of referrers says of each, by the image specification and by cosign's bundles.
CREATED = "org.opencontainers.image.created"
EMPTY = "application/vnd.oci.empty.v1+json"

# More is not looked at: a registry may be full of what strangers put there.
MAX_SIGNATURES = 32
# A signature has hundreds of bytes; a bundle that went through a transparency log some thousands.
MAX_BLOB = 256 << 10
# Of one manifest, all blobs together.
_MAX_TOTAL = 1 << 20
# Bundles that are kept for one manifest: the newest that counted, and some before it.
_MAX_KEPT = 4


def signature_tag(reference: Reference, digest: Digest) -> Reference:
    """Where cosign 2, skopeo and podman put signatures."""
    return replace(reference, tag=f"sha256-{digest.hex}.sig", digest=None)


def referrers_tag(reference: Reference, digest: Digest) -> Reference:
    """Where a registry without the referrers API has them, by the distribution specification."""
    return replace(reference, tag=f"sha256-{digest.hex}", digest=None)


async def of_registry(
    client: Source, reference: Reference, digest: Digest
) -> AsyncGenerator[Attached | BundleError, None]:
    """What a registry has, one after the other: what is malformed does not hide what follows.
    Raises PullError.
    """
    if (found := await fetch(client, signature_tag(reference, digest))) is not None:
        yield found
    for entry in (await bundles(client, reference, digest))[:MAX_SIGNATURES]:
        if (found := await fetch(client, reference.at(entry.digest))) is not None:
            yield found


async def of_neighbours(
    client: Source, reference: Reference, digest: Digest
) -> AsyncGenerator[Attached | BundleError, None]:
    """As `of_registry`, of what neighbours have kept: who said it does not matter, who signed does.
    What they do not deliver is passed over.
    """
    for resolved in await client.hearsay(signature_tag(reference, digest)):
        if (found := await _delivered(client, reference, resolved)) is not None:
            yield found
    for resolved in await client.hearsay(referrers_tag(reference, digest)):
        for entry in _entries(resolved, str(reference))[:_MAX_KEPT]:
            if (found := await _offered(client, reference.at(entry.digest))) is not None:
                yield found


async def fetch(client: Source, place: Reference) -> Attached | BundleError | None:
    """The signatures at a place; None: there are none."""
    try:
        resolved = await _resolve(client, place)
        return None if resolved is None else await _read(client, place, resolved)
    except BundleError as error:
        return error


async def bundles(client: Source, reference: Reference, digest: Digest) -> Sequence[Descriptor]:
    """Manifests that may hold a bundle about a manifest, the newest first."""
    kind = attestation.MEDIA_TYPE
    found = await client.referrers(reference, digest, kind)
    if found is None:
        found = await listed(client, reference, digest)
    # What cosign lists by itself it gives the type of its configuration.
    fitting = [entry for entry in found if entry.artifact_type in (kind, EMPTY, None)]
    return sorted(fitting, key=lambda entry: entry.annotations.get(CREATED, ""), reverse=True)


async def listed(client: Source, reference: Reference, digest: Digest) -> tuple[Descriptor, ...]:
    """The referrers of a manifest as their own tag lists them."""
    tag = referrers_tag(reference, digest)
    resolved = await _resolve(client, tag)
    if resolved is None or resolved.data is None:
        return ()
    return _entries(resolved, str(tag))


def of_store(store: ContentStore, reference: Reference, digest: Digest) -> Iterator[Attached]:
    """What `keep` has kept and is whole. Blocks."""
    for manifest in _kept(store, reference, digest):
        try:
            data = store.read(manifest, MAX_MANIFEST)
            found = _checked(data, Descriptor(IMAGE_MANIFEST, manifest, len(data)), str(manifest))
            blobs = {blob.digest: store.read(blob.digest, MAX_BLOB) for blob in found.blobs}
        except BundleError:  # damaged: as good as not here
            continue
        yield Attached(Descriptor(found.media_type, manifest, len(data)), data, found, blobs)


def keep(store: ContentStore, reference: Reference, digest: Digest, found: Attached) -> None:
    """Into the content store, where a sweep leaves it as long as the manifest is there. Blocks.

    The manifest may come later: what is verified is fetched afterwards.
    """
    with store.lease():
        for blob in found.manifest.blobs:
            store.copy(io.BytesIO(found.blobs[blob.digest]), blob)
        store.copy(io.BytesIO(found.data), found.descriptor)
        if any(layer.media_type == attestation.MEDIA_TYPE for layer in found.manifest.layers):
            tag, kept = referrers_tag(reference, digest), _listing(store, reference, digest, found)
        else:
            tag, kept = signature_tag(reference, digest), found.descriptor.digest
        store.tags.set(str(tag), kept)


def _listing(store: ContentStore, reference: Reference, digest: Digest, found: Attached) -> Digest:
    """An index of the bundles here, with one more."""
    new = replace(found.descriptor, artifact_type=attestation.MEDIA_TYPE)
    others = [e for e in _bundles_kept(store, reference, digest) if e.digest != new.digest]
    index = Index(manifests=(new, *others[: _MAX_KEPT - 1]))
    return store.add(index.to_bytes(), index.media_type).digest


def _kept(store: ContentStore, reference: Reference, digest: Digest) -> Iterator[Digest]:
    if signatures := store.tags.get(str(signature_tag(reference, digest))):
        yield signatures
    yield from (entry.digest for entry in _bundles_kept(store, reference, digest))


def _bundles_kept(
    store: ContentStore, reference: Reference, digest: Digest
) -> tuple[Descriptor, ...]:
    listing = store.tags.get(str(referrers_tag(reference, digest)))
    try:
        found = read(store.read(listing, MAX_MANIFEST), str(listing)) if listing else None
    except BundleError:
        return ()
    return found.manifests if isinstance(found, Index) else ()


async def _resolve(client: Source, reference: Reference) -> Resolved | None:
    try:
        return await client.resolve(reference)
    except NotFound:
        return None


async def _offered(client: Source, place: Reference) -> Attached | BundleError | None:
    try:
        resolved = await client.resolve(place)
    except PullError:
        return None
    return await _delivered(client, place, resolved)


async def _delivered(
    client: Source, place: Reference, resolved: Resolved
) -> Attached | BundleError | None:
    try:
        return await _read(client, place, resolved)
    except BundleError as error:
        return error
    except PullError:
        return None


def _entries(resolved: Resolved, name: str) -> tuple[Descriptor, ...]:
    """Of an index that lists bundles."""
    assert resolved.data is not None
    found = read(resolved.data, name, resolved.descriptor.media_type)
    return found.manifests if isinstance(found, Index) else ()


async def _read(client: Source, reference: Reference, resolved: Resolved) -> Attached:
    assert resolved.data is not None
    found = _checked(resolved.data, resolved.descriptor, str(reference))
    blobs = {blob.digest: await _blob(client, reference, blob) for blob in found.blobs}
    return Attached(resolved.descriptor, resolved.data, found, blobs)


def _checked(data: bytes, descriptor: Descriptor, name: str) -> Manifest:
    """A manifest of signatures within bounds."""
    found = read(data, name, descriptor.media_type)
    if not isinstance(found, Manifest):
        raise BundleError(f"{name}: is an index, not signatures")
    if len(found.blobs) > MAX_SIGNATURES + 1:
        raise BundleError(f"{name}: holds more than {MAX_SIGNATURES} signatures")
    if large := [blob for blob in found.blobs if blob.size > MAX_BLOB]:
        raise BundleError(f"{name}: {large[0].digest}: is too large for a signature")
    if sum(blob.size for blob in found.blobs) > _MAX_TOTAL:
        raise BundleError(f"{name}: is too large for signatures")
    return found


async def _blob(client: Source, reference: Reference, blob: Descriptor) -> bytes:
    try:
        return await client.read_blob(reference, blob)
    except NotFound as error:
        raise BundleError(error.message) from error
