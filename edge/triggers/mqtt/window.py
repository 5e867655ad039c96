"""Messages of QoS 1 in the order they came: MQTT wants them acknowledged in that order.

What is not acknowledged when a connection ends is delivered again by the next one, marked so, and
under the packet identifier it had. It then joins the run that is under way, or is acknowledged if
that is over. What was acknowledged may come again too, when the acknowledgement was lost; it can
not be told from another message under an identifier that the broker uses again, so it runs again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge.spin.broker import Message
from edge.triggers.mqtt.run import Delivery

__all__ = ["Window"]


class Window:
    """`acknowledge` is called in the right order; False: the message's connection is gone.

    `limit`: how many a broker delivers without an acknowledgement.
    """

    def __init__(self, acknowledge: Callable[[Message], bool], limit: int) -> None:
        self._acknowledge = acknowledge
        self._carried_max = 2 * limit
        self._order: deque[Delivery] = deque()
        self._carried: dict[int, Delivery] = {}  # packet identifier -> of earlier connections

    def __len__(self) -> int:
        return len(self._order)

    def reconnected(self, *, session_present: bool) -> None:
        if session_present:
            # Also those that the last connection did not deliver again before it ended.
            kept = self._carried | {d.message.mid: d for d in self._order}
            newest = list(kept.items())[-self._carried_max :]
            self._carried = {mid: d for mid, d in newest if not d.expired}
        else:
            self._carried.clear()
        self._order.clear()

    def add(self, delivery: Delivery) -> None:
        """After all that came before. What is final already may be acknowledged by this."""
        if self._order or delivery.open or not self._acknowledge(delivery.message):
            self._order.append(delivery)
            if not delivery.open:
                self.advance()

    def advance(self) -> None:
        """Something became final."""
        order = self._order
        while order and not order[0].open and self._acknowledge(order[0].message):
            order.popleft()

    def rejoin(self, message: Message) -> bool:
        """Is it one that was delivered before? It is kept in order then, and need not run."""
        if not self._carried:
            return False
        delivery = self._carried.pop(message.mid, None)
        # A broker may drop what expired and use its identifier again.
        if delivery is None or not message.duplicate or delivery.expired:
            return False
        if delivery.message.topic != message.topic or delivery.message.payload != message.payload:
            return False
        delivery.message = message
        self.add(delivery)
        return True
