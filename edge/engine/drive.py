"""Runs a guest's call on asyncio: waits for what it waits for, and shares the CPU among guests that
do not wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from edge.engine._core import Call

# Turns of the loop between two slices: an event takes four from its socket to its answer, and some
# come meanwhile. With a slice in each of them it would wait for as many slices.
TURNS: Final = 8

# Seconds after which the next slice comes all the same: a fifth of the time is for who computes.
_SHARE: Final = 0.01


class Lane:
    """Where guests that used up their time slice wait for the next one.

    Between any two slices everybody else has some turns of the loop: a fresh event waits for one
    slice at most, however many guests spin.
    """

    __slots__ = ("_running", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._running = False

    async def turn(self) -> None:
        """Returns when it is the caller's turn."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        if not self._running:
            self._running = True
            self._pause(loop)
        await future

    def _pause(self, loop: asyncio.AbstractEventLoop) -> None:
        self._pass(loop, TURNS, loop.time() + _SHARE)

    def _pass(self, loop: asyncio.AbstractEventLoop, turns: int, until: float) -> None:
        if turns and loop.time() < until:
            loop.call_soon(self._pass, loop, turns - 1, until)
        else:
            self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                break
        self._running = bool(self._waiting)
        if self._running:
            loop.call_soon(self._pause, loop)  # after the slice, which is in that turn


async def drive(call: Call, lane: Lane, polled: Callable[[], None] | None = None) -> Any:
    """Polls `call` to its end and returns its result; raises what ended it. The caller closes it.

    For a call that was polled before and had not ended. `polled` is called after each poll.
    """
    while True:
        if call.waiting is None:
            await lane.turn()
        else:
            try:
                value = await call.waiting
            except Exception as exc:  # the guest's to handle, or what ends it
                call.fail(exc)
            else:
                call.resume(value)
        if call.poll():
            return call.result
        if polled is not None:
            polled()
