"""Writable files of one invocation, in memory, within a quota of bytes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from edge.engine.host import Err
from edge.wasi.clocks import datetime_of
from edge.wasi.nodes import Directory, File, Node, Place, Stat

__all__ = ["Quota", "ScratchDirectory", "ScratchFile", "check_rename"]

# Bytes that a name in a directory is charged, with the node it leads to: what they take of the
# host's memory. Smaller, and empty files would be a way around the quota.
ENTRY_COST = 1024

# Names of one invocation. Some operations look at all of them, in one turn of the loop.
ENTRIES_MAX = 16_384

# Bytes. Files are kept in pieces, so that neither growing nor shrinking one copies it.
_PAGE = 65_536

# Above every inode of a read-only tree, so that the two together look like one file system.
_FIRST_INODE = 1 << 32


class Quota:
    """What is left of the bytes, and what else all files of one scratch directory share."""

    __slots__ = ("_entries", "_inode", "_left", "now")

    def __init__(self, size: int, now: Callable[[], int]) -> None:
        self._left = size
        self._entries = ENTRIES_MAX
        self._inode = _FIRST_INODE
        self.now = now

    def take(self, size: int) -> None:
        if size > self._left:
            raise Err("insufficient-space")
        self._left -= size

    def give(self, size: int) -> None:
        self._left += size

    def take_entry(self) -> None:
        if not self._entries:
            raise Err("insufficient-space")
        self.take(ENTRY_COST)
        self._entries -= 1

    def give_entry(self) -> None:
        self.give(ENTRY_COST)
        self._entries += 1

    def inode(self) -> int:
        self._inode += 1
        return self._inode


class _Times:
    """When a node was read, changed in its contents, changed at all: nanoseconds since 1970."""

    __slots__ = ("accessed", "changed", "modified")

    def __init__(self, now: int) -> None:
        self.accessed = self.modified = self.changed = now

    def stat(self, kind: str, links: int, size: int) -> Stat:
        times = map(datetime_of, (self.accessed, self.modified, self.changed))
        return Stat(kind, links, size, *times)

    def set(self, accessed: int | None, modified: int | None, now: int) -> None:
        self.accessed = self.accessed if accessed is None else accessed
        self.modified = self.modified if modified is None else modified
        self.changed = now


class _Timed:
    """What scratch files and directories have in common."""

    __slots__ = ()

    _quota: Quota
    _times: _Times

    def now(self) -> int:
        return self._quota.now()

    def set_times(self, accessed: int | None, modified: int | None) -> None:
        self._times.set(accessed, modified, self.now())

    def _touch(self) -> None:
        self._times.modified = self._times.changed = self.now()


class ScratchFile(_Timed, File):
    """A file in memory. Its bytes are free again when no name, descriptor or stream has it."""

    __slots__ = ("_pages", "_quota", "_size", "_times", "links")

    def __init__(self, quota: Quota) -> None:
        super().__init__(quota.inode())
        self._quota = quota
        self._pages: dict[int, bytearray] = {}  # what a page lacks at its end is zeroes
        self._size = 0
        self._times = _Times(quota.now())
        self.links = 1

    def __del__(self) -> None:
        # Not when it is unlinked: a guest that holds it open still has its bytes.
        self._quota.give(self._size)

    def stat(self) -> Stat:
        return self._times.stat(self.kind, self.links, self._size)

    def size(self) -> int:
        return self._size

    def read(self, length: int, offset: int) -> bytes:
        parts = []
        for page, start, stop in _pieces(offset, min(offset + length, self._size)):
            part = self._pages.get(page, b"")[start:stop]
            parts.append(part.ljust(stop - start, b"\0"))
        return b"".join(parts)

    def write(self, data: bytes, offset: int) -> None:
        if not data:
            return
        end = offset + len(data)
        if end > self._size:
            self._quota.take(end - self._size)
            self._size = end
        done = 0
        for number, start, stop in _pieces(offset, end):
            page = self._pages.setdefault(number, bytearray())
            page.extend(bytes(max(start - len(page), 0)))
            page[start:stop] = data[done : done + stop - start]
            done += stop - start
        self._touch()

    def resize(self, size: int) -> None:
        if size > self._size:
            self._quota.take(size - self._size)
        else:
            self._cut(size)
            self._quota.give(self._size - size)
        self._size = size
        self._touch()

    def _cut(self, size: int) -> None:
        last, rest = divmod(size, _PAGE)
        for number in [number for number in self._pages if number > last]:
            del self._pages[number]
        if last in self._pages:
            del self._pages[last][rest:]


def _pieces(offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The pages that bytes `offset` to `end` lie in: number, first and last byte within it."""
    while offset < end:
        page, start = divmod(offset, _PAGE)
        stop = min(_PAGE, start + end - offset)
        yield page, start, stop
        offset += stop - start


class ScratchDirectory(_Timed, Directory):
    """A directory in memory whose names can be made, moved and removed."""

    __slots__ = ("_cookies", "_order", "_quota", "_times")

    writable = True

    def __init__(self, quota: Quota) -> None:
        super().__init__(quota.inode())
        self._quota = quota
        self._times = _Times(quota.now())
        self._cookies: dict[str, int] = {}  # name -> when it was made, counted from 1
        self._order: list[tuple[int, str]] = []  # the same, sorted

    def stat(self) -> Stat:
        return self._times.stat(self.kind, 1, 0)

    def after(self, cookie: int) -> tuple[int, str, Node] | None:
        index = bisect_left(self._order, (cookie + 1,))
        if index == len(self._order):
            return None
        found, name = self._order[index]
        return found, name, self.entries[name]

    def create_file(self, name: str) -> ScratchFile:
        self._quota.take_entry()
        node = ScratchFile(self._quota)
        self._set(name, node)
        return node

    def create_directory(self, name: str) -> None:
        self._quota.take_entry()
        self._set(name, ScratchDirectory(self._quota))

    def link(self, name: str, node: ScratchFile) -> None:
        self._quota.take_entry()
        node.links += 1
        self._set(name, node)

    def remove(self, name: str) -> None:
        node = self._take(name)
        if isinstance(node, ScratchFile):
            node.links -= 1
        self._quota.give_entry()

    def move(self, name: str, target: ScratchDirectory, new_name: str) -> None:
        """Renames; what has the new name already is replaced."""
        if new_name in target.entries:
            target.remove(new_name)
        target._set(new_name, self._take(name))

    def shares_quota(self, other: Directory) -> bool:
        return isinstance(other, ScratchDirectory) and other._quota is self._quota

    def _set(self, name: str, node: Node) -> None:
        cookie = self._order[-1][0] + 1 if self._order else 1
        self._order.append((cookie, name))
        self._cookies[name] = cookie
        self.entries[name] = node
        self._touch()

    def _take(self, name: str) -> Node:
        del self._order[bisect_left(self._order, (self._cookies.pop(name),))]
        self._touch()
        return self.entries.pop(name)


def check_rename(old: Place, new: Place) -> None:
    """Whether a rename may take place, by the rules of rename(2)."""
    moved = old.existing()
    if not old.name or not new.name:
        raise Err("busy")
    if isinstance(moved, Directory):
        if _contains(moved, new.parent):
            raise Err("invalid")
        if new.node is not None and not isinstance(new.node, Directory):
            raise Err("not-directory")
        if isinstance(new.node, Directory) and new.node.entries and new.node is not moved:
            raise Err("not-empty")
    elif isinstance(new.node, Directory):
        raise Err("is-directory")
    elif new.slash:
        raise Err("not-directory")


def _contains(directory: Directory, wanted: Directory) -> bool:
    pending = [directory]
    while pending:
        node = pending.pop()
        if node is wanted:
            return True
        pending += [child for child in node.entries.values() if isinstance(child, Directory)]
    return False
