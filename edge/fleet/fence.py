"""A filter in the kernel for the sockets of multicast DNS: nothing from beyond the local network.

RFC 6762 §11 wants it of who answers. Without it a board with a public address would tell anybody
what it is, and answer with eight bytes for each one that is sent in somebody else's name.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from dataclasses import dataclass

__all__ = ["fence"]

_SO_ATTACH_FILTER = 26
# linux/filter.h: classic BPF; offsets below this one are into the IP header.
_IP_HEADER = 0xFFF00000  # SKF_NET_OFF
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_AND, _JUMP_EQUAL, _RETURN = 0x54, 0x15, 0x06
_INSTRUCTION = struct.Struct("=HBBI")


@dataclass(frozen=True, slots=True)
class _Rule:
    """Accepts a packet when these bits of its IP header have this value."""

    load: int
    offset: int
    mask: int
    value: int


_SOURCE4, _TARGET4 = 12, 16
_SOURCE6, _TARGET6 = 8, 24
_IPV4 = (
    _Rule(_LOAD_WORD, _TARGET4, 0xF0000000, 0xE0000000),  # multicast: no router forwards 224.0.0/24
    _Rule(_LOAD_WORD, _SOURCE4, 0xFF000000, 0x0A000000),  # 10/8
    _Rule(_LOAD_WORD, _SOURCE4, 0xFFF00000, 0xAC100000),  # 172.16/12
    _Rule(_LOAD_WORD, _SOURCE4, 0xFFFF0000, 0xC0A80000),  # 192.168/16
    _Rule(_LOAD_WORD, _SOURCE4, 0xFFFF0000, 0xA9FE0000),  # 169.254/16
)
_IPV6 = (
    _Rule(_LOAD_BYTE, _TARGET6, 0xFF, 0xFF),  # multicast
    _Rule(_LOAD_HALF, _SOURCE6, 0xFFC0, 0xFE80),  # link-local
    _Rule(_LOAD_BYTE, _SOURCE6, 0xFE, 0xFC),  # unique local
)


def fence(sock: socket.socket) -> None:
    """Raises OSError."""
    code = _program()
    program = ctypes.create_string_buffer(code, len(code))
    count = len(code) // _INSTRUCTION.size
    # struct sock_fprog; the kernel copies what it points to.
    header = struct.pack("@HP", count, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _program() -> bytes:
    four, six = _branch(_IPV4), _branch(_IPV6)
    start = [
        (_LOAD_BYTE, 0, 0, _IP_HEADER),
        (_AND, 0, 0, 0xF0),
        (_JUMP_EQUAL, 0, len(four), 0x40),
    ]
    return b"".join(_INSTRUCTION.pack(*one) for one in (*start, *four, *six))


def _branch(rules: tuple[_Rule, ...]) -> list[tuple[int, int, int, int]]:
    """Ends with "drop" and "accept"; jumps count what they leap over."""
    made = []
    for number, rule in enumerate(rules, 1):
        left = 3 * (len(rules) - number)
        made.append((rule.load, 0, 0, _IP_HEADER + rule.offset))
        made.append((_AND, 0, 0, rule.mask))
        made.append((_JUMP_EQUAL, left + 1, 0, rule.value))
    return [*made, (_RETURN, 0, 0, 0), (_RETURN, 0, 0, 0xFFFFFFFF)]
