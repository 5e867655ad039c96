"""One connection to an MQTT broker, by paho-mqtt, on the running loop.

paho opens and ends the session, subscribes and knows the reasons; bytes, time, messages and their
acknowledgements are handled here. Nothing blocks: asyncio resolves names and shakes hands, paho is
given a socket that is neither waited for nor read ahead of.

What a connection promised ends with it: there is no reconnecting. Whoever wants one makes another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from paho.mqtt.client import Client, ConnectFlags
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.spin.broker import packets
from edge.spin.broker.keepalive import KeepAlive
from edge.spin.broker.options import (
    BrokerError,
    BrokerOptions,
    Filter,
    explained,
    refusal,
    system_text,
)
from edge.spin.broker.outbox import Confirmed, Outbox
from edge.spin.broker.packets import NO_PROPERTIES, Malformed, Message, MessageProperties
from edge.spin.broker.paho_client import PahoClient, paho_properties
from edge.spin.broker.websocket import WebSocket, WebSocketError
from edge.spin.broker.wire import Refused, Wire

__all__ = ["Broker"]


class Broker:
    """A connection, from `connect` to `closed`.

    `on_message` and `on_refused` are called for what comes, in its order; they must not raise.
    """

    def __init__(
        self,
        options: BrokerOptions,
        on_message: Callable[[Message], None] | None = None,
        on_refused: Callable[[Refused], None] | None = None,
    ) -> None:
        self.options = options
        self.session_present = False
        self._on_message = on_message
        self._on_refused = on_refused
        self._loop = asyncio.get_running_loop()
        self._version5 = options.protocol == "5"
        websocket = None
        if options.transport == "websockets":
            websocket = WebSocket(f"{options.host}:{options.port}", options.path)
        self._wire = Wire(self, options.max_packet, websocket)
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        # Its result is why the connection ended, None for a goodbye of ours.
        self.closed: asyncio.Future[BrokerError | None] = self._loop.create_future()
        self._client = self._make_client()
        self._properties = packets.Properties() if self._version5 else None
        self._answers: dict[int, asyncio.Future[list[int]]] = {}
        self._outbox = Outbox(self._wire, options, self._stuck)
        self._keepalive = KeepAlive(self._wire, self._unanswered)
        self._identifiers = True  # not every broker has those of subscriptions
        self._leaving = False

    # --- opening and closing ----------------------------------------------------------------------

    async def connect(self, timeout: float = 10.0) -> None:
        """Connects and opens the session. Raises BrokerError; the connection is closed then."""
        try:
            async with asyncio.timeout(timeout):
                await self._open()
                await self._opened
                self._start_session()
                await self._accepted
        except BaseException as exc:
            self._wire.abort()
            error = explained(exc, self.options, timeout)
            self._end(error)
            if error is None or error is exc:
                raise
            raise error from exc
        # paho has taken over what the broker said in its answer.
        self._keepalive.start(self._client.keepalive)

    async def disconnect(self, timeout: float = 5.0) -> None:
        """Says goodbye: the broker does not publish the will. Safe to call at any time."""
        self._leaving = True
        if self._wire.open:
            self._client.disconnect()
            self._wire.close()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self.closed)
        except TimeoutError:
            self._wire.abort()
            self._end(None)

    def abort(self) -> None:
        """Ends the connection without a goodbye."""
        self._wire.abort()
        self._end(self._lost("ended by us"))

    @property
    def version5(self) -> bool:
        return self._version5

    @property
    def alive(self) -> bool:
        return not self.closed.done() and self._accepted.done()

    async def _open(self) -> None:
        options = self.options
        context: dict[str, Any] = {"ssl": options.tls}
        if options.tls is not None:
            context["server_hostname"] = options.host
        if options.connected is not None:
            connected = await options.connected()
            await self._loop.create_connection(lambda: self._wire, sock=connected, **context)
        else:
            await self._loop.create_connection(
                lambda: self._wire,
                options.host,
                options.port,
                happy_eyeballs_delay=0.25,
                **context,
            )

    def _make_client(self) -> PahoClient:
        options = self.options
        client = PahoClient(
            self._wire,
            CallbackAPIVersion.VERSION2,
            client_id=options.client_id,
            clean_session=None if self._version5 else options.clean,
            protocol=MQTTProtocolVersion.MQTTv5 if self._version5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.username_pw_set(options.username, options.password)
        if (will := options.will) is not None:
            properties = None
            if self._version5:
                properties = paho_properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.delay)
            client.will_set(will.topic, will.payload, will.qos, will.retain, properties)
        client.on_connect = self._connected
        client.on_subscribe = self._answered
        client.on_unsubscribe = self._answered
        client.on_disconnect = self._disconnected
        return client

    def _start_session(self) -> None:
        options = self.options
        arguments: dict[str, Any] = {}
        if self._version5:
            properties = paho_properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=options.session_expiry,
                ReceiveMaximum=options.receive_maximum,
                MaximumPacketSize=options.max_packet,
            )
            arguments = {"clean_start": options.clean, "properties": properties}
        self._client.connect(options.host, options.port, options.keepalive, **arguments)

    def _connected(
        self,
        _client: Client,
        _userdata: object,
        flags: ConnectFlags,
        code: ReasonCode,
        properties: PahoProperties | None,
    ) -> None:
        if self._accepted.done():
            return
        if code.is_failure:
            text = getattr(properties, "ReasonString", None) or code.getName().lower()
            self._accepted.set_exception(refusal(self.options, int(code.value), text))
            return
        self.session_present = flags.session_present
        if properties is not None:
            maximum = getattr(properties, "ReceiveMaximum", 65535)
            self._outbox.quota = min(self.options.in_flight, maximum)
            self._identifiers = bool(getattr(properties, "SubscriptionIdentifierAvailable", 1))
            self._outbox.largest = getattr(properties, "MaximumPacketSize", self._outbox.largest)
        self._accepted.set_result(None)

    def _disconnected(
        self,
        _client: Client,
        _userdata: object,
        _flags: object,
        code: ReasonCode,
        properties: PahoProperties | None,
    ) -> None:
        if not self._leaving:
            text = getattr(properties, "ReasonString", None) or code.getName().lower()
            self._end(self._lost(f"the broker ended the connection: {text}", int(code.value)))
            self._wire.abort()

    # --- what the wire tells ----------------------------------------------------------------------

    def opened(self) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def packet(self, first: int, data: bytes, start: int, end: int) -> None:
        kind = first & 0xF0
        if kind == packets.PUBLISH:
            message = packets.decode_publish(data, start, end, first, self._properties)
            message.connection = self
            if message.qos == 2:
                raise Malformed("a message of QoS 2, which nobody asked for")
            if self._on_message is not None:
                self._on_message(message)
        elif kind == packets.PUBACK:
            mid, reason = packets.read_acknowledgement(data, start, end)
            self._outbox.acknowledged(mid, self._not_taken(reason) if reason >= 0x80 else None)
        else:
            self._client.receive(bytes((first,)) + _remaining(end - start) + data[start:end])

    def refused(self, message: Refused) -> None:
        message.connection = self
        if self._on_refused is not None:
            self._on_refused(message)

    def writable(self) -> None:
        self._outbox.advance()

    def lost(self, error: Exception | None) -> None:
        if self._leaving:
            self._end(None)
        elif isinstance(error, Malformed):
            self._end(self._lost(f"protocol error: {error}"))
        elif isinstance(error, WebSocketError):
            self._end(BrokerError(f"{self.options.where}: {error}", "refused"))
        else:
            text = system_text(error) if error is not None else "the broker closed it"
            self._end(self._lost(f"connection lost: {text}"))

    def _end(self, error: BrokerError | None) -> None:
        if self.closed.done():
            return
        self.closed.set_result(error)
        self._keepalive.stop()
        failure = error or self._lost("the connection was closed")
        futures: list[asyncio.Future[Any]] = [self._opened, self._accepted]
        for waiting in (*futures, *self._answers.values()):
            if not waiting.done():
                waiting.set_exception(failure)
                waiting.exception()  # somebody may be waiting, or nobody
        self._outbox.fail(failure)

    # --- subscriptions ----------------------------------------------------------------------------

    async def subscribe(self, filters: Iterable[Filter]) -> dict[str, int]:
        """Subscribes at QoS 0 or 1. Returns each filter's reason code: 128 and above are refusals.

        Retained messages come when the subscription is new, with MQTT 3.1.1 each time.
        """
        # All are asked for before the first answer: a broker may be far away.
        asked = [
            (one.text, self._asked(self._client.subscribe(*self._subscription(one))[1]))
            for one in filters
        ]
        return {text: (await self._answer(answer))[0] for text, answer in asked}

    async def unsubscribe(self, filters: Iterable[str]) -> None:
        for answer in [self._asked(self._client.unsubscribe(text)[1]) for text in filters]:
            await self._answer(answer)

    def _subscription(self, one: Filter) -> tuple[Any, ...]:
        if not self._version5:
            return one.text, one.qos
        options = SubscribeOptions(one.qos, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB)
        properties = None
        if one.identifier and self._identifiers:
            properties = paho_properties(
                PacketTypes.SUBSCRIBE, SubscriptionIdentifier=one.identifier
            )
        return one.text, 0, options, properties

    def _asked(self, mid: int | None) -> asyncio.Future[list[int]]:
        if mid is None or self.closed.done():
            raise self._lost("not connected")
        answer: asyncio.Future[list[int]] = self._loop.create_future()
        self._answers[mid] = answer
        return answer

    async def _answer(self, answer: asyncio.Future[list[int]]) -> list[int]:
        try:
            async with asyncio.timeout(self.options.keepalive or 60):
                return await answer
        except TimeoutError:
            self.abort()
            raise self._lost("no answer to a subscription") from None

    def _answered(
        self, _client: Client, _userdata: object, mid: int, codes: list[ReasonCode], _rest: object
    ) -> None:
        if (answer := self._answers.pop(mid, None)) is not None and not answer.done():
            answer.set_result([int(code.value) for code in codes] or [0])

    # --- messages ---------------------------------------------------------------------------------

    def pause(self) -> None:
        """Takes no more messages, and nothing else, from the broker."""
        self._wire.pause()

    def resume(self) -> None:
        self._wire.resume()

    def ack(self, message: Message) -> bool:
        """Acknowledges a message of QoS 1 of this connection. False: it was another one's, or it
        has ended. MQTT wants the order in which they came; that is the caller's to keep.
        """
        if message.connection is not self or self.closed.done():
            return False
        self._wire.write(b"\x40\x02" + message.mid.to_bytes(2, "big"))
        return True

    async def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        *,
        retain: bool = False,
        properties: MessageProperties = NO_PROPERTIES,
    ) -> None:
        """Ends when the message is sent (QoS 0) or acknowledged (1). Raises BrokerError."""
        done: asyncio.Future[None] = self._loop.create_future()

        def confirmed(error: BrokerError | None) -> None:
            if done.done():
                return
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        self.send(topic, payload, qos, confirmed, retain=retain, properties=properties)
        await done

    def send(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        confirmed: Confirmed,
        *,
        retain: bool = False,
        properties: MessageProperties = NO_PROPERTIES,
    ) -> None:
        """Publishes; `confirmed` is called once, with None or why not, perhaps before this ends."""
        if self.alive:
            self._outbox.send(topic, payload, qos, confirmed, retain=retain, properties=properties)
        else:
            confirmed(self._lost("not connected"))

    # --- in between -------------------------------------------------------------------------------

    def _unanswered(self) -> None:
        self._end(self._lost("the broker did not answer a ping", silent=True))
        self._wire.abort()

    def _stuck(self) -> None:
        self._end(self._lost("the broker did not acknowledge a message in time", silent=True))
        self._wire.abort()

    def _lost(self, text: str, code: int = 0, *, silent: bool = False) -> BrokerError:
        return BrokerError(f"{self.options.where}: {text}", "lost", code=code, silent=silent)

    def _not_taken(self, code: int) -> BrokerError:
        try:
            name = ReasonCode(PacketTypes.PUBACK, identifier=code).getName().lower()
        except KeyError:
            name = f"reason {code:#x}"  # not one of MQTT's
        return BrokerError(f"the broker refused the message: {name}", "refused", code=code)


def _remaining(length: int) -> bytes:
    out = bytearray()
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)
