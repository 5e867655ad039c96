"""Waits for changes to files. For development only: it looks twice a second."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

INTERVAL = 0.5  # seconds; a build that is still writing is seen as one more change


async def changes(paths: Iterable[Path]) -> None:
    """Returns once one of the paths, or what is below it, has changed and then stayed the same."""
    watched = tuple(paths)
    before = await asyncio.to_thread(_snapshot, watched)
    changed = False
    while True:
        await asyncio.sleep(INTERVAL)
        now = await asyncio.to_thread(_snapshot, watched)
        if changed and now == before:
            return
        changed = changed or now != before
        before = now


def _snapshot(paths: Iterable[Path]) -> dict[Path, tuple[int, int, int]]:
    found = {}
    for path in paths:
        for item in (path, *path.rglob("*")) if path.is_dir() else (path,):
            try:
                stat = item.stat()
            except OSError:
                continue
            found[item] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found
