# cython: annotation_typing=False, binding=False
"""The reply to one request: head, framing, and how much of it is held back.

What is written within one turn of the loop is sent as one write: a small reply leaves whole, with
a Content-Length; a longer one in chunks. Knows no sockets: it sends over a Wire.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, Protocol

from edge.triggers.http.failure import describe
from edge.wasi.http import message
from edge.wasi.http.message import Headers
from edge.wasi.pipe import Signal

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}

# What happens to a header of the guest's.
_SEND, _DROP, _LENGTH, _DATE = range(4)
_KINDS: Final = {
    **dict.fromkeys(b"connection keep-alive proxy-connection te upgrade".split(), _DROP),
    b"transfer-encoding": _DROP,
    b"content-length": _LENGTH,
    b"date": _DATE,
    # Usual names need no check.
    **dict.fromkeys(
        b"access-control-allow-origin cache-control content-encoding content-type etag expires "
        b"last-modified link location server set-cookie vary x-request-id".split(),
        _SEND,
    ),
}

# For bytes.translate: what it leaves of a name is not of a token; what it takes from a line is a
# control character.
_TOKEN: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
_CONTROLS: Final = bytes((*range(9), *range(10, 32), 127))


class Wire(Protocol):
    """The connection, as the reply in flight sees it."""

    def send(self, data: bytes) -> None:
        """Write to the client."""

    def room(self) -> int:
        """How many bytes may be sent now; 0: wait for `wake`."""

    def soon(self, reply: Reply) -> None:
        """Call `reply.turn_over` at the end of this turn of the loop, if it is not finished."""

    def date(self) -> bytes:
        """The line of the Date header."""

    def persists(self) -> bool:
        """Another request may follow. What the head says is kept to."""

    def end_by_closing(self) -> None:
        """The reply has no length: only the end of the connection ends it."""

    def replied(self) -> None:
        """The reply is complete."""

    def cut(self) -> None:
        """End the connection so that the client sees that the reply is incomplete."""


def encode(headers: Headers) -> tuple[bytes, int | None, bool]:
    """The lines of the headers that a guest may set, its content-length, and whether it set date.

    Raises ValueError for what would break the head.
    """
    parts: list[bytes] = []
    length: int | None = None
    dated = False
    for name, value in headers:
        kind = _KINDS.get(name)
        if kind is None:
            name = _checked(name)
            kind = _KINDS.get(name, _SEND)
        if kind == _SEND:
            parts += (name, b": ", value, b"\r\n")
        elif kind == _LENGTH:
            length = _length(value, length)
        elif kind == _DATE:
            parts += (name, b": ", value, b"\r\n")
            dated = True
    lines = b"".join(parts)
    if len(lines.translate(None, _CONTROLS)) != len(lines) - len(parts) // 2:
        raise ValueError("reply headers: control characters in a value")
    return lines, length, dated


def _checked(name: bytes) -> bytes:
    lower = name.lower()
    if not lower or lower.translate(None, _TOKEN):
        raise ValueError(f"reply header {name!r}: not a header name")
    return lower


def _length(value: bytes, known: int | None) -> int:
    text = value.strip(b" \t")
    length = int(text) if text.isdigit() and len(text) < 19 else -1
    if length < 0 or known not in (None, length):
        raise ValueError(f"reply header content-length {value!r}: not one length")
    return length


class Reply:
    """Implements `edge.wasi.http.message.Reply` over a Wire; lets go of it once `finished`."""

    def __init__(self, wire: Wire, method: str, *, old: bool) -> None:
        self._wire = wire
        self._method = method
        self._old = old  # the client speaks HTTP/1.0: no chunks
        self.finished = False
        self.error: Exception | None = None
        self._status = 0
        self._lines = b""  # of the guest's headers
        self._length: int | None = None  # as the guest declared it
        self._dated = False
        self._sent = False  # the head is out
        self._empty = False  # there is no body, whatever is written
        self._chunked = False
        self._scheduled = False
        self._held: list[bytes] = []  # until the end of the turn
        self._held_size = 0
        self._size = 0  # of the body so far
        self._signal: Signal | None = None

    @property
    def started(self) -> bool:
        return self._status != 0

    @property
    def written(self) -> int:
        """Bytes of the body so far."""
        return self._size

    @property
    def sent(self) -> bool:
        """The head is out: the client may know the status."""
        return self._sent

    def start(self, status: int, headers: Headers) -> None:
        """Raises ValueError for a status or headers that cannot be sent; nothing is then."""
        if self.finished:
            return
        if self._status:
            raise RuntimeError("reply: started twice")
        if not 200 <= status <= 999:
            raise ValueError(f"reply status {status}: not a final status")
        self._lines, self._length, self._dated = encode(headers)
        self._status = status
        self._empty = status in (204, 304) or self._method == "HEAD"
        self._schedule()

    def writable(self) -> int:
        if self.finished:
            return 0
        room = self._wire.room() - self._held_size
        if room <= 0 and self._held:
            self._flush()
            room = self._wire.room()
        return max(room, 0)

    def write(self, data: bytes) -> None:
        """Raises RuntimeError before `start`."""
        if self.finished or not data:
            return
        if not self._status:
            raise RuntimeError("reply: written to before its start")
        self._size += len(data)
        if self._empty:
            return
        if self._length is not None and self._size > self._length:
            self.abort(ValueError("reply body: longer than its content-length"))
            return
        self._held.append(data)
        self._held_size += len(data)
        if not self._scheduled:
            self._schedule()

    async def wait_writable(self) -> None:
        while not self.finished and not self.writable():
            if self._signal is None:
                self._signal = Signal()
            await self._signal.wait()

    def finish(self, trailers: Headers | None = None) -> None:
        if self.finished:
            return
        if not self._status:
            self.abort(RuntimeError("reply: finished before its start"))
        elif self._length not in (None, self._size) and not self._empty:
            self.abort(ValueError("reply body: shorter than its content-length"))
        else:
            self._finish(trailers)

    def abort(self, error: Exception) -> None:
        """While the head is held back the client still gets an error status."""
        if self.finished:
            return
        if self._sent:
            self.lost(error)
            self._wire.cut()
            return
        status, headers, body = describe(error)
        self._status, self._held, self._held_size, self._size = 0, [], 0, 0
        self.start(status, headers)
        self.write(body)
        self.error = error
        self._finish(None)

    def lost(self, error: Exception) -> None:
        """The client is gone, or shall go."""
        self.error = error
        self._end()

    def wake(self) -> None:
        """There is room again."""
        if self._signal is not None:
            self._signal.wake()

    def turn_over(self) -> None:
        """The turn of the loop is over: what was written in it leaves."""
        self._scheduled = False
        if not self.finished:
            self._flush()

    def _schedule(self) -> None:
        self._scheduled = True
        self._wire.soon(self)

    def _finish(self, trailers: Headers | None) -> None:
        if trailers is None and not (self._sent or self._empty or self._old):
            self._wire.send(self._whole())
            self._end()
            self._wire.replied()
            return
        parts: list[bytes] = []
        tail = encode(trailers)[0] if trailers else b""
        if not self._sent:
            # Trailers need chunks. The length of what HEAD would have got is known if written.
            known = None if trailers or (self._empty and not self._size) else self._size
            parts += self._open(known)
        parts += self._content()
        if self._chunked:
            parts += (b"0\r\n", tail, b"\r\n")
        self._wire.send(b"".join(parts))
        self._end()
        self._wire.replied()

    def _whole(self) -> bytes:
        """A reply that nothing was sent of: what most are, in one piece."""
        self._sent = True
        return b"%b%b%bcontent-length: %d\r\n%b\r\n%b" % (
            _STATUS_LINES.get(self._status) or b"HTTP/1.1 %d \r\n" % self._status,
            self._lines,
            b"" if self._dated else self._wire.date(),
            self._size,
            b"" if self._wire.persists() else b"connection: close\r\n",
            self._held[0] if len(self._held) == 1 else b"".join(self._held),
        )

    def _end(self) -> None:
        self.finished = True
        self._held = []
        if self._signal is not None:
            self._signal.wake()

    def _flush(self) -> None:
        """The reply goes on: send what is held."""
        parts = [] if self._sent else self._open(None)
        parts += self._content()
        if parts:
            self._held, self._held_size = [], 0
            self._wire.send(b"".join(parts))

    def _content(self) -> list[bytes]:
        if not self._chunked or not self._held:
            return self._held
        return [b"%x\r\n" % self._held_size, *self._held, b"\r\n"]

    def _open(self, length: int | None) -> list[bytes]:
        """The head. `length`: of the whole body, if that is known."""
        self._sent = True
        wire, status = self._wire, self._status
        framing = self._framing(length if self._length is None else self._length)
        keep = wire.persists()
        return [
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            self._lines,
            b"" if self._dated else wire.date(),
            framing,
            b"" if keep else b"connection: close\r\n",
            b"connection: keep-alive\r\n\r\n" if keep and self._old else b"\r\n",
        ]

    def _framing(self, length: int | None) -> bytes:
        if self._status == 204 or (self._empty and length is None):
            return b""
        if length is not None:
            return b"content-length: %d\r\n" % length
        if self._old:
            self._wire.end_by_closing()
            return b""
        self._chunked = True
        return b"transfer-encoding: chunked\r\n"


def answer_options(request: message.Request, reply: message.Reply) -> None:
    """ "OPTIONS *" asks about the server as a whole (RFC 9110 §9.3.7), not an application."""
    reply.start(204, [])
    reply.finish()
