"""Components that sleep until their first event: a node has thousands, and few of them are busy."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from edge.errors import EdgeError, Overloaded
from edge.invocation.sandbox import Sandboxes
from edge.wasi.http.message import Handler, Reply, Request

__all__ = ["Load", "Waking", "wake_first"]

# Makes the sandboxes of a component. Raises EdgeError.
Load = Callable[[str], Coroutine[Any, Any, Sandboxes]]


class Waking:
    """Loads each component once, however many events wait for it; a failure is for all of them, and
    the next event tries again.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._loading: dict[str, asyncio.Task[Sandboxes]] = {}
        self._closed = False

    async def wake(self, component: str) -> Sandboxes:
        """Raises EdgeError. Who waits may be cancelled: the others still get what was loaded."""
        task = self._loading.get(component)
        if task is None:
            if self._closed:
                raise Overloaded(f"component {component}: another version has replaced it")
            task = asyncio.get_running_loop().create_task(
                self._loaded(component), name=f"wake {component}"
            )
            self._loading[component] = task
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():  # by `close`
                raise Overloaded(f"component {component}: is not served any more") from None
            raise

    def close(self) -> None:
        """Nothing is loaded any more."""
        self._closed = True
        for task in self._loading.values():
            task.cancel()

    async def _loaded(self, component: str) -> Sandboxes:
        try:
            return await self._load(component)
        except OSError as exc:
            raise EdgeError(f"component {component}: {exc}") from exc
        finally:
            del self._loading[component]


async def wake_first(
    wake: Callable[[], Awaitable[None]], handler: Handler, request: Request, reply: Reply
) -> None:
    """Answers a request by `handler` once its component is awake. Raises EdgeError."""
    await wake()
    work = handler(request, reply)
    if work is not None:
        await work
