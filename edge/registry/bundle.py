"""Bundles as Spin writes them: an application into the content store, and out of it.

    config   an image configuration; a label names the locked application's digest
    layers   Wasm binaries; files one by one, or as an archive for each component; the locked
             application, last (older versions of Spin: in the config's place)

What others write is read too: see `foreign`. Blocks: not for the event loop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from edge.application.fields import Table, Where, mapping, raw_table, string
from edge.application.model import Component, FilePlacement, PathSource
from edge.errors import BundleError
from edge.registry import archive, foreign, locked, lockwriter, wasm
from edge.registry.digest import Digest
from edge.registry.files import MountedFile
from edge.registry.local import LocalApplication
from edge.registry.locked import MAX_LOCKED, Locked
from edge.registry.manifest import (
    IMAGE_CONFIG,
    IMAGE_MANIFEST,
    MAX_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    read_json,
)
from edge.registry.manifest import read as read_manifest
from edge.registry.store import ContentStore

__all__ = ["build", "read"]

LOCKED = "application/vnd.fermyon.spin.application.v1+config"
WASM = "application/vnd.wasm.content.layer.v1+wasm"
DATA = "application/vnd.wasm.content.layer.v1+data"
ARCHIVE = "application/vnd.wasm.content.bundle.v1.tar+gzip"
LABEL = "com.fermyon.spin.lockedAppDigest"

# Some registries cannot keep blobs of a byte or none, so small files travel in the application.
MAX_INLINE = 128
# The lowest limit among the registries in use (Amazon's); one of them is the application's own.
MAX_LAYERS = 500

_ANNOTATION = "org.opencontainers.image."


# Into the store


def build(local: LocalApplication, store: ContentStore) -> Digest:
    """Makes a bundle of an application, all of it in the store; returns its manifest's digest.

    The same application gives the same bundle. Hold a lease until it is tagged or sent.
    """
    with store.lease():
        files = {id: tuple(_listed(mounted)) for id, mounted in local.files.items()}
        large = {file.digest for own in files.values() for file in own if not file.small}
        sources = {id: store.add_file(path, WASM) for id, path in local.sources.items()}
        layers = {source.digest: source for source in sources.values()}
        if len(layers) + len(large) < MAX_LAYERS:
            kept = (_kept(store, f) for own in files.values() for f in own if f.large)
        else:
            kept = (
                archive.pack(((f.guest.removeprefix("/"), f.path) for f in own), store, ARCHIVE)
                for own in files.values()
                if own
            )
        for layer in kept:
            layers.setdefault(layer.digest, layer)
        application = lockwriter.write(_locked(local, sources, files))
        last = store.add(application, LOCKED)
        return _manifest(local, store, (*layers.values(), last))


class _File(NamedTuple):
    guest: str
    path: Path
    digest: Digest
    small: bytes | None  # the content that travels inline

    @property
    def large(self) -> bool:
        return self.small is None


def _listed(mounted: tuple[MountedFile, ...]) -> Iterator[_File]:
    for guest, path in mounted:
        with path.open("rb") as file:
            head = file.read(MAX_INLINE + 1)
            small = head if len(head) <= MAX_INLINE else None
            file.seek(0)
            digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
        yield _File(guest, path, digest, small)


def _kept(store: ContentStore, file: _File) -> Descriptor:
    found = store.add_file(file.path, DATA)
    if found.digest != file.digest:
        raise BundleError(f"{file.path}: was changed while it was read", hint="try again")
    return found


def _locked(
    local: LocalApplication,
    sources: Mapping[str, Descriptor],
    files: Mapping[str, tuple[_File, ...]],
) -> Locked:
    components = {
        id: replace(
            component,
            source=PathSource(str(sources[id].digest)),
            files=tuple(FilePlacement(str(f.digest), f.guest) for f in files.get(id, ())),
            exclude_files=(),
        )
        for id, component in local.application.components.items()
    }
    inline = {f.digest: f.small for own in files.values() for f in own if f.small is not None}
    return Locked(replace(local.application, components=components), inline)


def _manifest(
    local: LocalApplication, store: ContentStore, layers: tuple[Descriptor, ...]
) -> Digest:
    # Without the label every application would have the same configuration, and so the same
    # image id to container runtimes.
    config = {
        "architecture": "wasm",
        "os": "Wasip1",
        "config": {"Labels": {LABEL: str(layers[-1].digest)}},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [],
    }
    about = local.application
    annotations = {
        "title": about.name,
        "version": about.version,
        "description": about.description,
        "authors": ", ".join(about.authors),
    }
    manifest = Manifest(
        config=store.add(json.dumps(config, sort_keys=True).encode(), IMAGE_CONFIG),
        layers=layers,
        annotations={f"{_ANNOTATION}{key}": text for key, text in annotations.items() if text},
    )
    return store.add(manifest.to_bytes(), IMAGE_MANIFEST).digest


# Out of the store


def read(
    store: ContentStore, digest: Digest, *, name: str, verify: bool = True
) -> LocalApplication:
    """The application of a bundle that is in the store; its files are the store's blobs.

    `name` is the reference it came by, for errors and for what has no name itself. With `verify`
    every blob is hashed; without, only missing ones are noticed. All mistakes are BundleErrors.
    """
    with store.lease():
        manifest = read_manifest(store.read(digest, MAX_MANIFEST), name)
        if isinstance(manifest, Index):
            chosen = manifest.for_wasm(name).digest
            manifest = read_manifest(store.read(chosen, MAX_MANIFEST), name)
            if isinstance(manifest, Index):
                raise BundleError(f"{name}: its index leads to another index")
        for blob in manifest.blobs:
            _check(store, blob, verify=verify)
        application = _locked_layer(store, manifest, name)
        if application is None:
            return foreign.read(store, manifest, name)
        return _application(store, manifest, application, name)


def _check(store: ContentStore, blob: Descriptor, *, verify: bool) -> None:
    size = store.size(blob.digest)
    if size is not None and size != blob.size:
        raise BundleError(
            f"blob {blob.digest}: has {size} bytes, not {blob.size}", hint="pull the bundle again"
        )
    if verify or size is None:
        store.verify(blob.digest)


def _locked_layer(store: ContentStore, manifest: Manifest, name: str) -> Descriptor | None:
    """Where the locked application is, if there is one."""
    if manifest.config.media_type == LOCKED:
        return manifest.config
    found = [layer for layer in manifest.layers if layer.media_type == LOCKED]
    if len(found) <= 1:
        return found[0] if found else None
    data = store.read(manifest.config.digest, MAX_LOCKED)
    wanted = read_json(data, f"{name}: config", _label)
    for layer in found:
        if str(layer.digest) == wanted:
            return layer
    raise BundleError(f"{name}: has {len(found)} applications, and no label says which is meant")


def _label(value: object, where: Where) -> str:
    with Table(value, where) as table:
        config = table.optional("config", raw_table) or {}
        table.rest()
    labels = mapping(string)(config.get("Labels") or {}, where.key("config").key("Labels"))
    return labels.get(LABEL, "")


def _application(
    store: ContentStore, manifest: Manifest, descriptor: Descriptor, name: str
) -> LocalApplication:
    where = f"{name}: locked.json"
    found = locked.read(store.read(descriptor.digest, MAX_LOCKED), where)
    held = {layer.digest for layer in manifest.layers} | set(found.inline)
    _keep_inline(store, descriptor.digest, found.inline)
    for layer in manifest.layers:
        if layer.media_type == ARCHIVE:
            held.update(archive.unpack(store, layer.digest, f"{name}: {layer.digest}").values())
    components = found.application.components
    place = Where(where).key("components")
    return LocalApplication(
        found.application,
        {
            id: _source(store, component, held, place.item(index))
            for index, (id, component) in enumerate(components.items())
        },
        {
            id: _files(store, component, held, place.item(index))
            for index, (id, component) in enumerate(components.items())
        },
        (),
    )


def _keep_inline(store: ContentStore, application: Digest, inline: Mapping[Digest, bytes]) -> None:
    if inline and store.unpacked(application) is None:
        kept = {d.hex: store.add(data, archive.MEMBER).digest for d, data in inline.items()}
        store.set_unpacked(application, kept)


def _source(store: ContentStore, component: Component, held: set[Digest], where: Where) -> Path:
    assert isinstance(component.source, PathSource)
    path = _blob(store, component.source.path, held, where.key("source"))
    with path.open("rb") as file:
        wasm.kind(file.read(wasm.HEADER), f"{where.key('source')}")
    return path


def _files(
    store: ContentStore, component: Component, held: set[Digest], where: Where
) -> tuple[MountedFile, ...]:
    """By their paths; of two with the same the later one counts."""
    found: dict[str, Path] = {}
    for index, entry in enumerate(component.files):
        assert isinstance(entry, FilePlacement)
        place = where.key("files").item(index)
        found[entry.destination] = _blob(store, entry.source, held, place)
    return tuple(MountedFile(guest, found[guest]) for guest in sorted(found))


def _blob(store: ContentStore, text: str, held: set[Digest], where: Where) -> Path:
    digest = Digest.parse(text)
    if digest not in held:
        raise BundleError(f"{where.key('digest')}: the bundle holds no {digest}")
    return store.path(digest)
