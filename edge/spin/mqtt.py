"""fermyon:spin/mqtt: messages to brokers that the grants allow, as `mqtt://` or `mqtts://`.

MQTT 3.1.1, as Spin speaks it; where the node traces MQTT 5, if the broker knows it: messages tell
then which trace they belong to. A connection belongs to the invocation that opened it and ends
with it, after the last message has left.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, final

from edge.application.addresses import MqttAddress
from edge.engine.host import Err, Interface
from edge.spin import dial, lazy
from edge.spin.platform import Brokers, Context, Outbound

if TYPE_CHECKING:
    from edge.spin.broker import BrokerError, BrokerOptions
    from edge.spin.mqtt_client import Publisher

__all__ = ["MQTT", "MqttConnection"]

_QOS = {"at-most-once": 0, "at-least-once": 1, "exactly-once": 2}

# The length of a topic or a name is written in two bytes, as is the keep-alive interval.
_U16_MAX = 0xFFFF

# What a broker sends to one who subscribes to nothing are acknowledgements.
_PACKET_MAX = 1 << 12


@final
class MqttConnection:
    """A connection, counted as one of the invocation until it is closed."""

    __slots__ = ("_brokers", "_publisher", "_trace")

    def __init__(
        self, publisher: Publisher, brokers: Brokers, trace: tuple[tuple[str, str], ...]
    ) -> None:
        self._publisher: Publisher | None = publisher
        self._brokers = brokers
        self._trace = trace

    @staticmethod
    async def open(
        context: Context, address: str, username: str, password: str, keep_alive: int
    ) -> MqttConnection:
        try:
            parsed = MqttAddress.parse(address)
        except ValueError:
            raise Err("invalid-address") from None
        # What is given beside the address counts more.
        name, secret = (username, password) if username else (parsed.username, parsed.password)
        for what, text in (
            ("user name", name),
            ("password", secret),
            ("client_id", parsed.client_id),
        ):
            if text is not None and len(text.encode()) > _U16_MAX:
                raise Err(("other", f"a {what} has at most {_U16_MAX} bytes"))
        try:
            return await _open(context, parsed, name, secret, min(keep_alive, _U16_MAX))
        except dial.Denied as exc:
            raise Err(("connection-failed", str(exc))) from None
        except OSError as exc:
            raise Err(("connection-failed", f"{parsed}: {dial.reason(exc)}")) from None

    async def publish(self, topic: str, payload: bytes, qos: str) -> None:
        _check(topic, payload, self._brokers.max_payload)
        publisher = self._publisher
        assert publisher is not None
        broker = await lazy.load("edge.spin.broker")
        properties = broker.MessageProperties(user=self._trace)
        try:
            async with asyncio.timeout(self._brokers.reply):
                await publisher.publish(topic, payload, _QOS[qos], properties=properties)
        except TimeoutError:
            publisher.abort()
            raise Err(("other", f"{topic[:80]}: not acknowledged in time")) from None
        except broker.BrokerError as exc:
            raise Err(_failure(exc)) from None

    def drop(self) -> None:
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            publisher.leave()

    # A guest that ends just as its connection is made never gets the handle.
    __del__ = drop


async def _open(
    context: Context,
    address: MqttAddress,
    username: str | None,
    password: str | None,
    keep_alive: int,
) -> MqttConnection:
    outbound, brokers = dial.granted(context.outbound, address.endpoint), context.platform.brokers
    endpoint = address.endpoint

    async def options(broker: Any, protocol: str) -> BrokerOptions:
        found: BrokerOptions = broker.BrokerOptions(
            endpoint.host,
            endpoint.port,
            tls=await dial.tls_for(endpoint, brokers.tls),
            username=username,
            password=password,
            client_id=address.client_id,
            keepalive=keep_alive,
            protocol=protocol,
            max_packet=_PACKET_MAX,
            in_flight=1,
            connected=_Way(outbound, address, brokers),
        )
        return found

    if outbound.trace:
        try:
            publisher = await _publisher(outbound, brokers, partial(options, protocol="5"))
            return MqttConnection(publisher, brokers, outbound.trace)
        except _Unknown:
            pass
    publisher = await _publisher(outbound, brokers, partial(options, protocol="3.1.1"))
    return MqttConnection(publisher, brokers, ())


class _Unknown(Exception):
    """A broker that does not know MQTT 5 says so, or closes the connection."""


async def _publisher(
    outbound: Outbound,
    brokers: Brokers,
    options: Callable[[Any], Awaitable[BrokerOptions]],
) -> Publisher:
    """Connected. Raises _Unknown where that may help, Err otherwise."""
    if not outbound.acquire():
        raise Err("too-many-connections")
    publisher: Publisher | None = None
    try:
        async with asyncio.timeout(brokers.connect):
            broker = await lazy.load("edge.spin.broker")
            library = await lazy.load("edge.spin.mqtt_client")
            publisher = library.Publisher(given := await options(broker))
            publisher.closed.add_done_callback(lambda _closed: outbound.release())
            await publisher.connect(brokers.connect)
    except BaseException as exc:
        if publisher is None:
            outbound.release()
        else:
            publisher.abort()
            if isinstance(exc, broker.BrokerError):
                if given.protocol == "5" and exc.reason in ("version", "lost"):
                    raise _Unknown from None
                raise Err(_failure(exc)) from None
        raise
    assert publisher is not None
    return publisher


class _Way:
    """Connects to the broker, as far as the grants reach."""

    def __init__(self, outbound: Outbound, address: MqttAddress, brokers: Brokers) -> None:
        self._outbound = outbound
        self._address = address
        self._brokers = brokers

    async def __call__(self) -> socket.socket:
        return await dial.connect(self._outbound, self._address.endpoint, self._brokers.connect)


def _check(topic: str, payload: bytes, most: int) -> None:
    if not topic or set(topic) & {"+", "#", "\0"}:
        raise Err(("other", "a topic is text without wildcards"))
    if len(topic.encode()) > _U16_MAX:
        raise Err(("other", f"a topic has at most {_U16_MAX} bytes"))
    if len(payload) > most:
        raise Err(("other", f"{topic[:80]}: {len(payload)} bytes, at most {most} are sent"))


def _failure(error: BrokerError) -> tuple[str, str]:
    own = error.reason in ("size", "full")
    return ("other" if own else "connection-failed", error.message)


MQTT = Interface(
    """interface fermyon:spin/mqtt@2 {
      variant error {
        invalid-address, too-many-connections, connection-failed(string), other(string)
      }
      enum qos { at-most-once, at-least-once, exactly-once }
      type payload = list<u8>;
      resource connection {
        open: static func(
          address: string, username: string, password: string, keep-alive-interval-in-secs: u64
        ) -> result<connection, error>;
        publish: func(topic: string, payload: payload, qos: qos) -> result<_, error>;
      }
    }""",
    resources={"connection": MqttConnection},
)
