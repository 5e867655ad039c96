"""Tar archives of bundles: read by a stranger's hand, written the same each time.

What an archive holds becomes blobs of the content store. Only plain files do: no link, no device,
no path that leaves the archive. Blocks: not for the event loop.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from edge.application.units import show_size
from edge.errors import BundleError
from edge.registry.digest import Digest
from edge.registry.disk import explained
from edge.registry.manifest import Descriptor
from edge.registry.store import ContentStore

__all__ = ["MEMBER", "Bounds", "pack", "unpack"]

# What a member is called in the content store; nobody is sent it by this name.
MEMBER = "application/octet-stream"

# What tar needs between two members: long names and times, in several blocks.
_HEADERS = 256 << 10
# Up to this size a member is held in memory, and not written when it is known.
_SMALL = 1 << 20
_PIECE = 256 << 10
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an archive may become: the number of its files, and their bytes together."""

    members: int = 100_000
    size: int = 2 << 30


def unpack(
    store: ContentStore, archive: Digest, name: str, bounds: Bounds | None = None
) -> Mapping[str, Digest]:
    """The files of an archive, plain or gzipped, by their paths; they are blobs from now on.

    An archive that was unpacked before is not read again. What must not be in one is a BundleError
    that names the member.
    """
    known = store.unpacked(archive)
    if known is not None:
        return known
    with store.lease(), store.open(archive) as file, _explained(name):
        found = dict(_members(store, file, name, bounds or Bounds()))
        store.set_unpacked(archive, found)
    return found


def pack(files: Iterable[tuple[str, Path]], store: ContentStore, media_type: str) -> Descriptor:
    """Keeps a gzipped archive of files by their paths. The same files give the same bytes."""
    with store.lease(), explained(store.directory), store.spool() as spool:
        with (
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=spool, mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w|", format=tarfile.PAX_FORMAT) as tar,
        ):
            for path, source in sorted(files):
                _add(tar, path, source)
        return _keep(spool, store, media_type)


def _add(tar: tarfile.TarFile, path: str, source: Path) -> None:
    with source.open("rb") as file:
        member = tarfile.TarInfo(path)
        member.size = source.stat().st_size
        tar.addfile(member, file)


def _keep(spool: IO[bytes], store: ContentStore, media_type: str) -> Descriptor:
    size = spool.tell()
    spool.seek(0)
    with store.writer(size) as writer:
        while piece := spool.read(_PIECE):
            writer.write(piece)
        found = Descriptor(media_type, writer.digest, size)
        writer.commit(found)
    return found


def _members(
    store: ContentStore, file: IO[bytes], name: str, bounds: Bounds
) -> Iterator[tuple[str, Digest]]:
    zipped = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    source = cast(IO[bytes], gzip.GzipFile(fileobj=file)) if zipped else file
    stream = _Bounded(source, name)
    total = count = 0
    stream.allow(_HEADERS)
    with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            path = _path(member, name)
            if member.size < 0:
                raise BundleError(f"{name}: {path!a}: has a negative size")
            count, total = count + 1, total + member.size
            if count > bounds.members:
                raise BundleError(f"{name}: holds more than {bounds.members} files")
            if total > bounds.size:
                raise BundleError(
                    f"{name}: {path!a}: its files would be more than {show_size(bounds.size)}"
                )
            stream.allow(-(-member.size // _BLOCK) * _BLOCK + _HEADERS)
            if member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                yield path, _content(store, content, member.size)
            tar.members = []  # it would remember each of them
    while stream.read(_PIECE):
        pass  # to the end, where a compressed stream has its checksum


def _content(store: ContentStore, source: IO[bytes], size: int) -> Digest:
    if size <= _SMALL:
        return store.add(source.read(), MEMBER).digest
    with store.writer(size) as writer:
        while piece := source.read(_PIECE):
            writer.write(piece)
        writer.commit(Descriptor(MEMBER, writer.digest, size))
        return writer.digest


def _path(member: tarfile.TarInfo, name: str) -> str:
    """A member's path, relative and plain, if it is a file or a directory."""
    shown = f"{name}: {member.name[:200]!a}"
    if member.issym() or member.islnk():
        raise BundleError(f"{shown}: is a link to {member.linkname[:200]!a}")
    if not (member.isdir() or member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)):
        raise BundleError(f"{shown}: is neither a file nor a directory")
    if member.issparse():
        raise BundleError(f"{shown}: is a sparse file")
    path = "/".join(part for part in member.name.split("/") if part != ".")
    if member.isdir() and not path:
        return path
    if "\0" in path or {"", ".."} & set(path.split("/")) or not _is_text(path):
        raise BundleError(f"{shown}: is not the path of a file within the archive")
    return path


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Bounded:
    """A stream that gives no more than was allowed: what stands between members is bounded."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        self._name = name
        self._given = 0
        self._allowed = 0

    def allow(self, size: int) -> None:
        self._allowed = self._given + size

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._given += len(data)
        if self._given > self._allowed:
            raise BundleError(f"{self._name}: holds {show_size(_HEADERS)} between two files")
        return data


@contextmanager
def _explained(name: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise BundleError(f"{name}: is not an archive that can be read: {error}") from error
