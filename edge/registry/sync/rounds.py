"""When which application is worked on: rounds of looks, tries in between, commands first.

One timer for all of them; with nothing to look at there is none.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from edge.registry.reference import Reference
from edge.registry.sync.delivery import registry_of
from edge.registry.sync.pace import Pace
from edge.registry.sync.record import Record

__all__ = ["Rounds"]

# Applications at a time; of one registry, which may hang, at most so many.
_AT_ONCE = 12
_OF_A_REGISTRY = 4


class Rounds:
    """`look` begins a round; `work` takes one application as far as it gets, and raises nothing;
    `rest` is done when there is nothing else to do, and returns the loop's time of the next one.
    `changed` is called when an application may have changed.
    """

    def __init__(
        self,
        records: Mapping[str, Record],
        pace: Pace,
        *,
        look: Callable[[], Coroutine[Any, Any, None]],
        work: Callable[[Record], Coroutine[Any, Any, None]],
        rest: Callable[[], Awaitable[float]],
        polls: Callable[[], bool],
    ) -> None:
        self._records = records
        self._pace = pace
        self._look, self._work, self._rest, self._polls = look, work, rest, polls
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._running: dict[asyncio.Task[None], tuple[Record, str]] = {}
        # What is due, by registry: looked for among all only when there is none left of it.
        self._queued: dict[str, deque[Record]] = {}
        self._next = -math.inf
        self._idle: list[asyncio.Future[None]] = []
        self.changed: Callable[[], None] = lambda: None

    def wake(self) -> None:
        """Something is due."""
        self._wake.set()
        self.changed()

    def hinted(self, reference: Reference) -> None:
        """That tag may have moved: who follows it is due."""
        now = asyncio.get_running_loop().time()
        for record in self._records.values():
            if record.needs_look and _follows(record, reference):
                record.due = min(record.due, now)
        self.wake()

    def look(self) -> None:
        """What the fleet wants may have changed: that is looked at now, and no tag of it."""
        if self._looking is None:
            self._looking = self._task(self._look(), "look")

    async def run(self) -> None:
        """Until cancelled; what it began is cancelled, too."""
        try:
            while True:
                self._wake.clear()
                self._begin()
                if self._busy():
                    await self._wait(self._due())
                else:
                    again = await self._rest()
                    if not self._busy() and not self._wake.is_set():
                        self._tell_idle()
                        await self._wait(min(self._due(), again))
        finally:
            await self._stop()

    async def wait_idle(self) -> None:
        """Until nothing is under way and nothing is due."""
        future = asyncio.get_running_loop().create_future()
        self._idle.append(future)
        self.wake()
        await future

    def _begin(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next and self._polls():
            self._next = now + self._pace.look()
            self._begin_round(now)
        self._queued = {}
        for record in self._records.values():
            if _startable(record, now):
                registry = registry_of(record.wanted.entry) if record.wanted else ""
                self._queued.setdefault(registry, deque()).append(record)
        self._fill()

    def _fill(self) -> None:
        """Begins as much of what is due as may run at once."""
        now = asyncio.get_running_loop().time()
        counted = Counter(registry for _, registry in self._running.values())
        for registry, queue in self._queued.items():
            most = _OF_A_REGISTRY if registry else _AT_ONCE
            while queue and counted[registry] < most and len(self._running) < _AT_ONCE:
                record = queue.popleft()
                if _startable(record, now):
                    self._begin_work(record, registry)
                    counted[registry] += 1

    def _begin_round(self, now: float) -> None:
        for record in self._records.values():
            if record.needs_look:
                record.due = min(record.due, now)
        self.look()

    def _begin_work(self, record: Record, registry: str) -> None:
        record.due = math.inf
        record.work = self._task(self._work(record), f"sync {record.name}")
        self._running[record.work] = record, registry

    def _task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task is self._looking:
            self._looking = None
        record, _ = self._running.pop(task, (None, ""))
        if record is not None:
            record.work = None
            self.changed()
        self._fill()
        if not any(self._queued.values()):
            self.wake()
        if not task.cancelled():
            task.result()  # a mistake of edge itself is told, and nothing waits for it

    def _busy(self) -> bool:
        now = asyncio.get_running_loop().time()
        records = self._records.values()
        waiting = any(r.claims or r.due <= now for r in records)
        return bool(self._running or self._looking or waiting)

    def _due(self) -> float:
        """When there is something to begin."""
        now = asyncio.get_running_loop().time()
        tries = (r.due for r in self._records.values() if r.due > now)
        return min(self._next if self._polls() else math.inf, *tries, math.inf)

    async def _wait(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        timer = None if math.isinf(until) else loop.call_at(until, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer is not None:
                timer.cancel()

    def _tell_idle(self) -> None:
        waiting, self._idle = self._idle, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _stop(self) -> None:
        self._queued = {}
        tasks = [*self._running, *([self._looking] if self._looking else ())]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _follows(record: Record, reference: Reference) -> bool:
    text = record.wanted.entry.reference if record.wanted else None
    if text is None or reference.repository not in text:  # of thousands, hardly one is parsed
        return False
    followed = Reference.parse(text)
    return (followed.name, followed.wanted) == (reference.name, reference.wanted)


def _startable(record: Record, now: float) -> bool:
    return record.due <= now and not record.claims and record.work is None
