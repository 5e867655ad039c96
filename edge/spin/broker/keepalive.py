"""MQTT's keep-alive: a ping when it was quiet for long, and the end when nothing answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge.spin.broker.wire import Wire

__all__ = ["KeepAlive"]

# Seconds after a ping in which anything must come, at most: half an interval if that is less.
_ANSWER = 10.0


class KeepAlive:
    """One timer, due once in each quiet interval; `dead` is called once when nothing answers."""

    def __init__(self, wire: Wire, dead: Callable[[], None]) -> None:
        self._wire = wire
        self._dead = dead
        self._loop = asyncio.get_running_loop()
        self._interval = 0.0
        self._pinged = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self, interval: float) -> None:
        """`interval`: seconds, 0 for never."""
        self._interval = interval
        if interval:
            self._schedule()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self) -> None:
        self._timer = self._loop.call_at(self._due(), self._check)

    def _due(self) -> float:
        return min(self._wire.heard, self._wire.spoke) + self._interval

    def _check(self) -> None:
        now = self._loop.time()
        if now < self._due():
            self._schedule()
            return
        self._pinged = now
        self._wire.write(b"\xc0\x00")
        self._timer = self._loop.call_later(min(_ANSWER, self._interval / 2), self._answered)

    def _answered(self) -> None:
        wire = self._wire
        # Who does not listen can not say that nothing came.
        if wire.heard < self._pinged and not wire.paused:
            self._timer = None
            self._dead()
            return
        wire.heard = max(wire.heard, self._pinged)
        self._schedule()
