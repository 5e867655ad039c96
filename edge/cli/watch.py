"""Waits for changes to files. For development only: it looks twice a second."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

Snapshot = dict[Path, tuple[int, int, int]]

INTERVAL = 0.5  # seconds; a build that is still writing is seen as one more change


# Names what is looked at. Called in a thread, each time: it may search.
Look = Callable[[], Iterable[Path]]


async def snapshot(look: Look) -> Snapshot:
    return await asyncio.to_thread(lambda: _snapshot(look()))


async def changes(look: Look, seen: Snapshot) -> Snapshot:
    """Returns what there is once it differs from `seen` and then stayed the same.

    Paths stand for themselves and what is below them.
    """
    before = seen
    while True:
        await asyncio.sleep(INTERVAL)
        now = await snapshot(look)
        if now == before != seen:
            return now
        before = now


def _snapshot(paths: Iterable[Path]) -> Snapshot:
    found = {}
    for path in paths:
        for item in (path, *_below(path)):
            try:
                stat = item.stat()
            except OSError:
                continue
            found[item] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def _below(path: Path) -> list[Path]:
    try:
        return list(path.rglob("*")) if path.is_dir() else []
    except OSError:  # a directory that vanished meanwhile: the next look sees it
        return []
