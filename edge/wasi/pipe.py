# cython: annotation_typing=False, binding=False
"""Byte streams between two parties of one event loop: sources, sinks, the bounded pipe between.

Knows nothing of WASI, HTTP or guests. Nothing here owns a task: a reader or writer that must wait
awaits `wait_readable()` or `wait_writable()` in a task of its own, and is woken by the other side.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Protocol

# Bytes. Smaller: more wake-ups for each MiB; larger: more memory for each stalled peer.
CAPACITY = 65_536

# Writes below this size are joined, so that a writer of single bytes cannot make a pipe of 64 KiB
# cost megabytes of small objects; larger: more copying for each small write.
_JOIN = 4096

Trailers = list[tuple[bytes, bytes]]


class Source(Protocol):
    """Where bytes come from. Errors and the end show only after the buffered bytes were read."""

    @property
    def ended(self) -> bool:
        """No more bytes will arrive; some may still be buffered."""

    @property
    def exhausted(self) -> bool:
        """Ended, and every byte was read."""

    @property
    def error(self) -> Exception | None:
        """Why the bytes ended early; None for a clean end. Set only together with `ended`."""

    def read_nowait(self, n: int) -> bytes:
        """At most `n` bytes; `b""`: nothing right now (or, if `exhausted`, ever)."""

    async def wait_readable(self) -> None:
        """Return when there are bytes, the end or an error. Any number may wait at once."""

    def close(self) -> None:
        """The reader lost interest. Idempotent."""


class Sink(Protocol):
    """Where bytes go to."""

    @property
    def error(self) -> Exception | None:
        """Why nothing can be written any more (the reader is gone, the writer aborted)."""

    def writable(self) -> int:
        """How many bytes may be written now; 0: wait."""

    def write(self, data: bytes) -> None:
        """Take `data`. Writers stay within `writable()`; what comes after an error is discarded."""

    async def wait_writable(self) -> None:
        """Return when `writable()` is not 0, or on an error. Any number may wait at once."""

    def finish(self) -> None:
        """The last byte was written. Idempotent."""

    def abort(self, error: Exception) -> None:
        """No more will be written and what was written is incomplete. Nothing after finish."""


class Signal:
    """Wakes those who wait for a change. Wake-ups may be spurious: loop over the condition."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def wake(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            with suppress(ValueError):
                self._waiters.remove(waiter)
            raise


class Pipe:
    """A bounded pipe in memory: one writer uses it as a Sink, one reader as a Source.

    `capacity` (bytes) is where `writable()` becomes 0; `write` itself takes any amount, so that a
    protocol may hand over what the kernel gave it and pause the transport afterwards.
    `on_writable`, if set, is called when a full pipe has room again and when the reader closed it:
    for writers that are callbacks and cannot await.
    """

    __slots__ = (
        "_chunks",
        "_offset",
        "_readable",
        "_writable",
        "capacity",
        "ended",
        "error",
        "on_writable",
        "size",
        "trailers",
    )

    def __init__(
        self, capacity: int = CAPACITY, on_writable: Callable[[], None] | None = None
    ) -> None:
        self.capacity = capacity
        self.on_writable = on_writable
        self.size = 0
        self.ended = False
        self.error: Exception | None = None
        self.trailers: Trailers | None = None  # complete once `ended`
        self._chunks: deque[bytes] = deque()
        self._offset = 0  # bytes of the first chunk that were read
        self._readable = Signal()
        self._writable = Signal()

    @property
    def exhausted(self) -> bool:
        return self.ended and not self.size

    def read_nowait(self, n: int) -> bytes:
        """One chunk as it was written, when it fits: then nothing is copied."""
        size = self.size
        if not size or n <= 0:
            return b""
        chunk = self._chunks[0]
        start = self._offset
        if len(chunk) - start <= n:
            self._chunks.popleft()
            self._offset = 0
            data = chunk[start:] if start else chunk
        else:
            data = chunk[start : start + n]
            self._offset = start + n
        left = self.size = size - len(data)
        if size >= self.capacity > left:
            self._drained()
        return data

    async def wait_readable(self) -> None:
        while not self.size and not self.ended:
            await self._readable.wait()

    def close(self) -> None:
        """The reader is gone: what is buffered is discarded, the writer sees a BrokenPipeError."""
        self._discard()
        if not self.ended:
            self.ended = True
            self.error = BrokenPipeError("the reader is gone")
            self._readable.wake()
            self._drained()

    def writable(self) -> int:
        room = self.capacity - self.size
        return room if room > 0 and not self.ended else 0

    def write(self, data: bytes) -> None:
        if self.ended or not data:
            return
        chunks = self._chunks
        if chunks and len(chunks[-1]) + len(data) <= _JOIN:
            chunks[-1] += data
        else:
            chunks.append(data)
        self.size += len(data)
        self._readable.wake()

    async def wait_writable(self) -> None:
        while self.size >= self.capacity and not self.ended:
            await self._writable.wait()

    def finish(self, trailers: Trailers | None = None) -> None:
        if not self.ended:
            self.trailers = trailers
            self.ended = True
            self._readable.wake()

    def abort(self, error: Exception) -> None:
        if not self.ended:
            self.ended = True
            self.error = error
            self._readable.wake()
            self._drained()

    def _drained(self) -> None:
        self._writable.wake()
        if self.on_writable is not None:
            self.on_writable()

    def _discard(self) -> None:
        self._chunks.clear()
        self._offset = self.size = 0


class BytesSource:
    """A body that is in memory already, as a Source."""

    __slots__ = ("_data", "_offset", "trailers")

    ended = True
    error: Exception | None = None

    def __init__(self, data: bytes = b"", trailers: Trailers | None = None) -> None:
        self._data = data
        self._offset = 0
        self.trailers = trailers

    @property
    def exhausted(self) -> bool:
        return self._offset >= len(self._data)

    def read_nowait(self, n: int) -> bytes:
        if n <= 0:
            return b""
        data, start = self._data, self._offset
        if start == 0 and len(data) <= n:
            self._data = b""
            return data
        self._offset = start + n
        return data[start : start + n]

    async def wait_readable(self) -> None:
        return

    def close(self) -> None:
        self._data = b""
        self._offset = 0


class NullSink:
    """Takes everything, keeps nothing."""

    __slots__ = ()

    error: Exception | None = None

    def writable(self) -> int:
        return CAPACITY

    def write(self, data: bytes) -> None:
        return

    async def wait_writable(self) -> None:
        return

    def finish(self) -> None:
        return

    def abort(self, error: Exception) -> None:
        return


async def chunks(source: Source, size: int = CAPACITY) -> AsyncGenerator[bytes, None]:
    """The bytes of `source` up to its end. Raises the source's error; closes it on leaving."""
    try:
        while True:
            data = source.read_nowait(size)
            if data:
                yield data
            elif source.exhausted:
                break
            else:
                await source.wait_readable()
        if source.error is not None:
            raise source.error
    finally:
        source.close()


async def read_all(source: Source, limit: int) -> bytes:
    """The whole body. Raises ValueError when it has more than `limit` bytes, or its error."""
    parts: list[bytes] = []
    size = 0
    async with aclosing(chunks(source)) as stream:
        async for data in stream:
            size += len(data)
            if size > limit:
                raise ValueError(f"body is larger than {limit} bytes")
            parts.append(data)
    return b"".join(parts)
