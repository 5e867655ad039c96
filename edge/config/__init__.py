"""What a node is configured with: frozen dataclasses, and the only place for their defaults."""

from __future__ import annotations

from edge.config.daemon import (
    ApplicationEntry,
    Daemon,
    Fleet,
    HomeAssistant,
    Mirror,
    Mount,
    Node,
    Page,
    Registry,
    SignaturePolicy,
    Sync,
    Traces,
)
from edge.config.serving import (
    Address,
    Http,
    HttpSettings,
    KeyValue,
    Limits,
    Mqtt,
    MqttEndpoint,
    Settings,
    Sqlite,
    Stores,
    parse_address,
    parse_mqtt_url,
)

__all__ = [
    "Address",
    "ApplicationEntry",
    "Daemon",
    "Fleet",
    "HomeAssistant",
    "Http",
    "HttpSettings",
    "KeyValue",
    "Limits",
    "Mirror",
    "Mount",
    "Mqtt",
    "MqttEndpoint",
    "Node",
    "Page",
    "Registry",
    "Settings",
    "SignaturePolicy",
    "Sqlite",
    "Stores",
    "Sync",
    "Traces",
    "parse_address",
    "parse_mqtt_url",
]
