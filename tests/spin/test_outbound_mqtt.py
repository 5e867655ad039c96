"""fermyon:spin/mqtt against a real mosquitto: every QoS, grants, limits, and the last message."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mqtt_lab import Mosquitto, mosquitto
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from redis_lab import certificate, free_port, trusting
from remote_lab import Node, error, way_out

from edge.spin.mqtt import MqttConnection
from edge.spin.platform import Platform

ANY = "mqtt://127.0.0.1:*"


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path_factory.mktemp("mosquitto")) as running:
        yield running


@pytest.fixture
def node() -> Iterator[Node]:
    with way_out() as made:
        yield made


@contextlib.asynccontextmanager
async def opened(
    node: Node, context: Any, url: str, username: str = "", password: str = "", keep_alive: int = 30
) -> AsyncIterator[MqttConnection]:
    connection = await MqttConnection.open(context, url, username, password, keep_alive)
    try:
        yield connection
    finally:
        connection.drop()
        await node.closed()


Next = Callable[[], Awaitable[tuple[str, int, bytes]]]


@contextlib.asynccontextmanager
async def listening(broker: Mosquitto) -> AsyncIterator[Next]:
    """What a subscriber of its own gets: topic, QoS, payload."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[tuple[str, int, bytes]] = asyncio.Queue()
    subscribed = asyncio.Event()

    def message(_client: Client, _data: object, m: MQTTMessage) -> None:
        loop.call_soon_threadsafe(arrived.put_nowait, (m.topic, m.qos, m.payload))

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = message
    client.on_connect = lambda c, *_: c.subscribe("#", 2)
    client.on_subscribe = lambda *_: loop.call_soon_threadsafe(subscribed.set)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        async with asyncio.timeout(20):
            await subscribed.wait()
        yield lambda: asyncio.wait_for(arrived.get(), 20)
    finally:
        client.disconnect()
        client.loop_stop()


async def test_messages_of_every_qos_arrive(node: Node, broker: Mosquitto) -> None:
    async with listening(broker) as arrived, opened(node, node.context(ANY), broker.url) as c:
        for number, qos in enumerate(("at-most-once", "at-least-once", "exactly-once")):
            await c.publish(f"a/{number}", bytes([number]), qos)
            assert await arrived() == (f"a/{number}", number, bytes([number]))
        await c.publish("$other/ü", b"", "at-least-once")
        payload = bytes(1_000_000)
        await c.publish("large", payload, "exactly-once")
        assert await arrived() == ("large", 2, payload)


async def test_a_message_at_qos_0_leaves_before_its_connection(
    node: Node, broker: Mosquitto
) -> None:
    payload = bytes(4_000_000)  # more than a socket takes at once
    async with listening(broker) as arrived:
        connection = await MqttConnection.open(node.context(ANY), broker.url, "", "", 30)
        await connection.publish("last", payload, "at-most-once")
        connection.drop()
        assert await arrived() == ("last", 0, payload)
        await node.closed()
    assert "exceeded timeout" not in broker.log()


async def test_many_in_a_row(node: Node, broker: Mosquitto) -> None:
    async with listening(broker) as arrived, opened(node, node.context(ANY), broker.url) as c:
        for number in range(300):
            await c.publish("n", b"%d" % number, "exactly-once")
        assert [(await arrived())[2] for _ in range(300)] == [b"%d" % n for n in range(300)]


@pytest.mark.parametrize(
    "address",
    [
        *("", "127.0.0.1:1883", "http://127.0.0.1", "mqtt://", "mqtt://h:0", "mqtt://h/path"),
        *("mqtt://h?clientid=x", "mqtt://h#x", "tcp://h:1883"),
    ],
)
async def test_what_is_no_address(node: Node, address: str) -> None:
    context = node.context("*://*:*")
    assert await error(MqttConnection.open(context, address, "", "", 1)) == "invalid-address"


async def test_only_granted_destinations(node: Node, broker: Mosquitto) -> None:
    async def refused(context: Any, url: str) -> None:
        kind, text = await error(MqttConnection.open(context, url, "", "", 1))
        assert kind == "connection-failed"
        assert url in text
        assert "allowed_outbound_hosts" in text

    await refused(node.context(), broker.url)
    await refused(node.context(f"mqtt://127.0.0.1:{broker.port + 1}"), broker.url)
    await refused(node.context(ANY), f"mqtts://127.0.0.1:{broker.port}")
    await refused(SimpleNamespace(platform=Platform(), outbound=None), broker.url)
    node.names["broker.example"] = ["127.0.0.1"]
    url = f"mqtt://broker.example:{broker.port}"
    await refused(node.context(url), url)
    assert node.lookups == ["broker.example"]
    async with opened(node, node.context(url, ANY), url) as c:
        await c.publish("t", b"", "at-least-once")


def password_file(directory: Path) -> Path:
    users = directory / "users"
    subprocess.run(["mosquitto_passwd", "-c", "-b", users, "device", "s3cret"], check=True)
    return users


async def test_passwords_and_client_identifiers(node: Node, tmp_path: Path) -> None:
    more = f"password_file {password_file(tmp_path)}\nconnection_messages true"
    with mosquitto(tmp_path / "broker", more, anonymous=False) as broker:
        context = node.context(ANY)
        async with opened(node, context, f"{broker.url}?client_id=c-1", "device", "s3cret") as c:
            await c.publish("t", b"", "at-least-once")
        within = broker.url.replace("mqtt://", "mqtt://device:s3cret@")
        async with opened(node, context, within) as c:
            await c.publish("t", b"", "at-least-once")
        for name, password in (("device", "wr0ng"), ("", "")):
            opening = MqttConnection.open(context, broker.url, name, password, 1)
            kind, text = await error(opening)
            assert kind == "connection-failed"
            assert "refused" in text
            assert "wr0ng" not in text
    assert "c-1" in broker.log()


async def test_tls_checks_the_certificate_against_the_name(node: Node, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    port = free_port()
    more = f"listener {port} 127.0.0.1\ncertfile {cert}\nkeyfile {key}"
    node.names |= {"localhost": ["127.0.0.1"], "other.example": ["127.0.0.1"]}
    with mosquitto(tmp_path / "broker", more):
        context = node.context("mqtts://*:*", tls=trusting(cert))
        async with opened(node, context, f"mqtts://localhost:{port}") as c:
            await c.publish("t", b"", "exactly-once")
        wrong = f"mqtts://other.example:{port}"
        kind, text = await error(MqttConnection.open(context, wrong, "", "", 1))
        assert (kind, "certificate" in text) == ("connection-failed", True)


async def test_limits(node: Node, broker: Mosquitto) -> None:
    context = node.context(ANY, connections=1, max_payload=1000)
    async with opened(node, context, broker.url) as c:
        opening = MqttConnection.open(context, broker.url, "", "", 1)
        assert await error(opening) == "too-many-connections"
        kind, text = await error(c.publish("t", bytes(1001), "at-most-once"))
        assert (kind, "at most 1000" in text) == ("other", True)
        for topic in ("", "a/+", "#", "a\0", "x" * 70_000):
            assert (await error(c.publish(topic, b"", "at-most-once")))[0] == "other"
        await c.publish("t", bytes(1000), "at-least-once")
    long = "x" * 70_000
    for url, name, secret in (
        (broker.url, long, ""),
        (broker.url, "u", long),
        (f"{broker.url}?client_id={long}", "", ""),
    ):
        kind, text = await error(MqttConnection.open(context, url, name, secret, 1))
        assert (kind, "at most 65535 bytes" in text) == ("other", True)


async def test_brokers_that_are_not_there_or_go(node: Node, tmp_path: Path) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}"
    assert await error(MqttConnection.open(node.context(ANY), url, "", "", 1)) == (
        "connection-failed",
        f"{url}: connection refused",
    )
    with mosquitto(tmp_path / "broker") as broker:
        async with opened(node, node.context(ANY), broker.url) as c:
            await c.publish("t", b"", "at-least-once")
            broker.stop()
            for qos in ("at-least-once", "at-most-once"):
                assert (await error(c.publish("t", b"", qos)))[0] == "connection-failed"


async def test_a_broker_that_does_not_answer(node: Node) -> None:
    arrived, held = asyncio.Event(), asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set()
        await held.wait()
        writer.close()

    async with await asyncio.start_server(hold, "127.0.0.1", 0) as silent:
        url = f"mqtt://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        context = node.context(ANY, connect=0.2)
        kind, text = await error(MqttConnection.open(context, url, "", "", 1))
        assert (kind, "no answer" in text) == ("connection-failed", True)
        arrived.clear()
        loop = asyncio.get_running_loop()
        opening = loop.create_task(MqttConnection.open(node.context(ANY), url, "", "", 1))
        await arrived.wait()
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        await node.closed()
        held.set()


async def test_an_acknowledgement_that_does_not_come(node: Node) -> None:
    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\0\0")  # CONNACK, and nothing else
        while await reader.read(1000):
            pass
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as silent:
        url = f"mqtt://127.0.0.1:{silent.sockets[0].getsockname()[1]}"
        async with opened(node, node.context(ANY, reply=0.2), url) as c:
            assert await error(c.publish("t", b"", "exactly-once")) == (
                "other",
                "t: not acknowledged in time",
            )
            assert (await error(c.publish("t", b"", "at-least-once")))[0] == "connection-failed"


async def test_a_broker_that_takes_nothing_holds_one_message(node: Node) -> None:
    gone = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"\x20\x02\0\0")  # CONNACK; what comes from now on stays in the kernel
        await gone.wait()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as full:
        url = f"mqtt://127.0.0.1:{full.sockets[0].getsockname()[1]}"
        async with opened(node, node.context(ANY, reply=0.5), url) as c:
            await c.publish("t", bytes(16_000_000), "at-most-once")
            kind, text = await error(c.publish("t", bytes(16_000_000), "at-most-once"))
            assert (kind, "in time" in text) == ("other", True)
            gone.set()


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b""], ids=["says so", "closes"])
async def test_where_the_node_traces_an_old_broker_is_met_in_its_own_version(
    node: Node, broker: Mosquitto, answer: bytes
) -> None:
    levels: list[int] = []

    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A broker that knows MQTT 3.1.1 only: mosquitto, for those who speak that."""
        first = await reader.readuntil(b"MQTT") + await reader.readexactly(1)
        levels.append(first[-1])
        if first[-1] == 4:
            back, forth = await asyncio.open_connection("127.0.0.1", broker.port)
            forth.write(first)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copied(reader, forth))
                group.create_task(_copied(back, writer))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(old, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    context = node.context(ANY)
    context.outbound.trace = (("traceparent", "00-1-2-01"),)
    async with (
        server,
        listening(broker) as arrived,
        opened(node, context, f"mqtt://127.0.0.1:{port}") as c,
    ):
        await c.publish("a", b"b", "at-least-once")
        assert await arrived() == ("a", 1, b"b")
    assert levels == [5, 4]


async def _copied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()
