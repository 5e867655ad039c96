"""OCI image layouts, as directories and as tar files: bundles that travel without a registry.

    oci-layout                {"imageLayoutVersion": "1.0.0"}
    index.json                an index; an annotation of each entry says what it is called
    blobs/sha256/<hex>        content

`skopeo copy … oci:DIR:TAG`, `oci-archive:FILE.tar:TAG`, `docker save` from version 25 on. All of it
blocks: not for the event loop.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from edge.application.fields import Table, Where, string
from edge.application.units import show_size
from edge.errors import BundleError, ConfigError, EdgeError
from edge.registry.digest import Digest
from edge.registry.disk import NoRoom
from edge.registry.layout_archive import MOST_FILES, Archive
from edge.registry.manifest import (
    MAX_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    read,
    read_json,
)
from edge.registry.reference import Reference, is_tag
from edge.registry.store import ContentStore
from edge.registry.transfer import MAX_BUNDLE

__all__ = ["Imported", "import_file", "import_path", "packed"]

_VERSION = "1.0.0"
# The standard's annotation holds a tag, or a whole reference; containerd and Docker have their own
# for the latter.
_NAMES = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
# Bundles of one layout; a stick for a fleet holds dozens.
_MOST = 1_000
_FILES = ("oci-layout", "index.json", "manifest.json")
_PIECE = 256 << 10

_HINT = "make one with: skopeo copy docker://REF oci-archive:FILE.tar:REF"


MakeRoom = Callable[[], bool]


def _no_room() -> bool:
    return False


class Imported(NamedTuple):
    """A bundle that is in the store now, by that reference."""

    reference: Reference
    digest: Digest


class Layout(Protocol):
    """Where a layout's files come from."""

    def open(self, path: str) -> AbstractContextManager[IO[bytes]]:
        """Raises KeyError for what is not there."""

    def names(self) -> Iterable[str]: ...


def import_path(
    path: Path,
    store: ContentStore,
    name: Reference | None = None,
    *,
    make_room: MakeRoom = _no_room,
) -> tuple[Imported, ...]:
    """Brings the bundles of a layout, a directory or a tar file, into the store: all or none.

    `name`: what to call the only bundle; without a tag, the repository for all of them. Raises
    BundleError for a layout that is not one or not whole, ConfigError where a name is missing.
    `make_room`: as of `transfer.pull`.
    """
    try:
        if path.is_dir():
            return _import(_Directory(path), str(path), store, name, make_room)
        with path.open("rb") as file:
            return import_file(file, str(path), store, name, make_room=make_room)
    except OSError as error:
        raise _told(error, path) from error


def import_file(
    file: IO[bytes],
    title: str,
    store: ContentStore,
    name: Reference | None = None,
    *,
    make_room: MakeRoom = _no_room,
) -> tuple[Imported, ...]:
    """As `import_path`, from an open tar file that can be read at any place."""
    return _import(Archive(file, title), title, store, name, make_room)


def packed(path: Path) -> Iterator[bytes]:
    """A layout as the bytes of a tar file, to be imported elsewhere. Raises EdgeError."""
    try:
        if path.is_dir():
            yield from _packed(_Directory(path))
            return
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                yield piece
    except OSError as error:
        raise _told(error, path) from error


def _import(
    layout: Layout, title: str, store: ContentStore, name: Reference | None, make_room: MakeRoom
) -> tuple[Imported, ...]:
    _check_version(layout, title)
    index = read(_needed(layout, "index.json", title), f"{title}: index.json")
    if not isinstance(index, Index):
        raise BundleError(f"{title}: index.json: is not an index")
    if not index.manifests:
        raise BundleError(f"{title}: holds no bundle", hint=_HINT)
    if len(index.manifests) > _MOST:
        raise BundleError(f"{title}: holds more than {_MOST} bundles")
    bundles = _named(_all(layout, index, title), title, name)
    try:
        _keep(layout, bundles, title, store)
    except NoRoom:
        if not make_room():
            raise
        _keep(layout, bundles, title, store)
    return tuple(Imported(r, b.manifest.digest) for r, b in bundles.items())


def _check_version(layout: Layout, title: str) -> None:
    try:
        data = _bytes(layout, "oci-layout", title)
    except KeyError:
        names = set(layout.names())
        if "manifest.json" in names:
            raise BundleError(
                f"{title}: is what `docker save` wrote before version 25, without digests",
                hint="copy it: skopeo copy docker-archive:FILE.tar oci-archive:NEW.tar:REF",
            ) from None
        raise BundleError(f"{title}: is not an OCI layout: has no oci-layout", hint=_HINT) from None
    version = read_json(data, f"{title}: oci-layout", _version)
    if version.partition(".")[0] != _VERSION.partition(".")[0]:
        raise BundleError(f"{title}: oci-layout: version {version[:50]!a}: 1 is known")


def _version(value: object, where: Where) -> str:
    with Table(value, where) as table:
        version = table.need("imageLayoutVersion", string)
        table.rest()
    return version


@dataclass(frozen=True, slots=True)
class _Bundle:
    """A manifest of the layout and what it names."""

    entry: Descriptor  # of index.json
    manifest: Descriptor  # the same, or of that index the one for WebAssembly
    content: Manifest

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        return (*self.content.blobs, self.manifest)

    @property
    def names(self) -> list[str]:
        return [self.entry.annotations[key] for key in _NAMES if key in self.entry.annotations]

    @property
    def subject(self) -> Digest | None:
        return self.content.subject.digest if self.content.subject else None

    @property
    def is_about_another(self) -> bool:
        return not self.names and self.subject is not None

    def __str__(self) -> str:
        return self.names[0][:200] if self.names else str(self.entry.digest)


def _all(layout: Layout, index: Index, title: str) -> list[_Bundle]:
    found: list[_Bundle] = []
    count = 0
    for entry in index.manifests:
        found.append(bundle := _read(layout, entry, title))
        count += len(bundle.content.layers)
        if count > MOST_FILES:
            raise BundleError(f"{title}: its bundles name more than {MOST_FILES} blobs")
    return found


def _read(layout: Layout, entry: Descriptor, title: str) -> _Bundle:
    manifest, found = entry, _manifest(layout, entry, title)
    if isinstance(found, Index):
        manifest = found.for_wasm(title)
        found = _manifest(layout, manifest, title)
    if isinstance(found, Index):
        raise BundleError(f"{title}: {entry.digest}: its index leads to another index")
    if (total := sum(blob.size for blob in found.blobs)) > MAX_BUNDLE:
        most = show_size(MAX_BUNDLE)
        raise BundleError(f"{title}: {entry.digest}: has {show_size(total)}, more than {most}")
    return _Bundle(entry, manifest, found)


def _manifest(layout: Layout, entry: Descriptor, title: str) -> Manifest | Index:
    path = _path(entry.digest)
    data = _needed(layout, path, title)
    if Digest.of(data) != entry.digest or len(data) != entry.size:
        raise BundleError(f"{title}: {path}: its content is not what its name says")
    return read(data, f"{title}: {path}", entry.media_type)


def _named(
    bundles: Sequence[_Bundle], title: str, name: Reference | None
) -> Mapping[Reference, _Bundle]:
    """What to call them. What has no name and is about another one belongs beside that."""
    about = [b for b in bundles if b.is_about_another]
    named = [b for b in bundles if not b.is_about_another]
    if name is not None and (name.tag or name.digest) and len(named) > 1:
        raise ConfigError(
            f"{title}: holds {len(named)} bundles: {', '.join(map(str, named))[:500]}",
            hint=f"give a repository for all of them: --name {name.name}",
        )
    found: dict[Reference, _Bundle] = {}
    for bundle in named:
        reference = _reference(bundle, title, name)
        if found.setdefault(reference, bundle).manifest.digest != bundle.manifest.digest:
            raise BundleError(f"{title}: has two bundles called {reference}")
    homes = {b.manifest.digest: reference for reference, b in found.items()}
    beside = {
        homes[subject].at(bundle.manifest.digest): bundle
        for bundle in about
        if (subject := bundle.subject) in homes
    }
    return found | beside


def _reference(bundle: _Bundle, title: str, name: Reference | None) -> Reference:
    reference = _called(bundle, title, name)
    if reference.digest not in (None, bundle.entry.digest, bundle.manifest.digest):
        raise BundleError(f"{title}: {bundle}: its digest is {bundle.manifest.digest}")
    return reference


def _called(bundle: _Bundle, title: str, name: Reference | None) -> Reference:
    if name is not None:
        tags = [text for text in bundle.names if is_tag(text)]
        if name.tag or name.digest or not tags:
            return name
        return Reference(name.registry, name.repository, tags[0])
    for text in bundle.names:
        try:
            return Reference.parse(text)
        except ConfigError:
            continue
    what = f"{str(bundle)!a} names no registry" if bundle.names else f"{bundle} has no name"
    raise ConfigError(f"{title}: {what}", hint="say what it is: --name registry.example/team/app")


def _keep(
    layout: Layout, bundles: Mapping[Reference, _Bundle], title: str, store: ContentStore
) -> None:
    with store.lease():
        blobs = {blob.digest: blob for bundle in bundles.values() for blob in bundle.blobs}
        missing = [blob for blob in blobs.values() if not store.has_intact(blob)]
        store.check_room(sum(blob.size for blob in missing))
        for blob in missing:
            _copy(layout, blob, title, store)
        for bundle in bundles.values():
            for blob in bundle.blobs:
                if not store.has(blob):  # two manifests that do not agree on its size
                    raise BundleError(f"{title}: blob {blob.digest}: has not {blob.size} bytes")
        store.tags.set_all({str(r): b.manifest.digest for r, b in bundles.items()})


def _copy(layout: Layout, blob: Descriptor, title: str, store: ContentStore) -> None:
    try:
        with layout.open(_path(blob.digest)) as file:
            store.copy(file, blob)
    except KeyError:
        raise BundleError(f"{title}: has no {_path(blob.digest)}") from None
    except BundleError as error:
        raise BundleError(f"{title}: {error.message}", hint=error.hint) from error


def _needed(layout: Layout, path: str, title: str) -> bytes:
    try:
        return _bytes(layout, path, title)
    except KeyError:
        raise BundleError(f"{title}: has no {path}") from None


def _bytes(layout: Layout, path: str, title: str) -> bytes:
    with layout.open(path) as file:
        data = file.read(MAX_MANIFEST + 1)
    if len(data) > MAX_MANIFEST:
        raise BundleError(f"{title}: {path}: has more than {show_size(MAX_MANIFEST)}")
    return data


def _path(digest: Digest) -> str:
    return f"blobs/sha256/{digest.hex}"


def _told(error: OSError, path: Path) -> EdgeError:
    kind = ConfigError if isinstance(error, FileNotFoundError) else EdgeError
    return kind(f"{error.filename or path}: {(error.strerror or str(error)).lower()}")


def _packed(layout: _Directory) -> Iterator[bytes]:
    for name in layout.names():
        with layout.open(name) as file:
            member = tarfile.TarInfo(name)
            member.size = os.fstat(file.fileno()).st_size
            yield member.tobuf(tarfile.PAX_FORMAT)
            left = member.size
            while left and (piece := file.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
            yield bytes(left + -member.size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


class _Directory:
    """A layout as files. What its links lead to is only ever used by its digest."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes]]:
        place = self._path / path
        try:
            # A pipe would be waited for.
            descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise KeyError(path) from None
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BundleError(f"{place}: is not a file")
            yield file

    def names(self) -> Iterable[str]:
        """Of the files that belong to a layout, or to what Docker wrote in its place."""
        known = (path.name for path in self._path.iterdir() if path.name in _FILES)
        blobs = (path.name for path in self._path.glob("blobs/sha256/*"))
        return [*sorted(known), *(f"blobs/sha256/{name}" for name in sorted(blobs))]
