"""What `edge up --watch` builds: components whose sources are newer than what was built of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from edge.cli.watch import Snapshot, snapshot
from edge.develop import building
from edge.develop.building import Buildable
from edge.platform.files import is_directory
from edge.registry.reference import Reference

__all__ = ["Sources"]

_log = logging.getLogger("edge")


class Sources:
    """What the components of an application on this machine are built from; a .wasm file and what a
    registry has are built from nothing.
    """

    def __init__(self, app: Path | Reference) -> None:
        has = isinstance(app, Path) and (is_directory(app) or app.suffix == ".toml")
        self._app = app if has and isinstance(app, Path) else None
        self._items: Mapping[Buildable, Snapshot] = {}
        self._built: Mapping[Buildable, Snapshot] = {}

    @property
    def seen(self) -> Snapshot:
        """As they were when the last build began."""
        return {path: state for each in self._items.values() for path, state in each.items()}

    def paths(self) -> Iterator[Path]:
        """The files that there are now. Blocks."""
        for item in self._items:
            yield from building.sources(item)

    def outputs(self) -> tuple[Path, ...]:
        """What is built of them."""
        return tuple(item.output for item in self._items if item.output is not None)

    async def begin(self) -> None:
        """Builds what is missing, or older than its sources. Raises EdgeError."""
        await self._read()
        self._built = {i: s for i, s in self._items.items() if await _is_current(i)}
        await self._build()

    async def build(self) -> None:
        """Builds what changed since. Raises EdgeError; the next time tries the same again."""
        await self._read()
        await self._build()

    async def _read(self) -> None:
        if self._app is not None:
            items = (await asyncio.to_thread(building.read, self._app))[1]
            # What changes while it is built is a change to what is built then.
            self._items = {i: await snapshot(partial(building.sources, i)) for i in items}

    async def _build(self) -> None:
        for item, seen in self._items.items():
            if self._built.get(item) != seen:
                await building.build(item, _log.info)
                self._built = {**self._built, item: seen}


async def _is_current(item: Buildable) -> bool:
    return await asyncio.to_thread(lambda: item.is_current)
