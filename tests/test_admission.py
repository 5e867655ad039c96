"""Gates and the budget behind them: never more than there is, in order, and nothing is lost."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.errors import ConfigError, Overloaded
from edge.invocation.admission import Budget, Gate

MEMORY, SLOTS = 100, 6


def gate(
    budget: Budget,
    memory: int = 10,
    *,
    slots: int = 1,
    concurrency: int = 4,
    queue: int = 8,
    timeout: float = 60,
) -> Gate:
    return Gate(
        budget,
        "component",
        memory=memory,
        slots=slots,
        concurrency=concurrency,
        queue=queue,
        timeout=timeout,
    )


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@contextmanager
def started(*gates: Gate) -> Iterator[list[asyncio.Task[None]]]:
    """A task that waits at each of the gates, in that order."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(g.wait()) for g in gates]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()


def done(tasks: list[asyncio.Task[None]]) -> list[bool]:
    return [task.done() for task in tasks]


# --- one gate -----------------------------------------------------------------------------------


async def test_more_than_its_concurrency_waits_and_more_than_its_queue_is_refused() -> None:
    one = gate(Budget(MEMORY, SLOTS), concurrency=1, queue=2)
    assert one.enter()
    assert not one.enter()
    with started(one, one) as tasks:
        await turns()
        with pytest.raises(Overloaded, match="busy"):
            one.enter()
        one.leave()
        await turns()
        assert done(tasks) == [True, False]


async def test_a_burst_of_one_turn_does_not_outgrow_the_queue() -> None:
    one = gate(Budget(MEMORY, SLOTS), concurrency=1, queue=2)
    assert [one.enter() for _ in range(5)] == [True, False, False, False, False]
    with started(*[one] * 4) as tasks:
        await turns()
        assert done(tasks) == [False, False, True, True]
        assert all(isinstance(task.exception(), Overloaded) for task in tasks[2:])


async def test_who_waits_too_long_is_told_to_come_back() -> None:
    one = gate(Budget(MEMORY, SLOTS), concurrency=1, timeout=0.01)
    assert one.enter()
    with pytest.raises(Overloaded) as raised:
        await one.wait()
    assert raised.value.retry_after >= 1
    one.leave()
    assert one.idle
    assert one.enter()


async def test_who_is_cancelled_in_the_moment_of_admission_gives_the_place_back() -> None:
    budget = Budget(MEMORY, SLOTS)
    one = gate(budget, concurrency=1)
    assert one.enter()
    with started(one, one) as tasks:
        await turns()
        one.leave()
        tasks[0].cancel()
        await turns()
        assert done(tasks) == [True, True]
        assert tasks[0].cancelled()
    one.leave()
    assert (budget.memory, budget.slots) == (MEMORY, SLOTS)


def test_a_component_that_could_never_run_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="the node has 100B and 6 for all guests"):
        gate(Budget(MEMORY, SLOTS), MEMORY + 1)
    with pytest.raises(ConfigError):
        gate(Budget(MEMORY, SLOTS), slots=SLOTS + 1)


# --- several gates ------------------------------------------------------------------------------


async def test_all_components_together_have_a_bounded_queue() -> None:
    budget = Budget(MEMORY, SLOTS, queue=2)
    large, small = gate(budget, MEMORY), gate(budget)
    assert large.enter()
    with started(large, small):
        await turns()
        with pytest.raises(Overloaded):
            small.enter()


async def test_a_large_component_is_not_starved_by_a_small_one() -> None:
    budget = Budget(MEMORY, SLOTS)
    small, large = gate(budget, 30), gate(budget, MEMORY)
    assert all(small.enter() for _ in range(3))
    with started(large, small) as tasks:
        await turns()
        # Each small one that leaves would have a successor that takes its place.
        for _ in range(3):
            small.leave()
            await turns()
        assert done(tasks) == [True, False]
        large.leave()
        await turns()
        assert done(tasks) == [True, True]


async def test_who_leaves_room_for_the_first_in_line_may_pass_it() -> None:
    budget = Budget(MEMORY, SLOTS)
    small, large = gate(budget, 15), gate(budget, 65)
    assert large.enter()
    with started(large) as tasks:
        await turns()
        for _ in range(3):
            assert small.enter()
            assert small.enter()
            assert not small.enter(), "the large one would have to wait for it"
            small.leave()
            small.leave()
        assert small.enter()
        assert small.enter()
        large.leave()
        await turns()
        assert done(tasks) == [True]


async def test_those_who_were_there_before_are_replaced_by_nobody() -> None:
    budget = Budget(MEMORY, SLOTS)
    small, large = gate(budget, 30), gate(budget, 60)
    assert all(small.enter() for _ in range(3))
    with started(large) as tasks:
        await turns()
        for _ in range(3):
            small.leave()
            small.enter()
            await turns()
        assert done(tasks) == [True]


async def test_gates_have_their_turn_one_event_each() -> None:
    budget = Budget(MEMORY, SLOTS)
    first, second = gate(budget, MEMORY), gate(budget, MEMORY)
    assert first.enter()
    with started(first, first, second) as tasks:
        await turns()
        first.leave()
        await turns()
        assert done(tasks) == [True, False, False]
        first.leave()
        await turns()
        assert done(tasks) == [True, False, True]


@dataclass(eq=False)
class Kept:
    """Instances kept for later events."""

    gate: Gate
    count: int = 0

    def release(self) -> bool:
        if not self.count:
            return False
        self.count -= 1
        return True


def keep(budget: Budget, kept: Kept, count: int) -> None:
    for _ in range(count):
        budget.keep(kept)
        kept.count += 1


async def test_what_is_kept_goes_before_anybody_waits() -> None:
    budget = Budget(MEMORY, SLOTS)
    kept, large = Kept(gate(budget, 20)), gate(budget, 70)
    keep(budget, kept, 4)
    assert large.enter()
    assert kept.count == 1
    assert budget.memory == 10


# --- any sequence of events ---------------------------------------------------------------------


@dataclass
class Lab:
    """Gates of different sizes, events at them, and what must hold whatever happens."""

    budget: Budget = field(default_factory=lambda: Budget(MEMORY, SLOTS, queue=12))
    inside: list[int] = field(default_factory=list)  # gates whose `leave` is owed
    coming: list[asyncio.Task[None]] = field(default_factory=list)  # about to wait
    waiting: list[list[asyncio.Task[None]]] = field(init=False)
    overtaken: list[asyncio.Task[None]] = field(default_factory=list)
    kept: Kept = field(init=False)

    def __post_init__(self) -> None:
        sizes = ((10, 1, 4), (35, 1, 2), (60, 3, 8), (MEMORY, SLOTS, 1))
        self.gates = [
            gate(self.budget, memory, slots=slots, concurrency=concurrency, queue=5)
            for memory, slots, concurrency in sizes
        ]
        self.waiting = [[] for _ in self.gates]
        self.kept = Kept(self.gates[0])

    def arrive(self, number: int) -> None:
        try:
            entered = self.gates[number].enter()
        except Overloaded:
            return
        if entered:
            self.inside.append(number)
        else:
            task = asyncio.get_running_loop().create_task(self.wait(number))
            self.coming.append(task)

    async def wait(self, number: int) -> None:
        me = asyncio.current_task()
        assert me is not None
        self.coming.remove(me)
        self.waiting[number].append(me)
        await self.gates[number].wait()
        self.inside.append(number)
        earlier = self.waiting[number][: self.waiting[number].index(me)]
        self.waiting[number].remove(me)
        await asyncio.sleep(0)  # who was admitted before wakes up before
        still = [task for task in earlier if task in self.waiting[number]]
        self.overtaken += [task for task in still if not (task.done() or task.cancelling())]

    def leave(self, which: int) -> None:
        if self.inside:
            self.gates[self.inside.pop(which % len(self.inside))].leave()

    def cancel(self, which: int) -> None:
        everybody = [*self.coming, *itertools.chain(*self.waiting)]
        if everybody:
            everybody[which % len(everybody)].cancel()

    def keep(self) -> None:
        if self.budget.fits(self.kept.gate) and not self.budget.line:
            keep(self.budget, self.kept, 1)

    def clean(self) -> None:
        """Waiters that have ended are out of the books."""
        self.coming = [task for task in self.coming if not task.done()]
        for number, tasks in enumerate(self.waiting):
            for task in tasks:
                if task.done() and not task.cancelled():
                    assert isinstance(task.exception(), Overloaded), task.exception()
            self.waiting[number] = [task for task in tasks if not task.done()]

    def check(self) -> None:
        """What holds at every moment that everybody has come to rest."""
        assert not self.overtaken
        held = [*self.inside, *[0] * self.kept.count]
        gates = [self.gates[number] for number in held]
        assert self.budget.memory == MEMORY - sum(g.memory for g in gates) >= 0
        assert self.budget.slots == SLOTS - sum(g.slots for g in gates) >= 0
        for number, one in enumerate(self.gates):
            assert self.inside.count(number) <= (4, 2, 8, 1)[number]
            assert len(self.waiting[number]) <= 5
            if self.waiting[number] and self.inside.count(number) < (4, 2, 8, 1)[number]:
                assert one in self.budget.line, "waits for nothing: a wake-up was lost"
        if self.budget.line:
            first = self.budget.line[0]
            full = self.budget.memory < first.memory or self.budget.slots < first.slots
            assert full, "there is room for the first in line"
            assert not self.kept.count, "something is kept while others wait"

    async def end(self) -> None:
        """Everybody goes: everything is as it was."""
        for task in [*self.coming, *itertools.chain(*self.waiting)]:
            task.cancel()
        await turns()
        while self.inside:
            self.leave(0)
        await turns()
        assert not self.inside
        while self.kept.count > 0:
            self.kept.release()
            self.budget.give(self.kept.gate)
        assert (self.budget.memory, self.budget.slots) == (MEMORY, SLOTS)
        assert all(one.idle for one in self.gates)
        assert not self.budget.line
        assert self.budget.waiting == 0


STEPS = st.one_of(
    st.tuples(st.just("arrive"), st.integers(0, 3)),
    st.tuples(st.just("arrive"), st.integers(0, 3)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.just("cancel"), st.integers(0, 9)),
    st.tuples(st.just("keep"), st.just(0)),
    st.tuples(st.just("rest"), st.just(0)),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=60))
def test_whatever_happens_the_budget_holds_and_nobody_is_forgotten(
    steps: list[tuple[str, int]],
) -> None:
    asyncio.run(play(steps))


async def play(steps: list[tuple[str, int]]) -> None:
    lab = Lab()
    for step, number in steps:
        match step:
            case "arrive":
                lab.arrive(number)
            case "leave":
                lab.leave(number)
            case "cancel":
                lab.cancel(number)
            case "keep":
                lab.keep()
            case _:
                await turns()
                lab.clean()
                lab.check()
    await turns()
    lab.clean()
    lab.check()
    await lab.end()
