"""MQTT's PUBLISH and PUBACK as bytes. Knows no socket and no other packet.

paho-mqtt builds objects, locks and a property table for each message, which costs several times
what a small guest does; these two packets are nearly all traffic, so they have a codec of their
own. Everything else is paho's.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "NO_PROPERTIES",
    "Malformed",
    "Message",
    "MessageProperties",
    "Properties",
    "decode_publish",
    "encode_publish",
    "frame",
    "read_acknowledgement",
]

PUBLISH = 0x30
PUBACK = 0x40

# MQTT 5.0 §2.2.2.2
_PAYLOAD_FORMAT = 0x01
_EXPIRY = 0x02
_CONTENT_TYPE = 0x03
_RESPONSE_TOPIC = 0x08
_CORRELATION_DATA = 0x09
_SUBSCRIPTION = 0x0B
_TOPIC_ALIAS = 0x23
_USER = 0x26
_STRINGS = {_CONTENT_TYPE: "content_type", _RESPONSE_TOPIC: "response_topic"}
_SIZES = {_PAYLOAD_FORMAT: 1, _TOPIC_ALIAS: 2}

# Messages of one sender mostly carry the same properties: they are read once. Long ones are not
# kept: whoever publishes decides what they are.
_KNOWN_MAX = 256
_KNOWN_LENGTH_MAX = 256


class Malformed(ValueError):
    """Bytes that are no MQTT packet: the connection they came from can not be trusted further."""


@dataclass(frozen=True, slots=True)
class MessageProperties:
    """What MQTT 5 sends beside a message. `expiry`: seconds that it is of use."""

    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    expiry: int | None = None
    subscriptions: tuple[int, ...] = ()  # the identifiers of those it matched, received only
    user: tuple[tuple[str, str], ...] = ()

    def pack(self) -> bytes:
        """As bytes, without their length. Raises ValueError for what is too long."""
        parts: list[bytes] = []
        if self.expiry is not None:
            parts += b"\x02", self.expiry.to_bytes(4, "big")
        if self.content_type is not None:
            parts += b"\x03", _string(self.content_type.encode())
        if self.response_topic is not None:
            parts += b"\x08", _string(self.response_topic.encode())
        if self.correlation_data is not None:
            parts += b"\x09", _string(self.correlation_data)
        for name, value in self.user:
            parts += b"\x26", _string(name.encode()), _string(value.encode())
        return b"".join(parts)


NO_PROPERTIES = MessageProperties()


class Message:
    """One PUBLISH as it came. `connection` is the one it is to be acknowledged on."""

    __slots__ = (
        "connection",
        "duplicate",
        "mid",
        "payload",
        "properties",
        "qos",
        "retain",
        "topic",
    )

    def __init__(
        self,
        topic: str,
        payload: bytes,
        qos: int = 0,
        mid: int = 0,
        properties: MessageProperties = NO_PROPERTIES,
        *,
        retain: bool = False,
        duplicate: bool = False,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.mid = mid
        self.properties = properties
        self.retain = retain
        self.duplicate = duplicate
        self.connection: object = None


class Properties:
    """Reads the properties of messages and remembers what it has read."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, MessageProperties] = {}

    def read(self, raw: bytes) -> MessageProperties:
        if (known := self._known.get(raw)) is not None:
            return known
        read = _read_properties(raw)
        if len(raw) > _KNOWN_LENGTH_MAX:
            return read
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        self._known[raw] = read
        return read


def frame(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the packet at `at` has its body and its end. None: its length has not come yet."""
    length = shift = 0
    for index in range(at + 1, min(at + 5, len(data))):
        byte = data[index]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return index + 1, index + 1 + length
        shift += 7
    if len(data) >= at + 5:
        raise Malformed("a packet's length has more than four bytes")
    return None


def decode_publish(data: bytes, at: int, end: int, first: int, known: Properties | None) -> Message:
    """The message in `data[at:end]`. `first`: the packet's first byte; `known`: MQTT 5."""
    topic_end = at + 2 + (data[at] << 8 | data[at + 1]) if end - at >= 2 else end + 1
    qos = first >> 1 & 3
    body = topic_end + 2 if qos else topic_end
    if body > end or qos == 3:
        raise Malformed("a message ends before its topic does")
    mid = data[topic_end] << 8 | data[topic_end + 1] if qos else 0
    if topic_end == at + 2 or (qos and not mid):  # topic aliases are not asked for
        raise Malformed("a message without a topic, or without a packet identifier")
    properties = NO_PROPERTIES
    if known is not None:
        # A length below 128 is one byte: all but a few messages.
        start, stop = (
            (body + 1, body + 1 + data[body])
            if body < end and data[body] < 0x80
            else _region(data, body, end)
        )
        if stop > end:
            raise Malformed("a message ends before its properties do")
        if stop > start:
            properties = known.read(data[start:stop])
        body = stop
    try:
        topic = str(data[at + 2 : topic_end], "utf-8")
    except UnicodeDecodeError:
        raise Malformed("a topic is not UTF-8") from None
    return Message(
        topic,
        data[body:end],
        qos,
        mid,
        properties,
        retain=bool(first & 1),
        duplicate=bool(first & 8),
    )


def encode_publish(
    topic: str,
    payload: bytes,
    qos: int,
    mid: int,
    *,
    retain: bool,
    properties: MessageProperties | None,
) -> bytes:
    """`properties`: None before MQTT 5, where there are none. Raises ValueError beyond limits."""
    head = _string(topic.encode())
    if qos:
        head += mid.to_bytes(2, "big")
    if properties is not None:
        packed = b"" if properties is NO_PROPERTIES else properties.pack()
        head += _length(len(packed)) + packed
    first = PUBLISH | qos << 1 | retain
    return b"".join((bytes((first,)), _length(len(head) + len(payload)), head, payload))


def read_acknowledgement(data: bytes, at: int, end: int) -> tuple[int, int]:
    """The packet identifier and the reason code of a PUBACK."""
    if end - at < 2:
        raise Malformed("an acknowledgement names no packet")
    return data[at] << 8 | data[at + 1], data[at + 2] if end - at > 2 else 0


def _read_properties(raw: bytes) -> MessageProperties:
    found: dict[str, object] = {}
    subscriptions: list[int] = []
    user: list[tuple[str, str]] = []
    at = 0
    try:
        while at < len(raw):
            kind, at = raw[at], at + 1
            if kind == _USER:
                name, at = _take(raw, at)
                value, at = _take(raw, at)
                user.append((name.decode(), value.decode()))
            elif kind == _SUBSCRIPTION:
                number, at = _varint(raw, at)
                subscriptions.append(number)
            elif kind in _STRINGS:
                text, at = _take(raw, at)
                found[_STRINGS[kind]] = text.decode()
            elif kind == _CORRELATION_DATA:
                found["correlation_data"], at = _take(raw, at)
            elif kind == _EXPIRY:
                if at + 4 > len(raw):
                    raise IndexError
                found["expiry"], at = int.from_bytes(raw[at : at + 4], "big"), at + 4
            else:
                at += _SIZES[kind]
    except (IndexError, KeyError, UnicodeDecodeError):
        raise Malformed("a message's properties can not be read") from None
    return MessageProperties(
        **found,  # type: ignore[arg-type]
        subscriptions=tuple(subscriptions),
        user=tuple(user),
    )


def _take(raw: bytes, at: int) -> tuple[bytes, int]:
    end = at + 2 + (raw[at] << 8 | raw[at + 1])
    if end > len(raw):
        raise IndexError
    return raw[at + 2 : end], end


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    number = 0
    for shift in (0, 7, 14, 21):
        byte, at = raw[at], at + 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
    raise IndexError


def _region(data: bytes, at: int, end: int) -> tuple[int, int]:
    try:
        length, start = _varint(data[: min(end, at + 4)], at)
    except IndexError:
        raise Malformed("a message has no length of properties") from None
    return start, start + length


def _string(data: bytes) -> bytes:
    if len(data) > 0xFFFF:
        raise ValueError(f"{len(data)} bytes where MQTT takes at most 65535")
    return len(data).to_bytes(2, "big") + data


def _length(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number > 268_435_455:
        raise ValueError(f"{number} bytes in one packet, where MQTT ends at 268435455")
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
