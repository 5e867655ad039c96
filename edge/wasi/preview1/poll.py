"""poll_oneoff: waits for the first of some clocks and file descriptors."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from edge.engine.host import CoreFunction, Err
from edge.wasi.context import Context
from edge.wasi.poll import Later, Pollable, always, wait_any
from edge.wasi.preview1.errno import Memory, errno, function
from edge.wasi.preview1.process import MONOTONIC, REALTIME
from edge.wasi.preview1.table import Entry, FileEntry, Input, Output, files

__all__ = ["FUNCTIONS"]

# Subscriptions of one call.
SUBSCRIPTIONS_MAX = 1024

# eventtype
CLOCK: Final = 0
FD_READ: Final = 1
FD_WRITE: Final = 2

ABSOLUTE: Final = 1
HANGUP: Final = 1

_CLOCK = struct.Struct("<Q8xI4xQQH6x")  # userdata, (tag), clock, timeout, precision, flags
_FD = struct.Struct("<QB7xI28x")  # userdata, tag, file descriptor
_EVENT = struct.Struct("<QHBxxxxxQH6x")  # userdata, error, type, bytes, flags


class Subscription(NamedTuple):
    """What is waited for: `pollable`, for its outcome `error` or the state of `entry`."""

    userdata: int
    type: int
    pollable: Pollable
    entry: Entry | None = None
    error: int = 0

    def event(self) -> bytes:
        size, flags = (0, 0) if self.entry is None or self.error else _state(self.entry)
        return _EVENT.pack(self.userdata, self.error, self.type, size, flags)


def _poll_oneoff(
    context: Context, memory: Memory, subscriptions: int, events: int, count: int, result: int
) -> Later[None] | None:
    if not 0 < count <= SUBSCRIPTIONS_MAX:
        raise Err("invalid")
    # What does not fit is a trap now, not after the wait.
    memory.write(events, bytes(count * _EVENT.size))
    raw = memory.read(subscriptions, count * _CLOCK.size)
    wanted = [
        _subscription(context, raw[start : start + _CLOCK.size])
        for start in range(0, len(raw), _CLOCK.size)
    ]
    ready = [subscription for subscription in wanted if subscription.pollable.ready()]
    if not ready:
        return _poll_later(memory, wanted, events, result)
    _put_events(memory, ready, events, result)
    return None


async def _poll_later(
    memory: Memory, wanted: Sequence[Subscription], events: int, result: int
) -> None:
    happened = await wait_any([subscription.pollable for subscription in wanted])
    ready = [s for s in wanted if s.pollable in happened or s.pollable.ready()]
    _put_events(memory, ready, events, result)


def _put_events(memory: Memory, ready: Sequence[Subscription], events: int, result: int) -> None:
    memory.write(events, b"".join(subscription.event() for subscription in ready))
    memory.set_u32(result, len(ready))


def _subscription(context: Context, raw: bytes) -> Subscription:
    userdata, tag, fd = _FD.unpack(raw)
    if tag == CLOCK:
        return Subscription(userdata, tag, _clock(context, raw))
    if tag not in (FD_READ, FD_WRITE):
        raise Err("invalid")
    try:
        entry = files(context).get(fd)
        return Subscription(userdata, tag, _fd(entry, tag), entry)
    except Err as error:
        return Subscription(userdata, tag, always(), None, errno(error))


def _clock(context: Context, raw: bytes) -> Pollable:
    _, clock, timeout, _, flags = _CLOCK.unpack(raw)
    if clock == MONOTONIC:
        return Pollable.at(timeout if flags & ABSOLUTE else time.monotonic_ns() + timeout)
    if clock != REALTIME:
        raise Err("invalid")
    left = timeout - context.now() if flags & ABSOLUTE else timeout
    return Pollable.at(time.monotonic_ns() + left)


def _fd(entry: Entry, tag: int) -> Pollable:
    if isinstance(entry, FileEntry):
        if entry.descriptor.is_directory:
            raise Err("bad-descriptor")
        return always()
    if isinstance(entry, Input) != (tag == FD_READ):
        raise Err("bad-descriptor")
    return entry.stream.subscribe()


def _state(entry: Entry) -> tuple[int, int]:
    """How many bytes there are, as far as that is known, and whether more will come."""
    if isinstance(entry, Input | Output):
        return 1, 0
    left = max(entry.descriptor.stat().size - entry.offset, 0)
    return left, 0 if left else HANGUP


FUNCTIONS: dict[str, CoreFunction] = {"poll_oneoff": function("iiii", _poll_oneoff)}
