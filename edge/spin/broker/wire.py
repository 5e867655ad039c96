"""A connection's bytes as MQTT packets: split on the way in, gathered on the way out.

Knows lengths of packets and where a message has its topic, and nothing else of MQTT.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from edge.spin.broker.packets import PUBLISH, Malformed, frame
from edge.spin.broker.websocket import WebSocket, WebSocketError

__all__ = ["Refused", "Wire"]

# How long messages are taken from one read before everybody else gets a turn, in seconds.
SLICE = 0.002
# Unread bytes beyond which the other side is not listened to.
HIGH_WATER = 65_536


class Refused:
    """A message that was not taken because of its size: what its head said."""

    __slots__ = ("connection", "mid", "qos", "size", "topic")

    def __init__(self, topic: str, qos: int, mid: int, size: int) -> None:
        self.topic = topic
        self.qos = qos
        self.mid = mid
        self.size = size
        self.connection: object = None


class Owner(Protocol):
    """Whom a wire tells."""

    def opened(self) -> None: ...

    def packet(self, first: int, data: bytes, start: int, end: int) -> None:
        """`data[start:end]` is the body of one packet. Raises Malformed."""

    def refused(self, message: Refused) -> None: ...

    def writable(self) -> None: ...

    def lost(self, error: Exception | None) -> None: ...


class Wire(asyncio.Protocol):
    """One connection. Nothing is taken from it while `paused`."""

    def __init__(self, owner: Owner, max_packet: int, websocket: WebSocket | None = None) -> None:
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._max_packet = max_packet
        self._websocket = websocket
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._size = 0  # of all chunks
        self._need = 0  # bytes that must be there before looking again
        self._skip = 0  # bytes that still come of a message that was refused
        self._out: list[bytes] = []
        self._turn: asyncio.Handle | None = None
        self._flushing: asyncio.Handle | None = None
        self._parsing = False
        self.paused = False
        self.congested = False  # the other side does not take what is written
        self.heard = self.spoke = self._loop.time()

    @property
    def open(self) -> bool:
        return self._transport is not None

    # --- what asyncio calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._websocket is None:
            self._owner.opened()
        else:
            transport.write(self._websocket.request())

    def data_received(self, data: bytes) -> None:
        self.heard = self._loop.time()
        if self._websocket is not None:
            data = self._unwrapped(self._websocket, data)
        if data:
            self._chunks.append(data)
            self._size += len(data)
            if self._turn is None and not self.paused:
                self._parse()
        self._throttle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._forget()
        self._owner.lost(exc)

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        self._owner.writable()

    # --- what its owner calls ---------------------------------------------------------------------

    def pause(self) -> None:
        """Takes no further packet; what the other side sends stays with it."""
        self.paused = True
        self._throttle()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self._throttle()
            if self._chunks:
                self._soon()

    def write(self, packet: bytes) -> None:
        """Sends a whole packet, together with others of this turn."""
        self._out.append(packet)
        if self._parsing:
            return
        if len(packet) >= HIGH_WATER:
            self.flush()  # whoever writes one after another learns at once that it is congested
        elif self._flushing is None:
            self._flushing = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._out and self._transport is not None:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self.spoke = self._loop.time()
            self._transport.write(self._websocket.wrap(data) if self._websocket else data)

    def close(self) -> None:
        """Sends what is written, then ends."""
        self.flush()
        self._forget()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    # --- in between -------------------------------------------------------------------------------

    def _unwrapped(self, websocket: WebSocket, data: bytes) -> bytes:
        ready = websocket.ready
        try:
            data = websocket.feed(data)
        except WebSocketError as exc:
            self._failed(exc)
            return b""
        if websocket.replies and self._transport is not None:
            self._transport.write(bytes(websocket.replies))
            websocket.replies.clear()
        if websocket.ready and not ready:
            self._owner.opened()
        if websocket.closed:
            self.close()
        return data

    def _parse(self) -> None:
        self._turn = None
        if self._size < self._need or not self._chunks:
            return
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = self._need = 0
        self._parsing = True
        try:
            at = self._packets(data)
        except Malformed as exc:
            self._failed(exc)
            return
        finally:
            self._parsing = False
        if at < len(data) and self._transport is not None:
            self._chunks.append(data[at:])
            self._size = len(data) - at
        self.flush()
        self._throttle()

    def _packets(self, data: bytes) -> int:
        """Hands over the packets in `data` for a slice of time. Returns where it stopped."""
        end_of_slice = self._loop.time() + SLICE
        at = min(self._skip, len(data))
        self._skip -= at
        while not self.paused and self._transport is not None:
            if (place := frame(data, at)) is None:
                self._need = len(data) - at + 1
                break
            start, end = place
            if end - at > self._max_packet:
                if (at := self._refuse(data, at, start, end)) < 0:
                    return len(data) + at + 1
            elif end > len(data):
                self._need = end - at
                break
            else:
                self._owner.packet(data[at], data, start, end)
                at = end
            if self._loop.time() > end_of_slice:
                if at < len(data):
                    self._soon()
                break
        return at

    def _refuse(self, data: bytes, at: int, start: int, end: int) -> int:
        """Reads the head of a message that is too large, its rest is skipped.

        Returns where to go on; below zero: the head is not complete, and that many bytes and one
        stay unread.
        """
        first, known = data[at], len(data) - start
        if first & 0xF0 != PUBLISH:
            raise Malformed(f"a packet of {end - at} bytes that is no message")
        topic_end = start + 2 + (data[start] << 8 | data[start + 1]) if known >= 2 else start + 2
        if len(data) < topic_end + 2:
            self._need = topic_end + 2 - at
            return at - len(data) - 1
        qos = first >> 1 & 3
        mid = data[topic_end] << 8 | data[topic_end + 1] if qos else 0
        topic = data[start + 2 : topic_end].decode(errors="replace")
        self._skip = max(0, end - len(data))
        self._owner.refused(Refused(topic, qos, mid, end - at))
        return min(end, len(data))

    def _soon(self) -> None:
        if self._turn is None and self._transport is not None:
            self._turn = self._loop.call_soon(self._parse)

    def _throttle(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if self.paused or self._size > max(self._need, HIGH_WATER):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _failed(self, error: Exception) -> None:
        self.abort()
        self._owner.lost(error)

    def _forget(self) -> None:
        for handle in (self._turn, self._flushing):
            if handle is not None:
                handle.cancel()
        self._turn = self._flushing = None
        self._chunks.clear()
        self._size = 0
        self._out.clear()
