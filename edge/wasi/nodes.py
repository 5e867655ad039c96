"""Files and directories as guests see them, and how a path finds one.

Knows neither descriptors nor where the files come from. A failure is an `Err` with an error code of
wasi:filesystem. There are no links among these nodes: no path can lead out of the directory it
starts from but by `..`, which stops there.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import ClassVar, NamedTuple

from edge.engine.host import Err
from edge.wasi.clocks import Datetime, datetime_of

__all__ = ["Directory", "File", "HostFile", "MemoryFile", "Node", "Place", "Stat", "locate"]

# Bytes, in the sense of NAME_MAX and PATH_MAX of Linux.
NAME_MAX = 255
PATH_MAX = 4096

# Highest offset that the kernel takes.
OFFSET_MAX = (1 << 63) - 1

_CODES = {
    errno.EACCES: "access",
    errno.ELOOP: "not-permitted",  # a link where there was none
    errno.EMFILE: "insufficient-memory",
    errno.ENFILE: "insufficient-memory",
    errno.ENOENT: "no-entry",
    errno.ENOMEM: "insufficient-memory",
    errno.ENOTDIR: "no-entry",
    errno.EPERM: "not-permitted",
}


class Stat(NamedTuple):
    """The record descriptor-stat."""

    type: str
    link_count: int
    size: int
    accessed: Datetime | None
    modified: Datetime | None
    changed: Datetime | None


class Node:
    """A file or directory. Two descriptors are of the same object when their node is the same."""

    __slots__ = ("inode",)

    kind: ClassVar[str] = "unknown"

    def __init__(self, inode: int) -> None:
        self.inode = inode

    def stat(self) -> Stat:
        raise NotImplementedError

    def set_times(self, accessed: int | None, modified: int | None) -> None:
        """Nanoseconds since 1970; None: as it was."""
        raise Err("read-only")


class File(Node):
    """Bytes. Whoever reads opens it first and closes it as often."""

    __slots__ = ()

    kind = "regular-file"

    def open(self) -> None:
        return

    def close(self) -> None:
        return

    def read(self, length: int, offset: int) -> bytes:
        """At most `length` bytes, fewer only at the end."""
        raise NotImplementedError

    def size(self) -> int:
        return self.stat().size

    def write(self, data: bytes, offset: int) -> None:
        raise Err("read-only")

    def resize(self, size: int) -> None:
        raise Err("read-only")


class Directory(Node):
    """Names and what they stand for; those of a read-only one are complete before they are read."""

    __slots__ = ("_listing", "entries")

    kind = "directory"
    # Whether its contents can change at all; if so, it is a scratch directory.
    writable: ClassVar[bool] = False

    def __init__(self, inode: int) -> None:
        super().__init__(inode)
        self.entries: dict[str, Node] = {}
        self._listing: list[str] | None = None

    def stat(self) -> Stat:
        return Stat(self.kind, 1, 0, None, (0, 0), None)

    def after(self, cookie: int) -> tuple[int, str, Node] | None:
        """The first entry beyond a cookie, with its own cookie. 0 is before all of them.

        So whoever reads a directory keeps a number: lists of names would be memory of the host
        that a guest can have as often as it has handles.
        """
        if self._listing is None:
            self._listing = list(self.entries)
        if cookie >= len(self._listing):
            return None
        name = self._listing[cookie]
        return cookie + 1, name, self.entries[name]


class MemoryFile(File):
    """Bytes that are in memory already."""

    __slots__ = ("_data",)

    def __init__(self, inode: int, data: bytes) -> None:
        super().__init__(inode)
        self._data = data

    def stat(self) -> Stat:
        return Stat(self.kind, 1, len(self._data), None, (0, 0), None)

    def read(self, length: int, offset: int) -> bytes:
        return self._data[offset : offset + length]


class HostFile(File):
    """A file of the host, opened while somebody has it open, once for all of them.

    So the files a process has open are bounded by those its components have, whatever guests do.
    """

    __slots__ = ("_fd", "_path", "_users")

    def __init__(self, inode: int, path: str) -> None:
        super().__init__(inode)
        self._path = path
        self._fd = -1
        self._users = 0

    def open(self) -> None:
        if not self._users:
            self._fd = _open_regular(self._path)
        self._users += 1

    def close(self) -> None:
        self._users -= 1
        if not self._users:
            os.close(self._fd)
            self._fd = -1

    def read(self, length: int, offset: int) -> bytes:
        # Reads are small (io.READ_MAX) and nearly always of the page cache: a thread costs more
        # than they do.
        if offset > OFFSET_MAX - length:
            return b""
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise _failure(error) from None

    def stat(self) -> Stat:
        try:
            found = os.fstat(self._fd) if self._users else os.lstat(self._path)
        except OSError as error:
            raise _failure(error) from None
        if not stat.S_ISREG(found.st_mode):
            raise Err("not-permitted")
        modified = datetime_of(found.st_mtime_ns)
        return Stat(
            self.kind,
            1,
            found.st_size,
            datetime_of(found.st_atime_ns),
            modified,
            datetime_of(found.st_ctime_ns),
        )


class Place(NamedTuple):
    """What a path leads to: `node` None where the last name does not exist in `parent`.

    `name` is empty when the path ends in `.` or `..`: such a directory has no name to remove or
    replace. `slash`: it ends as the path of a directory does.
    """

    parent: Directory
    name: str
    node: Node | None
    slash: bool

    def existing(self) -> Node:
        if self.node is None:
            raise Err("no-entry")
        if self.slash and not isinstance(self.node, Directory):
            raise Err("not-directory")
        return self.node


def locate(base: Directory, path: str) -> Place:
    """Follows a relative path; one that is absolute or leaves `base` is not permitted."""
    _check_path(path)
    above: list[Directory] = [base]  # from `base` down to where the path has come
    name = ""
    node: Node | None = base
    for part in path.split("/"):
        if not part:
            continue
        if node is not above[-1]:
            above.append(_entered(node))
        if part in (".", ".."):
            name, node = "", _up(above) if part == ".." else above[-1]
            continue
        if len(part.encode()) > NAME_MAX:
            raise Err("name-too-long")
        name, node = part, above[-1].entries.get(part)
    return Place(above[-1], name, node, path.endswith("/"))


def _up(above: list[Directory]) -> Directory:
    above.pop()
    if not above:
        raise Err("not-permitted")
    return above[-1]


def _entered(node: Node | None) -> Directory:
    if node is None:
        raise Err("no-entry")
    if not isinstance(node, Directory):
        raise Err("not-directory")
    return node


def _check_path(path: str) -> None:
    if not path:
        raise Err("no-entry")
    if path[0] == "/":
        raise Err("not-permitted")
    if len(path) > PATH_MAX:
        raise Err("name-too-long")
    if "\0" in path:
        raise Err("invalid")


def _open_regular(path: str) -> int:
    # Not to wait for the other end, should somebody have put a named pipe there.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise _failure(error) from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Err("not-permitted")
    return fd


def _failure(error: OSError) -> Err:
    return Err(_CODES.get(error.errno or 0, "io"))
