"""Real mosquitto brokers, each in a directory of its own, and a proxy that cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.application.messages import MqttTrigger
from edge.application.topics import Filter, TopicTemplate
from edge.config import Mqtt
from edge.invocation.event import DONE, Event
from edge.triggers.mqtt import MqttService, Subscription

# Debian puts it where a user's PATH does not look.
MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Mosquitto:
    """A broker with one plain listener on `port`; `more` are lines of its configuration."""

    directory: Path
    more: str = ""
    anonymous: bool = True
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        config = self.directory / "mosquitto.conf"
        # As root it would change to a user who may not write here.
        user = "user root\n" if os.geteuid() == 0 else ""
        config.write_text(
            f"{user}persistence true\npersistence_location {self.directory}/\n"
            "persistent_client_expiration 1d\nmax_queued_messages 0\nmax_queued_bytes 0\n"
            f"log_dest file {self.directory}/log\n"
            f"listener {self.port} 127.0.0.1\n"
            f"allow_anonymous {'true' if self.anonymous else 'false'}\n{self.more}\n"
        )
        self.process = subprocess.Popen(
            [MOSQUITTO, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for port in (self.port, *map(int, re.findall(r"^listener (\d+)", self.more, re.MULTILINE))):
            self._answers(port)

    def _answers(self, port: int) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert self.process is not None
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < end, "mosquitto does not listen"
                time.sleep(0.02)
            else:
                return

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Until it has ended. It forgets a signal that comes while it starts."""
        process, self.process = self.process, None
        end = time.monotonic() + 30
        while process is not None:
            process.send_signal(number)
            try:
                process.wait(2)
            except subprocess.TimeoutExpired:
                assert time.monotonic() < end, "mosquitto does not stop"
            else:
                break

    def log(self) -> str:
        return (self.directory / "log").read_text()


@contextlib.contextmanager
def mosquitto(directory: Path, more: str = "", *, anonymous: bool = True) -> Iterator[Mosquitto]:
    assert Path(MOSQUITTO).exists(), "needs the Debian package mosquitto"
    directory.mkdir(exist_ok=True)
    broker = Mosquitto(directory, more, anonymous)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


class Proxy:
    """A TCP proxy on a port of its own whose connections can be cut or held."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.up = True
        self._upstream = asyncio.Event()
        self._upstream.set()
        self._server: asyncio.Server | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.refused = 0

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Ends every connection with a reset: what was on its way is lost."""
        for pair in self._pairs:
            for writer in pair:
                writer.transport.abort()

    def hold_upstream(self) -> None:
        """Passes nothing on to the broker until `release`."""
        self._upstream.clear()

    def release(self) -> None:
        self._upstream.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if not self.up:
                raise ConnectionRefusedError
            upstream, out = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            # As proxies do: they accept, and end it when they find nobody behind them.
            self.refused += 1
            writer.transport.abort()
            return
        self.connections += 1
        self._pairs.add((writer, out))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, out, self._upstream))
                group.create_task(self._pump(upstream, writer))
        except* OSError:
            pass
        finally:
            self._pairs.discard((writer, out))
            writer.transport.abort()
            out.transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        passed: asyncio.Event | None = None,
    ) -> None:
        while data := await reader.read(65536):
            if passed is not None:
                await passed.wait()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


@contextlib.asynccontextmanager
async def proxied(broker: Mosquitto) -> AsyncIterator[Proxy]:
    async with Proxy(broker.port) as proxy:
        yield proxy


# --- the other side -------------------------------------------------------------------------------


class Peer:
    """A client of paho's own, in its own thread: what it sees, it sees independently of us."""

    def __init__(self, port: int, *, protocol: str = "5") -> None:
        self._loop = asyncio.get_running_loop()
        self.messages: asyncio.Queue[paho.MQTTMessage] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[None]] = {}
        version5 = protocol == "5"
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            protocol=MQTTProtocolVersion.MQTTv5 if version5 else MQTTProtocolVersion.MQTTv311,
        )
        self._connected: asyncio.Future[None] = self._loop.create_future()
        self.client.reconnect_delay_set(1, 1)
        self.client.max_inflight_messages_set(100)
        self.client.on_connect = lambda *_: self._call(self._open)
        self.client.on_message = lambda _c, _u, message: self._call(
            self.messages.put_nowait, message
        )
        self.client.on_subscribe = lambda _c, _u, mid, *_: self._call(self._answered, mid)
        self.client.on_publish = lambda _c, _u, mid, *_: self._call(self._answered, mid)
        self._port = port

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)

    def _open(self) -> None:
        if not self._connected.done():  # paho connects again by itself
            self._connected.set_result(None)

    def _answered(self, mid: int) -> None:
        answer = self._answers.setdefault(mid, self._loop.create_future())
        if not answer.done():
            answer.set_result(None)

    async def _answer(self, mid: int | None) -> None:
        assert mid is not None
        async with asyncio.timeout(60):
            await self._answers.setdefault(mid, self._loop.create_future())
        del self._answers[mid]

    async def __aenter__(self) -> Peer:
        self.client.connect("127.0.0.1", self._port)
        self.client.loop_start()
        async with asyncio.timeout(20):
            await self._connected
        return self

    async def __aexit__(self, *_: object) -> None:
        self.client.disconnect()
        await asyncio.to_thread(self.client.loop_stop)

    async def subscribe(self, filter: str, qos: int = 1) -> None:
        await self._answer(self.client.subscribe(filter, qos)[1])

    async def publish(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 1,
        *,
        retain: bool = False,
        **more: object,
    ) -> None:
        """Until the broker has it. `more`: MQTT 5 properties by paho's names."""
        properties = None
        if more:
            properties = Properties(PacketTypes.PUBLISH)
            for name, value in more.items():
                setattr(properties, name, value)
        await self._answer(self.client.publish(topic, payload, qos, retain, properties).mid)

    async def get(self) -> paho.MQTTMessage:
        async with asyncio.timeout(20):
            return await self.messages.get()


# --- what stands for components -------------------------------------------------------------------


class Component:
    """Ends each event as `decide` says, and remembers it. An awaitable outcome is awaited."""

    def __init__(self, decide: Callable[[Event], Any] | None = None) -> None:
        self.decide = decide or (lambda _event: DONE)
        self.events: list[Event] = []
        self._changed = asyncio.Event()

    def __call__(self, event: Event) -> Any:
        self.events.append(event)
        self._changed.set()
        return self.decide(event)

    @property
    def texts(self) -> list[str]:
        return [event.data.decode() for event in self.events]

    async def seen(self, count: int) -> list[Event]:
        async with asyncio.timeout(20):
            while len(self.events) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.events


def subscription(
    component: Component, filter: str = "in/+", id: str = "t", **options: Any
) -> Subscription:
    source = Filter.parse(filter)
    names = {"application": "app", "component": "c", "trigger": id}
    for key in ("reply_topic", "dead_letter"):
        if key in options:
            options[key] = TopicTemplate.parse(options[key], names, source)
    options["responses"] = tuple(Filter.parse(text) for text in options.get("responses", ()))
    where = f"spin.toml: component.c.tool.edge.trigger.{id}"
    return Subscription(MqttTrigger(id, "c", source, where=where, **options), "app", component)


@contextlib.asynccontextmanager
async def service(
    url: str, *subscriptions: Subscription, state_dir: Path | None = None, **settings: Any
) -> AsyncIterator[MqttService]:
    """A service whose subscriptions are in place."""
    async with MqttService(Mqtt(url=url, **settings), state_dir=state_dir) as running:
        await running.update(subscriptions)
        async with asyncio.timeout(20):
            await running.ready()
        yield running


async def eventually(condition: Callable[[], bool]) -> None:
    """For what no party announces, such as a line in a broker's log."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
