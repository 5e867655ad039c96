# cython: annotation_typing=False, binding=False
"""One client's line: its socket, how fast bytes may flow, when patience ends, how it is closed.

Knows nothing of HTTP; what the bytes mean is the business of the Connection built upon it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from edge.triggers.http.deadlines import NEVER

if TYPE_CHECKING:
    from edge.triggers.http.server import HttpServer

# Bytes held back or buffered for a client that is not yet ready for them. Smaller: more writes and
# wake-ups for each MiB, and bodies of 64 KiB leave in chunks; larger: more memory a slow client.
ROOM: Final = 131_072

# Bytes that may wait for the end of the turn; what is larger is worth a send of its own.
_BATCHED: Final = 16_384

# The first byte of TCP_INFO for a peer that is gone: TCP_CLOSE and TCP_CLOSE_WAIT of Linux.
_CLOSED: Final = (7, 8)

# SO_LINGER on, for 0 s: closing resets the connection, which no client takes for a clean end.
_RESET: Final = struct.pack("ii", 1, 0)


class Line:
    """What an asyncio.BufferedProtocol does, with deadlines: Watched by the server's Deadlines.

    `input_by`: when the client must have sent something; `output_by`: have taken something.
    """

    def __init__(self, server: HttpServer) -> None:
        self._transport: asyncio.Transport
        self._settings = server.settings
        self._loop = server.loop
        self._buffer = server.buffer
        self._deadlines = server.connections
        self._outbox = server.outbox
        self._outgoing = b""  # sent at the end of this turn of the loop
        self._direct = -1  # the socket to write to; -1: by the transport alone
        self._behind = False  # the transport may hold some of what was sent
        self.input_by = self.output_by = NEVER
        self._reading = True
        self._congested = False
        self._at_eof = False
        self._closing = False
        self._unsent = 0  # when the client last took something
        self._ignored = 0  # bytes that came after the last reply

    # From asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=ROOM - 1, low=ROOM // 4)
        self._client = _address(transport.get_extra_info("peername"))
        self._local = _address(transport.get_extra_info("sockname"))
        self._scheme = "https" if transport.get_extra_info("sslcontext") else "http"
        if self._scheme == "http":
            self._direct = transport.get_extra_info("socket").fileno()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def pause_writing(self) -> None:
        self._congested = True
        self._bound_output()

    def resume_writing(self) -> None:
        self._congested = False
        self.output_by = NEVER

    # The flow of bytes

    def room(self) -> int:
        """How many bytes of ROOM are free; 0 until the client has taken most of it."""
        if self._congested:
            return 0
        return ROOM - self._buffered() - len(self._outgoing)

    def _buffered(self) -> int:
        """How many bytes the transport holds."""
        size = self._transport.get_write_buffer_size() if self._behind else 0
        self._behind = size > 0
        return size

    def send(self, data: bytes) -> None:
        if self._outgoing:
            self._outgoing += data
        else:
            self._outgoing = data
            self._outbox.add(self)
        if len(self._outgoing) > _BATCHED:
            self.flush()
        if self._at_eof:
            self._wait(self._settings.half_closed_timeout)

    def flush(self) -> None:
        data, self._outgoing = self._outgoing, b""
        if data and self._direct >= 0 and not self._buffered():
            data = self._write(data)
        # A guest may go on for a while after a write has failed; asyncio would log each of its own.
        if data and not self._transport.is_closing():
            self._behind = True
            self._transport.write(data)

    def _write(self, data: bytes) -> bytes:
        """What the socket does not take at once: what most replies need, without asyncio's way."""
        try:
            sent = os.write(self._direct, data)
        except OSError:  # asyncio meets it, too, and knows what to do
            return data
        return b"" if sent == len(data) else data[sent:]

    def _read_on(self, *, wanted: bool) -> None:
        # After the end of input asyncio has no reader, and resuming would add one.
        if wanted is self._reading or self._at_eof or self._closing:
            return
        self._reading = wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _gone(self) -> bool:
        """The client has closed or reset its side, whatever it sent before."""
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX:
            return False
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _CLOSED

    # The end

    def _linger(self) -> None:
        """Closing while the client sends could reset the connection before it sees the reply."""
        if self._at_eof or self._scheme == "https":
            self._close()
            return
        self._read_on(wanted=True)
        self._closing = True
        self._wait(self._settings.drain_timeout)
        self.flush()
        self._bound_output()
        try:
            self._transport.write_eof()
        except OSError:  # it was reset while nobody read from it
            self.cut()

    def _ignore(self, count: int) -> None:
        self._ignored += count
        if self._ignored > self._settings.drain_bytes:
            self._close()

    def _close(self) -> None:
        """What is buffered still leaves."""
        self._closing = True
        self.input_by = NEVER
        self.flush()
        self._bound_output()
        self._direct = -1
        self._transport.close()

    def cut(self) -> None:
        """End it so that the client sees that something is missing."""
        self._closing = True
        self._direct = -1
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    # Deadlines

    def _look_for_client(self) -> None:
        """Nobody reads from it, so asyncio would not see it leave."""
        if self._gone():
            self.cut()
        else:
            self._wait(self._settings.half_closed_timeout)

    def _wait(self, seconds: float) -> None:
        """For the client to send."""
        self.input_by = monotonic() + seconds
        if self.input_by < self._deadlines.look_at:
            self._deadlines.watch(self.input_by)

    def _bound_output(self) -> None:
        """For the client to take some of what is buffered."""
        self._unsent = self._buffered()
        self.output_by = monotonic() + self._settings.write_timeout
        self._deadlines.watch(self.output_by)

    def expire(self, now: float) -> None:
        if self.output_by <= now:
            if 0 < self._unsent <= self._buffered():
                self.cut()
                return
            self._bound_output()
        if self.input_by <= now:
            self.input_by = NEVER
            if self._closing:
                self._close()
            else:
                self._silent()

    def _silent(self) -> None:
        """The client did not send what it should have."""
        raise NotImplementedError


def _address(name: Any) -> str:
    """ "ip:port"; "unix" for what has no address."""
    if not isinstance(name, tuple):
        return "unix"
    host, port = name[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
