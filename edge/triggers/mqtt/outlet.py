"""Replies and dead letters go out on a connection of their own.

What confirms them would otherwise stand behind the messages that are not read because too many are
under way, and those wait for the confirmation.
"""

from __future__ import annotations

import asyncio

from edge.spin.broker import Broker, BrokerError
from edge.triggers.mqtt.access import Access
from edge.triggers.mqtt.connector import Connector
from edge.triggers.mqtt.run import Publication, Run

__all__ = ["Outlet"]

# Some brokers answer what they do not want (too large, not allowed) by closing the connection, and
# would each time. What was under way in so many connections that ended goes out alone from then on,
# and after so many is taken for refused: the messages behind it must not wait for ever.
_SUSPECT = 2
_REFUSED = 7


class Outlet:
    """Connects when there is something to publish, and stays. `run` is its task."""

    def __init__(self, access: Access) -> None:
        self._connector = Connector(access, "out")
        self._counts = access.counts
        self._broker: Broker | None = None
        self._needed = asyncio.Event()
        self._unconfirmed: dict[Run, Publication] = {}
        self._sent: set[Run] = set()  # of those, on this connection
        self._losses: dict[Run, int] = {}  # connections that ended without confirming it
        self._left = False

    def publish(self, run: Run, publication: Publication) -> None:
        """`run.confirmed` is told once. What a connection did not confirm the next one sends."""
        self._unconfirmed[run] = publication
        broker = self._broker
        if broker is None or not broker.alive:
            self._needed.set()
        elif not self._suspects():
            self._send(broker, run)

    async def run(self) -> None:
        """Ends by cancellation, or after `leave`."""
        while not self._left:
            await self._needed.wait()
            broker = await self._connector.connect()
            if broker is not None:
                await self._serve(broker)
            if not self._left:
                await self._connector.pause()

    async def leave(self) -> None:
        """A goodbye to the broker; what is not confirmed stays with those who wait for it."""
        self._left = True
        if self._broker is not None:
            await self._broker.disconnect(2)

    async def _serve(self, broker: Broker) -> None:
        self._broker = broker
        self._sent.clear()
        try:
            suspects = self._suspects()
            for run in [run for run in self._unconfirmed if run not in suspects]:
                self._send(broker, run)
            self._advance(broker)
            error = await asyncio.shield(broker.closed)
        finally:
            self._broker = None
            broker.abort()
        if error is not None:
            self._connector.report(error)
        if not self._unconfirmed:
            self._needed.clear()  # there is time until the next one

    def _suspects(self) -> list[Run]:
        if not self._losses:
            return []
        found = [run for run, count in self._losses.items() if count >= _SUSPECT]
        return sorted(found, key=self._losses.__getitem__)

    def _advance(self, broker: Broker) -> None:
        """Sends suspects one by one, then what came meanwhile."""
        if (suspects := self._suspects()) and not self._sent:
            self._send(broker, suspects[0])
        elif not suspects:
            for run in [run for run in self._unconfirmed if run not in self._sent]:
                self._send(broker, run)

    def _send(self, broker: Broker, run: Run) -> None:
        if not broker.alive:
            return  # the next one sends it
        publication = self._unconfirmed[run]
        payload, properties = publication.content(version5=broker.version5)

        def confirmed(error: BrokerError | None) -> None:
            if error is not None and error.reason == "lost":
                error = self._lost(run, error)
                if error is None:
                    return
            self._sent.discard(run)
            self._unconfirmed.pop(run, None)
            suspected = self._losses.pop(run, 0)
            self._counts.published += error is None
            run.confirmed(error)
            if (suspected or self._losses) and broker.alive:
                self._advance(broker)

        self._sent.add(run)
        broker.send(publication.topic, payload, publication.qos, confirmed, properties=properties)

    def _lost(self, run: Run, error: BrokerError) -> BrokerError | None:
        """What its run is told; None: another connection will try."""
        # Who says goodbye, or gets no answer at all, learns nothing about the message.
        if self._left or error.silent:
            return None
        self._losses[run] = self._losses.get(run, 0) + 1
        if self._losses[run] < _REFUSED:
            return None
        text = "the broker ends the connection each time it is published"
        return BrokerError(text, "refused", code=error.code)
