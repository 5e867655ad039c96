"""The read-only files of a component: a tree of nodes, built once and shared by its invocations.

The host's side of it: what a person wrote is resolved here, before any guest runs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from edge.errors import BundleError
from edge.wasi.nodes import Directory, HostFile, MemoryFile, Node

__all__ = ["Tree"]

# Files and directories of one component: each is a Python object for as long as it is deployed.
ENTRIES_MAX = 100_000

# Directories below each other; links to directories above them end here too.
DEPTH_MAX = 64


class Tree:
    """The files of a component; `root` is what its guests see as `/`."""

    __slots__ = ("root",)

    def __init__(self, root: Directory) -> None:
        self.root = root

    @classmethod
    def build(
        cls, entries: Iterable[tuple[str, Path | bytes]], *, root: Path | None = None
    ) -> Tree:
        """A tree of (place in the guest, content); a later entry replaces an earlier file.

        Content is bytes, a file, or a directory with all that is below it. A link is followed if
        what it leads to is below `root` (by default the directory itself, or the one that has the
        file). Raises BundleError for one that is not, and for what is no file.
        """
        builder = _Builder()
        for destination, content in entries:
            parts = _parts(destination)
            if isinstance(content, bytes):
                builder.place(parts, MemoryFile(builder.number(), content))
            else:
                builder.add(parts, content, root)
        return cls(builder.root)


class _Builder:
    def __init__(self) -> None:
        self._count = 0
        self.root = Directory(self.number())

    def number(self) -> int:
        """The next inode."""
        self._count += 1
        if self._count > ENTRIES_MAX:
            raise BundleError(f"files: more than {ENTRIES_MAX} files and directories")
        return self._count

    def place(self, parts: list[str], node: Node) -> None:
        if not parts:
            raise BundleError("files: a file cannot take the place of /")
        directory = self._directory(parts[:-1])
        if isinstance(directory.entries.get(parts[-1]), Directory):
            raise BundleError(f"files: /{'/'.join(parts)}: is a file and a directory")
        directory.entries[parts[-1]] = node

    def add(self, parts: list[str], path: Path, root: Path | None) -> None:
        """A file or directory of the host, links resolved."""
        if root is None:
            root = path if path.is_dir() else path.parent
        self._host(parts, os.fspath(path), os.path.realpath(root), DEPTH_MAX)

    def _host(self, parts: list[str], path: str, root: str, depth: int) -> None:
        real = os.path.realpath(path)
        if os.path.commonpath((real, root)) != root:
            raise BundleError(f"files: {path}: the link leads out of {root}")
        mode = _mode(real, path)
        if stat.S_ISREG(mode):
            self.place(parts, HostFile(self.number(), real))
        elif not stat.S_ISDIR(mode):
            raise BundleError(f"files: {path}: neither a file nor a directory")
        elif not depth:
            raise BundleError(f"files: {path}: more than {DEPTH_MAX} directories deep")
        else:
            self._directory(parts)
            for name in _names(real, path):
                self._host([*parts, name], f"{real}/{name}", root, depth - 1)

    def _directory(self, parts: list[str]) -> Directory:
        """The directory at `parts`, made with those above it where there is none."""
        directory = self.root
        for depth, part in enumerate(parts, 1):
            node = directory.entries.get(part)
            if node is None:
                node = directory.entries[part] = Directory(self.number())
            if not isinstance(node, Directory):
                raise BundleError(f"files: /{'/'.join(parts[:depth])}: is a file and a directory")
            directory = node
        return directory


def _mode(real: str, path: str) -> int:
    try:
        return os.lstat(real).st_mode
    except OSError as error:
        raise BundleError(f"files: {path}: {error.strerror}") from error


def _parts(destination: str) -> list[str]:
    parts = [part for part in destination.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in destination:
        raise BundleError(f"files: {destination!r}: not a place in the guest")
    return parts


def _names(real: str, path: str) -> list[str]:
    try:
        names = sorted(child.name for child in Path(real).iterdir())
        "".join(names).encode()
    except OSError as error:
        raise BundleError(f"files: {path}: {error.strerror}") from error
    except UnicodeEncodeError:
        raise BundleError(f"files: {path}: a name in it is not UTF-8") from None
    return names
