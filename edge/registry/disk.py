"""What the content store needs of files: locks, room, durable names, a full disk in words.

All of it blocks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.application.units import show_about
from edge.errors import EdgeError

__all__ = [
    "NO_QUOTA",
    "NO_ROOM",
    "NoRoom",
    "allocate",
    "exclusive",
    "explained",
    "leased",
    "sync_directory",
]

NO_ROOM = "remove applications, or give the state directory more room"
NO_QUOTA = "remove applications, or raise quota in [limits] of edge.toml"

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NoRoom(EdgeError):
    """The disk is full, or the quota is: a collection may help."""


@contextmanager
def leased(directory: Path) -> Iterator[None]:
    """While it is held nothing in the directory is collected. Many may hold it."""
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    lock = _lock(directory / "lock", fcntl.LOCK_SH)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """A lock for one; whether it was got, which it always is with `wait`."""
    path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    try:
        lock = _lock(path, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
        return
    try:
        yield True
    finally:
        os.close(lock)


def _lock(path: Path, kind: int) -> int:
    """A lock that ends with its file descriptor, and so with its process. Whoever may read its file
    could hold it for ever: nobody but its owner may. A link is not followed: root locks what
    belongs to others, too.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def allocate(file: int, size: int) -> None:
    """Takes the room now: a download that cannot fit does not begin."""
    if not size:
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(file, size)  # a file system without such a promise


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(directory: Path, size: int | None = None) -> Iterator[None]:
    """A disk that is full, or a file that may not be so large, in words."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free = shutil.disk_usage(directory).free
        wanted = "no room" if size is None else f"no room for {show_about(size)}"
        raise NoRoom(
            f"{directory}: {wanted}: {error.strerror}, {show_about(free)} are free",
            hint=NO_ROOM,
        ) from error
