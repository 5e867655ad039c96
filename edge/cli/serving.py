"""What `edge up` serves an application with: HTTP while it has routes, and its other triggers."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from ssl import SSLContext
from types import TracebackType
from typing import Self

from edge.config import Address
from edge.invocation.application import LiveApplication
from edge.node.services import Services, Settings, show_triggers
from edge.triggers.http import HttpServer

# Seconds that events under way get after SIGTERM or Ctrl-C; a second signal ends them at once.
DRAIN = 30.0
# Where draining takes longer than this (seconds), who waits is told.
PATIENCE = 0.3

_log = logging.getLogger("edge")


class Serving:
    """Serves one application at a time, as an async context manager.

    `listen`: where HTTP is served once an application has routes; `tls`: by HTTPS.
    """

    def __init__(self, settings: Settings, listen: Address, tls: SSLContext | None) -> None:
        self._listen = listen
        self._tls = tls
        self._services = Services(settings)
        self._http: HttpServer | None = None
        self._stack = AsyncExitStack()
        self._teller: asyncio.Task[None] | None = None
        self.live: LiveApplication | None = None

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._services)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._teller is not None:
            self._teller.cancel()
        await self._stack.__aexit__(kind, error, trace)
        if self.live is not None:
            self.live.close()

    async def show(self, live: LiveApplication) -> None:
        """Serves `live` from now on, and says where. Raises EdgeError or OSError; what was served
        before then goes on.
        """
        listening = self._http is not None
        if live.application.http and not listening:
            listen = [(self._listen.host, self._listen.port)]
            server = HttpServer(live, listen=listen, tls=self._tls)
            self._http = await self._stack.enter_async_context(server)
        await self._services.prepare(live)
        if self._http is not None and not listening:
            self._announce(self._http.addresses)
        await self._services.update(live)
        if self._http is not None:
            self._http.handler = live
        before, self.live = self.live, live
        if before is None or before.triggers != live.triggers:
            self._tell(show_triggers(live.triggers))

    def _tell(self, lines: list[str]) -> None:
        """Says so once it is true: a broker may be away for long."""
        if self._teller is not None:
            self._teller.cancel()

        async def tell() -> None:
            await self._services.ready()
            _say(lines)

        self._teller = asyncio.get_running_loop().create_task(tell(), name="tell")

    async def drain(self, stop: asyncio.Event) -> None:
        """Takes no more events and finishes those under way, until `stop` is set."""
        async with asyncio.TaskGroup() as group:
            drain = group.create_task(self._drain(), name="drain")
            second = group.create_task(stop.wait(), name="second-signal")
            both = (drain, second)
            done, _ = await asyncio.wait(both, timeout=PATIENCE, return_when="FIRST_COMPLETED")
            if not done:
                _log.info("draining; a second signal ends at once")
                await asyncio.wait(both, return_when="FIRST_COMPLETED")
            second.cancel()
            drain.cancel()

    async def _drain(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._services.drain(DRAIN))
            if self._http is not None:
                group.create_task(self._http.drain(DRAIN))

    def _announce(self, addresses: Sequence[tuple[str, int]]) -> None:
        scheme = "http" if self._tls is None else "https"
        _say([f"listening on {scheme}://{Address(*address[:2])}" for address in addresses])


def _say(lines: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
