"""Addresses of servers as URLs: `redis://[user[:password]@]host[:port][/database]` and
`mqtt://host[:port][?client_id=…]`; `rediss` and `mqtts` are the same over TLS.

What is printed or raised never holds a password. Resolves nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from edge.application.hosts import host_of

__all__ = ["MqttAddress", "RedisAddress"]

_REDIS_PORTS: Mapping[str, int] = {"redis": 6379, "rediss": 6379}
_MQTT_PORTS: Mapping[str, int] = {"mqtt": 1883, "mqtts": 8883}
# Options of the Rust client behind Spin; those that are not ours to follow change nothing here.
_MQTT_OPTIONS = frozenset(
    {
        "client_id",
        "clean_session",
        "conn_timeout",
        "inflight_num",
        "keep_alive_secs",
        "max_incoming_packet_size_bytes",
        "max_outgoing_packet_size_bytes",
        "max_request_batch_size",
        "pending_throttle_usecs",
        "request_channel_capacity",
    }
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server: its scheme, the host without brackets, the port."""

    scheme: str
    host: str
    port: int

    @property
    def tls(self) -> bool:
        return self.scheme in ("rediss", "mqtts")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """A database of a Redis server. Equal addresses may share a connection."""

    endpoint: Endpoint
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Raises ValueError; its text holds nothing of the user or password."""
        split = _split(url)
        if split.fragment:
            raise ValueError("must end with the database; certificates are always checked")
        # Options are not repeated: a password with a "?" that is not encoded looks like them.
        if {name for name, _ in parse_qsl(split.query)} - {"protocol"}:
            raise ValueError("has an option other than protocol")
        username, password = _credentials(split)
        return cls(_endpoint(split, _REDIS_PORTS), _database(split.path), username, password)

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.database}" if self.database else str(self.endpoint)


@dataclass(frozen=True, slots=True)
class MqttAddress:
    """An MQTT broker, and the client identifier to use there; "": one of its own choice."""

    endpoint: Endpoint
    client_id: str = ""
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, url: str) -> MqttAddress:
        """Raises ValueError; its text holds nothing of the user or password."""
        split = _split(url)
        if split.path not in ("", "/") or split.fragment:
            raise ValueError("must not have a path")
        options = dict(parse_qsl(split.query))
        if options.keys() - _MQTT_OPTIONS:
            raise ValueError("has an option that is not known")
        username, password = _credentials(split)
        endpoint = _endpoint(split, _MQTT_PORTS)
        return cls(endpoint, options.get("client_id", ""), username, password)

    def __str__(self) -> str:
        return str(self.endpoint)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url.strip())
    except ValueError:
        raise ValueError("not a URL") from None


def _endpoint(split: SplitResult, ports: Mapping[str, int]) -> Endpoint:
    if split.scheme not in ports:
        raise ValueError(f"must begin with {' or '.join(f'{name}://' for name in ports)}")
    try:
        port = split.port
    except ValueError:
        # The text of the cause quotes what follows the last colon: part of a password, perhaps.
        raise ValueError("its port is not a number up to 65535") from None
    if port == 0:
        raise ValueError("its port is not a number up to 65535")
    return Endpoint(split.scheme, _host(split), port or ports[split.scheme])


def _host(split: SplitResult) -> str:
    try:
        return str(host_of(split.hostname or ""))
    except ValueError:
        raise ValueError("has no host name or address") from None


def _credentials(split: SplitResult) -> tuple[str | None, str | None]:
    # An empty user is the default one: redis://:secret@host
    username = unquote(split.username) if split.username else None
    password = unquote(split.password) if split.password else None
    return username, password


def _database(path: str) -> int:
    digits = path.removeprefix("/")
    if not digits:
        return 0
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 9):
        raise ValueError("the path is the number of a database, like /0")
    return int(digits)
