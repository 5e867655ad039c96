"""The UNIX socket of the node API: who may connect is what its permissions say."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge.errors import ConfigError, EdgeError
from edge.platform.files import unreadable

__all__ = ["unix_socket"]

# Owner and group; connecting needs the right to write.
_MODE = 0o660
# Whose members may use a node that is installed as a service.
_GROUP = "edge"
# Connections that wait to be accepted.
_BACKLOG = 64
# What the kernel takes, without its closing zero.
LONGEST = 107


@contextmanager
def unix_socket(path: Path, group: str | None) -> Iterator[socket.socket]:
    """A socket that listens at `path`, and is gone from there afterwards. Raises ConfigError.

    `group`: may connect beside the owner; None: the group "edge", where there is one. What a dead
    node left at `path` is replaced; where another node answers this is an error.
    """
    check_length(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with listener:
        listener.setblocking(False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _refuse_second(path)
            _bind(listener, path, group)
            inode = path.stat().st_ino
        except OSError as exc:
            raise ConfigError(
                f"node.socket: {path}: {unreadable(exc)}",
                hint="name another place with --socket, or with socket in [node]",
            ) from exc
        try:
            yield listener
        finally:
            _remove(path, inode)


def check_length(path: Path) -> None:
    if len(os.fsencode(path)) > LONGEST:
        raise ConfigError(f"{path}: is too long for a UNIX socket", hint=f"at most {LONGEST} bytes")


def _bind(listener: socket.socket, path: Path, group: str | None) -> None:
    """In one step for who connects: it has its permissions, and listens, before it has its name."""
    temporary = path.with_name(f".{os.getpid()}")
    temporary.unlink(missing_ok=True)
    listener.bind(str(temporary))
    try:
        # Nobody else may connect in between: those who may are known a line later.
        temporary.chmod(0o600)
        _give(temporary, group)
        temporary.chmod(_MODE)
        listener.listen(_BACKLOG)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _give(path: Path, group: str | None) -> None:
    try:
        gid = grp.getgrnam(group or _GROUP).gr_gid
        os.chown(path, -1, gid)
    except KeyError:
        if group is not None:
            raise ConfigError(
                f"node.group: there is no group {group}", hint=f"as root: groupadd --system {group}"
            ) from None
    except PermissionError:
        if group is not None:
            raise ConfigError(
                f"node.group: the socket cannot be given to the group {group}",
                hint="who runs the node must be a member of it",
            ) from None


def _refuse_second(path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise ConfigError(f"node.socket: {path}: is there and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return
    raise EdgeError(
        f"{path}: another node answers there",
        hint="stop it, or name another place with --socket and --state-dir",
    )


def _remove(path: Path, inode: int) -> None:
    """Unless a node that was started meanwhile has put its own there."""
    try:
        if path.stat().st_ino == inode:
            path.unlink()
    except OSError:
        return
