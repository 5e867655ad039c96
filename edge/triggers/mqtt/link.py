"""One session with the broker, over one connection after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from edge.invocation.event import Event
from edge.spin.broker import Broker, BrokerError, Message, Refused
from edge.triggers.mqtt import events
from edge.triggers.mqtt.access import OFFLINE, ONLINE, Access, Role
from edge.triggers.mqtt.connector import Connector
from edge.triggers.mqtt.outlet import Outlet
from edge.triggers.mqtt.run import Delivery, Publication, Run, shown
from edge.triggers.mqtt.state import Session, State
from edge.triggers.mqtt.table import Table
from edge.triggers.mqtt.window import Window

__all__ = ["Link"]

_log = logging.getLogger("edge.mqtt")


class Link:
    """Connects again and again; `run` is its task. Hands messages to the targets of its table."""

    def __init__(self, access: Access, state: State, outlet: Outlet, role: Role) -> None:
        self.loop = asyncio.get_running_loop()
        self.counts = access.counts
        self.runs: set[Run] = set()
        self._access = access
        self._connector = Connector(access, role)
        self._outlet = outlet
        self._state = state
        self._role: Role = role
        self._session = state.sessions.setdefault(role, Session())
        self._table = Table()
        self._broker: Broker | None = None
        self._announced: Broker | None = None
        self._limit = access.settings.receive_maximum
        self._full = False
        self._window = Window(self._acknowledge, self._limit)
        self._quick = 0  # messages of QoS 0 under way
        self._kept = 0  # messages of QoS 1 under way, of all connections
        self._counted = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._ready = asyncio.Event()
        self._idle = asyncio.Event()
        self._draining = False
        self._left = False
        self.closed = False
        self._where = access.where

    # --- what its owner calls ---------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._broker is not None and self._broker.alive

    def adopt(self, table: Table) -> None:
        """From now on messages go to these targets; what is under way keeps its own."""
        self._table = table
        self._ready.clear()
        self._wake.set()

    async def ready(self) -> None:
        """Until the broker knows the subscriptions of the table."""
        await self._ready.wait()

    async def drain(self) -> None:
        """Takes no more messages. Ends when those under way are final and acknowledged."""
        self._draining = True
        self._balance()
        while self.runs:
            self._idle.clear()
            await self._idle.wait()

    async def run(self) -> None:
        """Ends by cancellation, or after `leave`."""
        while not self._left:
            broker = await self._connector.connect(self._arrived, self._oversized)
            if broker is not None:
                try:
                    await self._serve(broker)
                except BrokerError as exc:
                    self._connector.report(exc)
                finally:
                    self._broker = None
                    self._ready.clear()
                    broker.abort()
            if not self._left:
                await self._connector.pause()

    async def close(self) -> None:
        """After `run` has ended: what is under way is cancelled, and not acknowledged."""
        self.closed = True
        for run in self.runs:
            run.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def leave(self) -> None:
        """A goodbye to the broker: its clients see the node offline at once."""
        self._left = True
        broker = self._broker
        if broker is None or not broker.alive:
            return
        try:
            if topic := self._status_topic:
                async with asyncio.timeout(2):
                    await broker.publish(topic, OFFLINE, 1, retain=True)
        except (BrokerError, TimeoutError):
            pass  # the broker publishes the will then
        await broker.disconnect(2)

    # --- the connection ---------------------------------------------------------------------------

    async def _serve(self, broker: Broker) -> None:
        """From the answer to CONNECT to the end of the connection. Raises BrokerError."""
        self._opened(broker)
        broker.closed.add_done_callback(lambda _: self._wake.set())
        while not broker.closed.done():
            self._wake.clear()
            table = self._table
            await self._subscribe(broker, table)
            if table is self._table:
                self._settle(broker)
                await self._wake.wait()
        error = broker.closed.result()
        if error is not None:
            raise error

    def _settle(self, broker: Broker) -> None:
        """The broker knows all subscriptions: who sees the node online can send to it."""
        if (topic := self._status_topic) and self._announced is not broker:
            self._announced = broker
            broker.send(topic, ONLINE, 1, lambda _: None, retain=True)
        self._ready.set()

    def _opened(self, broker: object) -> None:
        """For each connection: before its first message, which may come with its answer."""
        if self._broker is broker:
            return
        assert isinstance(broker, Broker)
        self._broker = broker
        self._window.reconnected(session_present=broker.session_present)
        if not broker.session_present:
            self._session = self._state.sessions[self._role] = Session()
        self._balance()

    async def _subscribe(self, broker: Broker, table: Table) -> None:
        wanted = {f.text: f.qos for f in table.filters}
        known = dict(self._session.filters)
        # Saved before and after: what the broker knows and we do not could never be undone.
        await self._remember(known | wanted)
        await broker.unsubscribe([text for text in known if text not in wanted])
        # With MQTT 5 it costs nothing to repeat oneself; before, retained messages came again.
        fresh = [f for f in table.filters if broker.version5 or known.get(f.text) != f.qos]
        for text, code in (await broker.subscribe(fresh)).items():
            if code >= 0x80:
                del wanted[text]
                where = ", ".join(t.trigger.id for t in table.of_filter(text))
                _log.error(
                    "%s: the broker refused %s (%#x): trigger %s", self._where, text, code, where
                )
        await self._remember(wanted)

    async def _remember(self, filters: dict[str, int]) -> None:
        if self._session.filters != filters or not self._state.saved:
            self._session.filters = filters
            try:
                await self._state.save()
            except OSError as exc:
                # The session works, it is only not found again by the next process.
                _log.error("%s: not written: %s", self._state.file, exc.strerror)

    @property
    def _status_topic(self) -> str:
        return self._access.status_topic if self._role == "main" else ""

    # --- messages ---------------------------------------------------------------------------------

    def _arrived(self, message: Message) -> None:
        self._opened(message.connection)
        if self._draining or (message.qos and self._window.rejoin(message)):
            return
        delivery, runs = self._delivery(message)
        for run in runs:
            run.start()
        self._started(delivery)

    def _oversized(self, refused: Refused) -> None:
        """It never was in memory; what remains is to say so, once, and to be rid of it."""
        limit = self._access.settings.max_packet
        reason = f"{refused.size} bytes, mqtt.max_packet allows {limit}"
        _log.error("%s: message on %s refused: %s", self._where, shown(refused.topic), reason)
        self._opened(refused.connection)
        if self._draining:
            return
        message = Message(refused.topic, b"", refused.qos, refused.mid)
        message.connection = refused.connection
        delivery, runs = self._delivery(message)
        for run in runs:
            run.reject(reason)
        self._started(delivery)

    def _delivery(self, message: Message) -> tuple[Delivery, list[Run]]:
        """A message and its runs, all of which are still to be started."""
        delivery = Delivery(message, self)
        runs = [Run(delivery, target) for target in self._table.targets(message)]
        delivery.open = len(runs)
        self._count(message, len(runs) > 0)
        self.counts.received += 1
        return delivery, runs

    def _started(self, delivery: Delivery) -> None:
        if delivery.message.qos:
            self._window.add(delivery)
        if delivery.open:
            self._balance()

    def event(self, message: Message) -> Event:
        self._counted += 1
        key = events.key(message, self._session.name, self._counted)
        return events.event(message, key, self._where)

    def start(self, run: Run, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work, name=f"mqtt {run.target.trigger.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def publish(self, run: Run, publication: Publication) -> None:
        self._outlet.publish(run, publication)

    def settled(self, delivery: Delivery) -> None:
        self._count(delivery.message, -1)
        if delivery.message.qos:
            self._window.advance()
        if self._full:
            self._balance()
        if self._draining and not self.runs:
            self._idle.set()

    def _count(self, message: Message, change: int) -> None:
        if message.qos:
            self._kept += change
        else:
            self._quick += change

    def _acknowledge(self, message: Message) -> bool:
        return self._broker is not None and self._broker.ack(message)

    def _balance(self) -> None:
        """No more is read than is allowed to be under way, whatever the broker sends."""
        # Beyond the receive maximum only a broker goes that does not know or respect it.
        full = self._quick >= self._limit or len(self._window) > self._limit
        # What ended connections left under way, when the next ones do not join it.
        full |= self._kept > 2 * self._limit
        self._full = full and not self._draining
        if self._broker is None:
            return
        if self._full:
            self._broker.pause()
        else:
            self._broker.resume()
