"""File descriptors of preview 1: numbers, and what they stand for."""

from __future__ import annotations

from typing import Final, NamedTuple, TypeAlias, final

from edge.engine.host import Err
from edge.wasi.context import Context
from edge.wasi.descriptor import Descriptor
from edge.wasi.filesystem import preopens
from edge.wasi.io import InputStream, OutputStream

__all__ = ["Entry", "FileEntry", "Input", "Output", "Table", "files"]

# Open at once. What real programs need is far below; each costs the host some memory.
FDS_MAX = 1024

# fdflags
APPEND: Final = 1
NONBLOCK: Final = 4


class Input(NamedTuple):
    """Standard input."""

    stream: InputStream


class Output(NamedTuple):
    """Standard output or standard error."""

    stream: OutputStream


@final
class FileEntry:
    """An open file or directory with its offset; `name` is the place of what is preopened."""

    __slots__ = ("descriptor", "flags", "name", "offset")

    def __init__(self, descriptor: Descriptor, flags: int = 0, name: bytes | None = None) -> None:
        self.descriptor = descriptor
        self.flags = flags
        self.name = name
        self.offset = 0


Entry: TypeAlias = Input | Output | FileEntry


@final
class Table:
    """The file descriptors of one invocation: standard streams, what is preopened and opened."""

    __slots__ = ("_entries", "_free")

    def __init__(self, context: Context) -> None:
        self._entries: dict[int, Entry] = {}
        self._free = 0  # no number below it is free
        self.add(Input(InputStream(context.stdin)))
        self.add(Output(OutputStream(context.stdout)))
        self.add(Output(OutputStream(context.stderr)))
        for descriptor, path in preopens(context):
            self.add(FileEntry(descriptor, name=path.encode()))

    def add(self, entry: Entry) -> int:
        """The lowest free number, now taken."""
        if len(self._entries) >= FDS_MAX:
            _drop(entry)
            raise Err("mfile")
        number = self._free
        while number in self._entries:
            number += 1
        self._entries[number] = entry
        self._free = number + 1
        return number

    def get(self, number: int) -> Entry:
        entry = self._entries.get(number)
        if entry is None:
            raise Err("bad-descriptor")
        return entry

    def open(self, number: int) -> FileEntry:
        """A file or directory."""
        entry = self.get(number)
        if not isinstance(entry, FileEntry):
            raise Err("bad-descriptor")
        return entry

    def file(self, number: int) -> FileEntry:
        entry = self.open(number)
        if entry.descriptor.is_directory:
            raise Err("bad-descriptor")
        return entry

    def seekable(self, number: int) -> FileEntry:
        if not isinstance(self.get(number), FileEntry):
            raise Err("invalid-seek")
        return self.file(number)

    def directory(self, number: int) -> Descriptor:
        descriptor = self.open(number).descriptor
        if not descriptor.is_directory:
            raise Err("not-directory")
        return descriptor

    def remove(self, number: int) -> None:
        entry = self.get(number)
        del self._entries[number]
        self._free = min(self._free, number)
        _drop(entry)

    def renumber(self, old: int, new: int) -> None:
        entry = self.get(old)
        self.get(new)
        if old != new:
            self.remove(new)
            self._entries[new] = entry
            del self._entries[old]
            self._free = min(self._free, old)

    def close(self) -> None:
        entries, self._entries = self._entries, {}
        for entry in entries.values():
            _drop(entry)


def _drop(entry: Entry) -> None:
    (entry.descriptor if isinstance(entry, FileEntry) else entry.stream).drop()


def files(context: Context) -> Table:
    """The invocation's table, made when it is first asked for."""
    if context.table is None:
        context.table = Table(context)
    return context.table
