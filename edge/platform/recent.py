"""The last lines of the log, in memory: for who asks a node that no journal listens to."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from edge.platform.entries import Entry, of_record

__all__ = ["Recent"]

# Bytes of all that is kept: some thousand lines.
LIMIT = 1 << 20
# What an entry takes beside its text.
_ENTRY = 256
# Room is made for more than one line at a time: finding out who has most is not free.
_ROOM = LIMIT // 16

# Whose lines: (application, component), (None, None) for those of the node itself.
_Key = tuple[str | None, str | None]


class Recent(logging.Handler):
    """Keeps lines, numbered from 1 on. Who writes most loses its oldest first: a guest that floods
    the log displaces nobody's lines but its own.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        super().__init__()
        self._limit = limit
        self._kept: dict[_Key, deque[tuple[int, Entry]]] = {}
        self._sizes: dict[_Key, int] = {}
        self._size = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self.last = 0  # the number of the newest line
        self.ended = False

    @contextmanager
    def attached(self) -> Iterator[Self]:
        """Within, it gets what this process logs."""
        root = logging.getLogger()
        root.addHandler(self)
        try:
            yield self
        finally:
            root.removeHandler(self)
            self.close()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._add(of_record(record))
        except Exception:
            self.handleError(record)

    def after(self, number: int) -> list[tuple[int, Entry]]:
        """What is kept of the lines after that one, in order."""
        with self._locked():
            newer = [_newer(lines, number) for lines in self._kept.values()]
        return list(heapq.merge(*newer, key=lambda one: one[0]))

    async def beyond(self, number: int) -> None:
        """Returns when there is a line after that one, or when no more will come."""
        event = asyncio.Event()
        waiting = asyncio.get_running_loop(), event
        with self._locked():
            if self.last > number or self.ended:
                return
            self._waiting.append(waiting)
        try:
            await event.wait()
        finally:
            with self._locked():
                if waiting in self._waiting:
                    self._waiting.remove(waiting)

    def end(self) -> None:
        """Lets those go who wait."""
        with self._locked():
            self.ended = True
            self._wake()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Threads log as well."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _add(self, entry: Entry) -> None:
        """The handler's lock is held."""
        key, size = (entry.application, entry.component), _size(entry)
        self.last += 1
        self._kept.setdefault(key, deque()).append((self.last, entry))
        self._sizes[key] = self._sizes.get(key, 0) + size
        self._size += size
        if self._size > self._limit:
            self._make_room()
        self._wake()

    def _make_room(self) -> None:
        while self._size > self._limit - min(_ROOM, self._limit // 16):
            most = max(self._sizes, key=self._sizes.__getitem__)
            lines = self._kept[most]
            size = _size(lines.popleft()[1])
            self._sizes[most] -= size
            self._size -= size
            if not lines:
                del self._kept[most], self._sizes[most]

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            loop.call_soon_threadsafe(event.set)


def _size(entry: Entry) -> int:
    return sys.getsizeof(entry.message) + _ENTRY


def _newer(lines: deque[tuple[int, Entry]], number: int) -> list[tuple[int, Entry]]:
    found = list(itertools.takewhile(lambda one: one[0] > number, reversed(lines)))
    found.reverse()
    return found
