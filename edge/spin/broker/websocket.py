"""The client's side of a WebSocket (RFC 6455) that carries MQTT. Bytes in, bytes out; no socket."""

from __future__ import annotations

import base64
import hashlib
import os

__all__ = ["WebSocket", "WebSocketError"]

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_HEAD_MAX = 16_384
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class WebSocketError(ValueError):
    """The other side does not speak WebSocket, or refused."""


class WebSocket:
    """`request()` goes out first. `feed` takes what comes in; once `ready`, `wrap` what goes out.

    `replies` are bytes that must be sent: answers to pings and to a close.
    """

    __slots__ = (
        "_buffer",
        "_head",
        "_host",
        "_key",
        "_left",
        "_path",
        "closed",
        "ready",
        "replies",
    )

    def __init__(self, host: str, path: str) -> None:
        self._host = host
        self._path = path
        self._key = base64.b64encode(os.urandom(16))
        self._buffer = bytearray()
        self._left = 0  # bytes of the frame being read that are still to come
        self._head = True
        self.ready = False
        self.closed = False
        self.replies = bytearray()

    def request(self) -> bytes:
        return (
            f"GET {self._path} HTTP/1.1\r\nHost: {self._host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {self._key.decode()}\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        ).encode()

    def feed(self, data: bytes) -> bytes:
        """The bytes of MQTT that came with `data`. Raises WebSocketError."""
        if self.ready and not self._buffer and self._left >= len(data):
            self._left -= len(data)  # the middle of a long frame
            return data
        self._buffer += data
        if not self.ready and not self._upgraded():
            return b""
        found: list[bytes] = []
        while self._buffer and not self.closed and self._next(found):
            pass
        return b"".join(found)

    def wrap(self, data: bytes) -> bytes:
        return _frame(_BINARY, data)

    def _upgraded(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_MAX:
                raise WebSocketError("the answer to the upgrade has no end")
            return False
        status, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        if status.split(" ")[1:2] != ["101"]:
            raise WebSocketError(f"no WebSocket at {self._path}: {status[:100]}")
        headers = {k.strip().lower(): v.strip() for k, _, v in (x.partition(":") for x in lines)}
        wanted = base64.b64encode(hashlib.sha1(self._key + _GUID).digest())  # noqa: S324
        if headers.get("sec-websocket-accept", "").encode() != wanted:
            raise WebSocketError("the answer to the upgrade has a wrong key")
        self.ready = True
        return True

    def _next(self, found: list[bytes]) -> bool:
        """Takes one piece off the buffer; False: more must come first."""
        if self._left:
            piece = bytes(self._buffer[: self._left])
            del self._buffer[: len(piece)]
            self._left -= len(piece)
            found.append(piece)
            return True
        head = _read_head(self._buffer)
        if head is None:
            return False
        opcode, start, length = head
        if opcode in (_BINARY, _CONTINUATION):
            del self._buffer[:start]
            self._left = length
            return True
        return self._control(opcode, start, length)

    def _control(self, opcode: int, start: int, length: int) -> bool:
        if opcode not in (_CLOSE, _PING, _PONG) or length > 125:
            raise WebSocketError(f"a frame of kind {opcode} where MQTT is binary")
        if len(self._buffer) < start + length:
            return False
        payload = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        if opcode == _PING:
            self.replies += _frame(_PONG, payload)
        elif opcode == _CLOSE:
            self.replies += _frame(_CLOSE, payload)
            self.closed = True
        return True


def _read_head(data: bytearray) -> tuple[int, int, int] | None:
    """The opcode, where the payload starts and how long it is."""
    if len(data) < 2:
        return None
    if data[1] & 0x80:
        raise WebSocketError("a server's frame is masked")
    length = data[1] & 0x7F
    extra = {126: 2, 127: 8}.get(length, 0)
    if len(data) < 2 + extra:
        return None
    if extra:
        length = int.from_bytes(data[2 : 2 + extra], "big")
    return data[0] & 0x0F, 2 + extra, length


def _frame(opcode: int, data: bytes) -> bytes:
    length = len(data)
    if length < 126:
        head = bytes((0x80 | opcode, 0x80 | length))
    elif length < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + length.to_bytes(8, "big")
    mask = os.urandom(4)
    return head + mask + _masked(data, mask)


def _masked(data: bytes, mask: bytes) -> bytes:
    # One operation on long integers: a loop over bytes would take a hundred times as long.
    length = len(data)
    pattern = (mask * (length // 4 + 1))[:length]
    number = int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")
    return number.to_bytes(length, "little")
