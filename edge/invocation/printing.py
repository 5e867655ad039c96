"""How much a component may print. What is beyond is dropped and said, so that a guest which prints
without end costs the log, its card, and the lines of others little.
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Printing"]

# Bytes that may come at once: some thousand lines, a traceback of any size.
BURST = 512 << 10
# Bytes in a second after that: a chatty guest, not a flood. A day of it is 1.4 GB.
RATE = 16 << 10
# What a line costs beside its bytes: else empty ones, which cost the log most, were free.
_LINE = 256
# Bytes that are there again before anything more is let through, so that notes of what was dropped
# are few.
_AGAIN = BURST // 8


class Printing:
    """What becomes of the lines of a component, of all its invocations together."""

    __slots__ = ("_dropped", "_left", "_now", "_seen")

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._left = float(BURST)
        self._seen = now()
        self._dropped = 0

    def __call__(self, line: str) -> tuple[str, ...]:
        """What goes into the log: the line, with a note of those before it that did not; a note
        that it does not; nothing.
        """
        now = self._now()
        self._left = min(BURST, self._left + (now - self._seen) * RATE)
        self._seen = now
        if self._dropped:
            if self._left < _AGAIN:
                self._dropped += 1
                return ()
            note, self._dropped = f"({self._dropped} lines were dropped)", 0
            self._left -= len(line) + 2 * _LINE
            return note, line
        if self._left <= 0:
            self._dropped = 1
            return ("(this prints too much: lines are dropped for a while)",)
        self._left -= len(line) + _LINE
        return (line,)
