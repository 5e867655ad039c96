"""The mirror as a server: where it listens, whom it lets in, how much at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType

from aiohttp import web

from edge.config import Address
from edge.config import Mirror as Settings
from edge.registry.digest import Digest
from edge.registry.mirror.answers import refusals
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

__all__ = ["Mirror"]

Pushed = Callable[[Reference, Digest], None]


class Mirror:
    """The registry of this node, as an async context manager; without `listen` it does nothing.

    `note` gets a line for what is worth one. `pushed` is called on the loop for each tag or digest
    that somebody pushed, once all of it is here.
    """

    def __init__(
        self,
        settings: Settings,
        store: ContentStore,
        *,
        note: Callable[[str], None] = lambda _: None,
        pushed: Pushed = lambda _reference, _digest: None,
    ) -> None:
        self._settings, self._store = settings, store
        self._note, self.pushed = note, pushed
        self._addresses: tuple[Address, ...] = ()
        self._open = AsyncExitStack()

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Where it listens, with the port it got."""
        return self._addresses

    async def __aenter__(self) -> Mirror:
        if self._settings.listen is not None:
            await self._listen(self._settings.listen)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def _listen(self, address: Address) -> None:
        app = web.Application(middlewares=[refusals])
        app.router.add_get("/v2/", _base)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        self._open.push_async_callback(runner.cleanup)
        assert runner.server is not None
        server = await asyncio.get_running_loop().create_server(
            runner.server, address.host, address.port
        )
        self._open.callback(server.close)
        self._addresses = tuple(Address(*sock.getsockname()[:2]) for sock in server.sockets)


async def _base(_: web.Request) -> web.Response:
    return web.json_response({}, headers={"Docker-Distribution-API-Version": "registry/2.0"})
