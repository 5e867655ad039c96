"""The node as its service manager sees it: what it is handed, and what it says of itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from edge.node.node import Node
from edge.node.selftest import SelfTest
from edge.platform.effort import computed
from edge.platform.messages import DRAINING, NOT_RELOADED, READY, RELOADED
from edge.platform.notify import Notifier
from edge.platform.sockets import inherited_sockets
from edge.platform.watchdog import Watchdog

__all__ = ["Manager"]

# Seconds between two signs of progress while it starts, and the time that one is good for: a small
# board may compile for minutes after it was flashed.
_PROGRESS, _EXTENSION = 10.0, 60.0
# Share of one processor that makes progress: who waits for ever computes nothing.
_BUSY = 0.05

_log = logging.getLogger("edge.node")


class Manager:
    """`sockets`: those that it opened for us, by their names."""

    def __init__(self) -> None:
        self.sockets = inherited_sockets()
        self._notifier = Notifier()
        self._watchdog = Watchdog(self._notifier)
        self._said: str | None = None  # None: not ready

    def starting(self) -> AbstractAsyncContextManager[None]:
        """Within, it waits for as long as starting takes processor time."""
        return _beside(self._extend(), "progress")

    def watching(self, node: Node, summary: Callable[[], str]) -> AbstractAsyncContextManager[None]:
        """Within, its watchdog is told that guests run; and what `summary` is, by and by."""
        test = _tested(node)

        async def test_and_tell() -> None:
            await test()
            self.status(summary())

        return _beside(self._watchdog.run(test_and_tell), "watchdog")

    def ready(self, summary: str) -> None:
        _log.info("ready: %s", summary, extra={"MESSAGE_ID": READY})
        self._said = summary
        self._notifier.ready(summary)

    def status(self, summary: str) -> None:
        """Said where it is news, and not before the node is ready."""
        if self._said is not None and self._said != summary:
            self._said = summary
            self._notifier.status(summary)

    def reloading(self) -> None:
        self._notifier.reloading()

    def reloaded(self, summary: str) -> None:
        _log.info("reloaded", extra={"MESSAGE_ID": RELOADED})
        self._said = summary
        self._notifier.ready(summary)

    def not_reloaded(self, message: str, hint: str | None) -> None:
        _log.error(
            "not reloaded, the configuration before holds: %s%s",
            message, f" ({hint})" if hint else "",
            extra={"MESSAGE_ID": NOT_RELOADED},
        )  # fmt: skip
        self._said = f"not reloaded: {message}"
        self._notifier.ready(self._said)

    def stopping(self) -> None:
        _log.info("draining; a second signal ends at once", extra={"MESSAGE_ID": DRAINING})
        self._said = None
        self._notifier.stopping()

    async def _extend(self) -> None:
        before = computed()
        while True:
            await asyncio.sleep(_PROGRESS)
            now = computed()
            if now - before > _BUSY * _PROGRESS:
                self._notifier.extend_start(_EXTENSION)
            before = now


def _tested(node: Node) -> Callable[[], Awaitable[None]]:
    prepared: list[SelfTest] = []

    async def test() -> None:
        if not prepared:
            prepared.append(await SelfTest.prepare(node))
        await prepared[0]()

    return test


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[None]:
    """Runs `work` within. No group: what goes wrong within is to come out as it is."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
