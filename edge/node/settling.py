"""What is loaded lives for long: the collector need not look at it again and again."""

from __future__ import annotations

import gc

__all__ = ["Settling"]

# Versions that came or went before the collector looks at all of them: it stops the process for
# milliseconds, and with many applications for longer. As a share of the applications, but at least
# so many.
_SHARE, _LEAST = 0.25, 8


class Settling:
    """Of one process."""

    def __init__(self) -> None:
        self._unsettled = 0
        self._settled = False

    def retired(self) -> None:
        """A version serves nothing any more."""
        self._unsettled += 1

    def changed(self, count: int, *, of: int) -> None:
        """So many of the applications serve in other versions."""
        self._unsettled += count
        if self._unsettled > max(_LEAST, _SHARE * of) or not self._settled:
            self._settled, self._unsettled = True, 0
            gc.unfreeze()
            gc.collect()
            gc.freeze()
