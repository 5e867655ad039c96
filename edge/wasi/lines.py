"""A sink that turns what a guest prints into lines for a log. Knows no log."""

from __future__ import annotations

from collections.abc import Callable

from edge.wasi.pipe import CAPACITY

__all__ = ["LineSink"]

# Bytes. Journal entries beyond some KiB are cut by their readers; smaller splits tracebacks' lines.
LINE_MAX = 8192

# What a line costs a guest beside its bytes: else empty lines, which cost the log most, were free.
_LINE_COST = 64


class LineSink:
    """Calls `emit` with each line a guest wrote, without its end; never waits.

    A line above `LINE_MAX` bytes is split. After `limit` bytes, counting something for each line,
    the rest is dropped with one note. What is no UTF-8 is replaced. `finish` emits what has no end.
    """

    __slots__ = ("_emit", "_left", "_part")

    error: Exception | None = None

    def __init__(self, emit: Callable[[str], None], limit: int = 1 << 20) -> None:
        self._emit = emit
        self._left = limit
        self._part = b""  # the line that has no end yet, at most LINE_MAX bytes

    def writable(self) -> int:
        return CAPACITY

    def write(self, data: bytes) -> None:
        if self._left <= 0:
            return
        *lines, rest = (self._part + data).split(b"\n")
        self._part = b""
        for line in lines:
            self._line(self._long(line))
        self._part = self._long(rest)

    async def wait_writable(self) -> None:
        return

    def finish(self) -> None:
        part, self._part = self._part, b""
        if part:
            self._line(part)

    def abort(self, error: Exception) -> None:
        self.finish()

    def _long(self, line: bytes) -> bytes:
        """Emits all but the last piece of a line that is too long."""
        while len(line) > LINE_MAX:
            cut = _character_start(line, LINE_MAX)
            self._line(line[:cut])
            line = line[cut:]
        return line

    def _line(self, line: bytes) -> None:
        if self._left <= 0:
            return
        self._left -= len(line) + _LINE_COST
        self._emit(line.rstrip(b"\r").decode("utf-8", "replace"))
        if self._left <= 0:
            self._emit("(this invocation printed too much: the rest is dropped)")


def _character_start(data: bytes, index: int) -> int:
    """`index`, or up to three bytes before it, where a character of UTF-8 begins."""
    for start in range(index, index - 4, -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return index
