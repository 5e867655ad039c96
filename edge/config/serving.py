"""How a node serves: HTTP, MQTT, its limits, its stores."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from edge.errors import ConfigError

__all__ = [
    "Address",
    "Http",
    "HttpSettings",
    "KeyValue",
    "Limits",
    "MiB",
    "Mqtt",
    "MqttEndpoint",
    "Settings",
    "Sqlite",
    "Stores",
    "parse_address",
    "parse_mqtt_url",
]

MiB = 1 << 20

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.%]+)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. Port 0: whichever is free."""

    host: str = "127.0.0.1"
    port: int = 3000

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """ "127.0.0.1:3000", "[::1]:80", "localhost:80", or ":8080" for every address."""
    match = _ADDRESS.fullmatch(text)
    if not match or int(match["port"]) > 65535:
        raise ConfigError(
            f'listen address: "{text}" is not an address and a port',
            hint='write it like "127.0.0.1:3000" or "[::1]:3000"',
        )
    return Address(match["v6"] or match["host"] or "0.0.0.0", int(match["port"]))  # noqa: S104


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """Limits of the HTTP trigger. Sizes in bytes, times in seconds (seen with a second's grain)."""

    backlog: int = 1024
    max_connections: int = 2048  # beyond: 503 and close

    max_head: int = 32_768  # request line and headers together; beyond: 431
    max_target: int = 16_384  # beyond: 414
    max_headers: int = 128  # beyond: 431
    max_body: int = 1 << 30  # beyond: 413. Bodies are streamed: this bounds work, not memory

    head_timeout: float = 10.0  # from a head's first byte to its last; beyond: 408
    idle_timeout: float = 75.0  # a connection without a request
    body_timeout: float = 30.0  # a body, while it is wanted, without a byte; beyond: 408 or cut
    write_timeout: float = 30.0  # a reply, while the client reads slowly, without a byte taken
    tls_timeout: float = 10.0  # a TLS handshake

    # A client that closed its sending side may wait for its reply, or be gone: only writing to it
    # tells. Guests of clients that are gone run for this long; replies slower than this are lost.
    half_closed_timeout: float = 2.0

    # What a client may still send of a body that nobody read, so that it sees the reply and its
    # connection can be used again. Beyond: closed.
    drain_bytes: int = 262_144
    drain_timeout: float = 1.0


@dataclass(frozen=True, slots=True)
class Http:
    """Where HTTP is served, and how patiently."""

    listen: tuple[Address, ...] = (Address(),)
    tls_certificate: str | None = None
    tls_key: str | None = None
    workers: int = 1  # processes that serve it, this one among them
    settings: HttpSettings = field(default_factory=HttpSettings)

    def __post_init__(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ConfigError("http: tls_certificate and tls_key need each other")


def _default_memory() -> int:
    """Half of the machine: the rest is for the system, the daemon, compiled code and file cache."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(64 * MiB, physical // 2)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the node admits in all. Components have their own limits within these."""

    memory: int = field(default_factory=_default_memory)  # of all instances together, bytes
    instances: int = 0  # at once; 0: what the pool holds in this address space
    queue: int = 1024  # events waiting for a slot, over all components


@dataclass(frozen=True, slots=True)
class MqttEndpoint:
    """Where a broker listens, and how."""

    host: str
    port: int
    tls: bool
    path: str | None = None  # of a WebSocket; None: plain TCP

    def __str__(self) -> str:
        scheme = ("mqtt" if self.path is None else "ws") + "s" * self.tls
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


# How MQTT's URLs are written, and what they mean: TLS, WebSocket, the usual port.
_MQTT_SCHEMES = {
    "mqtt": (False, False, 1883),
    "tcp": (False, False, 1883),
    "mqtts": (True, False, 8883),
    "ssl": (True, False, 8883),
    "ws": (False, True, 80),
    "wss": (True, True, 443),
}


def parse_mqtt_url(text: str, where: str = "mqtt.url") -> tuple[MqttEndpoint, dict[str, str]]:
    """The endpoint, and what else the URL says: username, password, client_id."""
    hint = 'write it like "mqtt://broker:1883", "mqtts://broker:8883" or "wss://broker/mqtt"'
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ConfigError(f"{where}: not a URL with a host and a port", hint=hint) from None
    if url.scheme not in _MQTT_SCHEMES or not url.hostname or port == 0:
        raise ConfigError(f"{where}: not the address of an MQTT broker", hint=hint)
    tls, websocket, usual = _MQTT_SCHEMES[url.scheme]
    if not websocket and url.path not in ("", "/"):
        raise ConfigError(f"{where}: a path is for ws:// and wss:// only", hint=hint)
    given = {"username": url.username, "password": url.password}
    rest = {name: unquote(value) for name, value in given.items() if value}
    rest |= {n: v for n, v in parse_qsl(url.query) if n == "client_id"}
    path = (url.path if url.path not in ("", "/") else "/mqtt") if websocket else None
    return MqttEndpoint(url.hostname, port or usual, tls, path), rest


@dataclass(frozen=True, slots=True)
class Mqtt:
    """The broker whose messages are events. Times in seconds, sizes in bytes; "" is none."""

    # mqtt, mqtts, ws or wss; may hold a user and a password
    url: str = field(default="", repr=False)
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None  # or the name of a systemd credential
    ca_file: str | None = None  # instead of the system's authorities
    certificate_file: str | None = None
    key_file: str | None = None

    client_id: str = ""  # "": made once, kept in the state directory
    protocol: Literal["5", "3.1.1"] = "5"  # 3.1.1 is also tried where a broker refuses 5
    keepalive: int = 60
    # How long the broker keeps messages for a node that is away. Shared subscriptions are soon
    # given to others instead.
    session_expiry: int = 7 * 86_400
    share_expiry: int = 30
    status_topic: str = "edge/{client_id}/status"  # online and offline, retained; "": none
    will_delay: int = 5  # a connection that is back by then was never away

    receive_maximum: int = 64  # messages taken and not yet acknowledged
    max_packet: int = MiB  # larger messages are refused
    connect_timeout: float = 10.0
    confirm_timeout: float = 30.0  # a reply or dead letter without an acknowledgement
    reconnect_max: float = 60.0  # between two attempts; the first follow sooner

    def __post_init__(self) -> None:
        if self.url:
            parse_mqtt_url(self.url)
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigError("mqtt: certificate_file and key_file need each other")
        if self.password is not None and self.password_file is not None:
            raise ConfigError("mqtt: password and password_file exclude each other")
        if self.protocol not in ("5", "3.1.1"):
            raise ConfigError(f'mqtt.protocol: must be "5" or "3.1.1", not "{self.protocol}"')
        for name, least, most in _MQTT_RANGES:
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"mqtt.{name}: must be between {least} and {most}")

    @property
    def endpoint(self) -> MqttEndpoint:
        return parse_mqtt_url(self.url)[0]


_MQTT_RANGES = (
    ("keepalive", 5, 65535),
    ("session_expiry", 0, 0xFFFF_FFFE),
    ("share_expiry", 0, 0xFFFF_FFFE),
    ("will_delay", 0, 0xFFFF_FFFE),
    ("receive_maximum", 1, 4096),
    ("max_packet", 1024, 268_435_455),
    ("connect_timeout", 0.1, 3600),
    ("confirm_timeout", 0.1, 3600),
    ("reconnect_max", 0.01, 86_400),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """A whole node."""

    http: Http = field(default_factory=Http)
    limits: Limits = field(default_factory=Limits)
    state_dir: str = ".edge"


@dataclass(frozen=True, slots=True)
class KeyValue:
    """What stands behind a key-value label: a store for each application. Sizes in bytes.

    Without `path` an application's SQLite file lies in the state directory. `url` may hold a
    password. Spin documents the limits of keys, values and entries.
    """

    type: Literal["sqlite", "redis"] = "sqlite"
    path: str | None = None
    url: str = field(default="", repr=False)

    max_key: int = 256
    max_value: int = 1 << 20
    max_entries: int = 1024
    max_bytes: int = 64 * MiB  # of all keys and values of one store
    timeout: float = 10.0  # seconds of one operation, the wait for its turn included


@dataclass(frozen=True, slots=True)
class Sqlite:
    """What stands behind a database label: a SQLite file for each application. Sizes in bytes."""

    path: str | None = None  # None: in the state directory

    max_bytes: int = 256 * MiB  # of the file
    max_statement: int = 1 << 20
    max_result: int = 16 * MiB  # of one statement's rows, and of one value
    timeout: float = 10.0  # seconds of one statement, the wait for its turn included


@dataclass(frozen=True, slots=True)
class Stores:
    """The labels that applications may name, and how much the node holds open at once."""

    key_value: Mapping[str, KeyValue] = field(default_factory=lambda: {"default": KeyValue()})
    sqlite: Mapping[str, Sqlite] = field(default_factory=lambda: {"default": Sqlite()})

    open: int = 32  # SQLite files, each with a thread; others are closed for the next one
    idle: float = 30.0  # seconds after which a file nobody used is closed
    queue: int = 1024  # operations waiting for one file; beyond: refused
