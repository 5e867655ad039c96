"""The two directions of a connected TCP socket, as source and sink. No task, no buffer but one:
what the kernel did not take of the last write."""

from __future__ import annotations

import asyncio
import socket

from edge.wasi.pipe import CAPACITY, Signal
from edge.wasi.sockets.network import Ready

__all__ = ["Reader", "Writer"]


class Reader:
    """What arrives, read from the kernel when the guest asks."""

    __slots__ = ("_ready", "_socket", "ended", "error")

    def __init__(self, sock: socket.socket, ready: Ready) -> None:
        self._socket = sock
        self._ready = ready
        self.ended = False
        self.error: Exception | None = None

    @property
    def exhausted(self) -> bool:
        return self.ended

    def read_nowait(self, n: int) -> bytes:
        if self.ended or n <= 0:
            return b""
        try:
            data = self._socket.recv(min(n, CAPACITY))
        except BlockingIOError:
            return b""
        except OSError as error:
            self.error = error
            data = b""
        self.ended = not data
        return data

    async def wait_readable(self) -> None:
        if not self.ended:
            await self._ready.readable()

    def close(self) -> None:
        self.ended = True


class Writer:
    """What leaves. There is no room while the kernel has not taken all of the last write."""

    __slots__ = ("_loop", "_room", "_shut", "_socket", "error", "pending")

    def __init__(self, sock: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._room = Signal()
        self._shut = False
        self.error: Exception | None = None
        self.pending = b""

    def writable(self) -> int:
        return 0 if self.pending or self.error is not None else CAPACITY

    def write(self, data: bytes) -> None:
        if self.error is not None:
            return
        if not self.pending:
            data = self._send(data)
            if data:
                self._loop.add_writer(self._socket.fileno(), self._flush)
        self.pending += data

    async def wait_writable(self) -> None:
        while self.pending and self.error is None:
            await self._room.wait()

    def finish(self) -> None:
        """Accept nothing more; the other side learns of the end after the last byte."""
        if not self._shut:
            self._shut = True
            self.error = self.error or BrokenPipeError("shut down")
            self._end()

    def abort(self, error: Exception) -> None:
        self.finish()

    def detach(self) -> bytes:
        """What is left to send; from here on somebody else sends it."""
        self.error = self.error or BrokenPipeError("closed")
        self._room.wake()
        return self.pending

    def _flush(self) -> None:
        self.pending = self._send(self.pending)
        if not self.pending:
            self._loop.remove_writer(self._socket.fileno())
            self._room.wake()
            self._end()

    def _send(self, data: bytes) -> bytes:
        try:
            return data[self._socket.send(data) :]
        except BlockingIOError:
            return data
        except OSError as error:
            self.error = error
            return b""

    def _end(self) -> None:
        if self._shut and not self.pending:
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                self.error = error
