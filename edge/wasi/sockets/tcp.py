"""wasi:sockets/tcp and tcp-create-socket @0.2: connections that a guest opens.

Binding is denied and so nothing ever listens. The streams of a connection close with its socket;
a component must have dropped them before, as wasmtime demands too.
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from typing import Literal, NoReturn, final

from edge.engine.host import Err, Interface
from edge.wasi.context import Context
from edge.wasi.io import POLL, STREAMS, InputStream, OutputStream, Pollable
from edge.wasi.outbound import Outbound
from edge.wasi.sockets.network import (
    NETWORK,
    Family,
    Network,
    Ready,
    WasiAddress,
    code_of,
    granted,
    open_socket,
    remote_endpoint,
    wasi_address,
)
from edge.wasi.sockets.options import Options
from edge.wasi.sockets.stream import Reader, Writer

__all__ = ["TCP", "TCP_CREATE_SOCKET", "TcpSocket"]

State = Literal["unbound", "connecting", "connected", "closed"]

# Seconds that the last bytes of a dropped socket may take to leave.
_LINGER = 5.0

_SECOND = 1_000_000_000
# The largest values that Linux takes: TCP_KEEPIDLE and TCP_KEEPINTVL in seconds, TCP_KEEPCNT.
_KEEP_SECONDS, _KEEP_COUNT = 32_767, 127


@final
class TcpSocket:
    """A TCP socket: unbound, then connecting, then connected; closed after a failure."""

    __slots__ = ("_family", "_options", "_outbound", "_ready", "_socket", "_state", "_streams")

    def __init__(self, outbound: Outbound, family: Family) -> None:
        self._socket = open_socket(outbound, family, socket.SOCK_STREAM)
        self._outbound = outbound
        self._family: Family = family
        self._state: State = "unbound"
        self._ready = Ready(self._socket)
        self._options = Options(self._socket, family, self._check_open)
        self._streams: tuple[Reader, Writer] | None = None

    def start_bind(self, _network: Network, _address: WasiAddress) -> NoReturn:
        raise Err("access-denied" if self._state == "unbound" else "invalid-state")

    def finish_bind(self) -> NoReturn:
        raise Err("not-in-progress")

    def start_connect(self, _network: Network, address: WasiAddress) -> None:
        if self._state != "unbound":
            raise Err("concurrency-conflict" if self._state == "connecting" else "invalid-state")
        host, port = remote_endpoint(self._family, address)
        if not self._outbound.allows_socket("tcp", host, port):
            raise Err("access-denied")
        code = self._socket.connect_ex((host, port))
        if code not in (0, errno.EINPROGRESS):
            self._fail(OSError(code, ""))
        self._state = "connecting"

    def finish_connect(self) -> tuple[InputStream, OutputStream]:
        if self._state != "connecting":
            raise Err("not-in-progress")
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(OSError(code, ""))
        if not self._is_connected():
            raise Err("would-block")
        self._state = "connected"
        reader, writer = self._streams = Reader(self._socket, self._ready), Writer(self._socket)
        return InputStream(reader), OutputStream(writer)

    def start_listen(self) -> NoReturn:
        raise Err("invalid-state")

    def finish_listen(self) -> NoReturn:
        raise Err("not-in-progress")

    def accept(self) -> NoReturn:
        raise Err("invalid-state")

    def local_address(self) -> WasiAddress:
        if self._state not in ("connecting", "connected"):
            raise Err("invalid-state")
        return wasi_address(self._socket.getsockname())

    def remote_address(self) -> WasiAddress:
        if self._state != "connected":
            raise Err("invalid-state")
        try:
            return wasi_address(self._socket.getpeername())
        except OSError:
            raise Err("invalid-state") from None

    def is_listening(self) -> bool:
        return False

    def address_family(self) -> Family:
        return self._family

    def set_listen_backlog_size(self, value: int) -> None:
        if value == 0:
            raise Err("invalid-argument")
        if self._state != "unbound":
            raise Err("invalid-state")

    def keep_alive_enabled(self) -> bool:
        return bool(self._options.get(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    def set_keep_alive_enabled(self, value: bool) -> None:  # noqa: FBT001 -- WASI's signature
        self._options.put(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(value))

    def keep_alive_idle_time(self) -> int:
        return self._options.get(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) * _SECOND

    def set_keep_alive_idle_time(self, value: int) -> None:
        self._set_seconds(socket.TCP_KEEPIDLE, value)

    def keep_alive_interval(self) -> int:
        return self._options.get(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) * _SECOND

    def set_keep_alive_interval(self, value: int) -> None:
        self._set_seconds(socket.TCP_KEEPINTVL, value)

    def keep_alive_count(self) -> int:
        return self._options.get(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)

    def set_keep_alive_count(self, value: int) -> None:
        self._options.set(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, value, top=_KEEP_COUNT)

    def hop_limit(self) -> int:
        return self._options.hop_limit()

    def set_hop_limit(self, value: int) -> None:
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
        return Pollable(self._is_settled, self._wait)

    def shutdown(self, direction: str) -> None:
        if self._streams is None:
            raise Err("invalid-state")
        reader, writer = self._streams
        if direction != "send":
            reader.close()
        if direction != "receive":
            writer.finish()

    def drop(self) -> None:
        self._state = "closed"
        self._ready.close()
        left = b""
        if self._streams is not None:
            reader, writer = self._streams
            reader.close()
            left = writer.detach()
        if left:
            work = _linger(self._socket, left, self._outbound)
            self._outbound.start(work, name="tcp linger", may_finish=lambda: True)
        else:
            self._socket.close()
            self._outbound.release()

    def _is_connected(self) -> bool:
        try:
            self._socket.getpeername()
        except OSError:
            return False
        return True

    def _is_settled(self) -> bool:
        """Nothing is in progress, or it has come to its end."""
        if self._state != "connecting" or self._is_connected():
            return True
        # Reading SO_ERROR would clear it, and finish-connect needs it.
        return _writable_now(self._socket)

    async def _wait(self) -> None:
        if not self._is_settled():
            await self._ready.writable()

    def _check_open(self) -> None:
        if self._state == "closed":
            raise Err("invalid-state")

    def _fail(self, error: OSError) -> NoReturn:
        self._state = "closed"
        raise Err(code_of(error))

    def _set_seconds(self, option: int, nanoseconds: int) -> None:
        # Rounded up: less than a second is not none.
        self._options.set(socket.IPPROTO_TCP, option, -(-nanoseconds // _SECOND), top=_KEEP_SECONDS)


async def _linger(sock: socket.socket, left: bytes, outbound: Outbound) -> None:
    try:
        async with asyncio.timeout(_LINGER):
            await asyncio.get_running_loop().sock_sendall(sock, left)
    except OSError:
        pass  # the other side is gone, and so is the guest
    finally:
        sock.close()
        outbound.release()


def _writable_now(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))


def _create_tcp_socket(context: Context, family: Family) -> TcpSocket:
    return TcpSocket(granted(context), family)


TCP = Interface(
    """interface wasi:sockets/tcp@0.2 {
      use wasi:io/streams@0.2.{input-stream, output-stream};
      use wasi:io/poll@0.2.{pollable};
      use wasi:sockets/network@0.2.{network, error-code, ip-socket-address, ip-address-family};
      type duration = u64;
      enum shutdown-type { receive, send, both }
      resource tcp-socket {
        start-bind: func(network: borrow<network>, local-address: ip-socket-address)
          -> result<_, error-code>;
        finish-bind: func() -> result<_, error-code>;
        start-connect: func(network: borrow<network>, remote-address: ip-socket-address)
          -> result<_, error-code>;
        finish-connect: func() -> result<tuple<input-stream, output-stream>, error-code>;
        start-listen: func() -> result<_, error-code>;
        finish-listen: func() -> result<_, error-code>;
        accept: func() -> result<tuple<tcp-socket, input-stream, output-stream>, error-code>;
        local-address: func() -> result<ip-socket-address, error-code>;
        remote-address: func() -> result<ip-socket-address, error-code>;
        is-listening: func() -> bool;
        address-family: func() -> ip-address-family;
        set-listen-backlog-size: func(value: u64) -> result<_, error-code>;
        keep-alive-enabled: func() -> result<bool, error-code>;
        set-keep-alive-enabled: func(value: bool) -> result<_, error-code>;
        keep-alive-idle-time: func() -> result<duration, error-code>;
        set-keep-alive-idle-time: func(value: duration) -> result<_, error-code>;
        keep-alive-interval: func() -> result<duration, error-code>;
        set-keep-alive-interval: func(value: duration) -> result<_, error-code>;
        keep-alive-count: func() -> result<u32, error-code>;
        set-keep-alive-count: func(value: u32) -> result<_, error-code>;
        hop-limit: func() -> result<u8, error-code>;
        set-hop-limit: func(value: u8) -> result<_, error-code>;
        receive-buffer-size: func() -> result<u64, error-code>;
        set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
        send-buffer-size: func() -> result<u64, error-code>;
        set-send-buffer-size: func(value: u64) -> result<_, error-code>;
        subscribe: func() -> pollable;
        shutdown: func(shutdown-type: shutdown-type) -> result<_, error-code>;
      }
    }""",
    uses=(STREAMS, POLL, NETWORK),
    resources={"tcp-socket": TcpSocket},
)

TCP_CREATE_SOCKET = Interface(
    """interface wasi:sockets/tcp-create-socket@0.2 {
      use wasi:sockets/network@0.2.{network, error-code, ip-address-family};
      use wasi:sockets/tcp@0.2.{tcp-socket};
      create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
    }""",
    uses=(NETWORK, TCP),
    functions={"create-tcp-socket": _create_tcp_socket},
)
