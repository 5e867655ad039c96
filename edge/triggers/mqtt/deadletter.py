"""What is published of a message that no attempt could handle.

With MQTT 5 it is the message itself, and user properties tell the rest. Before there are none: the
payload is a CloudEvent in JSON that holds the message.
"""

from __future__ import annotations

import base64
import json

from edge.invocation.event import Event
from edge.spin.broker import Message, MessageProperties

__all__ = ["TYPE", "properties", "structured"]

TYPE = "dev.edge.mqtt.dead"

# User properties of the sender that are kept.
_USER_MAX = 32


def properties(message: Message, told: tuple[tuple[str, str], ...]) -> MessageProperties:
    """`told`: what is known about its failure."""
    given = message.properties
    own = {name for name, _ in told}
    kept = [pair for pair in given.user if pair[0] not in own][:_USER_MAX]
    return MessageProperties(
        content_type=given.content_type,
        correlation_data=given.correlation_data,
        user=(*told, *kept),
    )


def structured(message: Message, event: Event, told: tuple[tuple[str, str], ...]) -> bytes:
    """The CloudEvent, of the JSON format."""
    content = {
        "specversion": "1.0",
        "type": TYPE,
        "source": event.source,
        "subject": message.topic,
        **dict(told),
    }
    try:
        content["data"] = message.payload.decode()
    except UnicodeDecodeError:
        content["data_base64"] = base64.b64encode(message.payload).decode()
    return json.dumps(content).encode()
