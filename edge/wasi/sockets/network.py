"""wasi:sockets/network and instance-network @0.2: addresses, error codes, readiness of a socket.

Every socket is checked against the grants of its invocation; without any, all of wasi:sockets
answers `access-denied`. A guest connects and sends; it does not listen.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from typing import Any, Literal, final

from edge.engine.host import Err, Interface
from edge.wasi.context import Context
from edge.wasi.io import ERROR, Error
from edge.wasi.outbound import Outbound
from edge.wasi.pipe import Signal

__all__ = [
    "FAMILIES",
    "INSTANCE_NETWORK",
    "NETWORK",
    "Endpoint",
    "Family",
    "Network",
    "Ready",
    "code_of",
    "granted",
    "host_address",
    "open_socket",
    "remote_endpoint",
    "wasi_address",
    "wasi_ip",
]

Family = Literal["ipv4", "ipv6"]
WasiAddress = tuple[Family, tuple[Any, ...]]  # ip-socket-address
Endpoint = tuple[str, int]

FAMILIES: dict[Family, socket.AddressFamily] = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}

_CODES = {
    errno.EACCES: "access-denied",
    errno.EPERM: "access-denied",
    errno.EOPNOTSUPP: "not-supported",
    errno.EAFNOSUPPORT: "not-supported",
    errno.EINVAL: "invalid-argument",
    errno.ENOMEM: "out-of-memory",
    errno.ENOBUFS: "out-of-memory",
    errno.ETIMEDOUT: "timeout",
    errno.EALREADY: "concurrency-conflict",
    errno.EAGAIN: "would-block",
    errno.EMFILE: "new-socket-limit",
    errno.ENFILE: "new-socket-limit",
    errno.EADDRNOTAVAIL: "address-not-bindable",
    errno.EADDRINUSE: "address-in-use",
    errno.EHOSTUNREACH: "remote-unreachable",
    errno.EHOSTDOWN: "remote-unreachable",
    errno.ENETUNREACH: "remote-unreachable",
    errno.ENETDOWN: "remote-unreachable",
    errno.ECONNREFUSED: "connection-refused",
    errno.ECONNRESET: "connection-reset",
    errno.EPIPE: "connection-reset",
    errno.ECONNABORTED: "connection-aborted",
    errno.EMSGSIZE: "datagram-too-large",
    socket.EAI_NONAME: "name-unresolvable",
    socket.EAI_AGAIN: "temporary-resolver-failure",
    socket.EAI_FAIL: "permanent-resolver-failure",
}


@final
class Network:
    """The network as such; what of it a guest may reach is asked at each use."""

    __slots__ = ()


class Ready:
    """Waits until a socket can be read from or written to. `close` wakes who waits."""

    __slots__ = ("_fd", "_loop", "_readers", "_reading", "_writers", "_writing")

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd = sock.fileno()
        self._readers, self._reading = Signal(), 0
        self._writers, self._writing = Signal(), 0

    async def readable(self) -> None:
        if self._fd < 0:
            return
        self._loop.add_reader(self._fd, self._on_readable)
        self._reading += 1
        try:
            await self._readers.wait()
        finally:
            self._reading -= 1
            if not self._reading and self._fd >= 0:
                self._loop.remove_reader(self._fd)

    async def writable(self) -> None:
        if self._fd < 0:
            return
        self._loop.add_writer(self._fd, self._on_writable)
        self._writing += 1
        try:
            await self._writers.wait()
        finally:
            self._writing -= 1
            if not self._writing and self._fd >= 0:
                self._loop.remove_writer(self._fd)

    def close(self) -> None:
        """Before the socket is closed: its number may be another socket's next."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1
            self._readers.wake()
            self._writers.wake()

    def _on_readable(self) -> None:
        # A selector tells it again and again until somebody reads; one wake-up is enough.
        self._loop.remove_reader(self._fd)
        self._readers.wake()

    def _on_writable(self) -> None:
        self._loop.remove_writer(self._fd)
        self._writers.wake()


def granted(context: Context) -> Outbound:
    """The way out of this invocation. Raises Err(access-denied) when it has none."""
    outbound = context.outbound
    if outbound is None or not outbound.grants.hosts:
        raise Err("access-denied")
    assert isinstance(outbound, Outbound)
    return outbound


def open_socket(outbound: Outbound, family: Family, kind: socket.SocketKind) -> socket.socket:
    """A new socket, counted as a connection of the invocation: whoever closes it releases one."""
    if not outbound.acquire():
        raise Err("new-socket-limit")
    try:
        sock = socket.socket(FAMILIES[family], kind)
    except OSError as error:
        outbound.release()
        raise Err(code_of(error)) from None
    sock.setblocking(False)
    if family == "ipv6":
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    return sock


def remote_endpoint(family: Family, address: WasiAddress) -> Endpoint:
    """Where to connect or send to. Raises Err(invalid-argument) for what is no such place."""
    host, port = host_address(family, address)
    parsed = ipaddress.ip_address(host)
    mapped = isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None
    if mapped or parsed.is_unspecified or port == 0:
        raise Err("invalid-argument")
    return host, port


def host_address(family: Family, address: WasiAddress) -> Endpoint:
    """An address as the host's functions take it. Raises Err(invalid-argument), wrong family."""
    kind, parts = address
    if kind != family:
        raise Err("invalid-argument")
    if kind == "ipv4":
        port, octets = parts
        return ".".join(map(str, octets)), port
    # Flow and scope are left out: a scope would choose an interface of this machine.
    port, _flow, words, _scope = parts
    number = sum(word << 16 * (7 - index) for index, word in enumerate(words))
    return str(ipaddress.IPv6Address(number)), port


def wasi_address(name: tuple[Any, ...]) -> WasiAddress:
    """An address as the host's functions give it: (host, port) or (host, port, flow, scope)."""
    kind, ip = wasi_ip(name[0])
    if kind == "ipv4":
        return kind, (name[1], ip)
    return kind, (name[1], name[2], ip, name[3])


def wasi_ip(text: str) -> tuple[Family, tuple[int, ...]]:
    """An `ip-address`. There are no IPv4-mapped ones in WASI."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    packed = address.packed
    if isinstance(address, ipaddress.IPv4Address):
        return "ipv4", tuple(packed)
    return "ipv6", tuple(packed[i] << 8 | packed[i + 1] for i in range(0, 16, 2))


def code_of(error: OSError) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "timeout"
    return _CODES.get(error.errno or 0, "unknown")


def _network_error_code(_context: Context, error: Error) -> str | None:
    return code_of(error.cause) if isinstance(error.cause, OSError) else None


def _instance_network(_context: Context) -> Network:
    return Network()


NETWORK = Interface(
    """interface wasi:sockets/network@0.2 {
      use wasi:io/error@0.2.{error};
      resource network;
      enum error-code {
        unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout,
        concurrency-conflict, not-in-progress, would-block, invalid-state, new-socket-limit,
        address-not-bindable, address-in-use, remote-unreachable, connection-refused,
        connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
        temporary-resolver-failure, permanent-resolver-failure
      }
      enum ip-address-family { ipv4, ipv6 }
      type ipv4-address = tuple<u8, u8, u8, u8>;
      type ipv6-address = tuple<u16, u16, u16, u16, u16, u16, u16, u16>;
      variant ip-address { ipv4(ipv4-address), ipv6(ipv6-address) }
      record ipv4-socket-address { port: u16, address: ipv4-address }
      record ipv6-socket-address {
        port: u16, flow-info: u32, address: ipv6-address, scope-id: u32
      }
      variant ip-socket-address { ipv4(ipv4-socket-address), ipv6(ipv6-socket-address) }
      network-error-code: func(err: borrow<error>) -> option<error-code>;
    }""",
    uses=(ERROR,),
    functions={"network-error-code": _network_error_code},
    resources={"network": Network},
)

INSTANCE_NETWORK = Interface(
    """interface wasi:sockets/instance-network@0.2 {
      use wasi:sockets/network@0.2.{network};
      instance-network: func() -> network;
    }""",
    uses=(NETWORK,),
    functions={"instance-network": _instance_network},
)
