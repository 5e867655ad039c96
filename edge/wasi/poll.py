"""wasi:io/poll@0.2: what guests wait for.

Knows no streams and no clocks of a guest's own; nothing here outlives the wait it serves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, final

from edge.engine.host import Interface, Trap

T = TypeVar("T")
Later = Coroutine[Any, Any, T]

# Pollables in one call; asking them all takes a millisecond in which nobody else is served.
POLL_MAX = 4096

# Of these, waited for at once and no timers. Each is a task for the time of the wait: 30 µs.
WAITS_MAX = 256

# Seconds. asyncio bounds what one sleep may last; a longer one is several.
_SLEEP_MAX = 86_400.0


@final
class Pollable:
    """Something a guest can wait for.

    `wait` returns when it happened; any number may wait at once. A `deadline` (nanoseconds of the
    monotonic clock) makes it a timer, which `poll` waits for without a task of its own.
    """

    __slots__ = ("_ready", "_wait", "deadline")

    def __init__(
        self,
        ready: Callable[[], bool],
        wait: Callable[[], Later[None]],
        deadline: int | None = None,
    ) -> None:
        self._ready = ready
        self._wait = wait
        self.deadline = deadline

    @classmethod
    def at(cls, deadline: int) -> Pollable:
        """Happens when the monotonic clock shows `deadline` (nanoseconds)."""

        def ready() -> bool:
            return time.monotonic_ns() >= deadline

        def wait() -> Later[None]:
            return sleep_until(deadline)

        return cls(ready, wait, deadline)

    def ready(self) -> bool:
        return self._ready()

    def wait(self) -> Later[None]:
        return self._wait()

    def block(self) -> Later[None] | None:
        return None if self._ready() else self._wait()


def always() -> Pollable:
    """What is ready from the beginning."""
    return Pollable.at(0)


def poll(_context: object, pollables: Sequence[Pollable]) -> list[int] | Later[list[int]]:
    """The indices of the ready ones, at least one; waits for the first when there is none."""
    if not pollables:
        raise Trap("poll: the list is empty")
    if len(pollables) > POLL_MAX:
        raise Trap(f"poll: more than {POLL_MAX} pollables at once")
    ready = [index for index, pollable in enumerate(pollables) if pollable.ready()]
    return ready or _poll_later(pollables)


async def _poll_later(pollables: Sequence[Pollable]) -> list[int]:
    happened = await wait_any(pollables)
    # Who was woken counts as ready, even if another took what it waited for: no loop here can spin.
    return [
        index
        for index, pollable in enumerate(pollables)
        if pollable in happened or pollable.ready()
    ]


async def wait_any(pollables: Sequence[Pollable]) -> set[Pollable]:
    """Waits for the first to happen; those that did are in the result. Leaves nothing behind.

    Raises Trap when there are too many.
    """
    timers = {p for p in pollables if p.deadline is not None}
    others = {p for p in pollables if p.deadline is None}
    deadline = min((p.deadline for p in timers if p.deadline is not None), default=None)
    if len(others) > WAITS_MAX:
        raise Trap(f"poll: more than {WAITS_MAX} pollables that are neither ready nor timers")
    if not others:
        assert deadline is not None
        await sleep_until(deadline)
        return _passed(timers)
    if not timers and len(others) == 1:
        for pollable in others:
            await pollable.wait()
        return others
    return await _first(others, deadline) | _passed(timers)


def _passed(timers: set[Pollable]) -> set[Pollable]:
    return {timer for timer in timers if timer.ready()}


async def _first(pollables: set[Pollable], deadline: int | None) -> set[Pollable]:
    done: set[Pollable] = set()

    async def watch(pollable: Pollable) -> None:
        await pollable.wait()
        done.add(pollable)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(watch(p), name="poll") for p in pollables]
        if deadline is not None:
            tasks.append(group.create_task(sleep_until(deadline), name="poll timer"))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    return done


async def sleep_until(deadline: int) -> None:
    while (left := deadline - time.monotonic_ns()) > 0:  # noqa: ASYNC110 -- a clock, no event
        await asyncio.sleep(min(left / 1e9, _SLEEP_MAX))


POLL = Interface(
    """interface wasi:io/poll@0.2 {
      resource pollable { ready: func() -> bool; block: func(); }
      poll: func(in: list<borrow<pollable>>) -> list<u32>;
    }""",
    functions={"poll": poll},
    resources={"pollable": Pollable},
)
