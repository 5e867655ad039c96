# cython: annotation_typing=False, binding=False
"""Who may run now: a component's concurrency and queue, within the node's memory and pool slots.

A node admits what it can hold. An invocation reserves its memory limit, not what it uses: a guest
may grow to its limit at any time and nobody could refuse it then. What does not fit waits in its
component's bounded queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Protocol

from edge.application.units import show_size
from edge.errors import ConfigError, Overloaded
from edge.invocation.meter import Meter


class Spare(Protocol):
    """Who keeps instances for later events, each in a place of its own."""

    gate: Gate

    def release(self) -> bool:
        """End one of them, whose place is then free. False: there is none."""


class Budget:
    """What the node has for guests: `memory` in bytes and `slots` of the pool, as far as they are
    free; `queue`: how many events may wait for them, of all components together.

    Gates that wait for room stand in line, and get it in turn, for one event each. Others may pass
    the first of them while all who do leave it the room it needs: it waits for those only who were
    there before, and nobody waits for it without need. Instances kept for later events go before
    anybody waits.
    """

    __slots__ = (
        "_passing_memory", "_passing_slots", "all", "line", "memory", "queue", "slots", "spares",
        "turn", "waiting",
    )  # fmt: skip

    def __init__(self, memory: int, slots: int, queue: int = 1024) -> None:
        self.all = memory, slots
        self.memory = memory
        self.slots = slots
        self.queue = queue
        self.waiting = 0
        self.spares: dict[Spare, None] = {}
        self.line: deque[Gate] = deque()
        self.turn = 0  # changes with the first in line
        # What those who pass it may still take.
        self._passing_memory = self._passing_slots = 0

    def fits(self, gate: Gate) -> bool:
        """There is room for one more, without ending what is kept."""
        if self.memory < gate.memory or self.slots < gate.slots:
            return False
        if not self.line or self.line[0] is gate:
            return True
        return self._passing_memory >= gate.memory and self._passing_slots >= gate.slots

    def take(self, gate: Gate) -> bool:
        # Where nobody waits and there is room this is all.
        if self.line or self.memory < gate.memory or self.slots < gate.slots:
            if not self.fits(gate) and not self._reclaim(gate):
                return False
            self._note_passing(gate)
        self.memory -= gate.memory
        self.slots -= gate.slots
        return True

    def keep(self, spare: Spare) -> None:
        """An instance is kept, where there is room or in the place of an invocation that ends."""
        self.memory -= spare.gate.memory
        self.slots -= spare.gate.slots
        self.spares[spare] = None

    def give(self, gate: Gate) -> None:
        self.memory += gate.memory
        self.slots += gate.slots
        if self.line:
            self._note_passed(gate)
            self.serve()

    def stand_in_line(self, gate: Gate) -> None:
        self.line.append(gate)
        if len(self.line) == 1:
            self._begin_turn()

    def serve(self) -> None:
        """Lets those in who fit now, one event of each gate in turn."""
        line, at = self.line, 0
        while at < len(line):
            gate = line[at]
            admitted = gate.admit_next()
            if admitted is False:
                at += 1
                continue
            del line[at]
            if admitted:
                line.append(gate)
            if at == 0:
                self._begin_turn()

    def _begin_turn(self) -> None:
        """Somebody else is the first in line, or nobody is."""
        self.turn += 1
        if self.line:
            self._passing_memory = self.all[0] - self.line[0].memory
            self._passing_slots = self.all[1] - self.line[0].slots

    def _note_passing(self, gate: Gate) -> None:
        if not self.line or self.line[0] is gate:
            return
        self._passing_memory -= gate.memory
        self._passing_slots -= gate.slots
        if gate.turn != self.turn:
            gate.turn, gate.passing = self.turn, 0
        gate.passing += 1

    def _note_passed(self, gate: Gate) -> None:
        # Those of a gate are alike. Who was there before is taken to have left first: so the first
        # in line never waits for more than it should.
        if gate.turn == self.turn and gate.passing > gate.active:
            gate.passing -= 1
            self._passing_memory += gate.memory
            self._passing_slots += gate.slots

    def _reclaim(self, gate: Gate) -> bool:
        """Ends kept instances until there is room. False: not even all of them make it."""
        while self.spares:
            spare = next(iter(self.spares))
            if not spare.release():
                del self.spares[spare]
                continue
            self.memory += spare.gate.memory
            self.slots += spare.gate.slots
            if self.fits(gate):
                return True
        return False


class Gate:
    """One component's door. `memory` and `slots`: what each of its invocations reserves; `meter`:
    counts who is sent away.

    Raises ConfigError when it could never open: one of them is more than the node has.
    """

    __slots__ = (
        "_budget", "_concurrency", "_name", "_queue", "_timeout", "_waiting", "active", "memory",
        "meter", "passing", "slots", "turn",
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
        meter: Meter | None = None,
    ) -> None:
        if memory > budget.all[0] or slots > budget.all[1]:
            raise ConfigError(
                f"component {name}: an instance takes {show_size(memory)} and {slots} slots, "
                f"the node has {show_size(budget.all[0])} and {budget.all[1]} for all guests",
                hint="lower the component's memory (tool.edge), or give the node more (--memory)",
            )
        self._budget = budget
        self._name = name
        self.memory = memory
        self.slots = slots
        self._concurrency = concurrency
        self._queue = queue
        self._timeout = timeout
        self.meter = meter or Meter()
        self.active = 0
        # The budget's: how many of the active passed the first in its line, at that turn.
        self.passing = self.turn = 0
        # Who is here and not in the budget's line waits for one of its own to leave.
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def idle(self) -> bool:
        return not self.active and not self._waiting

    @property
    def queued(self) -> int:
        """Events that wait."""
        return len(self._waiting)

    def enter(self) -> bool:
        """True: admitted, `leave` is owed. False: `wait` for it. Raises Overloaded when the queue
        is full.
        """
        if not self._waiting and self.active < self._concurrency and self._budget.take(self):
            self.active += 1
            return True
        self._check_queue()
        return False

    async def wait(self) -> float:
        """Returns when admitted, after how many seconds; `leave` is owed. Raises Overloaded when
        the queue is full, or after the component's queue timeout.
        """
        began = monotonic()
        self._check_queue()  # others may have come since
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._budget.waiting += 1
        self._advance()
        try:
            async with asyncio.timeout(self._timeout):
                await future
        except BaseException as exc:
            self._abandon(future)
            if isinstance(exc, TimeoutError):
                raise self._busy("its queue did not move") from None
            self.meter.refused(exc)
            raise
        finally:
            self._budget.waiting -= 1
        return monotonic() - began

    def leave(self) -> None:
        self.active -= 1
        self._budget.give(self)
        if self._waiting:
            self._advance()

    def admit_next(self) -> bool | None:
        """Admits one who waits. False: there is no room. None: nobody waits for room."""
        waiting = self._waiting
        while waiting and waiting[0].done():
            waiting.popleft()
        if not waiting or self.active >= self._concurrency:
            return None
        if not self._budget.take(self):
            return False
        self.active += 1
        waiting.popleft().set_result(None)
        return True

    def _advance(self) -> None:
        if self not in self._budget.line and self.admit_next() is False:
            self._budget.stand_in_line(self)

    def _check_queue(self) -> None:
        budget = self._budget
        if len(self._waiting) >= self._queue or budget.waiting >= budget.queue:
            raise self._busy("its queue is full")

    def _busy(self, why: str) -> Overloaded:
        error = Overloaded(f"component {self._name}: busy", hint=why)
        self.meter.refused(error)
        return error

    def _abandon(self, future: asyncio.Future[None]) -> None:
        if future.done() and not future.cancelled():
            self.leave()  # admitted in the same turn of the loop
            return
        future.cancel()
        if future in self._waiting:
            self._waiting.remove(future)
        self._budget.serve()
