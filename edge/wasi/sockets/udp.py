"""wasi:sockets/udp and udp-create-socket @0.2: datagrams to and from where the grants reach.

A socket is bound to a free port of the system's choice, no other. Anybody may send to that port:
datagrams of those whom the guest may not reach are dropped unseen. The kernel's socket is never
connected; whom a guest's stream talks to is checked here.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Literal, final

from edge.engine.host import Err, Interface, Trap
from edge.wasi.context import Context
from edge.wasi.io import POLL, Pollable, always
from edge.wasi.outbound import Outbound
from edge.wasi.sockets.network import (
    NETWORK,
    Endpoint,
    Family,
    Network,
    Ready,
    WasiAddress,
    code_of,
    granted,
    host_address,
    open_socket,
    remote_endpoint,
    wasi_address,
)
from edge.wasi.sockets.options import Options

__all__ = ["UDP", "UDP_CREATE_SOCKET", "UdpSocket"]

State = Literal["unbound", "binding", "bound"]

# Datagrams of one call; larger: more memory (64 KiB each) that a guest can make the host hold.
_BATCH = 16

# Unwanted datagrams that one call looks at before it lets the others on the loop go on.
_SKIP = 64

_DATAGRAM_MAX = 65_536
_ANY = {"ipv4": "0.0.0.0", "ipv6": "::"}  # noqa: S104 -- where a socket that only sends is bound


@final
class UdpSocket:
    """A UDP socket: unbound, binding, bound."""

    __slots__ = ("_family", "_options", "_outbound", "_state", "open", "ready", "remote", "socket")

    def __init__(self, outbound: Outbound, family: Family) -> None:
        self.socket = open_socket(outbound, family, socket.SOCK_DGRAM)
        self._outbound = outbound
        self._family: Family = family
        self._state: State = "unbound"
        self._options = Options(self.socket, family, lambda: None)
        self.ready = Ready(self.socket)
        self.open: object | None = None  # what marks the streams that may be used
        self.remote: Endpoint | None = None

    def start_bind(self, _network: Network, address: WasiAddress) -> None:
        if self._state != "unbound":
            raise Err("concurrency-conflict" if self._state == "binding" else "invalid-state")
        if host_address(self._family, address) != (_ANY[self._family], 0):
            raise Err("access-denied")
        self._state = "binding"

    def finish_bind(self) -> None:
        if self._state != "binding":
            raise Err("not-in-progress")
        self._state = "unbound"
        try:
            self.socket.bind((_ANY[self._family], 0))
        except OSError as error:
            raise Err(code_of(error)) from None
        self._state = "bound"

    def stream(
        self, remote: WasiAddress | None
    ) -> tuple[IncomingDatagramStream, OutgoingDatagramStream]:
        if self._state != "bound":
            raise Err("invalid-state")
        self.remote = None if remote is None else self.reachable(remote)
        self.open = object()
        return IncomingDatagramStream(self, self.open), OutgoingDatagramStream(self, self.open)

    def reachable(self, address: WasiAddress) -> Endpoint:
        host, port = remote_endpoint(self._family, address)
        if not self.allows(host, port):
            raise Err("access-denied")
        return host, port

    def allows(self, host: str, port: int) -> bool:
        return self._outbound.allows_socket("udp", host, port)

    def local_address(self) -> WasiAddress:
        if self._state != "bound":
            raise Err("invalid-state")
        return wasi_address(self.socket.getsockname())

    def remote_address(self) -> WasiAddress:
        if self.remote is None:
            raise Err("invalid-state")
        host, port = self.remote
        return wasi_address((host, port, 0, 0))

    def address_family(self) -> Family:
        return self._family

    def unicast_hop_limit(self) -> int:
        return self._options.hop_limit()

    def set_unicast_hop_limit(self, value: int) -> None:
        self._options.set_hop_limit(value)

    def receive_buffer_size(self) -> int:
        return self._options.receive_buffer()

    def set_receive_buffer_size(self, value: int) -> None:
        self._options.set_receive_buffer(value)

    def send_buffer_size(self) -> int:
        return self._options.send_buffer()

    def set_send_buffer_size(self, value: int) -> None:
        self._options.set_send_buffer(value)

    def subscribe(self) -> Pollable:
        return always()  # nothing here takes time

    def drop(self) -> None:
        self.open = None
        self.ready.close()
        self.socket.close()
        self._outbound.release()


@final
class IncomingDatagramStream:
    """What arrives for one association of a socket; nothing once there is a newer one."""

    __slots__ = ("_error", "_mark", "_next", "_socket")

    def __init__(self, sock: UdpSocket, mark: object) -> None:
        self._socket = sock
        self._mark = mark
        self._next: tuple[bytes, WasiAddress] | None = None
        self._error: OSError | None = None

    def receive(self, count: int) -> list[tuple[bytes, WasiAddress]]:
        found: list[tuple[bytes, WasiAddress]] = []
        while len(found) < min(count, _BATCH) and self._fetch() and self._next is not None:
            found.append(self._next)
            self._next = None
        if self._error is not None and not found:
            error, self._error = self._error, None
            raise Err(code_of(error))
        return found

    def subscribe(self) -> Pollable:
        return Pollable(self._ready, self._wait)

    def _ready(self) -> bool:
        return self._socket.open is not self._mark or self._fetch()

    async def _wait(self) -> None:
        while not self._ready():
            await self._socket.ready.readable()

    def _fetch(self) -> bool:
        """One wanted datagram is at hand, or an error."""
        for _ in range(_SKIP):
            if self._next or self._error or self._socket.open is not self._mark:
                break
            try:
                data, sender = self._socket.socket.recvfrom(_DATAGRAM_MAX)
            except BlockingIOError:
                break
            except OSError as error:
                self._error = error
                break
            if self._wanted(sender[:2]):
                self._next = data, wasi_address(sender)
        return self._next is not None or self._error is not None

    def _wanted(self, sender: Endpoint) -> bool:
        remote = self._socket.remote
        if remote is not None:
            return sender == remote
        return self._socket.allows(*sender)


@final
class OutgoingDatagramStream:
    """What leaves from one association of a socket."""

    __slots__ = ("_blocked", "_mark", "_permit", "_socket")

    def __init__(self, sock: UdpSocket, mark: object) -> None:
        self._socket = sock
        self._mark = mark
        self._permit = 0
        self._blocked = False

    def check_send(self) -> int:
        if self._socket.open is not self._mark:
            raise Err("invalid-state")
        self._permit = 0 if self._blocked else _BATCH
        return self._permit

    def send(self, datagrams: Sequence[tuple[bytes, WasiAddress | None]]) -> int:
        if len(datagrams) > self._permit:
            raise Trap(f"send: {len(datagrams)} datagrams where {self._permit} were permitted")
        self._permit -= len(datagrams)
        for sent, (data, address) in enumerate(datagrams):
            try:
                self._send(data, address)
            except BlockingIOError:
                self._blocked = True
                return sent
            except Err:
                if sent:
                    return sent
                raise
        return len(datagrams)

    def subscribe(self) -> Pollable:
        return Pollable(self._ready, self._wait)

    def _ready(self) -> bool:
        return not self._blocked or self._socket.open is not self._mark

    async def _wait(self) -> None:
        if not self._ready():
            await self._socket.ready.writable()
            self._blocked = False

    def _send(self, data: bytes, address: WasiAddress | None) -> None:
        if self._socket.open is not self._mark:
            raise Err("invalid-state")
        target = self._target(address)
        try:
            self._socket.socket.sendto(data, target)
        except BlockingIOError:
            raise
        except OSError as error:
            raise Err(code_of(error)) from None

    def _target(self, address: WasiAddress | None) -> Endpoint:
        remote = self._socket.remote
        if address is None:
            if remote is None:
                raise Err("invalid-argument")
            return remote
        target = self._socket.reachable(address)
        if remote is not None and target != remote:
            raise Err("invalid-argument")
        return target


def _create_udp_socket(context: Context, family: Family) -> UdpSocket:
    return UdpSocket(granted(context), family)


UDP = Interface(
    """interface wasi:sockets/udp@0.2 {
      use wasi:io/poll@0.2.{pollable};
      use wasi:sockets/network@0.2.{network, error-code, ip-socket-address, ip-address-family};
      record incoming-datagram { data: list<u8>, remote-address: ip-socket-address }
      record outgoing-datagram { data: list<u8>, remote-address: option<ip-socket-address> }
      resource udp-socket {
        start-bind: func(network: borrow<network>, local-address: ip-socket-address)
          -> result<_, error-code>;
        finish-bind: func() -> result<_, error-code>;
        %stream: func(remote-address: option<ip-socket-address>)
          -> result<tuple<incoming-datagram-stream, outgoing-datagram-stream>, error-code>;
        local-address: func() -> result<ip-socket-address, error-code>;
        remote-address: func() -> result<ip-socket-address, error-code>;
        address-family: func() -> ip-address-family;
        unicast-hop-limit: func() -> result<u8, error-code>;
        set-unicast-hop-limit: func(value: u8) -> result<_, error-code>;
        receive-buffer-size: func() -> result<u64, error-code>;
        set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
        send-buffer-size: func() -> result<u64, error-code>;
        set-send-buffer-size: func(value: u64) -> result<_, error-code>;
        subscribe: func() -> pollable;
      }
      resource incoming-datagram-stream {
        receive: func(max-results: u64) -> result<list<incoming-datagram>, error-code>;
        subscribe: func() -> pollable;
      }
      resource outgoing-datagram-stream {
        check-send: func() -> result<u64, error-code>;
        send: func(datagrams: list<outgoing-datagram>) -> result<u64, error-code>;
        subscribe: func() -> pollable;
      }
    }""",
    uses=(POLL, NETWORK),
    resources={
        "udp-socket": UdpSocket,
        "incoming-datagram-stream": IncomingDatagramStream,
        "outgoing-datagram-stream": OutgoingDatagramStream,
    },
)

UDP_CREATE_SOCKET = Interface(
    """interface wasi:sockets/udp-create-socket@0.2 {
      use wasi:sockets/network@0.2.{network, error-code, ip-address-family};
      use wasi:sockets/udp@0.2.{udp-socket};
      create-udp-socket: func(address-family: ip-address-family) -> result<udp-socket, error-code>;
    }""",
    uses=(NETWORK, UDP),
    functions={"create-udp-socket": _create_udp_socket},
)
