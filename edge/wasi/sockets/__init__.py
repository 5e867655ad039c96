"""wasi:sockets@0.2: TCP connections, UDP datagrams and names, as far as the grants reach."""

from __future__ import annotations

from edge.wasi.sockets.lookup import IP_NAME_LOOKUP
from edge.wasi.sockets.network import INSTANCE_NETWORK, NETWORK
from edge.wasi.sockets.tcp import TCP, TCP_CREATE_SOCKET
from edge.wasi.sockets.udp import UDP, UDP_CREATE_SOCKET

__all__ = ["INTERFACES"]

INTERFACES = (
    NETWORK,
    INSTANCE_NETWORK,
    IP_NAME_LOOKUP,
    TCP,
    TCP_CREATE_SOCKET,
    UDP,
    UDP_CREATE_SOCKET,
)
