"""Connections to MQTT brokers: what trigger and outbound interface share."""

from edge.spin.broker.connection import Broker
from edge.spin.broker.options import BrokerError, BrokerOptions, Filter, Will
from edge.spin.broker.packets import NO_PROPERTIES, Message, MessageProperties
from edge.spin.broker.wire import Refused

__all__ = [
    "NO_PROPERTIES",
    "Broker",
    "BrokerError",
    "BrokerOptions",
    "Filter",
    "Message",
    "MessageProperties",
    "Refused",
    "Will",
]
