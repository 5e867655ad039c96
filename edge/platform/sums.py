"""Lines of the log for what may happen ten thousand times a second: the first ones whole, then one
with the sum.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["LONG", "SHORT", "WHOLE", "Sums", "cut"]

# Events within SHORT seconds that get a line each: enough to see what they have in common.
WHOLE = 20
SHORT = 10.0
# Seconds that are told of together once it were more: two lines each, 3,000 in a day.
LONG = 60.0

# Causes that are counted one by one: who fails may find new words each time.
_CAUSES = 16
# … and named in a line, of at most so many characters each.
_NAMED = 3
_MOST = 200

# Gets a sum: "9984 more times in 10 s: 9980 x unreachable; 4 x exit with status 1", and its number.
Tell = Callable[[str, int], None]


class Sums:
    """Decides which of many events gets a line of its own, and tells of the others by their number.

    None is untold, and none costs the log much. A timer runs only while there is a sum to tell.
    """

    __slots__ = ("_causes", "_closed", "_left", "_now", "_since", "_tell", "_timer", "_until")

    def __init__(self, tell: Tell, now: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._now = now
        self._causes: dict[str, int] = {}  # of those without a line
        self._left = 0  # events that still get one, before `until`
        self._since = self._until = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def __call__(self, cause: str) -> bool:
        """Whether this one gets a line of its own. Called within a loop."""
        if self._timer is None:
            now = self._now()
            if now >= self._until:
                self._left, self._since, self._until = WHOLE, now, now + SHORT
            if self._left > 0 or self._closed:
                self._left -= 1
                return True
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._until - now, self.tell)
        causes = self._causes
        if cause not in causes and len(causes) >= _CAUSES:
            cause = "others"
        causes[cause] = causes.get(cause, 0) + 1
        return False

    def tell(self) -> None:
        """Tells the sum now; does nothing where there is none."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        now = self._now()
        causes, self._causes = self._causes, {}
        number = sum(causes.values())
        self._tell(f"{number} more times in {now - self._since:.0f} s: {_named(causes)}", number)
        self._left, self._since, self._until = 1, now, now + LONG

    def close(self) -> None:
        """Tells the sum. What comes yet, from what was under way, gets its lines."""
        self._closed = True
        self.tell()


def cut(text: str) -> str:
    """What others say, fit for the rest of a line: its first line, printable, not too long."""
    line = next((line for line in text.splitlines() if line.strip()), "").strip()
    shown = "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line[: _MOST + 1]
    )
    return shown if len(shown) <= _MOST else f"{shown[:_MOST]}…"


def _named(causes: dict[str, int]) -> str:
    often = sorted(causes, key=causes.__getitem__, reverse=True)
    said = [f"{causes[cause]} x {cut(cause)}" for cause in often[:_NAMED]]
    return "; ".join([*said, "…"] if often[_NAMED:] else said)
