"""What timers with `missed = "once"` ran last, across restarts: a small JSON file."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

__all__ = ["Memory", "Name"]

# Written this often at most, for the card's sake: a node that loses its power may run one tick
# again that it had run.
SAVE_EVERY = 60.0

Name = tuple[str, str]  # application, id of the trigger

_log = logging.getLogger("edge.triggers.cron")


class Memory:
    """Moments by the name of their timer, in seconds since 1970. Without a path: until the end.

    `write` replaces a file as a whole or not at all; it runs in a thread.
    """

    def __init__(self, path: Path | None, write: Callable[[Path, bytes], object]) -> None:
        self._path = path
        self._write = write
        self._moments: dict[Name, float] = {}
        self._dirty = False
        self._saved = -math.inf
        self._later: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> None:
        if self._path is not None:
            self._moments = await asyncio.to_thread(_read, self._path)

    async def close(self) -> None:
        if self._later is not None:
            self._later.cancel()
        if self._task is not None:
            await self._task
        if self._dirty and self._path is not None:
            await self._save(self._path)

    def get(self, name: Name) -> float | None:
        return self._moments.get(name)

    def put(self, name: Name, moment: float) -> None:
        self._moments[name] = moment
        self._dirty = True
        if self._path is not None and self._later is None:
            loop = asyncio.get_running_loop()
            wait = max(0.0, self._saved + SAVE_EVERY - loop.time())
            self._later = loop.call_later(wait, self._start, self._path)

    def keep(self, live: Collection[Name]) -> None:
        """Forgets timers that are gone from applications that are not."""
        applications = {application for application, _ in live}
        for name in [n for n in self._moments if n not in live and n[0] in applications]:
            del self._moments[name]

    def _start(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        self._later, self._saved = None, loop.time()
        self._task = loop.create_task(self._save(path), name="timers-save")

    async def _save(self, path: Path) -> None:
        self._dirty = False
        try:
            await asyncio.to_thread(self._write, path, _text(self._moments))
        except OSError as exc:
            _log.warning("%s: what timers ran last is not saved: %s", path, exc.strerror)


def _text(moments: Mapping[Name, float]) -> bytes:
    nested: dict[str, dict[str, float]] = {}
    for (application, id), moment in sorted(moments.items()):
        nested.setdefault(application, {})[id] = moment
    return json.dumps(nested, indent=1).encode()


def _read(path: Path) -> dict[Name, float]:
    try:
        return {
            (application, id): float(moment)
            for application, ids in json.loads(path.read_bytes()).items()
            for id, moment in ids.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        _log.warning("%s: what timers ran last is forgotten: %s", path, exc)
        return {}
