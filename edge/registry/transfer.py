"""Whole bundles between a registry and a content store."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Protocol, TypeVar

from edge.application.units import show_size
from edge.errors import BundleError
from edge.registry.blobs import in_thread
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.disk import NoRoom
from edge.registry.manifest import MAX_MANIFEST, Descriptor, Index, Manifest, read
from edge.registry.reference import Reference
from edge.registry.source import Resolved, Source
from edge.registry.store import ContentStore

__all__ = ["Progress", "complete", "pull", "push", "resolve"]

# As many blobs at a time: a board's memory and its registry have other things to do.
_PARALLEL = 4
# A collection each: of what nothing needs, then of older versions.
_MAKING_ROOM = 2
# No bundle in use is near it; one that names more is a mistake or an attack.
MAX_BUNDLE = 4 << 30

T = TypeVar("T")


class Progress(Protocol):
    """Is told how many bytes there are to move, and of each piece that was; less after a retry."""

    def begin(self, total: int) -> None: ...

    def moved(self, size: int) -> None: ...


class _Silent:
    def begin(self, total: int) -> None: ...

    def moved(self, size: int) -> None: ...


async def pull(
    client: Source,
    reference: Reference,
    store: ContentStore,
    progress: Progress | None = None,
    *,
    resolved: Resolved | None = None,
    make_room: Callable[[], bool] = lambda: False,
) -> Digest:
    """Brings a bundle here, whole, and names it by its reference. What is here, and is what it
    should be, is not fetched.

    Returns the digest of its manifest: of the one for WebAssembly when the reference is an index.
    `resolved`: what `resolve` has just returned for the reference. `make_room` is called, in a
    thread, when there is none: it removes what can be removed, and says whether that was anything.
    """
    resolved = resolved or await resolve(client, reference, store)
    for _ in range(_MAKING_ROOM):
        try:
            return await _pull(client, reference, store, progress or _Silent(), resolved)
        except NoRoom:
            if not await in_thread(make_room):
                raise
    return await _pull(client, reference, store, progress or _Silent(), resolved)


async def _pull(
    client: Source,
    reference: Reference,
    store: ContentStore,
    progress: Progress,
    resolved: Resolved,
) -> Digest:
    with ExitStack() as lease:
        await in_thread(lease.enter_context, store.lease())
        data = resolved.data
        if data is None:
            data = await _kept(client, reference, store, resolved.descriptor)
        found = read(data, str(reference), resolved.descriptor.media_type)
        if isinstance(found, Index):
            found, data = await _chosen(client, reference, found)
        missing = await in_thread(_missing, store, found, str(reference))
        await _fetch(client, reference, store, missing, progress)
        manifest = Descriptor(found.media_type, Digest.of(data), len(data))
        # Over one that may be there: it may have been damaged.
        await asyncio.to_thread(store.copy, io.BytesIO(data), manifest)
        await asyncio.to_thread(store.tags.set, str(reference), manifest.digest)
    return manifest.digest


async def _kept(
    client: Source, reference: Reference, store: ContentStore, known: Descriptor
) -> bytes:
    """A manifest that was here when it was resolved; somebody may have collected since."""
    try:
        return await asyncio.to_thread(store.read, known.digest, MAX_MANIFEST)
    except BundleError:
        data = (await client.resolve(reference.at(known.digest))).data
        assert data is not None
        return data


async def resolve(client: Source, reference: Reference, store: ContentStore) -> Resolved:
    """What a reference stands for now, asked cheaply when it is known here."""
    known = await asyncio.to_thread(_known, store, reference)
    return await client.resolve(reference, known)


async def push(
    client: RegistryClient,
    digest: Digest,
    store: ContentStore,
    reference: Reference,
    progress: Progress | None = None,
) -> None:
    """Sends what the registry lacks of a bundle, and its manifest last."""
    data = await asyncio.to_thread(store.read, digest, MAX_MANIFEST)
    manifest = read(data, str(digest))
    assert isinstance(manifest, Manifest)
    progress = progress or _Silent()
    progress.begin(sum(blob.size for blob in manifest.blobs))

    async def send(blob: Descriptor) -> None:
        path = store.path(blob.digest)
        if not await client.push_blob(reference, blob, path, sent=progress.moved):
            progress.moved(blob.size)

    await _each(manifest.blobs, send)
    await client.push_manifest(reference, data, manifest.media_type)


def complete(store: ContentStore, reference: Reference) -> Digest | None:
    """The manifest that a reference stands for by what is here, if all of it is. Blocks."""
    known = _known(store, reference)
    if known is None:
        return None
    found = read(store.read(known.digest, MAX_MANIFEST), str(reference))
    whole = isinstance(found, Manifest) and all(map(store.has, found.blobs))
    return known.digest if whole else None


def _known(store: ContentStore, reference: Reference) -> Descriptor | None:
    digest = reference.digest
    if digest is None or store.size(digest) is None:  # an index is here by what was chosen of it
        digest = store.tags.get(str(reference))
    if digest is None:
        return None
    try:
        data = store.read(digest, MAX_MANIFEST)
        return Descriptor(read(data, str(reference)).media_type, digest, len(data))
    except BundleError:  # not here, or damaged
        return None


async def _chosen(client: Source, reference: Reference, index: Index) -> tuple[Manifest, bytes]:
    entry = index.for_wasm(str(reference))
    resolved = await client.resolve(reference.at(entry.digest))
    assert resolved.data is not None
    found = read(resolved.data, str(reference), resolved.descriptor.media_type)
    if not isinstance(found, Manifest):
        raise BundleError(f"{reference}: its index leads to another index")
    return found, resolved.data


def _missing(store: ContentStore, manifest: Manifest, name: str) -> list[Descriptor]:
    total = sum(blob.size for blob in manifest.blobs)
    if total > MAX_BUNDLE:
        raise BundleError(f"{name}: has {show_size(total)}, more than {show_size(MAX_BUNDLE)}")
    missing = [blob for blob in manifest.blobs if not store.has_intact(blob)]
    store.check_room(sum(blob.size for blob in missing))
    return missing


async def _fetch(
    client: Source,
    reference: Reference,
    store: ContentStore,
    blobs: list[Descriptor],
    progress: Progress,
) -> None:
    async def receive(blob: Descriptor) -> None:
        with ExitStack() as open_writer:
            writer = store.writer
            into = await in_thread(lambda: open_writer.enter_context(writer(blob.size)))
            await client.pull_blob(reference, blob, into, received=progress.moved)

    progress.begin(sum(blob.size for blob in blobs))
    await _each(blobs, receive)


async def _each(blobs: Iterable[Descriptor], work: Callable[[Descriptor], Awaitable[T]]) -> None:
    """`work` on every blob, a few at a time; the first error ends all of it."""
    left = iter(blobs)

    async def run(blobs: Iterator[Descriptor]) -> None:
        for blob in blobs:
            await work(blob)

    try:
        async with asyncio.TaskGroup() as group:
            for number in range(_PARALLEL):
                group.create_task(run(left), name=f"transfer {number}")
    except ExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: ExceptionGroup) -> Exception:
    error: Exception = errors
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
