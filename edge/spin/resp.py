"""Replies of Redis and Valkey, read within a limit: RESP2, the protocol every version speaks.

Of a reply that is too large everything is read and nothing kept, so the next one can be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

__all__ = [
    "Argument",
    "RedisFailure",
    "Refused",
    "Reply",
    "Status",
    "TooLarge",
    "packed",
    "read_reply",
]

Argument = bytes | str | int

# Replies within replies; servers' own are three deep.
_DEPTH_MAX = 16
# Bytes that a value of a reply takes here beside its text.
_VALUE = 64
# Bytes read at once of what is thrown away; strings are large from here on.
_PIECE = 1 << 16
# Values read before others get their turn: what has arrived already is read without waiting.
_VALUES_AT_ONCE = 200


class RedisFailure(Exception):
    """There is no reply: the connection is, or now is, of no use. The text holds no secret."""


class Refused(Exception):
    """The server answered a command with an error; `code` is its first word, like WRONGTYPE."""

    @property
    def code(self) -> str:
        return str(self).partition(" ")[0]


class TooLarge(Exception):
    """A reply was larger than the limit; it has been read over, and the connection goes on."""


class Status(bytes):
    """A reply that is a word of the server's, such as OK."""

    __slots__ = ()


Reply = int | bytes | Status | None | Refused | TooLarge | list["Reply"]


async def read_reply(stream: asyncio.StreamReader, limit: int) -> Reply:
    """The next reply, a TooLarge when it takes more than `limit` bytes.

    Raises ValueError or asyncio.LimitOverrunError for what is no reply, and what the stream raises.
    """
    reading = _Reading(stream, limit)
    reply = await reading.value(_DEPTH_MAX)
    if reading.left < 0:
        return TooLarge(f"a reply of the server is larger than {limit} bytes")
    return reply


def packed(arguments: Sequence[Argument]) -> Iterable[bytes]:
    """A command as it is sent: an array of strings, of which none is split or converted."""
    pieces = [b"*%d\r\n" % len(arguments)]
    for argument in arguments:
        data = argument if isinstance(argument, bytes) else str(argument).encode()
        pieces += (b"$%d\r\n" % len(data), data, b"\r\n")
    return pieces


class _Reading:
    """One reply being read. `left`: bytes of its limit, negative once it is too large."""

    __slots__ = ("_count", "_stream", "left")

    def __init__(self, stream: asyncio.StreamReader, limit: int) -> None:
        self._stream = stream
        self._count = 0  # of values, in whatever depth
        self.left = limit

    async def value(self, depth: int) -> Reply:
        line = await self._stream.readuntil(b"\r\n")
        kind, text = line[:1], line[1:-2]
        if kind == b"$":
            return await self._bulk(_size(text))
        self.left -= _VALUE + len(text)
        match kind:
            case b"+":
                return Status(text)
            case b":":
                return int(text)
            case b"-":
                return Refused(text.decode(errors="replace"))
            case b"*" if depth:
                return await self._array(_size(text), depth - 1)
        raise ValueError("not a reply")

    async def _bulk(self, size: int) -> bytes | None:
        self.left -= _VALUE + max(size, 0)
        if size < 0:
            return None
        if self.left < 0:
            await self._skip(size + 2)
            return None
        if size < _PIECE:
            return (await self._stream.readexactly(size + 2))[:-2]
        data = await self._stream.readexactly(size)  # not copied once more to cut its end off
        await self._stream.readexactly(2)
        return data

    async def _skip(self, size: int) -> None:
        while size:
            data = await self._stream.read(min(size, _PIECE))
            if not data:
                raise asyncio.IncompleteReadError(b"", size)
            size -= len(data)

    async def _array(self, size: int, depth: int) -> list[Reply] | None:
        if size < 0:
            return None
        values: list[Reply] = []
        for _ in range(size):
            self._count += 1
            if self._count % _VALUES_AT_ONCE == 0:
                await asyncio.sleep(0)
            value = await self.value(depth)
            if self.left >= 0:
                values.append(value)
        return values


def _size(text: bytes) -> int:
    size = int(text)
    if size < -1:
        raise ValueError("not a size")
    return size
