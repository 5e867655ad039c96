"""The date, on machines that boot without one.

A board without a battery boots in 1970, and whoever can turn its clock back could make it take what
has expired. Trusted time is never before this program was built, nor before what it was already.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["TrustedClock"]

# Written when this much later than what is on the disk, in seconds: cards wear out, and what
# expires does so in days.
_SAVED_EVERY = 3600.0
# 2026-11-01: this was written later. Files may be dated by a machine without a clock, or not
# at all.
_WRITTEN = 1_793_491_200.0
# A clock this far after the build is a fault; kept, it would make everything expired for ever.
_BELIEVABLE = 20 * 365 * 86400.0


class TrustedClock:
    """max(clock, build time, last time seen), in seconds since 1970; it never goes back.

    `path` holds the last time seen; without one, it begins anew with each process. While the
    machine's clock is behind, trusted time goes on by itself.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        wall: Callable[[], float] = time.time,  # noqa: TID251 – this is where dates come from
        monotonic: Callable[[], float] = time.monotonic,
        built: float | None = None,
    ) -> None:
        self._path, self._wall, self._monotonic = path, wall, monotonic
        self._built = _built() if built is None else built
        self._saved = _read(path, self._built)
        # The latest time known, and when it was.
        self._floor = max(self._built, self._saved)
        self._since = monotonic()

    def __call__(self) -> float:
        """Trusted time now. Does not block."""
        now = self._monotonic()
        gone_on = self._floor + (now - self._since)  # in this order: rounding never goes back
        wall = self._wall()
        if gone_on < wall <= self._built + _BELIEVABLE:
            self._floor, self._since = wall, now
            return wall
        return gone_on

    @property
    def is_set(self) -> bool:
        """Whether the machine's own clock can be believed: it is what trusted time is."""
        return abs(self() - self._wall()) < 1.0

    def save(self) -> None:
        """Keeps the time for the next boot, if there is something new to keep. Blocks."""
        now = self()
        if self._path is None or now < self._saved + _SAVED_EVERY:
            return
        _write(self._path, now)
        self._saved = now


def _built() -> float:
    """When this file was installed, or the image made that it is part of."""
    dated = Path(__file__).stat().st_mtime
    return dated if _WRITTEN <= dated <= _WRITTEN + _BELIEVABLE else _WRITTEN


def _read(path: Path | None, built: float) -> float:
    """The last time seen; what is missing, damaged or unbelievable counts as none."""
    if path is None:
        return 0.0
    try:
        seen = float(path.read_bytes()[:32])
    except (OSError, ValueError):
        return 0.0
    return seen if built <= seen <= built + _BELIEVABLE else 0.0


def _write(path: Path, now: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{now:.0f}\n".encode())
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
