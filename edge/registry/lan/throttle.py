"""How much of itself a node gives to its neighbours: bytes a second, and neighbours at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

__all__ = ["Full", "Slots", "Throttle"]

# Neighbours that are served at a time: each has its blob the sooner, and then serves others itself.
_ACTIVE = 3
# Bytes that are sent together at least.
_PIECE = 4 << 10
# Seconds after which a turn ends when others wait, whatever is still under way.
_TURN = 10.0
# Seconds after its last part in which a neighbour's next one is expected.
_IDLE = 0.5
# Seconds for which requests wait here for a turn, how many, and how many of one neighbour.
_WAIT, _MOST_WAITING, _MOST_OF_ONE = 2.0, 64, 4


class Throttle:
    """Awaited before bytes are sent, it says how many of them may be, so that all together stay
    below `rate` a second; 0: no bound.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._free = 0.0  # from when on nothing more has been promised

    async def __call__(self, size: int) -> int:
        if not self.rate:
            return size
        # In small pieces: a neighbour that gets nothing for seconds would take it for a stall.
        size = min(size, max(_PIECE, self.rate // 8))
        now = asyncio.get_running_loop().time()
        begin = max(now, self._free)
        self._free = begin + size / self.rate
        try:
            await asyncio.sleep(begin - now)
        except asyncio.CancelledError:  # who asked is gone: others need not wait for it
            self._free -= size / self.rate
            raise
        return size


class Full(Exception):
    """There is no turn for who asks now."""


@dataclass(slots=True)
class _Served:
    since: float
    last: float
    parts: int = 0


class Slots:
    """Who is served. A neighbour that has a turn keeps it while it goes on asking, for a while."""

    def __init__(self, active: int = _ACTIVE) -> None:
        self._active = active
        self._served: dict[str, _Served] = {}
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @asynccontextmanager
    async def of(self, id: str) -> AsyncIterator[None]:
        """One part for a neighbour, in its turn; raises Full when that does not come soon."""
        self._tidy()
        if id not in self._served and (self._waiting or len(self._served) >= self._active):
            await self._turn(id)
        served = self._served.setdefault(id, _Served(_now(), _now()))
        served.parts += 1
        try:
            yield
        finally:
            served.parts -= 1
            served.last = _now()
            self._tidy()

    def done(self, id: str) -> None:
        """It has all of what it wanted: somebody else's turn."""
        served = self._served.get(id)
        if served is not None:
            served.last = 0.0
            self._tidy()

    async def _turn(self, id: str) -> None:
        own = sum(other == id for other, _ in self._waiting)
        if len(self._waiting) >= _MOST_WAITING or own >= _MOST_OF_ONE:
            raise Full
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((id, turn))
        self._tidy()
        try:
            async with asyncio.timeout(_WAIT):
                await turn
        except TimeoutError:
            raise Full from None
        finally:
            turn.cancel()
            self._waiting = deque(item for item in self._waiting if item[1] is not turn)

    def _tidy(self) -> None:
        """Ends the turns of who asks for nothing, and gives them to who waits."""
        now = _now()
        if self._waiting:
            over = [id for id, served in self._served.items() if _end(served) <= now]
            for id in over:
                del self._served[id]
        while self._waiting and len(self._served) < self._active:
            id, turn = self._waiting.popleft()
            if not turn.done():
                self._served.setdefault(id, _Served(now, now))
                turn.set_result(None)
        self.close()
        if self._waiting and self._served:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(min(map(_end, self._served.values())), self._tidy)


def _end(served: _Served) -> float:
    """When its turn ends, if somebody waits for it then."""
    end = served.since + _TURN
    return end if served.parts else min(end, served.last + _IDLE)


def _now() -> float:
    return asyncio.get_running_loop().time()
