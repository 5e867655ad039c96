"""What the first process may ask of a worker: each method is a verb.

Those that are no coroutines are done in the order in which they were asked; the others are under
way meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from edge.invocation.application import LiveApplication
from edge.node import health
from edge.node.front import answer
from edge.node.metrics import process
from edge.node.node import Node
from edge.node.selftest import SelfTest
from edge.node.settling import Settling
from edge.node.soak import Counted
from edge.node.table import Mounted, Table
from edge.node.workers import counts, wire
from edge.platform.ends import both_ours
from edge.triggers.http import HttpServer
from edge.wasi.http.message import Handler, Reply, Request

__all__ = ["Desk"]

# What becomes of an event of a version that is watched: (its number, whether it went well).
Outcome = Callable[[int, bool], None]


class Desk:
    """`servers`: what requests come from; they are entered when it is asked to listen."""

    def __init__(self, node: Node, servers: list[HttpServer], outcome: Outcome) -> None:
        self._node = node
        self._servers = servers
        self._outcome = outcome
        self._versions: dict[int, tuple[LiveApplication, wire.Spec]] = {}
        self._retired: set[int] = set()  # before they were loaded
        self._table: Table[Handler] = Table()
        self._settling = Settling()
        self._test: SelfTest | None = None

    async def open(self, opening: wire.Opening) -> None:
        """What it begins with. It served in the first process: components are loaded when their
        first event comes.
        """
        for number, spec in opening.versions.items():
            await self._load(number, spec, asleep=True)
        self.place(opening.placed)

    # Versions

    async def prepare(self, number: int, spec: wire.Spec) -> None:
        """Loads it, and makes an instance of each component. Raises EdgeError."""
        live = await self._load(number, spec, asleep=False)
        try:
            await health.instantiate(live)
        except BaseException:
            self.retire(number)
            raise
        if number in self._retired:
            self.retire(number)

    def place(self, placed: Mapping[str, wire.Place | None]) -> None:
        """These serve under their names from now on; None: nothing does."""
        changes = {
            name: None if one is None else self._mounted(one) for name, one in placed.items()
        }
        self._table = self._table.change(changes)
        handler = self._table.only or partial(answer, self._table)
        for server in self._servers:
            server.handler = handler
        for name in [name for name, one in placed.items() if one is None]:
            self._node.meters.drop(name)
        self._settling.changed(len(placed), of=len(self._table.applications))

    def retire(self, number: int) -> None:
        """Requests under way go on, nothing is kept ready."""
        if number not in self._versions:
            self._retired.add(number)
            return
        live, _ = self._versions.pop(number)
        live.close()
        self._settling.retired()

    async def forget(self, application: str) -> None:
        await self._node.stores.forget(application)

    async def _load(self, number: int, spec: wire.Spec, *, asleep: bool) -> LiveApplication:
        live = await self._node.load(
            spec.local, spec.variables, base_path=spec.mount.path, asleep=asleep
        )
        self._versions[number] = live, spec
        return live

    def _mounted(self, placed: wire.Place) -> Mounted[Handler]:
        live, spec = self._versions[placed.version]
        handler: Handler = live
        if placed.watched:
            handler = _Watched(live, partial(self._outcome, placed.version)).handle
        return Mounted(spec.mount, live.routes, handler)

    # The process

    async def listen(self) -> None:
        for server in self._servers:
            await server.__aenter__()

    async def drain(self, timeout: float) -> None:
        """Takes no more requests, finishes those under way within `timeout` seconds."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(server.drain(timeout))

    async def look(self) -> dict[str, Any]:
        """Whether guests run here, and what was counted. Raises EdgeError."""
        if self._test is None:
            self._test = await SelfTest.prepare(self._node)
        await self._test()
        return self._counted()

    async def figures(self) -> dict[str, Any]:
        own = await asyncio.to_thread(process.figures, self._node.shared.budget)
        return {"process": own, **self._counted()}

    def _counted(self) -> dict[str, Any]:
        return {"spent": process.spent(), "components": counts.counted(self._node.meters)}

    def holds(self, here: Any, there: Any) -> bool:
        """See `edge.platform.ends`."""
        return both_ours(here, there)


class _Watched:
    """A version under watch: the first process counts."""

    def __init__(self, live: LiveApplication, outcome: Callable[[bool], None]) -> None:
        self._live = live
        self._outcome = outcome

    def handle(self, request: Request, reply: Reply) -> Any:
        return self._live(request, Counted(reply, self))

    def well(self) -> None:
        self._outcome(True)

    def ill(self) -> None:
        self._outcome(False)
