"""Sockets that the service manager opened for us: sd_listen_fds(3), without a library.

It holds them while nobody serves: a port below 1024 needs no privilege of ours, and who connects
during a restart waits instead of being refused.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

__all__ = ["inherited_sockets"]

_FIRST = 3  # SD_LISTEN_FDS_START


def inherited_sockets(
    environ: MutableMapping[str, str] | None = None,
) -> dict[str, list[socket.socket]]:
    """Name (FileDescriptorName= of the socket unit) → sockets that listen. The caller owns them.

    Nothing is inherited twice: neither by a second call nor by a child process.
    """
    environ = os.environ if environ is None else environ
    pid, count, names = (
        environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    named = names.split(":")
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        listener = _socket(_FIRST + index)
        if listener is not None:
            name = named[index] if index < len(named) else "unknown"
            found.setdefault(name, []).append(listener)
    return found


def _socket(fd: int) -> socket.socket | None:
    """None for what does not listen for streams: somebody else's unit file may hand over more."""
    try:
        os.set_inheritable(fd, False)
        listener = socket.socket(fileno=fd)
    except OSError:
        return None
    if not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.detach()
        return None
    listener.setblocking(False)
    return listener
