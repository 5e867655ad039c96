# cython: annotation_typing=False, binding=False
"""Holds what a turn of the loop has to send until its end, for all connections together.

A client that sleeps is woken by the first of many sends and is still awake for the others; to be
woken once for each reply costs both sides more than the reply. Knows neither HTTP nor sockets.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Final, Protocol

# Seconds a reply may wait for others of its turn: guests that compute may make a turn long.
PATIENCE: Final = 0.0005


class Sender(Protocol):
    """Something with bytes to send."""

    def flush(self) -> None:
        """Send them."""


class Outbox:
    """The senders of this turn of the loop; as a context, those of a block: sent at its end."""

    __slots__ = ("_held", "_loop", "_senders", "_since")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._senders: list[Sender] = []
        self._since = 0.0
        self._held = False

    def __enter__(self) -> None:
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
        self.flush()

    def add(self, sender: Sender) -> None:
        """Flush `sender` at the end of this turn, or block."""
        if not self._senders:
            self._since = monotonic()
            if not self._held:
                self._loop.call_soon(self.flush)
        self._senders.append(sender)

    def hasten(self) -> None:
        """More work is about to begin: what has waited long enough leaves before it."""
        if self._senders and monotonic() - self._since > PATIENCE:
            self.flush()

    def flush(self) -> None:
        senders, self._senders = self._senders, []
        for sender in senders:
            sender.flush()
