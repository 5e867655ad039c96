"""Listening for IPv6 and IPv4 at once, which asyncio's own servers do not."""

from __future__ import annotations

import errno
import os
import socket

from edge.config import Address
from edge.errors import EdgeError

__all__ = ["listener"]

_BACKLOG = 64
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)


def listener(address: Address) -> socket.socket:
    """A socket that listens, not blocking. "::" is every address of this machine, IPv4 as well;
    where there is no IPv6, of IPv4 alone. Raises EdgeError.
    """
    try:
        found = _listener(address)
    except OSError as error:
        # Of the number: socket.create_server adds to the text what it tried.
        known = error.errno in errno.errorcode
        why = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        hint = "it is what [fleet] listen says"
        if error.errno == errno.EADDRINUSE:
            hint = "another program listens there: choose another one, [fleet] listen"
        raise EdgeError(f"{address}: {why.lower()}", hint=hint) from error
    found.setblocking(False)
    return found


def _listener(address: Address) -> socket.socket:
    if address.host == "::":
        try:
            return socket.create_server(
                ("::", address.port),
                family=socket.AF_INET6,
                backlog=_BACKLOG,
                dualstack_ipv6=True,
            )
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
        return socket.create_server(("0.0.0.0", address.port), backlog=_BACKLOG)  # noqa: S104
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    return socket.create_server((address.host, address.port), family=family, backlog=_BACKLOG)
