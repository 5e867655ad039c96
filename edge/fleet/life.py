"""The one loop of a node among its peers: probes what is due, tells what is news, and sleeps.

Knows neither HTTP nor TLS: what carries the questions is handed in.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from edge.fleet.asking import Transport, Unanswered
from edge.fleet.gossip import Gossip
from edge.fleet.probe import Prober, Start, Times
from edge.fleet.reports import Reports
from edge.fleet.table import Peer, Table
from edge.fleet.wire import Message

__all__ = ["Life"]

_log = logging.getLogger("edge.fleet")

# Seconds in which news gather before they are told, and tellings under way at most.
_GATHER, _TELLINGS = 0.1, 4
# Seconds that the goodbye may take.
_GOODBYE = 1.0


class Life:
    """Runs for as long as `run` is awaited. `before` is called before each look at what is due, and
    may start work of its own; it says when it wants to be called again.
    """

    def __init__(
        self,
        table: Table,
        transport: Transport,
        now: Callable[[], float],
        *,
        times: Times,
        reports: Reports,
        hinted: Callable[[str, str], None],
        excluded: Callable[[str], None],
        before: Callable[[Start], float],
        learned: Callable[[Peer], None] = lambda _: None,
    ) -> None:
        self._now, self._before, self._also_learned = now, before, learned
        self._wakened = asyncio.Event()
        self._tell_at = float("inf")
        self._tellings = 0
        self.gossip = Gossip(
            table, transport, now, wake=self.wake, learned=self._learned, hinted=hinted
        )
        self.prober = Prober(
            self.gossip, transport, now, times=times, reports=reports, excluded=excluded
        )

    def wake(self) -> None:
        """Something may be due that was not before."""
        self._wakened.set()

    def _learned(self, peer: Peer) -> None:
        self.prober.look_soon(peer)
        self._also_learned(peer)
        self.wake()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:

            def start(work: Coroutine[Any, Any, None]) -> None:
                group.create_task(_logged(work), name="peers")

            while True:
                self._wakened.clear()
                due = min(self._before(start), self.prober.due(start), self._tell(start))
                await self._sleep(due - self._now())

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._wakened.wait()
        except TimeoutError:
            pass

    def _tell(self, start: Start) -> float:
        """Tells what gathered; when to look again."""
        now = self._now()
        if not self.gossip.has_news:
            return float("inf")
        if self._tell_at == float("inf"):
            self._tell_at = now + _GATHER
        if now < self._tell_at or self._tellings >= _TELLINGS:
            return max(self._tell_at, now + _GATHER)
        self._tell_at = float("inf")
        receivers, message = self.gossip.receivers(), self.gossip.take_news()
        start(self._tell_all(receivers, message))
        return float("inf")

    async def _tell_all(self, receivers: Sequence[Peer], message: Message) -> None:
        self._tellings += 1
        try:
            async with asyncio.TaskGroup() as group:
                for peer in receivers:
                    group.create_task(self._tell_one(peer, message))
        finally:
            self._tellings -= 1

    async def _tell_one(self, peer: Peer, message: Message) -> None:
        try:
            await self.gossip.tell(peer, message)
        except Unanswered:
            pass  # its probers see to it

    async def goodbye(self) -> None:
        """Tells some peers that this node leaves; they tell the others."""
        receivers = self.gossip.receivers()
        self.gossip.take_news()
        leaving = Message((self.gossip.table.leave(),))
        try:
            async with asyncio.timeout(_GOODBYE):
                await self._tell_all(receivers, leaving)
        except TimeoutError:
            pass


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    """A mistake in one of them is none of the others'."""
    try:
        await work
    except Exception:
        _log.exception("a mistake of edge itself, among peers")
