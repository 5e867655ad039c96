"""One timer for all connections of a server.

A connection that makes progress only stores a later deadline; the timer looks at all of them when
the nearest known one passes. So a request costs no timer, a server without connections has none,
and it never looks more often than once a second.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from edge.wasi.pipe import Signal

NEVER: Final = math.inf

# Seconds between two looks. Smaller: more wake-ups; larger: later, and burstier, time-outs.
GRAIN: Final = 1.0


class Watched(Protocol):
    """Somebody with deadlines, in the loop's time."""

    input_by: float
    output_by: float

    def expire(self, now: float) -> None:
        """A deadline has passed: act, and store later ones."""


Member = TypeVar("Member", bound=Watched)


class Deadlines(Generic[Member]):
    """Those who are watched. Whoever stores an earlier deadline calls `watch` with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._members: set[Member] = set()
        self._empty = Signal()
        self._timer: asyncio.TimerHandle | None = None
        self.look_at = NEVER
        self._looked = -NEVER

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members))

    def add(self, member: Member) -> None:
        self._members.add(member)

    def discard(self, member: Member) -> None:
        self._members.discard(member)
        if not self._members:
            self._schedule(NEVER)
            self._empty.wake()

    async def emptied(self) -> None:
        """Return once nobody is watched."""
        while self._members:
            await self._empty.wait()

    def watch(self, deadline: float) -> None:
        if deadline < self.look_at:
            self._schedule(deadline)

    def _schedule(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.look_at = max(deadline, self._looked + GRAIN)
        if deadline != NEVER:
            self._timer = self._loop.call_at(self.look_at, self._look)

    def _look(self) -> None:
        self._timer, self.look_at = None, NEVER
        now = self._looked = self._loop.time()
        for member in list(self._members):
            if member.input_by <= now or member.output_by <= now:
                member.expire(now)
        self.watch(min((min(m.input_by, m.output_by) for m in self._members), default=NEVER))
