"""Which subscriptions a message is for. Pure but for what it remembers."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

from edge.spin.broker import Filter, Message
from edge.triggers.mqtt.target import Target

__all__ = ["Table"]

# The most there are is 268,435,455.
_IDENTIFIERS = 0x0FFF_FFFE
# Topics whose targets are remembered; devices mostly repeat theirs. Long ones are not: whoever
# publishes decides what they are.
_KNOWN_MAX = 4096
_KNOWN_LENGTH_MAX = 256


class Table:
    """The targets of one connection, by filter. Immutable: a change makes another one.

    MQTT 5 tells with a message which subscriptions it matched. Their identifiers are made from the
    filters alone, so what a broker kept while the node was down is understood afterwards.
    """

    def __init__(self, targets: Iterable[Target] = ()) -> None:
        self._by_filter: dict[str, list[Target]] = {}
        for target in targets:
            text = target.trigger.filter.subscription
            self._by_filter.setdefault(text, []).append(target)
        self._identifiers = _identifiers(sorted(self._by_filter))
        self._known: dict[tuple[str, tuple[int, ...]], tuple[Target, ...]] = {}

    @property
    def filters(self) -> tuple[Filter, ...]:
        """What to subscribe to, each once."""
        return tuple(
            Filter(text, max(t.trigger.qos for t in targets), number)
            for number, text in self._identifiers.items()
            for targets in (self._by_filter[text],)
        )

    def __len__(self) -> int:
        return len(self._by_filter)

    def of_filter(self, text: str) -> Sequence[Target]:
        return self._by_filter.get(text, ())

    def targets(self, message: Message) -> tuple[Target, ...]:
        """Whom it is for. Nobody, when it matched a subscription that is no longer ours."""
        key = message.topic, message.properties.subscriptions
        if (known := self._known.get(key)) is not None:
            return known
        found = tuple(self._find(*key))
        if len(message.topic) <= _KNOWN_LENGTH_MAX:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = found
        return found

    def _find(self, topic: str, numbers: tuple[int, ...]) -> Iterable[Target]:
        if numbers:
            # A broker may send one copy for each subscription: each copy to its own targets.
            texts = [self._identifiers[n] for n in numbers if n in self._identifiers]
        else:
            texts = list(self._by_filter)
        for text in texts:
            for target in self._by_filter[text]:
                if target.trigger.filter.matches(topic):
                    yield target


def _identifiers(filters: Sequence[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for text in filters:
        number = zlib.crc32(text.encode()) % _IDENTIFIERS + 1
        while number in found:
            number = number % _IDENTIFIERS + 1
        found[number] = text
    return found
