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


class Outlet:
    """Connects when there is something to publish, and stays. `run` is its task."""

    def __init__(self, access: Access) -> None:
        self._connector = Connector(access, "out")
        self._broker: Broker | None = None
        self._needed = asyncio.Event()
        self._unconfirmed: dict[Run, Publication] = {}
        self._left = False

    def publish(self, run: Run, publication: Publication) -> None:
        """`run.confirmed` is told once. What a connection did not confirm the next one sends."""
        self._unconfirmed[run] = publication
        broker = self._broker
        if broker is None or not broker.alive:
            self._needed.set()
            return
        payload, properties = publication.content(version5=broker.version5)

        def confirmed(error: BrokerError | None) -> None:
            if error is None or error.reason != "lost":
                self._unconfirmed.pop(run, None)
                run.confirmed(error)

        broker.send(publication.topic, payload, publication.qos, confirmed, properties=properties)

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
        try:
            for run, publication in tuple(self._unconfirmed.items()):
                self.publish(run, publication)
            error = await asyncio.shield(broker.closed)
        finally:
            self._broker = None
            broker.abort()
        if error is not None:
            self._connector.report(error)
        if not self._unconfirmed:
            self._needed.clear()  # there is time until the next one
