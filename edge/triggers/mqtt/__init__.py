"""The MQTT trigger: messages are events."""

from edge.triggers.mqtt.service import MqttService
from edge.triggers.mqtt.target import Subscription

__all__ = ["MqttService", "Subscription"]
