"""Messages of QoS 1 in the order they came: MQTT wants them acknowledged in that order.

What is not acknowledged when a connection ends is delivered again by the next one, under the same
packet identifier. It is then told from a new message, and joins the run that is under way, or is
acknowledged when that is over: nothing runs twice but what a restarted node no longer knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge.spin.broker import Message
from edge.triggers.mqtt.run import Delivery, Host

__all__ = ["Window"]


class Window:
    """`acknowledge` is called in the right order. `remembered`: acknowledgements to look back."""

    def __init__(self, acknowledge: Callable[[Message], None], remembered: int) -> None:
        self._acknowledge = acknowledge
        self._remembered = remembered
        self._order: deque[Delivery] = deque()
        self._carried: dict[int, Delivery] = {}  # packet identifier -> of the last connection
        # Packet identifier -> content. An acknowledgement may be lost with its connection.
        self._recent: dict[int, int] = {}
        self._acknowledged: dict[int, int] = {}  # the same, of the last connection

    def __len__(self) -> int:
        return len(self._order)

    def add(self, delivery: Delivery) -> None:
        """After all that came before. What is final already may be acknowledged by this."""
        if self._order or delivery.open:
            self._order.append(delivery)
            if not delivery.open:
                self.advance()
        else:
            self._done(delivery.message)

    def advance(self) -> None:
        """Something became final."""
        order = self._order
        while order and not order[0].open:
            self._done(order.popleft().message)

    def reconnected(self, *, session_present: bool) -> None:
        """Nothing of the old connection can be acknowledged on the new one."""
        if session_present:
            # Also those that the last connection did not deliver again before it ended.
            self._carried |= {d.message.mid: d for d in self._order}
            self._acknowledged = self._recent or self._acknowledged
        else:
            self._carried.clear()
            self._acknowledged.clear()
        self._recent = {}
        self._order.clear()

    def rejoin(self, message: Message, host: Host) -> bool:
        """Is it one that was delivered before? It is kept in order then, and need not run."""
        if not self._carried and not self._acknowledged:
            return False
        delivery = self._carried.pop(message.mid, None)
        if delivery is not None and _same(delivery.message, message):
            delivery.message = message
            self.add(delivery)
            return True
        content = self._acknowledged.pop(message.mid, None)
        if message.duplicate and content == _content(message):
            self.add(Delivery(message, host))
            return True
        return False

    def _done(self, message: Message) -> None:
        self._acknowledge(message)
        recent = self._recent
        recent.pop(message.mid, None)
        recent[message.mid] = _content(message)
        if len(recent) > self._remembered:
            del recent[next(iter(recent))]


def _same(one: Message, other: Message) -> bool:
    return one.topic == other.topic and one.payload == other.payload


def _content(message: Message) -> int:
    return hash((message.topic, message.payload))
