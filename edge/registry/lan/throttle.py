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
# Seconds after its last part in which a neighbour's next one is expected.
_IDLE = 0.5
# Seconds for which, and number of neighbours that, wait here for a turn.
_WAIT, _MOST_WAITING = 2.0, 64


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
        await asyncio.sleep(begin - now)
        return size


class Full(Exception):
    """There is no turn for who asks now."""


@dataclass(slots=True)
class _Served:
    parts: int = 0
    last: float = 0.0


class Slots:
    """Who is served. A neighbour that has a turn keeps it while it goes on asking."""

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
        if id not in self._served and (self._waiting or len(self._served) >= self._active):
            await self._turn(id)
        served = self._served.setdefault(id, _Served())
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
        if len(self._waiting) >= _MOST_WAITING:
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
        idle = [i for i, s in self._served.items() if not s.parts and now - s.last >= _IDLE]
        for id in idle:
            del self._served[id]
        while self._waiting and len(self._served) < self._active:
            id, turn = self._waiting.popleft()
            if not turn.done():
                self._served.setdefault(id, _Served(last=now))
                turn.set_result(None)
        self.close()
        resting = [served.last for served in self._served.values() if not served.parts]
        if self._waiting and resting:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(min(resting) + _IDLE, self._tidy)


def _now() -> float:
    return asyncio.get_running_loop().time()
