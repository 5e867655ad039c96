"""Messages on their way to a broker: numbered, limited in number, each confirmed once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from edge.spin.broker import packets
from edge.spin.broker.options import BrokerError, BrokerOptions
from edge.spin.broker.packets import MessageProperties
from edge.spin.broker.wire import Wire

__all__ = ["Confirmed", "Outbox"]

# Called once: with None, or why the message was not taken.
Confirmed = Callable[[BrokerError | None], None]

# Packet identifiers: paho counts subscriptions from 1, messages have the upper half.
_FIRST_MID = 0x8000
# Messages that wait for their turn to be sent; a publisher that finds more is refused.
_PENDING_MAX = 4096


class Outbox:
    """What one connection sends. `quota`: how many may be unconfirmed; `largest`: bytes of one.

    `stuck` is called when the oldest of them has no answer within the connection's time for that.
    """

    def __init__(
        self,
        wire: Wire,
        options: BrokerOptions,
        stuck: Callable[[], None],
    ) -> None:
        self._wire = wire
        self._where = options.where
        self._timeout = options.confirm_timeout
        self._stuck = stuck
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._version5 = options.protocol == "5"
        self._unconfirmed: dict[int, Confirmed] = {}
        self._pending: deque[tuple[bytes, int, Confirmed]] = deque()
        self._mid = _FIRST_MID
        self.quota = options.in_flight
        self.largest = 268_435_455

    def send(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        confirmed: Confirmed,
        *,
        retain: bool,
        properties: MessageProperties,
    ) -> None:
        if len(self._pending) >= _PENDING_MAX:
            confirmed(BrokerError(f"{self._where}: too many messages wait", "full"))
            return
        mid = self._next_mid() if qos else 0
        try:
            packet = packets.encode_publish(
                topic,
                payload,
                qos,
                mid,
                retain=retain,
                properties=properties if self._version5 else None,
            )
        except ValueError as exc:
            confirmed(BrokerError(f"{topic[:80]}: {exc}", "size"))
            return
        if len(packet) > self.largest:
            text = f"{topic[:80]}: {len(packet)} bytes, the broker takes at most {self.largest}"
            confirmed(BrokerError(text, "size"))
            return
        self._pending.append((packet, mid, confirmed))
        self.advance()

    def advance(self) -> None:
        """Sends what may be sent."""
        while self._pending and not self._wire.congested and self._wire.open:
            packet, mid, confirmed = self._pending[0]
            if mid and len(self._unconfirmed) >= self.quota:
                return
            self._pending.popleft()
            self._wire.write(packet)
            if mid:
                self._unconfirmed[mid] = confirmed
                if self._timer is None:
                    self._watch()
            else:
                confirmed(None)

    def acknowledged(self, mid: int, error: BrokerError | None) -> None:
        """The broker has answered; what it does not know is ignored."""
        if (confirmed := self._unconfirmed.pop(mid, None)) is not None:
            confirmed(error)
            if self._pending:
                self.advance()

    def fail(self, error: BrokerError) -> None:
        """The connection is gone: nothing will be confirmed any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        callbacks = [*self._unconfirmed.values(), *(c for _, _, c in self._pending)]
        self._unconfirmed.clear()
        self._pending.clear()
        for confirmed in callbacks:
            confirmed(error)

    def _watch(self) -> None:
        mid, oldest = next(iter(self._unconfirmed.items()))
        self._timer = self._loop.call_later(self._timeout, self._check, mid, oldest)

    def _check(self, mid: int, oldest: Confirmed) -> None:
        self._timer = None
        # The identifier may have come round again meanwhile.
        if self._unconfirmed.get(mid) is oldest:
            self._stuck()
        elif self._unconfirmed:
            self._watch()

    def _next_mid(self) -> int:
        # Those that wait are numbered too; together they are fewer than half of all numbers.
        while True:
            self._mid = self._mid + 1 if self._mid < 0xFFFF else _FIRST_MID
            if self._mid not in self._unconfirmed:
                return self._mid
