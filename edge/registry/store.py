"""The content store: blobs by their digest, written once, whole or not at all.

    blobs/sha256/<hex>           content; what is here is complete, and was on the disk first
    blobs/incoming/…             being written; what dead writers left is removed by a collection
    blobs/unpacked/<hex>.json    which blobs were made from the archive <hex>
    blobs/tags.json              names and the manifests they stand for
    blobs/lock                   shared by who writes, exclusive for who collects

Several processes may use one directory. Everything here blocks: not for the event loop. Knows
nothing of what blobs contain.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import IO

from edge.application.fields import Reader, Table, Where, integer, mapping, parsed
from edge.application.units import show_about, show_size
from edge.errors import BundleError
from edge.platform.atomic import write_file
from edge.registry.digest import Digest
from edge.registry.disk import (
    NO_QUOTA,
    NO_ROOM,
    NoRoom,
    allocate,
    explained,
    leased,
    sync_directory,
)
from edge.registry.manifest import Descriptor, read_json
from edge.registry.tags import Tags

__all__ = ["BlobWriter", "ContentStore"]

# What other processes write is seen this late, in seconds; adding up a directory is not for free.
_USAGE_AGE = 1.0
# Read and hashed at a time.
_PIECE = 1 << 20


class ContentStore:
    """The blobs of a state directory. `quota`: bytes of all blobs together, finished or not."""

    def __init__(self, directory: Path, *, quota: int | None = None) -> None:
        self.directory = directory / "blobs"
        self.tags = Tags(self.directory)
        self._sha256 = self.directory / "sha256"
        self._unpacked = self.directory / "unpacked"
        self._usage = _Usage(self.directory, quota)

    # Reading

    def path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self._sha256 / digest.hex

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob; None when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is here and as long as it should be. Its content is not looked at."""
        return self.size(descriptor.digest) == descriptor.size

    def has_intact(self, descriptor: Descriptor) -> bool:
        """As `has`, and its content is looked at: what a bad disk has changed goes."""
        if not self.has(descriptor):
            return False
        try:
            self.verify(descriptor.digest)
        except BundleError:
            return False
        return True

    def read(self, digest: Digest, limit: int) -> bytes:
        """A blob of at most `limit` bytes, checked as by `verify`."""
        while True:
            with self.open(digest) as file:
                data = file.read(limit + 1)
            if len(data) > limit:
                raise BundleError(f"blob {digest}: has more than {show_size(limit)}")
            if Digest.of(data) == digest:
                return data
            self.verify(digest)

    def verify(self, digest: Digest) -> None:
        """Hashes a blob; a BundleError when it is missing or not what it was.

        A damaged one is removed: it is worth nothing, and the next pull brings it anew.
        """
        if not self._intact(digest) and not self._intact(digest, from_disk=True):
            self.path(digest).unlink(missing_ok=True)
            raise BundleError(
                f"blob {digest}: its content had changed on this disk and was removed",
                hint="pull the bundle again",
            )

    def _intact(self, digest: Digest, *, from_disk: bool = False) -> bool:
        with self.open(digest) as file:
            if from_disk:  # the fault may be in memory
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return hashlib.file_digest(file, "sha256").hexdigest() == digest.hex

    def open(self, digest: Digest) -> BufferedReader:
        """A blob to read from; its reader keeps it, whatever a collection removes."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            hint = "pull the bundle again"
            raise BundleError(f"blob {digest}: is not in {self._sha256}", hint=hint) from None

    # Writing

    def lease(self) -> AbstractContextManager[None]:
        """While it is held nothing is collected: from the first blob of a bundle to its tag."""
        return leased(self.directory)

    def check_room(self, size: int, *, spooled: int = 0) -> None:
        """Raises NoRoom when `size` bytes more would not fit now. Takes none of them. `spooled`: as
        many of them are in a file of `spool`, so on this disk already.
        """
        self._make_directories()
        self._usage.check(size)
        if size - spooled > (free := shutil.disk_usage(self.directory).free):
            raise NoRoom(
                f"{self.directory}: no room for {show_about(size)}: {show_about(free)} are free",
                hint=NO_ROOM,
            )

    def writer(self, size: int) -> BlobWriter:
        """Takes one blob of `size` bytes; there is room for it, or this is a NoRoom."""
        with explained(self.directory, size):
            self._make_directories()
        return BlobWriter(self.directory, size, self._usage)

    def add(self, data: bytes, media_type: str) -> Descriptor:
        """Keeps a blob that is in memory."""
        found = Descriptor(media_type, Digest.of(data), len(data))
        if not self.has(found):
            with self.writer(len(data)) as writer:
                writer.write(data)
                writer.commit(found)
        return found

    def add_file(self, path: Path, media_type: str) -> Descriptor:
        """Keeps a copy of a file, as it is now."""
        with path.open("rb") as file:
            digest = Digest(hashlib.file_digest(file, "sha256").hexdigest())
            found = Descriptor(media_type, digest, os.fstat(file.fileno()).st_size)
            if not self.has(found):
                file.seek(0)
                self.copy(file, found)
        return found

    def copy(self, source: IO[bytes], descriptor: Descriptor) -> None:
        """Keeps what `source` gives: it must be what the descriptor says."""
        with self.writer(descriptor.size) as writer:
            while piece := source.read(_PIECE):
                writer.write(piece)
            writer.commit(descriptor)

    def spool(self) -> IO[bytes]:
        """A file without a name beside the blobs, for content whose size is not known before. Who
        writes it asks `check_room` as it grows.
        """
        self._make_directories()
        return tempfile.TemporaryFile(dir=self.directory / "incoming")

    # Archives

    def unpacked(self, archive: Digest) -> Mapping[str, Digest] | None:
        """What the archive held, by path, if it was unpacked and all of it is still here."""
        members = self.members(archive)
        if members is None or not all(self.path(d).exists() for d in members.values()):
            return None
        return members

    def members(self, archive: Digest) -> Mapping[str, Digest] | None:
        """What the archive held, by path; None when it was not unpacked."""
        path = self._record(archive)
        try:
            return read_json(path.read_bytes(), str(path), _read_members)
        except (FileNotFoundError, BundleError):
            return None  # a damaged record is as good as none: the archive is unpacked again

    def set_unpacked(self, archive: Digest, members: Mapping[str, Digest]) -> None:
        """From now on the members stay as long as the archive does."""
        record = {"schema": 1, "members": {name: str(d) for name, d in members.items()}}
        data = json.dumps(record, sort_keys=True).encode()
        with self.lease(), explained(self.directory, len(data)):
            sync_directory(self._sha256)
            write_file(self._record(archive), data)

    def _make_directories(self) -> None:
        # Bundles and documents may hold what other users of the machine need not know.
        self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._sha256.mkdir(exist_ok=True)
        (self.directory / "incoming").mkdir(exist_ok=True)

    def _record(self, archive: Digest) -> Path:
        return self._unpacked / f"{archive.hex}.json"


class BlobWriter:
    """A blob on its way in. Leaving it without a commit leaves nothing behind."""

    def __init__(self, directory: Path, size: int, usage: _Usage) -> None:
        self.size = size
        self.written = 0
        self._target = directory / "sha256"
        self._usage = usage
        self._hash = hashlib.sha256()
        with ExitStack() as undo:
            undo.enter_context(leased(directory))
            with explained(directory, size):
                self._file, path = tempfile.mkstemp(dir=directory / "incoming")
                undo.callback(os.close, self._file)
                self._path: Path | None = Path(path)
                try:
                    usage.reserve(size)
                    allocate(self._file, size)
                except BaseException:
                    self._path.unlink()
                    raise
            self._undo = undo.pop_all()

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abort()

    @property
    def digest(self) -> Digest:
        """Of what was written so far."""
        return Digest(self._hash.hexdigest())

    def grow(self, size: int) -> None:
        """Takes room for a blob of `size` bytes, for content whose size shows as it comes."""
        if size <= self.size:
            return
        with explained(self._target, size):
            self._usage.reserve(size - self.size)
            more, self.size = size - self.size, size
            try:
                allocate(self._file, size)
            except BaseException:
                self.size -= more
                self._usage.release(more)
                raise

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Appends. More than the blob's size is a BundleError, a full disk an EdgeError."""
        if self.written + len(data) > self.size:
            raise BundleError(f"has more than the {self.size} bytes that were announced")
        rest = memoryview(data)
        with explained(self._target, self.size):
            while rest:
                count = os.write(self._file, rest)
                self._hash.update(rest[:count])
                self.written += count
                rest = rest[count:]

    def restart(self) -> None:
        """Forgets what was written: a server that cannot resume begins anew."""
        os.lseek(self._file, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.written = 0

    def commit(self, descriptor: Descriptor) -> None:
        """Makes it a blob, durably. What differs from its descriptor is a BundleError."""
        if self.written != descriptor.size:
            raise BundleError(
                f"blob {descriptor.digest}: has {self.written} bytes, not {descriptor.size}"
            )
        if self.digest != descriptor.digest:
            raise BundleError(
                f"blob {descriptor.digest}: its digest is {self.digest}",
                hint="it was changed on its way, or where it is kept",
            )
        path = self._path
        assert path is not None, "committed before"
        with explained(self._target, self.size):
            os.ftruncate(self._file, self.written)
            os.fchmod(self._file, 0o444)
            os.fsync(self._file)
            # Over one that may be there: a bad disk is healed by it, and readers keep the old file.
            path.replace(self._target / descriptor.digest.hex)
            self._path = None
            sync_directory(self._target)
        self._undo.close()

    def abort(self) -> None:
        """Leaves nothing behind. After a commit, or twice, it does nothing."""
        path, self._path = self._path, None
        if path is not None:
            path.unlink(missing_ok=True)
            self._usage.release(self.size)
        self._undo.close()


class _Usage:
    """How much the store holds, and how much it may."""

    def __init__(self, directory: Path, quota: int | None) -> None:
        self._directory = directory
        self._quota = quota
        self._used = 0
        self._counted = -_USAGE_AGE

    def reserve(self, size: int) -> None:
        self.check(size)
        self._used += size

    def check(self, size: int) -> None:
        if self._quota is None:
            return
        if time.monotonic() - self._counted >= _USAGE_AGE or self._used + size > self._quota:
            self._used = sum(_sizes(self._directory))
            self._counted = time.monotonic()
        if self._used + size > self._quota:
            raise NoRoom(
                f"{self._directory}: {show_about(size)} more would be beyond its quota: "
                f"{show_about(self._used)} of {show_about(self._quota)} are used",
                hint=NO_QUOTA,
            )

    def release(self, size: int) -> None:
        self._used -= size


def _sizes(directory: Path) -> Iterator[int]:
    for name in ("sha256", "incoming"):
        with os.scandir(directory / name) as entries:
            for entry in entries:
                try:
                    yield entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:  # another process has just finished it
                    continue


def _read_members(value: object, where: Where) -> dict[str, Digest]:
    with Table(value, where) as table:
        table.need("schema", integer(1, 1))
        members: Reader[dict[str, Digest]] = mapping(parsed(Digest.parse))
        return table.need("members", members)
