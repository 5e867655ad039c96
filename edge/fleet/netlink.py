"""The kernel's network interfaces by rtnetlink(7): what there is, and that it has changed.

Knows no peer and chooses no interface. The kernel answers a dump at once: nothing here waits.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from types import TracebackType
from typing import Self

from edge.fleet.interfaces import Interface

__all__ = ["Watcher", "interfaces"]

_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix, flags, scope, index
_ATTRIBUTE = struct.Struct("=HH")  # length, type

_ERROR, _DONE = 2, 3
_NEW_LINK, _DEL_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _DEL_ADDRESS, _GET_ADDRESS = 20, 21, 22
_REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_GROUPS = 0x1 | 0x10 | 0x100  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR

_IFNAME, _MASTER, _LINKINFO, _PARENT_DEVICE = 3, 10, 18, 56
_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_NESTED = 0x8000

_UP, _LOOPBACK, _POINT_TO_POINT, _RUNNING, _MULTICAST = 0x1, 0x8, 0x10, 0x40, 0x1000
# Temporary addresses change by the day, deprecated ones end soon; tentative, or found to be
# somebody else's: not ours yet.
_UNFIT = 0x01 | 0x08 | 0x20 | 0x40

_RECEIVE = 1 << 18  # of a dump's packets the kernel makes none larger than 32 KiB
_DEADLINE = 5.0  # no kernel takes this long; a sandbox that swallows netlink might
# Interfaces that come and go with containers: beyond, each may have changed.
_MAX_DISTURBED = 256


def interfaces() -> tuple[Interface, ...]:
    """All of this network namespace, in the kernel's order. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_DEADLINE)
        sock.bind((0, 0))
        links = list(_dump(sock, _GET_LINK, _NEW_LINK))
        found: dict[int, list[IPv4Interface | IPv6Interface]] = {}
        for body in _dump(sock, _GET_ADDRESS, _NEW_ADDRESS):
            index, address = _address(body)
            if address is not None:
                found.setdefault(index, []).append(address)
    return tuple(_link(body, found) for body in links)


def _dump(sock: socket.socket, request: int, answer: int) -> Iterator[bytes]:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    sock.send(_HEADER.pack(_HEADER.size + len(body), request, _REQUEST_DUMP, 0, 0) + body)
    while True:
        for kind, found in _messages(sock.recv(_RECEIVE)):
            if kind == _DONE:
                return
            if kind == _ERROR:
                raise OSError(-struct.unpack_from("=i", found)[0], "rtnetlink")
            if kind == answer:
                yield found


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & ~_NESTED] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _text(data: bytes) -> str:
    return data.rstrip(b"\0").decode("utf-8", "replace")


def _link(body: bytes, addresses: dict[int, list[IPv4Interface | IPv6Interface]]) -> Interface:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = _attributes(body[_LINK.size :])
    return Interface(
        index,
        _text(found.get(_IFNAME, b"")),
        kind=_text(_attributes(found.get(_LINKINFO, b"")).get(_INFO_KIND, b"")),
        has_device=_PARENT_DEVICE in found,
        up=bool(flags & _UP and flags & _RUNNING),
        multicast=bool(flags & _MULTICAST),
        loopback=bool(flags & _LOOPBACK),
        point_to_point=bool(flags & _POINT_TO_POINT),
        enslaved=_MASTER in found,
        addresses=tuple(addresses.get(index, ())),
    )


def _address(body: bytes) -> tuple[int, IPv4Interface | IPv6Interface | None]:
    family, prefix, flags, _, index = _ADDRESS.unpack_from(body)
    found = _attributes(body[_ADDRESS.size :])
    if _IFA_FLAGS in found:
        flags = struct.unpack_from("=I", found[_IFA_FLAGS])[0]
    # Of a link between two machines "address" is the other end, "local" ours.
    packed = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS, b"")
    if family == socket.AF_INET and len(packed) == 4:
        return index, IPv4Interface((IPv4Address(packed), prefix))
    if family == socket.AF_INET6 and len(packed) == 16 and not flags & _UNFIT:
        return index, IPv6Interface((IPv6Address(packed), prefix))
    return index, None


class Watcher:
    """Tells of changes to interfaces and addresses, as a context, each time after a `delay`.

    `changed` is called once for all that happened within the delay, with the indexes of the
    interfaces that lost an address or their link meanwhile, or None where any may have.
    """

    def __init__(
        self, changed: Callable[[frozenset[int] | None], None], delay: float = 2.0
    ) -> None:
        self._changed = changed
        self._delay = delay
        self._disturbed: set[int] | None = set()
        self._timer: asyncio.TimerHandle | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        """Raises OSError."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            sock.bind((0, _GROUPS))
            asyncio.get_running_loop().add_reader(sock, self._readable)
        except BaseException:
            sock.close()
            raise
        self._socket = sock
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data, sender = self._socket.recvfrom(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            # ENOBUFS: more happened than the socket could hold.
            self._note(None)
            return
        if sender[0] == 0:  # the kernel; any process may send here
            for kind, body in _messages(data):
                self._happened(kind, body)

    def _happened(self, kind: int, body: bytes) -> None:
        if kind in (_NEW_LINK, _DEL_LINK) and len(body) >= _LINK.size:
            _, _, index, flags, _ = _LINK.unpack_from(body)
            self._note(index, lost=kind == _DEL_LINK or not flags & _RUNNING)
        elif kind in (_NEW_ADDRESS, _DEL_ADDRESS) and len(body) >= _ADDRESS.size:
            index = _ADDRESS.unpack_from(body)[4]
            self._note(index, lost=kind == _DEL_ADDRESS)

    def _note(self, index: int | None, *, lost: bool = True) -> None:
        if index is None or self._disturbed is None or len(self._disturbed) > _MAX_DISTURBED:
            self._disturbed = None
        elif lost:
            self._disturbed.add(index)
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        disturbed, self._disturbed = self._disturbed, set()
        self._changed(None if disturbed is None else frozenset(disturbed))
