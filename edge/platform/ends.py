"""Both ends of a connection: whether this very process has the other one, too."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

__all__ = ["both_ours"]

_OPEN = Path("/proc/self/fd")


def both_ours(here: Any, there: Any) -> bool:
    """Whether a socket of this process is the other end of the connection between these two
    addresses, as `getsockname` has them. Looks at every open file.
    """
    return any(_is(int(entry.name), here, there) for entry in _OPEN.iterdir())


def _is(fd: int, here: Any, there: Any) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            return False
        # A copy: closing it leaves the other one as it is.
        with socket.socket(fileno=os.dup(fd)) as found:
            ends = _plain(found.getsockname()), _plain(found.getpeername())
    except OSError:  # closed meanwhile, or not connected
        return False
    return ends == (_plain(there), _plain(here))


def _plain(address: Any) -> Any:
    """Host and port; an IPv4 address within an IPv6 one as itself."""
    if not isinstance(address, tuple):
        return address
    return str(address[0]).removeprefix("::ffff:"), address[1]
