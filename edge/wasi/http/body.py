# cython: annotation_typing=False, binding=False
"""Bodies of HTTP messages as guests hold them: incoming-body, future-trailers, outgoing-body."""

from __future__ import annotations

from typing import Protocol

from edge.engine.host import Err, Ok, Trap
from edge.wasi.http.errors import HttpError, body_size, code_of, failure, internal
from edge.wasi.http.fields import Fields, visible
from edge.wasi.http.message import Body, Headers
from edge.wasi.io import InputStream, OutputStream, Pollable
from edge.wasi.pipe import CAPACITY, Pipe, Sink

__all__ = ["EARLY_CAPACITY", "BodySink", "FutureTrailers", "IncomingBody", "OutgoingBody"]

# Bytes a guest may write to a body that is not on its way yet: before `response-outparam.set` or
# `outgoing-handler.handle`. A guest that blocks on more waits for itself until its deadline, here
# as in wasmtime, whose allowance this is; more of it is more memory for each such guest.
EARLY_CAPACITY = 1024 * 1024


class BodySink(Sink, Protocol):
    """A sink that ends with trailers: a Reply, a Pipe."""

    def finish(self, trailers: Headers | None = None) -> None: ...


class IncomingBody:
    """The body of a message being received. Dropping it tells the sender so."""

    __slots__ = ("_body", "_stream")

    def __init__(self, body: Body) -> None:
        self._body: Body | None = body
        self._stream: InputStream | None = None

    def stream(self) -> InputStream | Err:
        if self._stream is not None or self._body is None:
            return Err()
        self._stream = InputStream(_Contents(self._body))
        return self._stream

    @staticmethod
    def finish(_context: object, this: IncomingBody) -> FutureTrailers:
        """More lenient than the specification: a stream still alive is closed, no trap."""
        body, this._body = this._body, None
        if body is None:
            raise Trap("incoming-body.finish: finished already")
        if this._stream is not None:
            this._stream.drop()
        return FutureTrailers(body)

    def drop(self) -> None:
        if self._body is not None:
            self._body.close()


class _Contents:
    """The bytes of a body. To stop reading them is not to lose interest in its trailers."""

    __slots__ = ("_body", "read_nowait", "wait_readable")

    def __init__(self, body: Body) -> None:
        self._body = body
        self.read_nowait = body.read_nowait
        self.wait_readable = body.wait_readable

    @property
    def ended(self) -> bool:
        return self._body.ended

    @property
    def exhausted(self) -> bool:
        return self._body.exhausted

    @property
    def error(self) -> Exception | None:
        return self._body.error

    def close(self) -> None:
        return


class FutureTrailers:
    """The end of a body: what is left of it is read and forgotten on the way there."""

    __slots__ = ("_body", "_taken")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._taken = False

    def subscribe(self) -> Pollable:
        return Pollable(self.ready, self.wait)

    def get(self) -> Ok | Err | None:
        if not self.ready():
            return None
        if self._taken:
            return Err()
        self._taken = True
        if self._body.error is not None:
            return Ok(Err(code_of(self._body.error)))
        trailers = self._body.trailers
        return Ok(Ok(Fields(visible(trailers)) if trailers else None))

    def ready(self) -> bool:
        body = self._body
        while body.read_nowait(CAPACITY):
            pass
        return body.exhausted

    async def wait(self) -> None:
        while not self.ready():
            await self._body.wait_readable()

    def drop(self) -> None:
        self._body.close()


class OutgoingBody:
    """The body of a message being sent.

    Until `connect` says where it goes its bytes wait in a pipe. With a declared `length` exactly as
    many bytes must come: one too many, or too few at the end, abort the message.
    """

    __slots__ = ("_done", "_gate", "_kind", "_length", "_sink", "_stream")

    def __init__(self, kind: str, length: int | None) -> None:
        self._kind = kind
        self._length = length
        self._sink: BodySink | None = None
        self._gate: _Gate | None = None
        self._stream: OutputStream | None = None
        self._done = False

    def write(self) -> OutputStream | Err:
        if self._stream is not None:
            return Err()
        self._stream = OutputStream(self._target())
        return self._stream

    @staticmethod
    def finish(_context: object, this: OutgoingBody, trailers: Fields | None) -> None:
        """More lenient than the specification: a stream still alive is closed, no trap."""
        if this._done:
            raise Trap("outgoing-body.finish: finished already")
        error = this._end()
        if error is not None:
            raise Err(error.code)
        this._target().finish(trailers.list if trailers is not None else None)

    def drop(self) -> None:
        if not self._done:
            self._end()
            self._target().abort(_unfinished(self._kind))

    def connect(self, sink: BodySink, bodyless: bool = False) -> None:  # noqa: FBT001, FBT002
        """From now on the body goes to `sink`; it takes at once what was written before.

        `bodyless`: the message has a length but no body (the answer to a HEAD request).
        """
        self._sink = sink
        if bodyless:
            self._length = None
        if self._gate is not None:
            self._gate.connect(sink, self._length)

    def _target(self) -> BodySink:
        if self._sink is not None and self._length is None:
            return self._sink
        return self._gated()

    def _gated(self) -> _Gate:
        if self._gate is None:
            self._gate = _Gate(self._kind, self._length, self._sink)
        return self._gate

    def _end(self) -> HttpError | None:
        """No byte comes after this. The error, if the length is not what was declared."""
        self._done = True
        if self._stream is not None:
            self._stream.drop()
        if self._length is None:
            return None
        gate = self._gated()
        if gate.complete:
            return None
        error = gate.overrun or body_size(self._kind, gate.written)
        gate.abort(error)
        return error


def _unfinished(kind: str) -> HttpError:
    message = f"{kind} body was dropped unfinished"
    # A response is the guest's own: for its client the fault is on this side.
    return internal(message) if kind == "response" else failure("HTTP-protocol-error", message)


class _Gate:
    """Counts the bytes of a body, and keeps them while it is not connected."""

    __slots__ = ("_early", "_kind", "_length", "_sink", "overrun", "written")

    def __init__(self, kind: str, length: int | None, sink: BodySink | None) -> None:
        self._kind = kind
        self._length = length
        self._early = Pipe(EARLY_CAPACITY) if sink is None else None
        self._sink: BodySink = sink or self._early  # type: ignore[assignment]
        self.written = 0
        self.overrun: HttpError | None = None

    @property
    def complete(self) -> bool:
        return self._length is None or self.written == self._length

    @property
    def error(self) -> Exception | None:
        return self.overrun or self._sink.error

    def writable(self) -> int:
        return self._sink.writable()

    def write(self, data: bytes) -> None:
        self.written += len(data)
        if self._length is not None and self.written > self._length:
            self.overrun = body_size(self._kind, self.written)
            self._sink.abort(self.overrun)
        else:
            self._sink.write(data)

    async def wait_writable(self) -> None:
        while True:
            sink = self._sink
            await sink.wait_writable()
            if sink is self._sink:
                return

    def finish(self, trailers: Headers | None = None) -> None:
        self._sink.finish(trailers)

    def abort(self, error: Exception) -> None:
        self._sink.abort(error)

    def connect(self, sink: BodySink, length: int | None) -> None:
        early, self._early = self._early, None
        self._sink = sink
        self._length = length
        if early is None:
            return
        while data := early.read_nowait(EARLY_CAPACITY):
            sink.write(data)
        if early.error is not None:
            sink.abort(early.error)
        elif early.ended:
            sink.finish(early.trailers)
        else:
            # Whoever waits for room in the early pipe now finds the sink.
            early.close()
