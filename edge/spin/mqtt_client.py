"""A guest's connection to an MQTT broker: publishes at every QoS, subscribes to nothing.

Loading it loads paho: whoever needs a connection imports this module then, and not before.
"""

from __future__ import annotations

import asyncio

from edge.spin.broker import Broker
from edge.spin.broker.packets import read_acknowledgement

__all__ = ["Publisher"]

_PUBREC, _PUBREL, _PUBCOMP = 0x50, b"\x62\x02", 0x70

# Seconds that the last message may take to leave after its guest has ended.
_LINGER = 5.0


class Publisher(Broker):
    """A connection that also publishes at QoS 2; nothing is sent a second time."""

    def packet(self, first: int, data: bytes, start: int, end: int) -> None:
        kind = first & 0xF0
        if kind not in (_PUBREC, _PUBCOMP):
            super().packet(first, data, start, end)
            return
        mid, code = read_acknowledgement(data, start, end)
        if kind == _PUBREC and code < 0x80:
            self._wire.write(_PUBREL + mid.to_bytes(2, "big"))
        else:
            self._outbox.acknowledged(mid, self._not_taken(code) if code >= 0x80 else None)

    def leave(self) -> None:
        """Says goodbye after the last message, without waiting for it."""
        self._leaving = True
        if not self._wire.open:
            return
        self._client.disconnect()
        self._wire.close()
        patience = asyncio.get_running_loop().call_later(_LINGER, self._wire.abort)
        self.closed.add_done_callback(lambda _closed: patience.cancel())
