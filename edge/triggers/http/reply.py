"""The reply to one request: head, framing, and how much of it is held back.

What is written within one turn of the loop is sent as one write: a small reply leaves whole, with
a Content-Length; a longer one in chunks. Knows no sockets: it sends over a Wire.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

from edge.triggers.http.failure import describe
from edge.wasi.http.message import Headers
from edge.wasi.pipe import Signal

_STATUS_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}

# The connection's own headers; a guest's are dropped. Length and date are looked at.
_MANAGED: Final = frozenset(
    b"connection content-length date keep-alive proxy-connection te transfer-encoding "
    b"upgrade".split()
)

# For bytes.translate: what remains of a name is no token; what goes from a line is a control.
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
        """Another request may follow. Asked once, for the head, and kept to."""

    def end_by_closing(self) -> None:
        """The reply has no length: only the end of the connection ends it."""

    def replied(self) -> None:
        """The reply is complete."""

    def cut(self) -> None:
        """End the connection so that the client sees that the reply is incomplete."""


class _Head(NamedTuple):
    """What a guest's headers come to: lines, and what the framing needs to know of them."""

    lines: bytes
    length: int | None
    dated: bool


def encode(headers: Headers) -> _Head:
    """The header lines without those that are the connection's. Raises ValueError."""
    parts: list[bytes] = []
    length: int | None = None
    dated = False
    for raw, value in headers:
        name = raw.lower()
        if name in _MANAGED:
            if name == b"content-length":
                length = _length(value, length)
                continue
            if name != b"date":
                continue
            dated = True
        if not name or name.translate(None, _TOKEN):
            raise ValueError(f"reply header {raw!r}: not a header name")
        parts += (name, b": ", value, b"\r\n")
    lines = b"".join(parts)
    if len(lines.translate(None, _CONTROLS)) != len(lines) - len(parts) // 2:
        raise ValueError("reply headers: control characters in a value")
    return _Head(lines, length, dated)


def _length(value: bytes, known: int | None) -> int:
    text = value.strip(b" \t")
    length = int(text) if text.isdigit() and len(text) < 19 else -1
    if length < 0 or known not in (None, length):
        raise ValueError(f"reply header content-length {value!r}: not one length")
    return length


class Reply:
    """Implements `edge.wasi.http.message.Reply` over a Wire; lets go of it once `finished`."""

    __slots__ = (
        "_chunked",
        "_empty",
        "_head",
        "_held",
        "_held_size",
        "_method",
        "_old",
        "_scheduled",
        "_sent",
        "_signal",
        "_size",
        "_status",
        "_wire",
        "error",
        "finished",
    )

    _head: _Head

    def __init__(self, wire: Wire, method: str, *, old: bool) -> None:
        self._wire = wire
        self._method = method
        self._old = old  # the client speaks HTTP/1.0: no chunks
        self._status = 0
        self._sent = self._empty = self._chunked = self._scheduled = False
        self._held: list[bytes] = []
        self._held_size = 0
        self._size = 0  # of the body so far
        self._signal: Signal | None = None
        self.finished = False
        self.error: Exception | None = None

    @property
    def started(self) -> bool:
        return self._status != 0

    @property
    def written(self) -> int:
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
        self._head = encode(headers)
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
        if self._head.length is not None and self._size > self._head.length:
            self.abort(ValueError("reply body: longer than its content-length"))
            return
        self._held.append(data)
        self._held_size += len(data)
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
        elif self._incomplete():
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
        if not self._scheduled:
            self._scheduled = True
            self._wire.soon(self)

    def _incomplete(self) -> bool:
        length = self._head.length
        return length is not None and self._size != length and not self._empty

    def _finish(self, trailers: Headers | None) -> None:
        parts: list[bytes] = []
        if not self._sent:
            # Trailers need chunks. The length of what HEAD would have got is known if written.
            known = None if trailers or (self._empty and not self._size) else self._size
            parts += self._open(known)
        parts += self._content()
        if self._chunked:
            parts += (b"0\r\n", encode(trailers).lines if trailers else b"", b"\r\n")
        self._wire.send(b"".join(parts))
        self._end()
        self._wire.replied()

    def _end(self) -> None:
        self.finished = True
        self._held = []
        self.wake()

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
        wire, head, status = self._wire, self._head, self._status
        return [
            _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            head.lines,
            b"" if head.dated else wire.date(),
            self._framing(length if head.length is None else head.length),
            self._persistence(),
            b"\r\n",
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

    def _persistence(self) -> bytes:
        if not self._wire.persists():
            return b"connection: close\r\n"
        return b"connection: keep-alive\r\n" if self._old else b""
