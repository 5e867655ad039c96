"""Garbage collection of the content store: what no tag leads to goes.

Blocks: not for the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from edge.errors import BundleError
from edge.registry.digest import Digest
from edge.registry.disk import exclusive
from edge.registry.manifest import MAX_MANIFEST, Index, read
from edge.registry.store import ContentStore

__all__ = ["Collected", "Contents", "collect", "contents"]

# A manifest -> every blob that its bundle needs; raises BundleError when that cannot be told.
Contents = Callable[[Digest], Iterable[Digest]]


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did. `unreadable`: why nothing but leftovers was removed, if so."""

    blobs: int
    bytes: int
    unreadable: tuple[str, ...] = ()


def contents(store: ContentStore) -> Contents:
    """What manifests name, and of an index those of its manifests that are here."""

    def named(digest: Digest) -> Iterator[Digest]:
        found = read(store.read(digest, MAX_MANIFEST), f"manifest {digest}")
        if not isinstance(found, Index):
            yield from (blob.digest for blob in found.blobs)
            return
        for entry in found.manifests:
            if store.has(entry):
                yield entry.digest
                yield from named(entry.digest)

    return named


def collect(
    store: ContentStore,
    contents: Contents,
    *,
    floor: int = 1,
    keep: Iterable[Digest] = (),
    stale: Callable[[], Iterable[str]] = tuple,
) -> Collected | None:
    """Removes what cannot be reached. None: somebody is writing, nothing was done.

    Each tag keeps what it stands for and the `floor` versions before it. `keep` are manifests that
    stay without a tag, as far as they are here. A bundle that cannot be read might need any blob:
    then all of them stay. `stale`: names to forget, asked while nobody writes.
    """
    with exclusive(store.directory / "lock", wait=False) as alone:
        if not alone:
            return None
        if names := tuple(stale()):
            store.tags.remove(*names)
        return _collect(store, contents, floor, frozenset(keep))


def _collect(
    store: ContentStore, contents: Contents, floor: int, keep: frozenset[Digest]
) -> Collected:
    _remove_leftovers(store.directory)
    tags = store.tags.trim(floor)
    roots = {digest: f"kept {digest}" for digest in keep if store.size(digest) is not None}
    roots |= {digest: name for name, found in tags.items() for digest in found}
    reached: set[Digest] = set()
    unreadable = []
    for digest, name in roots.items():
        try:
            reached.update((digest, *contents(digest)))
        except BundleError as error:
            unreadable.append(f"{name}: {error.message}")
    if unreadable:
        return Collected(0, 0, tuple(unreadable))
    for digest in tuple(reached):
        reached.update((store.members(digest) or {}).values())
    return _sweep(store.directory, {digest.hex for digest in reached})


def _sweep(directory: Path, reached: set[str]) -> Collected:
    blobs = size = 0
    for path in _files(directory / "sha256"):
        if path.name not in reached:
            size += path.stat().st_size
            blobs += 1
            path.unlink()
    for path in _files(directory / "unpacked"):
        if path.stem not in reached:
            path.unlink()
    return Collected(blobs, size)


def _remove_leftovers(directory: Path) -> None:
    """What writers left that were killed: nobody else is writing now."""
    with exclusive(directory / "tags.lock"):
        for path in directory.glob(".tags.json.*"):
            path.unlink()
    partial = (directory / "sha256").glob(".*"), (directory / "unpacked").glob(".*")
    for path in chain(_files(directory / "incoming"), *partial):
        path.unlink()


def _files(directory: Path) -> Iterator[Path]:
    return iter(list(directory.iterdir()) if directory.is_dir() else ())
