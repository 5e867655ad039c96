"""The two clocks of timers, and an alarm on the one that people set. Linux only."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import math
import os
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Alarm", "Clock"]

# sys/timerfd.h; Python has these from 3.13 on
_TFD_NONBLOCK, _TFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
_TFD_TIMER_ABSTIME, _TFD_TIMER_CANCEL_ON_SET = 1, 2
# A time that never comes: an alarm has to be set to be told that the clock is.
_NEVER = float(1 << 33)


class Clock(Protocol):
    """What timers ask of time."""

    def now(self) -> float:
        """The date, in seconds since 1970."""

    def elapsed(self) -> float:
        """Seconds on a clock that nobody sets."""

    def set(self, when: float | None, ring: Callable[[], None]) -> None:
        """Calls `ring` once the date is `when` or was set, whichever is first. None: never."""

    def call_at(self, when: float, ring: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls `ring` when that much has elapsed."""

    def close(self) -> None: ...


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Alarm:
    """The machine's clocks. The kernel's timer file rings at a date, whether the time until then
    passed, was slept through or was skipped, and when the clock is set: a plain timeout would need
    to look at the clock now and then to notice either.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_REALTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._ring: Callable[[], None] | None = None
        loop.add_reader(self._fd, self._readable)

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_REALTIME)

    def elapsed(self) -> float:
        return self._loop.time()

    def call_at(self, when: float, ring: Callable[[], None]) -> asyncio.TimerHandle:
        return self._loop.call_at(when, ring)

    def set(self, when: float | None, ring: Callable[[], None]) -> None:
        self._ring = None if when is None else ring
        spec = _Itimerspec()  # of zeros: disarms
        if when is not None:
            # what is due already rings as well: 0 would disarm
            fraction, whole = math.modf(min(max(when, 1.0), _NEVER))
            spec.value = _Timespec(int(whole), int(fraction * 1e9))
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        if self._libc.timerfd_settime(self._fd, flags, ctypes.byref(spec), None):
            if ctypes.get_errno() != errno.ECANCELED:
                raise OSError(ctypes.get_errno(), "timerfd_settime")
            self._loop.call_soon(
                self._rings
            )  # set between two looks; the alarm stands all the same

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        self._ring = None
        os.close(self._fd)

    def _readable(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        except OSError as exc:
            if exc.errno != errno.ECANCELED:  # the clock was set
                raise
        self._rings()

    def _rings(self) -> None:
        if self._ring is not None:
            self._ring()
