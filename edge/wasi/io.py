# cython: annotation_typing=False, binding=False
"""wasi:io/streams@0.2 and wasi:io/error@0.2: streams over sources and sinks.

Knows neither files nor HTTP: whoever has a `Source`, a `Sink` or something to wait for wraps it
here. What can be done at once is a plain call; a coroutine exists only where the guest must wait.
Semantics: WASI 0.2.12, `proposals/io/wit`.
"""

from __future__ import annotations

from edge.engine.host import Err, Interface, Trap
from edge.wasi.pipe import BytesSource, Sink, Source
from edge.wasi.poll import POLL, Later, Pollable, always

__all__ = [
    "ERROR",
    "POLL",
    "READ_MAX",
    "STREAMS",
    "Error",
    "InputStream",
    "Later",
    "OutputStream",
    "Pollable",
    "Ready",
    "SharedSource",
    "always",
]

# Bytes that one read returns at most, whatever the guest asks for. Larger: more memory that a guest
# can make the host hold for one call; smaller: more calls for each MiB.
READ_MAX = 65_536

# Given by the specification of the blocking writes.
BLOCKING_WRITE_MAX = 4096


class Error:
    """Why a stream failed. `cause` is what the interfaces that know it downcast to a code."""

    __slots__ = ("cause",)

    def __init__(self, cause: Exception) -> None:
        self.cause = cause

    def to_debug_string(self) -> str:
        cause = self.cause
        # The whole text of an OSError names files of the host.
        text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
        return text or type(cause).__name__


def _closed() -> Err:
    return Err("closed")


def _failed(error: Exception) -> Err:
    """A reader that left is no failure of the stream: it is closed."""
    if isinstance(error, BrokenPipeError):
        return _closed()
    return Err(("last-operation-failed", Error(error)))


class Ready:
    """Marks a source that never makes its reader wait: nothing of it is read ahead."""

    __slots__ = ()


class _ReadAhead:
    """A source that can be asked whether a read would return something.

    The protocol has no such question, and a pollable must answer it without taking the bytes from
    whoever reads next: they wait here.
    """

    __slots__ = ("_ahead", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._ahead = b""

    @property
    def ended(self) -> bool:
        return self._source.ended

    @property
    def exhausted(self) -> bool:
        return not self._ahead and self._source.exhausted

    @property
    def error(self) -> Exception | None:
        return self._source.error

    def readable(self) -> bool:
        if not self._ahead:
            self._ahead = self._source.read_nowait(READ_MAX)
        return bool(self._ahead) or self._source.ended

    def read_nowait(self, n: int) -> bytes:
        ahead = self._ahead
        if not ahead:
            return self._source.read_nowait(n)
        self._ahead = ahead[n:]
        return ahead[:n]

    async def wait_readable(self) -> None:
        if not self._ahead:
            await self._source.wait_readable()

    def close(self) -> None:
        self._ahead = b""
        self._source.close()


class SharedSource(_ReadAhead):
    """One source that several streams read in turn (stdin): closing a stream leaves it open."""

    __slots__ = ()

    def attach(self, source: Source) -> None:
        """Reads from another source from now on, also for streams that exist."""
        self._source = source
        self._ahead = b""

    def close(self) -> None:
        return


class InputStream:
    """The guest's reading end of a source. Dropping it closes the source."""

    __slots__ = ("_source",)

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, length: int) -> bytes:
        data = self._source.read_nowait(length if length < READ_MAX else READ_MAX)
        return data or self._nothing()

    def blocking_read(self, length: int) -> bytes | Later[bytes]:
        data = self.read(length)
        return data if data or not length else self._read_later(length)

    def skip(self, length: int) -> int:
        return len(self.read(length))

    def blocking_skip(self, length: int) -> int | Later[int]:
        skipped = self.skip(length)
        return skipped if skipped or not length else self._skip_later(length)

    def subscribe(self) -> Pollable:
        return Pollable(self.ready, self.wait)

    def ready(self) -> bool:
        """Whether a read has something to say."""
        source = self._source
        if source.ended:
            return True
        if isinstance(source, Ready):
            return True
        if not isinstance(source, _ReadAhead):
            source = self._source = _ReadAhead(source)
        return source.readable()

    async def wait(self) -> None:
        """Returns when a read has something to say."""
        await self._source.wait_readable()

    def drop(self) -> None:
        source, self._source = self._source, BytesSource()
        source.close()

    def _nothing(self) -> bytes:
        """What a read without bytes means: nothing yet, or why there will be nothing."""
        source = self._source
        if not source.exhausted:
            return b""
        error = source.error
        self.drop()
        raise _closed() if error is None else _failed(error)

    async def _read_later(self, length: int) -> bytes:
        while True:
            await self._source.wait_readable()
            data = self.read(length)
            if data:
                return data

    async def _skip_later(self, length: int) -> int:
        return len(await self._read_later(length))


class _ClosedSink:
    """What a stream writes to after its end was reported."""

    __slots__ = ()

    error = BrokenPipeError("the stream is closed")

    def writable(self) -> int:
        return 0

    def write(self, data: bytes) -> None:
        return

    async def wait_writable(self) -> None:
        return

    def finish(self) -> None:
        return

    def abort(self, error: Exception) -> None:
        return


class OutputStream:
    """The guest's writing end of a sink.

    Dropping it leaves the sink as it is: what finishes a body or a file is another operation. What
    was written is the sink's at once, so a flush has nothing to wait for.
    """

    __slots__ = ("_permit", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._permit = 0

    def check_write(self) -> int:
        sink = self._sink
        if sink.error is not None:
            raise self._failure(sink.error)
        permit = self._permit = sink.writable()
        return permit

    def write(self, contents: bytes) -> None:
        if len(contents) > self._permit:
            raise Trap(f"write: {len(contents)} bytes where check-write permitted {self._permit}")
        self._permit -= len(contents)
        self._write(contents)

    def write_zeroes(self, length: int) -> None:
        if length > self._permit:
            raise Trap(f"write-zeroes: {length} bytes where check-write permitted {self._permit}")
        self.write(bytes(length))

    def blocking_write_and_flush(self, contents: bytes) -> Later[None] | None:
        if len(contents) > BLOCKING_WRITE_MAX:
            raise Trap(f"blocking-write-and-flush: more than {BLOCKING_WRITE_MAX} bytes")
        self._permit = 0
        if self._sink.writable() < len(contents) and self._sink.error is None:
            return self._write_later(contents)
        self._write(contents)
        return None

    def blocking_write_zeroes_and_flush(self, length: int) -> Later[None] | None:
        if length > BLOCKING_WRITE_MAX:
            raise Trap(f"blocking-write-zeroes-and-flush: more than {BLOCKING_WRITE_MAX} bytes")
        return self.blocking_write_and_flush(bytes(length))

    def flush(self) -> None:
        self._permit = 0
        if self._sink.error is not None:
            raise self._failure(self._sink.error)

    def blocking_flush(self) -> Later[None] | None:
        self.flush()
        return None if self._sink.writable() else self._flush_later()

    def splice(self, source: InputStream, length: int) -> int:
        data = source.read(min(self.check_write(), length))
        if data:
            self.write(data)
        return len(data)

    def blocking_splice(self, source: InputStream, length: int) -> int | Later[int]:
        moved = self.splice(source, length)
        return moved if moved or not length else self._splice_later(source, length)

    def subscribe(self) -> Pollable:
        return Pollable(self.ready, self.wait)

    def ready(self) -> bool:
        """Whether `check_write` would return at least 1, or an error."""
        return self._sink.writable() > 0 or self._sink.error is not None

    async def wait(self) -> None:
        """Returns when `ready`, or when the sink takes nothing any more."""
        await self._sink.wait_writable()

    def drop(self) -> None:
        """From here on the stream is closed; also for hosts that take it away from a guest."""
        self._sink = _ClosedSink()
        self._permit = 0

    def _write(self, contents: bytes) -> None:
        sink = self._sink
        if sink.error is None:
            sink.write(contents)
        # Files fail while they are written to.
        if sink.error is not None:
            raise self._failure(sink.error)

    async def _wait_room(self) -> int:
        await self._sink.wait_writable()
        room = self.check_write()
        if not room:
            # A sink that is finished has neither room nor an error.
            self.drop()
            raise _closed()
        return room

    async def _flush_later(self) -> None:
        await self._wait_room()
        self._permit = 0

    async def _write_later(self, contents: bytes) -> None:
        while contents:
            room = await self._wait_room()
            self._write(contents[:room])
            contents = contents[room:]
        self._permit = 0

    async def _splice_later(self, source: InputStream, length: int) -> int:
        while True:
            await self._wait_room()
            moved = self.splice(source, length)
            if moved:
                return moved
            await source.wait()

    def _failure(self, error: Exception) -> Err:
        self.drop()
        return _failed(error)


ERROR = Interface(
    """interface wasi:io/error@0.2 {
      resource error { to-debug-string: func() -> string; }
    }""",
    resources={"error": Error},
)

STREAMS = Interface(
    """interface wasi:io/streams@0.2 {
      use wasi:io/error@0.2.{error};
      use wasi:io/poll@0.2.{pollable};
      variant stream-error { last-operation-failed(error), closed }
      resource input-stream {
        read: func(len: u64) -> result<list<u8>, stream-error>;
        blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
        skip: func(len: u64) -> result<u64, stream-error>;
        blocking-skip: func(len: u64) -> result<u64, stream-error>;
        subscribe: func() -> pollable;
      }
      resource output-stream {
        check-write: func() -> result<u64, stream-error>;
        write: func(contents: list<u8>) -> result<_, stream-error>;
        blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
        flush: func() -> result<_, stream-error>;
        blocking-flush: func() -> result<_, stream-error>;
        subscribe: func() -> pollable;
        write-zeroes: func(len: u64) -> result<_, stream-error>;
        blocking-write-zeroes-and-flush: func(len: u64) -> result<_, stream-error>;
        splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
        blocking-splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
      }
    }""",
    uses=(ERROR, POLL),
    resources={"input-stream": InputStream, "output-stream": OutputStream},
)
