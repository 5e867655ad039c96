"""Ways to a broker: TLS, passwords, WebSocket, versions, sizes, and what is said when it fails."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from mqtt_lab import (
    Component,
    Mosquitto,
    Peer,
    eventually,
    free_port,
    mosquitto,
    proxied,
    service,
    subscription,
)

from edge.config import Mqtt, parse_mqtt_url
from edge.errors import ConfigError
from edge.spin.broker import Broker, BrokerError, BrokerOptions, Filter, Message, MessageProperties
from edge.triggers.mqtt import MqttService, Subscription

MiB = 1 << 20


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with mosquitto(tmp_path / "broker", "max_inflight_messages 100\nlog_type all") as running:
        yield running


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ca.pem`, `server.pem` of a broker at localhost, `client.pem`; keys beside them."""
    folder = tmp_path_factory.mktemp("certificates")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(
        *new, "-x509", "-subj", "/CN=test", "-keyout", folder / "ca.key", "-out", folder / "ca.pem"
    )
    for name, extension in (
        ("server", "subjectAltName=DNS:localhost"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        request, key = folder / f"{name}.csr", folder / f"{name}.key"
        openssl(*new, "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        (folder / "extension").write_text(extension)
        signed = ("-CA", folder / "ca.pem", "-CAkey", folder / "ca.key", "-CAcreateserial")
        more = ("-extfile", folder / "extension", "-out", folder / f"{name}.pem")
        openssl("x509", "-req", "-in", request, *signed, *more)
    return folder


def tls_listener(certificates: Path, port: int, more: str = "") -> str:
    return (
        f"listener {port} 127.0.0.1\ncafile {certificates / 'ca.pem'}\n"
        f"certfile {certificates / 'server.pem'}\nkeyfile {certificates / 'server.key'}\n{more}"
    )


@asynccontextmanager
async def starting(settings: Mqtt, *subscriptions: Subscription) -> AsyncIterator[MqttService]:
    """A service that need not be connected yet."""
    async with MqttService(settings) as running:
        await running.update(subscriptions)
        yield running


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


async def test_tls_with_a_client_certificate(certificates: Path, tmp_path: Path) -> None:
    port = free_port()
    more = "require_certificate true\nuse_identity_as_username true"
    component = Component()
    with mosquitto(tmp_path / "b", tls_listener(certificates, port, more)) as broker:
        async with (
            service(
                f"mqtts://localhost:{port}",
                subscription(component),
                ca_file=str(certificates / "ca.pem"),
                certificate_file=str(certificates / "client.pem"),
                key_file=str(certificates / "client.key"),
            ),
            Peer(broker.port) as peer,
        ):
            await peer.publish("in/a", b"x" * 300_000)
            await component.seen(1)
        assert "u'client'" in broker.log()
    assert len(component.events[0].data) == 300_000


async def test_a_certificate_for_another_name_is_refused_with_words_and_a_hint(
    certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with mosquitto(tmp_path / "b", tls_listener(certificates, port)):
        settings = Mqtt(
            url=f"mqtts://127.0.0.1:{port}",
            ca_file=str(certificates / "ca.pem"),
            reconnect_max=0.05,
        )
        async with starting(settings, subscription(Component())):
            await eventually(lambda: bool(errors(caplog)))
            broker_log = tmp_path / "b" / "log"
            await eventually(lambda: broker_log.read_text().count("New connection") >= 4)
    (line,) = errors(caplog)
    assert line.startswith(
        f"mqtts://127.0.0.1:{port}: the broker's certificate is refused: "
        "ip address mismatch, certificate is not valid for '127.0.0.1' (the certificate is not for"
    )
    assert line.endswith("use a name that it holds in mqtt.url); trying again"), "said once"


async def test_a_broker_of_an_unknown_authority_is_refused(
    certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with mosquitto(tmp_path / "b", tls_listener(certificates, port)):
        settings = Mqtt(url=f"mqtts://localhost:{port}")
        async with starting(settings, subscription(Component())):
            await eventually(lambda: bool(errors(caplog)))
    assert "mqtt.ca_file names the authority that signed it" in errors(caplog)[0]


async def test_the_password_is_read_from_its_file_for_each_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users, secret = tmp_path / "users", tmp_path / "mqtt-password"
    users.touch(mode=0o600)
    command = ["mosquitto_passwd", "-b", str(users), "node", "right"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    secret.write_text("wrong\n")
    component = Component()
    with mosquitto(tmp_path / "b", f"password_file {users}", anonymous=False) as broker:
        settings = Mqtt(
            url=broker.url, username="node", password_file="mqtt-password", reconnect_max=0.05
        )
        async with MqttService(settings, credentials=tmp_path) as running:
            await running.update([subscription(component)])
            await eventually(lambda: bool(errors(caplog)))
            secret.write_text("right\n")
            async with asyncio.timeout(20):
                await running.ready()
            publish = ["mosquitto_pub", "-p", str(broker.port), "-u", "node", "-P", "right"]
            process = await asyncio.create_subprocess_exec(*publish, "-t", "in/a", "-m", "x")
            assert await process.wait() == 0
            await component.seen(1)
    assert errors(caplog) == [
        f"{broker.url}: the broker refused the connection: not authorized (check mqtt.username and "
        "mqtt.password_file, and what the broker lets them do); trying again"
    ]
    assert "right" not in caplog.text
    assert "right" not in repr(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"password_file": "/no/such"}, "mqtt.password_file: /no/such: no such file or directory"),
        ({"url": "mqtts://x", "ca_file": "/no/ca"}, "mqtt.ca_file: /no/ca: no such file"),
        ({"certificate_file": "x"}, "mqtt: certificate_file and key_file need each other"),
        ({"url": "http://x"}, "mqtt.url: not the address of an MQTT broker"),
        ({"url": "mqtt://x:0"}, "mqtt.url: not the address of an MQTT broker"),
        ({"url": "mqtt://x:port"}, "mqtt.url: not a URL with a host and a port"),
        ({"url": "mqtt://x/path"}, "mqtt.url: a path is for ws:// and wss:// only"),
        ({"protocol": "3.1"}, 'mqtt.protocol: must be "5" or "3.1.1", not "3.1"'),
        ({"max_packet": 1}, "mqtt.max_packet: must be between 1024 and 268435455"),
        ({"reconnect_max": 0}, "mqtt.reconnect_max: must be between 0.01 and 86400"),
        ({"status_topic": "edge/+"}, 'mqtt.status_topic: "edge/+" has a wildcard'),
        ({"client_id": "a#"}, 'mqtt.status_topic: "edge/a#/status" has a wildcard'),
    ],
)
async def test_mistakes_in_the_settings_name_their_key(
    settings: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        async with MqttService(Mqtt(**{"url": "mqtt://localhost", **settings})):  # type: ignore[arg-type]
            raise AssertionError("not refused")
    assert caught.value.message.startswith(message)


def test_urls_of_brokers() -> None:
    def parsed(text: str) -> tuple[str, str | None, dict[str, str]]:
        endpoint, given = parse_mqtt_url(text)
        return str(endpoint), endpoint.path, given

    assert parsed("mqtt://h") == ("mqtt://h:1883", None, {})
    assert parsed("tcp://h:1") == ("mqtt://h:1", None, {})
    assert parsed("ssl://h") == ("mqtts://h:8883", None, {})
    assert parsed("mqtts://u%40x:p@[::1]") == (
        "mqtts://[::1]:8883",
        None,
        {"username": "u@x", "password": "p"},
    )
    assert parsed("ws://h") == ("ws://h:80", "/mqtt", {})
    assert parsed("wss://h/x/y") == ("wss://h:443", "/x/y", {})
    assert parsed("mqtt://h?client_id=c&other=1") == ("mqtt://h:1883", None, {"client_id": "c"})


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_websocket_carries_messages_of_every_length(tmp_path: Path, protocol: str) -> None:
    port = free_port()
    listener = f"listener {port} 127.0.0.1\nprotocol websockets"
    # mosquitto takes 4 KiB each 0.1 s of what comes by WebSocket.
    sizes = [0, 1, 100, 125, 126, 127, 4096, 65_536]
    got: asyncio.Queue[Message] = asyncio.Queue()
    with mosquitto(tmp_path / "b", listener):
        options = BrokerOptions(
            "127.0.0.1", port, transport="websockets", protocol="5" if protocol == "5" else "3.1.1"
        )
        connection = Broker(options, got.put_nowait)
        await connection.connect()
        await connection.subscribe([Filter("a/#")])
        async with asyncio.timeout(30):
            for size in sizes:
                await connection.publish("a/b", bytes(size), 1)
                message = await got.get()
                connection.ack(message)
                assert message.payload == bytes(size)
        await connection.disconnect()
    assert connection.closed.result() is None


async def test_what_is_no_websocket_is_said() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        options = BrokerOptions("127.0.0.1", port, transport="websockets", path="/mqtt")
        with pytest.raises(BrokerError, match=r"no WebSocket at /mqtt: HTTP/1\.1 404 Not Found"):
            await Broker(options).connect(5)


async def test_a_broker_that_is_not_there_is_said_once_and_found_when_it_comes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port, component = free_port(), Component()
    settings = Mqtt(url=f"mqtt://127.0.0.1:{port}", reconnect_max=0.05)
    async with starting(settings, subscription(component)) as running:
        await eventually(lambda: bool(errors(caplog)))
        with mosquitto(tmp_path / "b") as broker:
            broker.stop()
            broker.port = port
            broker.start()
            async with asyncio.timeout(20):
                await running.ready()
            await running.drain(1)
    (said,) = errors(caplog)
    assert said.startswith(f"mqtt://127.0.0.1:{port}: connection refused (no broker listens there")
    assert said.endswith("; trying again")


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00", b""])
async def test_a_broker_that_does_not_know_version_5_is_spoken_to_in_its_own(
    broker: Mosquitto, answer: bytes
) -> None:
    async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Refuses version 5 in one of the ways brokers have; passes everything else on."""
        head = await reader.read(4096)
        if head[8] == 5:
            writer.write(answer)
            writer.close()
            return
        upstream, out = await asyncio.open_connection("127.0.0.1", broker.port)
        out.write(head)
        async with asyncio.TaskGroup() as group:
            group.create_task(pump(reader, out))
            group.create_task(pump(upstream, writer))

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    component = Component()
    server = await asyncio.start_server(old, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        Peer(broker.port) as peer,
        service(f"mqtt://127.0.0.1:{port}", subscription(component)),
    ):
        await peer.publish("in/a", b"x")
        await component.seen(1)
    await asyncio.sleep(0.05)  # the pumps see the end


async def test_a_broker_that_was_away_behind_a_proxy_is_not_taken_for_an_old_one(
    broker: Mosquitto,
) -> None:
    async with proxied(broker) as proxy:
        broker.stop()
        settings = Mqtt(url=proxy.url, reconnect_max=0.05, client_id="node")
        async with starting(settings, subscription(Component())) as running:
            await eventually(lambda: proxy.refused > 10)
            await asyncio.to_thread(broker.start)
            async with asyncio.timeout(20):
                await running.ready()
    assert "as node (p5," in broker.log()
    assert "as node (p2," not in broker.log()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_payload_of_200_mb_is_not_taken_and_the_next_message_is(
    broker: Mosquitto, tmp_path: Path, protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(200_000_000)
    component = Component()
    wanted = subscription(component, dead_letter="dead/x")
    async with (
        Peer(broker.port) as peer,
        service(broker.url, wanted, protocol=protocol, max_packet=MiB),
    ):
        await peer.subscribe("dead/#")
        before = peak()
        publish = ["mosquitto_pub", "-p", str(broker.port), "-q", "1", "-t", "in/big"]
        process = await asyncio.create_subprocess_exec(*publish, "-f", str(big))
        assert await process.wait() == 0
        if protocol == "3.1.1":
            dead = await peer.get()
            assert b"mqtt.max_packet allows 1048576" in dead.payload
        await peer.publish("in/a", b"small")
        await component.seen(1)
        assert peak() - before < 32 * MiB
    assert component.texts == ["small"]
    if protocol == "3.1.1":
        said = [line for line in errors(caplog) if "refused" in line]
        assert "message on in/big refused: 2000000" in said[0]
        assert said[0].endswith("mqtt.max_packet allows 1048576")


def peak() -> int:
    """The most memory that this process had since the last time, in bytes."""
    status = Path("/proc/self/status").read_text()
    most = int(status.split("VmHWM:")[1].split()[0]) * 1024
    Path("/proc/self/clear_refs").write_text("5")
    return most


async def test_what_the_broker_does_not_take_is_said_to_the_publisher(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite ok/#\n")
    more = f"acl_file {acl}\nmax_packet_size 5000"
    with mosquitto(tmp_path / "b", more) as broker:
        connection = Broker(BrokerOptions("127.0.0.1", broker.port))
        await connection.connect()
        await connection.publish("ok/a", b"x", 1)
        with pytest.raises(BrokerError, match="refused the message: not authorized"):
            await connection.publish("no/a", b"x", 1)
        with pytest.raises(BrokerError, match="big: 6014 bytes, the broker takes at most 5000"):
            await connection.publish("ok/big", bytes(6000), 1)
        long = MessageProperties(correlation_data=bytes(70_000))
        with pytest.raises(BrokerError, match="70000 bytes where MQTT takes at most 65535"):
            await connection.publish("ok/a", b"x", 1, properties=long)
        await connection.disconnect()
        with pytest.raises(BrokerError, match="not connected"):
            await connection.publish("ok/a", b"x", 1)


async def test_a_quiet_connection_is_kept_alive(broker: Mosquitto) -> None:
    connection = Broker(BrokerOptions("127.0.0.1", broker.port, client_id="quiet", keepalive=1))
    await connection.connect()
    await eventually(lambda: broker.log().count("Received PINGREQ from quiet") >= 3)
    assert connection.alive
    await connection.disconnect()


async def test_a_connection_that_answers_no_more_is_given_up(broker: Mosquitto) -> None:
    async with proxied(broker) as proxy:
        connection = Broker(BrokerOptions("127.0.0.1", proxy.port, keepalive=1))
        await connection.connect()
        proxy.hold_upstream()
        async with asyncio.timeout(20):
            error = await connection.closed
    assert error is not None
    assert error.message.endswith("the broker did not answer a ping")


async def test_a_reply_that_is_never_confirmed_ends_the_connection(broker: Mosquitto) -> None:
    async with proxied(broker) as proxy:
        connection = Broker(BrokerOptions("127.0.0.1", proxy.port, confirm_timeout=0.2))
        await connection.connect()
        await connection.publish("a", b"x", 1)
        proxy.hold_upstream()
        with pytest.raises(BrokerError, match="did not acknowledge a message in time"):
            await connection.publish("a", b"x", 1)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x20\x03\x00\x00",
        b"\x30\xff\xff\xff\xff\x01",
        b"\x30\x02\x00\x09",
        b"\x34\x05\x00\x01a\x00\x01",
        b"\x90\x00",
        b"\xff" * 64,
    ],
)
async def test_what_is_not_mqtt_ends_the_connection(garbage: bytes) -> None:
    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4096)
        writer.write(b"\x20\x03\x00\x00\x00" + garbage)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hostile, "127.0.0.1", 0)
    async with server:
        connection = Broker(BrokerOptions("127.0.0.1", server.sockets[0].getsockname()[1]))
        try:
            await connection.connect(5)
        except BrokerError:
            pass
        else:
            connection.abort() if garbage == b"\x20\x03\x00\x00" else None
            async with asyncio.timeout(20):
                assert await connection.closed is not None
    await asyncio.sleep(0.05)
