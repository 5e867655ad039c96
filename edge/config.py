"""What a node is configured with: frozen dataclasses, and the only place for their defaults."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field

from edge.errors import ConfigError

__all__ = ["Address", "Http", "Limits", "Settings", "parse_address"]

KiB = 1 << 10
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
class Http:
    """The HTTP trigger's patience with its clients. Times in seconds, sizes in bytes."""

    listen: tuple[Address, ...] = (Address(),)
    tls_certificate: str | None = None
    tls_key: str | None = None
    max_head: int = 64 * KiB  # request line and headers together; cookies and tokens fit
    max_headers: int = 128
    head_timeout: float = 10.0  # from the first byte of a head to its end: a slowloris ends here
    body_timeout: float = 30.0  # without a byte of the body, in either direction
    keepalive_timeout: float = 75.0  # longer than a proxy's 60: it closes first, so no race
    max_connections: int = 4096
    # Bodies stream with bounded memory, so only a component knows what is too much: 0 is no limit.
    max_request_body: int = 0

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
class Settings:
    """A whole node."""

    http: Http = field(default_factory=Http)
    limits: Limits = field(default_factory=Limits)
    state_dir: str = ".edge"
