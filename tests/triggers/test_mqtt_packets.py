"""Our bytes against paho's, and in pieces of any size."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from edge.spin.broker import packets
from edge.spin.broker.packets import Malformed, Message, MessageProperties, Properties
from edge.spin.broker.websocket import WebSocket, WebSocketError, _frame
from edge.spin.broker.wire import SLICE, Refused, Wire

texts = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"), max_size=20
)
topics = st.text(st.characters(codec="utf-8", exclude_characters="\0+#\ufeff"), min_size=1)
properties = st.builds(
    MessageProperties,
    content_type=st.none() | texts,
    response_topic=st.none() | texts,
    correlation_data=st.none() | st.binary(max_size=20),
    expiry=st.none() | st.integers(0, 2**32 - 1),
    user=st.lists(st.tuples(texts, texts), max_size=8).map(tuple),
)


def body(packet: bytes) -> tuple[int, int, int]:
    """First byte, start and end of the body of the only packet."""
    place = packets.frame(packet, 0)
    assert place is not None
    start, end = place
    assert end == len(packet)
    return packet[0], start, end


@given(topics, st.binary(max_size=300), st.sampled_from([0, 1]), st.booleans(), properties)
def test_paho_reads_what_we_write(
    topic: str, payload: bytes, qos: int, retain: bool, given: MessageProperties
) -> None:
    packet = packets.encode_publish(topic, payload, qos, 7, retain=retain, properties=given)
    first, start, end = body(packet)
    read = _packet.decode_publish(first, packet[start:end], MQTTProtocolVersion.MQTTv5)
    assert (read.topic.decode(), read.payload, read.qos) == (topic, payload, qos)
    assert read.retain == retain
    assert read.mid == (7 if qos else 0)
    values = read.properties
    assert getattr(values, "ContentType", None) == given.content_type
    assert getattr(values, "ResponseTopic", None) == given.response_topic
    assert getattr(values, "CorrelationData", None) == given.correlation_data
    assert getattr(values, "MessageExpiryInterval", None) == given.expiry
    assert tuple(getattr(values, "UserProperty", ())) == given.user


@given(topics, st.binary(max_size=300), properties, st.lists(st.integers(1, 2**28 - 1), max_size=3))
def test_we_read_what_paho_writes(
    topic: str, payload: bytes, given: MessageProperties, numbers: list[int]
) -> None:
    packed: Any = PahoProperties(PacketTypes.PUBLISH)
    for name, value in (
        ("ContentType", given.content_type),
        ("ResponseTopic", given.response_topic),
        ("CorrelationData", given.correlation_data),
        ("MessageExpiryInterval", given.expiry),
        ("UserProperty", list(given.user) or None),
        ("SubscriptionIdentifier", numbers or None),
        ("PayloadFormatIndicator", 1),
    ):
        if value is not None:
            setattr(packed, name, value)
    raw = topic.encode()
    data = len(raw).to_bytes(2, "big") + raw + b"\x12\x34" + packed.pack() + payload
    known = Properties()
    for _ in range(2):  # the second time it is remembered
        message = packets.decode_publish(data, 0, len(data), 0x3B, known)
        assert (message.topic, message.payload, message.mid) == (topic, payload, 0x1234)
        assert (message.qos, message.retain, message.duplicate) == (1, True, True)
        assert message.properties == MessageProperties(
            given.content_type,
            given.response_topic,
            given.correlation_data,
            given.expiry,
            tuple(numbers),
            given.user,
        )


@given(st.binary(max_size=60), st.sampled_from([0x30, 0x32, 0x3B]), st.booleans())
def test_any_bytes_are_a_message_or_malformed(data: bytes, first: int, version5: bool) -> None:
    try:
        message = packets.decode_publish(
            data, 0, len(data), first, Properties() if version5 else None
        )
    except Malformed:
        return
    assert len(message.topic.encode()) + len(message.payload) <= len(data)


class Owner:
    """Remembers what a wire tells."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, bytes]] = []
        self.refusals: list[tuple[str, int, int, int]] = []
        self.errors: list[Exception | None] = []

    def opened(self) -> None: ...

    def packet(self, first: int, data: bytes, start: int, end: int) -> None:
        self.seen.append((first, data[start:end]))

    def refused(self, message: Refused) -> None:
        self.refusals.append((message.topic, message.qos, message.mid, message.size))

    def writable(self) -> None: ...

    def lost(self, error: Exception | None) -> None:
        self.errors.append(error)


class Transport(asyncio.Transport):
    """Nothing but what a wire asks of one."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.written = b""
        self.aborted = False

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.aborted = True


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(0, 400) | st.just(70_000), max_size=8),
    st.lists(st.integers(1, 50_000), min_size=1, max_size=8),
    st.lists(st.booleans(), min_size=1, max_size=4),
)
def test_packets_arrive_whole_in_whatever_pieces_and_pauses_the_bytes_come(
    sizes: list[int], pieces: list[int], pauses: list[bool]
) -> None:
    wanted: list[tuple[int, bytes]] = []
    refusals = []
    stream = b""
    for number, size in enumerate(sizes):
        payload = bytes([number]) * size
        packet = packets.encode_publish(
            "a/b", payload, 1, number + 1, retain=False, properties=None
        )
        stream += packet
        if len(packet) > 60_000:
            refusals.append(("a/b", 1, number + 1, len(packet)))
        else:
            wanted.append((packet[0], packet[body(packet)[1] :]))

    async def play() -> Owner:
        owner, transport = Owner(), Transport()
        wire = Wire(owner, 60_000)
        wire.connection_made(transport)
        at = turn = 0
        while at < len(stream):
            piece = stream[at : at + pieces[turn % len(pieces)]]
            at += len(piece)
            wire.data_received(piece)
            if pauses[turn % len(pauses)]:
                wire.pause()
                assert not transport.reading
                seen = len(owner.seen)
                await turns()
                assert len(owner.seen) == seen
                wire.resume()
                assert transport.reading or wire._size > 60_000
            turn += 1
        await turns(50)
        assert transport.reading
        return owner

    owner = asyncio.run(play())
    assert owner.seen == wanted
    assert owner.refusals == refusals
    assert not owner.errors


async def test_a_length_of_five_bytes_is_malformed() -> None:
    owner, transport = Owner(), Transport()
    wire = Wire(owner, 1000)
    wire.connection_made(transport)
    wire.data_received(b"\x30\xff\xff\xff\xff")
    assert isinstance(owner.errors[0], Malformed)
    assert transport.aborted


class Slow(Owner):
    """Each packet takes longer than a slice."""

    def packet(self, first: int, data: bytes, start: int, end: int) -> None:
        super().packet(first, data, start, end)
        time.sleep(2 * SLICE)


async def test_many_packets_of_one_read_leave_turns_to_others() -> None:
    owner, transport = Slow(), Transport()
    wire = Wire(owner, 1000)
    wire.connection_made(transport)
    wire.data_received(b"\xd0\x00" * 5)
    seen = []
    for _ in range(5):
        seen.append(len(owner.seen))
        await asyncio.sleep(0)
    assert seen == [1, 2, 3, 4, 5]


async def test_packets_of_one_turn_leave_together() -> None:
    owner, transport = Owner(), Transport()
    wire = Wire(owner, 1000)
    wire.connection_made(transport)
    wire.write(b"a")
    wire.write(b"b")
    assert transport.written == b""
    await turns()
    assert transport.written == b"ab"


def upgraded() -> WebSocket:
    import base64
    import hashlib

    websocket = WebSocket("host:80", "/mqtt")
    key = websocket.request().split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    head = b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    assert websocket.feed(head[:30]) == b""
    assert not websocket.ready
    assert websocket.feed(head[30:]) == b""
    assert websocket.ready
    return websocket


def plain(opcode: int, data: bytes) -> bytes:
    """A frame as a server sends it: not masked."""
    length = len(data)
    if length < 126:
        head = bytes((0x80 | opcode, length))
    elif length < 65_536:
        head = bytes((0x80 | opcode, 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 127)) + length.to_bytes(8, "big")
    return head + data


@given(
    st.lists(st.integers(0, 300) | st.sampled_from([65_535, 65_536]), max_size=6),
    st.lists(st.integers(1, 40_000), min_size=1, max_size=6),
)
def test_a_websocket_gives_the_bytes_of_its_frames(sizes: list[int], pieces: list[int]) -> None:
    websocket = upgraded()
    payload = b"".join(bytes([n]) * size for n, size in enumerate(sizes))
    stream = b"".join(
        plain(2 if n % 2 else 0, bytes([n]) * size) + plain(9, b"ping")
        for n, size in enumerate(sizes)
    )
    got, at, turn = b"", 0, 0
    while at < len(stream):
        piece = stream[at : at + pieces[turn % len(pieces)]]
        got += websocket.feed(piece)
        at, turn = at + len(piece), turn + 1
    assert got == payload
    assert websocket.replies.count(0x8A) >= len(sizes)


@pytest.mark.parametrize(
    "frame",
    [plain(1, b"text"), _frame(2, b"masked"), plain(8, bytes(126))],
    ids=["text", "masked", "long close"],
)
def test_what_no_server_of_mqtt_sends_is_refused(frame: bytes) -> None:
    with pytest.raises(WebSocketError):
        upgraded().feed(frame)


def test_a_close_is_answered() -> None:
    websocket = upgraded()
    assert websocket.feed(plain(2, b"last") + plain(8, b"\x03\xe8") + b"rest") == b"last"
    assert websocket.closed
    assert websocket.replies[0] == 0x88


def test_a_message_has_no_connection_of_its_own() -> None:
    assert Message("a", b"").connection is None
