"""The options that TCP and UDP sockets share, and how their values are bounded."""

from __future__ import annotations

import socket
from collections.abc import Callable

from edge.engine.host import Err
from edge.wasi.sockets.network import Family, code_of

__all__ = ["Options"]

# Bytes of kernel memory that one buffer may ask for; the kernel's own bounds come on top.
_BUFFER_MAX = 1024 * 1024


class Options:
    """Reads and sets options of one socket; `check` raises Err when its state does not allow it."""

    __slots__ = ("_check", "_family", "_socket")

    def __init__(self, sock: socket.socket, family: Family, check: Callable[[], None]) -> None:
        self._socket = sock
        self._family = family
        self._check = check

    def get(self, level: int, option: int) -> int:
        self._check()
        try:
            return self._socket.getsockopt(level, option)
        except OSError as error:
            raise Err(code_of(error)) from None

    def set(self, level: int, option: int, value: int, *, top: int) -> None:
        """`value` clamped to `top`; 0 is an invalid argument."""
        self._check()
        if value == 0:
            raise Err("invalid-argument")
        self.put(level, option, min(value, top))

    def put(self, level: int, option: int, value: int) -> None:
        self._check()
        try:
            self._socket.setsockopt(level, option, value)
        except OSError as error:
            raise Err(code_of(error)) from None

    def hop_limit(self) -> int:
        return self.get(*self._hops)

    def set_hop_limit(self, value: int) -> None:
        self.set(*self._hops, value, top=255)

    def receive_buffer(self) -> int:
        return self.get(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # Linux doubles what is set

    def set_receive_buffer(self, value: int) -> None:
        self.set(socket.SOL_SOCKET, socket.SO_RCVBUF, value, top=_BUFFER_MAX)

    def send_buffer(self) -> int:
        return self.get(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2

    def set_send_buffer(self, value: int) -> None:
        self.set(socket.SOL_SOCKET, socket.SO_SNDBUF, value, top=_BUFFER_MAX)

    @property
    def _hops(self) -> tuple[int, int]:
        if self._family == "ipv4":
            return socket.IPPROTO_IP, socket.IP_TTL
        return socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS
