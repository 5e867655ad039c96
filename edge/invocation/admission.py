"""Who may run now: a component's concurrency and queue, within the node's memory and pool slots.

A node admits what it can hold. An invocation reserves its memory limit, not what it uses: a guest
may grow to its limit at any time and nobody could refuse it then. What does not fit waits in its
component's bounded queue.
"""

from __future__ import annotations

import asyncio
from collections import deque

from edge.errors import Overloaded


class Budget:
    """What the node has for guests: `memory` in bytes, `slots` of the pool.

    Gates that wait for room are served in the order they came: a large component is not starved by
    small ones.
    """

    __slots__ = ("blocked", "memory", "slots")

    def __init__(self, memory: int, slots: int) -> None:
        self.memory = memory
        self.slots = slots
        self.blocked: deque[Gate] = deque()

    def take(self, gate: Gate) -> bool:
        if self.memory < gate.memory or self.slots < gate.slots:
            return False
        self.memory -= gate.memory
        self.slots -= gate.slots
        return True

    def give(self, gate: Gate) -> None:
        self.memory += gate.memory
        self.slots += gate.slots
        if self.blocked:
            self.serve()

    def serve(self) -> None:
        """Lets those in who fit now, in order."""
        while self.blocked and self.blocked[0].advance():
            self.blocked.popleft()

    def block(self, gate: Gate) -> None:
        if gate not in self.blocked:
            self.blocked.append(gate)


class Gate:
    """One component's door. `memory` and `slots`: what each of its invocations reserves."""

    __slots__ = (
        "_active", "_budget", "_concurrency", "_name", "_queue", "_timeout", "_waiting",
        "memory", "slots",
    )  # fmt: skip

    def __init__(
        self,
        budget: Budget,
        name: str,
        *,
        memory: int,
        slots: int,
        concurrency: int,
        queue: int,
        timeout: float,
    ) -> None:
        self._budget = budget
        self._name = name
        self.memory = memory
        self.slots = slots
        self._concurrency = concurrency
        self._queue = queue
        self._timeout = timeout
        self._active = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def idle(self) -> bool:
        return not self._active and not self._waiting

    def enter(self) -> bool:
        """True: admitted, `leave` is owed. False: `wait` for it. Raises Overloaded when the queue
        is full.
        """
        if not self._waiting and not self._budget.blocked and self._admit():
            return True
        if len(self._waiting) >= self._queue:
            raise Overloaded(f"component {self._name}: busy", hint="its queue is full")
        return False

    async def wait(self) -> None:
        """Returns when admitted; `leave` is owed. Raises Overloaded after the component's queue
        timeout.
        """
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.advance_or_block()
        try:
            async with asyncio.timeout(self._timeout):
                await future
        except BaseException as exc:
            self._abandon(future)
            if isinstance(exc, TimeoutError):
                raise Overloaded(
                    f"component {self._name}: busy", hint="its queue did not move"
                ) from None
            raise

    def leave(self) -> None:
        self._active -= 1
        self._budget.give(self)
        if self._waiting:
            self.advance_or_block()

    def advance_or_block(self) -> None:
        if not self.advance():
            self._budget.block(self)

    def advance(self) -> bool:
        """Admits who waits. False: only the node's budget stands in the way."""
        while self._waiting and self._active < self._concurrency:
            if self._waiting[0].done():
                self._waiting.popleft()
            elif not self._admit():
                return False
            else:
                self._waiting.popleft().set_result(None)
        return True

    def _admit(self) -> bool:
        if self._active >= self._concurrency or not self._budget.take(self):
            return False
        self._active += 1
        return True

    def _abandon(self, future: asyncio.Future[None]) -> None:
        if future.done() and not future.cancelled():
            self.leave()  # admitted in the same turn of the loop
        else:
            future.cancel()
            if future in self._waiting:
                self._waiting.remove(future)
            self._budget.serve()
