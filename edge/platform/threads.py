"""Threads that get their turn beside a loop that never waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

__all__ = ["Threads", "share"]

P = ParamSpec("P")
T = TypeVar("T")

# Seconds between two pauses of the loop while threads have work; longer for what takes long, which
# waits for something else: as a share of its age, and a second at most.
_EVERY, _SHARE, _MOST = 0.005, 0.005, 1.0
# Seconds of a pause: for another thread to wake up in.
_PAUSE = 0.0002


class Threads(ThreadPoolExecutor):
    """A loop's executor. All of it but `submit` and the pauses is the standard library's.

    CPython makes its interpreter lock change hands for a thread that has waited 5 ms in which
    nobody let go of it. A loop under load lets go at each system call and has it back before
    another thread is awake: that one begins to wait anew, for minutes.
    Source: take_gil in Python/ceval_gil.h.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(thread_name_prefix="asyncio")
        self._loop = loop
        self._under_way: list[Future[Any]] = []
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """From the loop."""
        future = super().submit(call, *args, **kwargs)
        self._under_way.append(future)
        self._since = time.monotonic()
        if self._timer is None or self._timer.when() > self._since + _EVERY:
            self._wait(_EVERY)
        return future

    def _wait(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._pause)

    def _pause(self) -> None:
        self._timer = None
        self._under_way = [future for future in self._under_way if not future.done()]
        if self._under_way:
            time.sleep(_PAUSE)
            age = time.monotonic() - self._since
            self._wait(min(max(_EVERY, age * _SHARE), _MOST))


def share() -> None:
    """The running loop's threads are such ones."""
    loop = asyncio.get_running_loop()
    loop.set_default_executor(Threads(loop))
