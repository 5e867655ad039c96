"""What guests do with files and directories: the operations of wasi:filesystem's descriptor.

Preview 1 is a thin layer over the same objects. What fails raises `Err` with an error code.
A directory that cannot change answers every change with read-only; there are no links to make.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, final

from edge.engine.host import Err
from edge.wasi.clocks import Datetime, nanoseconds_of
from edge.wasi.files import FileSink, FileSource
from edge.wasi.io import READ_MAX, InputStream, OutputStream
from edge.wasi.nodes import Directory, File, Node, Place, Stat, locate
from edge.wasi.scratch import ScratchDirectory, ScratchFile, check_rename

__all__ = ["Descriptor", "DirectoryEntryStream"]

# descriptor-flags
READ: Final = 1
WRITE: Final = 2
MUTATE_DIRECTORY: Final = 32

# open-flags
CREATE: Final = 1
DIRECTORY: Final = 2
EXCLUSIVE: Final = 4
TRUNCATE: Final = 8

# path-flags
SYMLINK_FOLLOW: Final = 1

# new-timestamp
NewTimestamp = tuple[str, Datetime | None]


@final
class DirectoryEntryStream:
    """Reads a directory; what is made or removed meanwhile may or may not show."""

    __slots__ = ("_cookie", "_directory")

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._cookie = 0

    def read_directory_entry(self) -> tuple[str, str] | None:
        found = self._directory.after(self._cookie)
        if found is None:
            return None
        self._cookie, name, node = found
        return node.kind, name


@final
class Descriptor:
    """An open file or directory. Dropping it leaves streams made from it as they are."""

    __slots__ = ("_flags", "node")

    def __init__(self, node: Node, flags: int) -> None:
        if isinstance(node, File):
            node.open()
        self.node = node
        self._flags = flags

    @classmethod
    def preopen(cls, directory: Directory) -> Descriptor:
        return cls(directory, READ | MUTATE_DIRECTORY if directory.writable else READ)

    @property
    def is_directory(self) -> bool:
        return isinstance(self.node, Directory)

    def drop(self) -> None:
        if isinstance(self.node, File):
            self.node.close()

    # Files

    def read(self, length: int, offset: int) -> tuple[bytes, bool]:
        wanted = min(length, READ_MAX)
        data = self.file(READ).read(wanted, offset)
        return data, len(data) < wanted

    def write(self, buffer: bytes, offset: int) -> int:
        self.file(WRITE).write(buffer, offset)
        return len(buffer)

    def append(self, buffer: bytes) -> int:
        """Writes at the end. Returns where the end is then."""
        file = self.file(WRITE)
        file.write(buffer, file.size())
        return file.size()

    def read_via_stream(self, offset: int) -> InputStream:
        return InputStream(FileSource(self.file(READ), offset))

    def write_via_stream(self, offset: int) -> OutputStream:
        return OutputStream(FileSink(self.file(WRITE), offset))

    def append_via_stream(self) -> OutputStream:
        return OutputStream(FileSink(self.file(WRITE), None))

    def set_size(self, size: int) -> None:
        self.file(WRITE).resize(size)

    def advise(self, _offset: int, _length: int, _advice: str) -> None:
        self.file(0)

    def sync_data(self) -> None:
        """Nothing a guest can write outlives its invocation: there is nothing to make durable."""

    def sync(self) -> None:
        """Like `sync_data`."""

    def file(self, access: int) -> File:
        """The file behind it, if it was opened for such access."""
        node = self.node
        if not isinstance(node, File) or access & ~self._flags:
            raise Err("bad-descriptor")
        return node

    # Files and directories

    def get_flags(self) -> int:
        return self._flags

    def get_type(self) -> str:
        return self.node.kind

    def stat(self) -> Stat:
        return self.node.stat()

    def stat_at(self, _path_flags: int, path: str) -> Stat:
        return self.find(path).stat()

    def set_times(self, accessed: NewTimestamp, modified: NewTimestamp) -> None:
        self._set_times(self.node, accessed, modified)

    def set_times_at(
        self, _path_flags: int, path: str, accessed: NewTimestamp, modified: NewTimestamp
    ) -> None:
        self._set_times(self.find(path), accessed, modified)

    def is_same_object(self, other: Descriptor) -> bool:
        return self.node is other.node

    def metadata_hash(self) -> tuple[int, int]:
        return _metadata_hash(self.node)

    def metadata_hash_at(self, _path_flags: int, path: str) -> tuple[int, int]:
        return _metadata_hash(self.find(path))

    # Directories

    def directory(self) -> Directory:
        node = self.node
        if not isinstance(node, Directory):
            raise Err("not-directory")
        return node

    def read_directory(self) -> DirectoryEntryStream:
        return DirectoryEntryStream(self.directory())

    def open_at(self, _path_flags: int, path: str, open_flags: int, flags: int) -> Descriptor:
        if open_flags & DIRECTORY and open_flags & (CREATE | EXCLUSIVE | TRUNCATE):
            raise Err("invalid")
        base = self.directory()
        changes = flags & (WRITE | MUTATE_DIRECTORY) or open_flags & (CREATE | TRUNCATE)
        if changes and not self._is_mutable():
            raise Err("read-only")
        place = locate(base, path)
        if place.node is None and open_flags & CREATE:
            return Descriptor(self._create(place), _access(flags))
        node = place.existing()
        if open_flags & CREATE and open_flags & EXCLUSIVE:
            raise Err("exist")
        if isinstance(node, Directory):
            return self._open_directory(node, open_flags, flags)
        return _open_file(node, open_flags, flags)

    def create_directory_at(self, path: str) -> None:
        place = locate(self.directory(), path)
        if place.node is not None:
            raise Err("exist")
        self._writable(place).create_directory(place.name)

    def remove_directory_at(self, path: str) -> None:
        place = locate(self.directory(), path)
        node = place.existing()
        if not isinstance(node, Directory):
            raise Err("not-directory")
        parent = self._writable(place)
        if not place.name:
            raise Err("invalid")
        if node.entries:
            raise Err("not-empty")
        parent.remove(place.name)

    def unlink_file_at(self, path: str) -> None:
        place = locate(self.directory(), path)
        if isinstance(place.existing(), Directory):
            raise Err("is-directory")
        self._writable(place).remove(place.name)

    def rename_at(self, old_path: str, target: Descriptor, new_path: str) -> None:
        old = locate(self.directory(), old_path)
        new = locate(target.directory(), new_path)
        old.existing()
        source, destination = self._writable(old), target._writable(new)
        _check_same_scratch(source, destination)
        check_rename(old, new)
        if old.node is not new.node:
            source.move(old.name, destination, new.name)

    def link_at(
        self, old_path_flags: int, old_path: str, target: Descriptor, new_path: str
    ) -> None:
        if old_path_flags & SYMLINK_FOLLOW:
            # There are none; a host that has them could not promise what this asks for.
            raise Err("invalid")
        old = locate(self.directory(), old_path)
        new = locate(target.directory(), new_path)
        node = old.existing()
        if new.node is not None:
            raise Err("exist")
        source, destination = self._writable(old), target._writable(new)
        _check_same_scratch(source, destination)
        if not isinstance(node, ScratchFile):
            raise Err("not-permitted")
        if new.slash:
            raise Err("no-entry")
        destination.link(new.name, node)

    def readlink_at(self, path: str) -> str:
        self.find(path)
        raise Err("invalid")

    def symlink_at(self, old_path: str, new_path: str) -> None:
        if old_path.startswith("/"):
            raise Err("not-permitted")
        place = locate(self.directory(), new_path)
        if place.node is not None:
            raise Err("exist")
        self._writable(place)
        raise Err("unsupported")

    def find(self, path: str) -> Node:
        return locate(self.directory(), path).existing()

    def _is_mutable(self) -> bool:
        return bool(self._flags & MUTATE_DIRECTORY)

    def _writable(self, place: Place) -> ScratchDirectory:
        if not self._is_mutable() or not isinstance(place.parent, ScratchDirectory):
            raise Err("read-only")
        return place.parent

    def _create(self, place: Place) -> ScratchFile:
        if place.slash:
            raise Err("is-directory")
        return self._writable(place).create_file(place.name)

    def _open_directory(self, node: Directory, open_flags: int, flags: int) -> Descriptor:
        if flags & WRITE or open_flags & (CREATE | TRUNCATE):
            raise Err("is-directory")
        # A directory is as mutable as the one it was opened from, asked for or not: preview 1 has
        # no flag to ask with, and its adapter in components does not ask.
        return Descriptor(node, READ | self._flags & MUTATE_DIRECTORY)

    def _set_times(self, node: Node, accessed: NewTimestamp, modified: NewTimestamp) -> None:
        if isinstance(node, ScratchFile | ScratchDirectory):
            now = node.now()
            node.set_times(_timestamp(accessed, now), _timestamp(modified, now))
        else:
            raise Err("read-only")


def _open_file(node: Node, open_flags: int, flags: int) -> Descriptor:
    if open_flags & DIRECTORY:
        raise Err("not-directory")
    descriptor = Descriptor(node, _access(flags))
    if open_flags & TRUNCATE and isinstance(node, File):
        node.resize(0)
    return descriptor


def _access(flags: int) -> int:
    """Who asks for neither reading nor writing gets a file to read."""
    return flags & ~MUTATE_DIRECTORY if flags & WRITE else (flags | READ) & ~MUTATE_DIRECTORY


def _timestamp(new: NewTimestamp, now: int) -> int | None:
    case, datetime = new
    if case == "timestamp" and datetime is not None:
        return nanoseconds_of(datetime)
    return now if case == "now" else None


def _check_same_scratch(source: ScratchDirectory, destination: ScratchDirectory) -> None:
    if not source.shares_quota(destination):
        raise Err("cross-device")


def _metadata_hash(node: Node) -> tuple[int, int]:
    stat = node.stat()
    digest = blake2b(repr((node.inode, stat.size, stat.modified)).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")
