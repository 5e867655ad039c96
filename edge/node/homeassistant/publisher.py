"""Keeps what Home Assistant was told at what is: one connection to the broker, written to when
something changes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from edge import config
from edge.node.homeassistant.devices import Count, Device, Seen, Topics, devices, plain
from edge.spin.broker import Broker, BrokerError, Filter, Message
from edge.triggers.mqtt.access import OFFLINE, ONLINE, Access
from edge.triggers.mqtt.connector import Connector
from edge.triggers.mqtt.state import State

__all__ = ["Publisher", "open_publisher"]

_log = logging.getLogger("edge.homeassistant")

# Seconds in which changes are gathered: an update is several of them, a boot thousands.
_SETTLE = 0.5
# Seconds over which the nodes of a house spread what they say when Home Assistant has started.
_SPREAD = 3.0
# Seconds for the goodbye.
_GOODBYE = 2.0
# Devices that somebody announced in this node's name; more would be an attack on its memory.
_FOUND_MAX = 4096

# Asked for what is now, and to call back, once, when an event has been counted.
Look = Callable[[], Seen]
Watch = Callable[[Callable[[], None]], None]


@asynccontextmanager
async def open_publisher(
    settings: config.Daemon, credentials: Path | None, look: Look, watch: Watch
) -> AsyncIterator[Publisher]:
    """Publishes while entered. Raises ConfigError for files that can not be read; a broker that is
    not there is logged and tried again.
    """
    id = await _identifier(settings)
    topics = Topics(settings.home_assistant.prefix, id)
    mqtt = replace(settings.mqtt, status_topic=topics.available)
    access = Access(mqtt, id, credentials)
    await asyncio.to_thread(access.options, "5", "status")
    publisher = Publisher(access, topics, settings.home_assistant.interval, look, watch)
    task = asyncio.get_running_loop().create_task(publisher.run(), name="home assistant")
    task.add_done_callback(_say_if_broken)
    try:
        yield publisher
    finally:
        await publisher.leave()
        task.cancel()
        await asyncio.wait((task,))


async def _identifier(settings: config.Daemon) -> str:
    """What a broker tells this node by: as configured, or made once. Raises OSError."""
    if settings.mqtt.client_id:
        return plain(settings.mqtt.client_id)
    state = await asyncio.to_thread(State.load, settings.node.state_dir / "home-assistant.json")
    await state.save()
    return state.client_id


class Publisher:
    """`changed` is told that an application may have. `interval`: seconds between two messages of
    counts, which are sent only when something was counted.
    """

    def __init__(
        self, access: Access, topics: Topics, interval: float, look: Look, watch: Watch
    ) -> None:
        self._access, self._topics, self._interval = access, topics, interval
        self._look, self._watch = look, watch
        self._loop = asyncio.get_running_loop()
        self._connector = Connector(access, "status")
        self._broker: Broker | None = None
        self._sent: dict[str, Device] = {}  # what this connection has published
        self._found: set[str] = set()  # devices that were announced, perhaps by an earlier process
        self._wake = asyncio.Event()
        self._settling: asyncio.TimerHandle | None = None
        self._counting: asyncio.TimerHandle | None = None
        self._born: asyncio.TimerHandle | None = None
        self._counts: Mapping[str, Count] = {}  # as they were sent
        self._counted = -interval  # when that was
        self._fresh = True  # whether it is their time
        self._online = False
        self._left = False

    def changed(self) -> None:
        if self._settling is None and not self._left:
            self._settling = self._loop.call_later(_SETTLE, self._settled)

    async def run(self) -> None:
        """Ends by cancellation, or after `leave`."""
        while not self._left:
            broker = await self._connector.connect(self._arrived)
            if broker is not None:
                try:
                    await self._serve(broker)
                except BrokerError as exc:
                    self._connector.report(exc)
                finally:
                    self._broker = None
                    broker.abort()
            if not self._left:
                await self._connector.pause()

    async def leave(self) -> None:
        """A goodbye: the devices are unavailable at once."""
        self._left = True
        for timer in (self._settling, self._counting, self._born):
            if timer is not None:
                timer.cancel()
        broker = self._broker
        if broker is None or not broker.alive:
            return
        with suppress(BrokerError, TimeoutError):  # the broker publishes the will then
            async with asyncio.timeout(_GOODBYE):
                await broker.publish(self._topics.available, OFFLINE, 1, retain=True)
        await broker.disconnect(_GOODBYE)

    async def _serve(self, broker: Broker) -> None:
        """From the answer to CONNECT to the end of the connection. Raises BrokerError."""
        self._broker = broker
        self._sent.clear()
        self._online = False
        broker.closed.add_done_callback(lambda _: self._wake.set())
        await self._subscribe(broker)
        while not broker.closed.done():
            self._wake.clear()
            await self._publish(broker)
            await self._wake.wait()
        error = broker.closed.result()
        if error is not None:
            raise error

    async def _subscribe(self, broker: Broker) -> None:
        wanted = [Filter(self._topics.birth, 0), Filter(self._topics.announced(), 0)]
        for text, code in (await broker.subscribe(wanted)).items():
            if code >= 0x80:
                _log.warning("%s: the broker refused %s (%#x)", self._access.where, text, code)

    async def _publish(self, broker: Broker) -> None:
        """What the broker has not, or has otherwise."""
        wanted = devices(self._seen(), self._topics)
        for name in (self._sent.keys() | self._found) - wanted.keys():
            await broker.publish(self._topics.announced(name), b"", 1, retain=True)
            await broker.publish(self._topics.state(name), b"", 1, retain=True)
            self._sent.pop(name, None)
            self._found.discard(name)
        for name, device in wanted.items():
            sent = self._sent.get(name)
            if sent is None or sent.announced != device.announced:
                await broker.publish(self._topics.announced(name), device.announced, 1, retain=True)
            if sent is None or sent.state != device.state:
                await broker.publish(self._topics.state(name), device.state, 1, retain=True)
            self._sent[name] = device
        if not self._online:
            await broker.publish(self._topics.available, ONLINE, 1, retain=True)
            self._online = True

    def _seen(self) -> Seen:
        """The node as it is, with counts that are as old as they may be."""
        if self._fresh:
            self._fresh = False
            self._watch(self._count)  # first: what is counted from here on is sent later
            seen = self._look()
            self._counts = {one.status.name: one.count for one in seen.applications}
            return seen
        seen, counts = self._look(), self._counts
        kept = [
            replace(one, count=counts.get(one.status.name, one.count)) for one in seen.applications
        ]
        return replace(seen, applications=tuple(kept))

    def _arrived(self, message: Message) -> None:
        if message.topic == self._topics.birth:
            # One that the broker kept is no news: everything is said at a connection anyway.
            if message.payload == ONLINE and not message.retain and self._born is None:
                delay = random.uniform(0, _SPREAD)  # noqa: S311
                self._born = self._loop.call_later(delay, self._greeted)
            return
        device = self._topics.device(message.topic)
        if device is None or not message.payload or len(self._found) >= _FOUND_MAX:
            return
        self._found.add(device)
        if device not in self._sent:
            self.changed()

    def _greeted(self) -> None:
        """Home Assistant has started: all is said again."""
        self._born = None
        self._sent.clear()
        self._wake.set()

    def _settled(self) -> None:
        self._settling = None
        self._wake.set()

    def _count(self) -> None:
        """An event was counted: it is sent when its time has come."""
        if self._counting is None and not self._left:
            when = max(self._counted + self._interval, self._loop.time() + _SETTLE)
            self._counting = self._loop.call_at(when, self._due)

    def _due(self) -> None:
        self._counting = None
        self._counted, self._fresh = self._loop.time(), True
        self._wake.set()


def _say_if_broken(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("no more is told to Home Assistant: a mistake of ours", exc_info=error)
