"""A message as an event: what a guest is told of it, and the key it has whenever it comes."""

from __future__ import annotations

import hashlib
import re

from edge.invocation.event import Event
from edge.spin.broker import Message

__all__ = ["TYPE", "event", "key"]

TYPE = "dev.edge.mqtt.message"

# What may be a key as its sender wrote it; anything else is digested.
_PLAIN = re.compile(r"[!-~]{1,128}")
# User properties that are handed on; others are the sender's affair.
_TRACE = ("traceparent", "tracestate")
_ATTRIBUTES = {
    (qos, retain, duplicate): (
        ("mqttqos", str(qos)),
        *((("mqttretained", "true"),) if retain else ()),
        *((("mqttduplicate", "true"),) if duplicate else ()),
    )
    for qos in (0, 1)
    for retain in (False, True)
    for duplicate in (False, True)
}


def event(message: Message, id: str, source: str) -> Event:
    attributes = _ATTRIBUTES[message.qos, message.retain, message.duplicate]
    properties = message.properties
    if properties.user:
        trace = {name: value for name, value in properties.user if name in _TRACE}
        attributes = (*attributes, *trace.items())
    return Event(
        "mqtt",
        id,
        source,
        TYPE,
        message.topic,
        message.payload,
        properties.content_type,
        None,
        attributes,
    )


def key(message: Message, session: str, number: int) -> str:
    """What is the same when the message is delivered again, and for no other message.

    The sender's own, when it gives one: the user property `id`, else the correlation data.
    Otherwise made of session, packet identifier, topic and payload: a broker repeats a message
    under the identifier it had. QoS 0 is never repeated: `number` tells it from all others.
    """
    properties = message.properties
    for name, value in properties.user:
        if name == "id" and value:
            return value if _PLAIN.fullmatch(value) else _digest(b"id", value.encode())
    if properties.correlation_data:
        text = properties.correlation_data.decode("latin-1")
        plain = _PLAIN.fullmatch(text)
        return text if plain else _digest(b"correlation", properties.correlation_data)
    if not message.qos:
        return f"{session}-{number}"
    head = f"{session} {message.mid} {message.topic}\0"
    return _digest(head.encode(), message.payload)


def _digest(*parts: bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
