"""wasi:clocks@0.2: the monotonic clock and the wall clock.

Guests see the host's monotonic clock as it is: an instance that serves several events compares
instants of one with those of another.
"""

from __future__ import annotations

import time

from edge.engine.host import Interface
from edge.wasi.context import Context
from edge.wasi.poll import POLL, Pollable

__all__ = ["MONOTONIC_CLOCK", "WALL_CLOCK", "Datetime", "datetime_of", "nanoseconds_of"]

SECOND = 1_000_000_000

# Both clocks of Linux count nanoseconds.
RESOLUTION = 1

Datetime = tuple[int, int]  # seconds since 1970, nanoseconds below a second


def datetime_of(nanoseconds: int) -> Datetime:
    return divmod(max(nanoseconds, 0), SECOND)


def nanoseconds_of(datetime: Datetime) -> int:
    return datetime[0] * SECOND + datetime[1]


def _now(_context: Context) -> int:
    return time.monotonic_ns()


def _resolution(_context: Context) -> int:
    return RESOLUTION


def _subscribe_instant(_context: Context, when: int) -> Pollable:
    return Pollable.at(when)


def _subscribe_duration(_context: Context, duration: int) -> Pollable:
    # Beyond 64 bits an instant has no meaning to a guest, but a wait has: it does not end.
    return Pollable.at(time.monotonic_ns() + duration)


def _wall_now(context: Context) -> Datetime:
    return datetime_of(context.now())


def _wall_resolution(_context: Context) -> Datetime:
    return 0, RESOLUTION


MONOTONIC_CLOCK = Interface(
    """interface wasi:clocks/monotonic-clock@0.2 {
      use wasi:io/poll@0.2.{pollable};
      type instant = u64;
      type duration = u64;
      now: func() -> instant;
      resolution: func() -> duration;
      subscribe-instant: func(when: instant) -> pollable;
      subscribe-duration: func(when: duration) -> pollable;
    }""",
    uses=(POLL,),
    functions={
        "now": _now,
        "resolution": _resolution,
        "subscribe-instant": _subscribe_instant,
        "subscribe-duration": _subscribe_duration,
    },
)

WALL_CLOCK = Interface(
    """interface wasi:clocks/wall-clock@0.2 {
      record datetime { seconds: u64, nanoseconds: u32 }
      now: func() -> datetime;
      resolution: func() -> datetime;
    }""",
    functions={"now": _wall_now, "resolution": _wall_resolution},
)
