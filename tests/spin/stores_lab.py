"""What the tests of stores share: a node's stores in a directory, and a context as guests have."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edge import config
from edge.application.model import Component, PathSource
from edge.spin.kv_sqlite import SqliteKeyValue
from edge.spin.platform import Stores
from edge.spin.sqlite_pool import Pool
from edge.spin.sqlite_thread import Kind, Worker

LABELS = ("default",)


def component(
    key_value: Sequence[str] = LABELS, sqlite: Sequence[str] = LABELS, **more: Any
) -> Component:
    return Component(
        "guest",
        PathSource("guest.wasm"),
        key_value_stores=tuple(key_value),
        sqlite_databases=tuple(sqlite),
        **more,
    )


async def until(condition: Callable[[], bool]) -> None:
    """For what other tasks and threads do in a moment."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 -- what it looks at tells nobody
            await asyncio.sleep(0.001)


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


class Lab:
    """The stores of one node."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores

    def context(self, application: str = "app", **labels: Any) -> Any:
        platform = self.stores.grant(application, component(**labels), {})
        return SimpleNamespace(platform=platform, outbound=None, note=lambda _text: None)

    def key_value(self, application: str = "app", label: str = "default") -> SqliteKeyValue:
        store: Any = self.context(application, key_value=(label,)).platform.key_value[label]
        return store

    @property
    def pool(self) -> Pool:
        pool = self.stores._pool
        assert pool is not None
        return pool

    @property
    def workers(self) -> list[Worker]:
        return list(self.pool._workers.values())


@asynccontextmanager
async def opened(
    state: Path,
    key_value: config.KeyValue | None = None,
    sqlite: config.Sqlite | None = None,
    **settings: Any,
) -> AsyncIterator[Lab]:
    stores = config.Stores(
        {"default": key_value or config.KeyValue()},
        {"default": sqlite or config.Sqlite()},
        **settings,
    )
    lab = Lab(Stores(state, stores))
    try:
        yield lab
    finally:
        await lab.stores.close()


@asynccontextmanager
async def held(pool: Pool, worker: Worker) -> AsyncIterator[None]:
    """The thread of a file does nothing else meanwhile: as when its disk is slow."""
    free, begun = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(_handle: object) -> None:
        loop.call_soon_threadsafe(begun.set)
        free.wait(30)

    async with asyncio.TaskGroup() as group:
        group.create_task(pool.run(worker, wait, Kind.READ, 60), name="holder")
        await begun.wait()
        try:
            yield
        finally:
            free.set()
