"""The process's own standard streams as a guest's. Nothing blocks: descriptors are asked first.

They are not made non-blocking: a terminal's flag would be that of every process on it.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import Any

from edge.wasi.pipe import CAPACITY, Signal

__all__ = ["Input", "Output"]

# A pipe that is ready for writing takes so many bytes without waiting (POSIX).
_PIPE_BUF = select.PIPE_BUF


class _Watch:
    """Wakes those who wait until a descriptor is ready."""

    def __init__(self, fd: int, add: Callable[..., Any], remove: Callable[[int], Any]) -> None:
        self._fd, self._add, self._remove = fd, add, remove
        self._signal = Signal()
        self._watched = False

    async def wait(self) -> None:
        if not self._watched:
            self._add(self._fd, self._ready)
            self._watched = True
        await self._signal.wait()

    def _ready(self) -> None:
        self.close()
        self._signal.wake()

    def close(self) -> None:
        if self._watched:
            self._watched = False
            self._remove(self._fd)


class Input:
    """A Source over a descriptor."""

    def __init__(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        self._fd = fd
        self._watch = _Watch(fd, loop.add_reader, loop.remove_reader)
        self.ended = False
        self.error: Exception | None = None

    @property
    def exhausted(self) -> bool:
        return self.ended

    def read_nowait(self, n: int) -> bytes:
        if self.ended or n <= 0 or not self._readable():
            return b""
        try:
            data = os.read(self._fd, min(n, CAPACITY))
        except OSError as exc:
            self.error, data = exc, b""
        if not data:
            self.ended = True
        return data

    async def wait_readable(self) -> None:
        # Files are always ready, and no event loop takes them.
        while not self.ended and not self._readable():
            await self._watch.wait()

    def close(self) -> None:
        self.ended = True
        self._watch.close()

    def _readable(self) -> bool:
        return bool(select.select([self._fd], [], [], 0)[0])


class Output:
    """A Sink over a descriptor."""

    def __init__(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        self._fd = fd
        self._watch = _Watch(fd, loop.add_writer, loop.remove_writer)
        self.error: Exception | None = None

    def writable(self) -> int:
        if self.error is not None:
            return 0
        return _PIPE_BUF if select.select([], [self._fd], [], 0)[1] else 0

    def write(self, data: bytes) -> None:
        left = memoryview(data)
        while left and self.error is None:
            try:
                left = left[os.write(self._fd, left) :]
            except OSError as exc:
                self.error = exc

    async def wait_writable(self) -> None:
        while self.error is None and not self.writable():
            await self._watch.wait()

    def finish(self) -> None:
        """A guest may close its stdout; the process keeps it."""

    def abort(self, error: Exception) -> None:
        self.finish()

    def close(self) -> None:
        self._watch.close()
