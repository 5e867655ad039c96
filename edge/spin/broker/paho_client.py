"""paho-mqtt's client on a connection that somebody else owns."""

from __future__ import annotations

from typing import Any

from paho.mqtt.client import Client
from paho.mqtt.properties import Properties

from edge.spin.broker.wire import Wire

__all__ = ["PahoClient", "paho_properties"]


def paho_properties(packet: int, **values: int) -> Properties:
    properties: Properties = Properties(packet)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


class PahoClient(Client):
    """paho with the socket it is given."""

    def __init__(self, wire: Wire, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._connection = _Socket(wire)

    def _create_socket(self) -> _Socket:
        return self._connection

    def receive(self, packet: bytes) -> None:
        self._connection.inbox = packet
        self.loop_read()
        if self.want_write():
            self.loop_write()


class _Socket:
    """What paho takes for a socket: one whole packet in, any number out."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.inbox = b""

    def recv(self, buffer_size: int) -> bytes:
        if not self.inbox:
            raise BlockingIOError
        taken, self.inbox = self.inbox[:buffer_size], self.inbox[buffer_size:]
        return taken

    def send(self, buffer: bytes | bytearray) -> int:
        self._wire.write(bytes(buffer))
        return len(buffer)

    def close(self) -> None:
        """The wire belongs to the connection, which is told by callback."""

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001
        """It never blocks."""
