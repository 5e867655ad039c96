"""What the daemon is configured with beside its triggers: applications, trust, sync, the mirror."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from edge.config.serving import Address, Http, Limits, MiB, Mqtt, Stores

__all__ = [
    "ApplicationEntry",
    "Daemon",
    "Fleet",
    "HomeAssistant",
    "Mirror",
    "Mount",
    "Node",
    "Page",
    "Registry",
    "SignaturePolicy",
    "Sync",
    "Traces",
]

SignaturePolicy = Literal["required", "warn", "off"]


@dataclass(frozen=True, slots=True, order=True)
class Mount:
    """Where an application's routes begin."""

    path: str = "/"  # "/", or "/a/b" without a trailing slash
    host: str | None = None  # lower case, without a port; None: every host that has no mount


@dataclass(frozen=True, slots=True)
class ApplicationEntry:
    """An application that somebody wants on this node: of `reference` or `path`, one of both."""

    name: str
    reference: str | None = None
    path: Path | None = None
    mount: Mount = field(default_factory=Mount)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    variables_files: Mapping[str, Path] = field(default_factory=dict)
    # variable -> the name of a credential of this node: secrets that a fleet document only names
    variables_credentials: Mapping[str, str] = field(default_factory=dict)
    # component -> options as in [component.X.tool.edge], over those that the bundle brings
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """Who this machine is."""

    name: str = field(default_factory=socket.gethostname)
    labels: Mapping[str, str] = field(default_factory=dict)
    state_dir: Path = Path("/var/lib/edge")
    socket: Path = Path("/run/edge/edge.sock")  # of the node API
    group: str | None = None  # who may use it beside the owner; None: the group "edge" if it is
    credentials_dir: Path | None = None  # None: $CREDENTIALS_DIRECTORY


@dataclass(frozen=True, slots=True)
class Registry:
    """How one registry, or a repository and what is below it, is reached and trusted."""

    name: str  # "host[:port]" or "host[:port]/repository"; the longest that fits counts
    insecure: bool = False  # plain HTTP beyond this machine
    ca_file: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None  # or the name of a credential
    signatures: SignaturePolicy = "off"
    keys: tuple[Path, ...] = ()  # PEM; one of them must have signed


@dataclass(frozen=True, slots=True)
class Sync:
    """How the desired state is followed. Times in seconds."""

    interval: float = 60.0  # between two looks at each tag
    jitter: float = 0.2  # share of the interval, up and down
    soak: float = 60.0  # a new version is watched for this long; 0: not at all
    minimum_events: int = 20  # of the new version, before its error rate says anything
    error_rate: float = 0.5  # of its events; above it the version before returns
    health_interval: float = 5.0  # between two questions for health within the soak time
    timeout: float = 600.0  # of one pull


@dataclass(frozen=True, slots=True)
class Fleet:
    """The signed document that says what the nodes of a fleet run, and the fleet's own network."""

    document: str | None = None  # its reference
    keys: tuple[Path, ...] = ()  # PEM; a document needs one of them, or the registry's policy
    peers: tuple[str, ...] = ()  # "host:port" of other nodes, where multicast does not pass
    discovery: bool = True  # by mDNS
    interfaces: tuple[str, ...] = ()  # to discover on; none: all that are not virtual
    join_token_file: Path | None = None
    # For peers, by mutual TLS; nothing listens there without a fleet
    listen: Address = field(default_factory=lambda: Address("::", 7466))
    upload: int = 0  # bytes a second that all peers together may fetch here; 0: no bound


@dataclass(frozen=True, slots=True)
class Mirror:
    """The node's own registry. `accept_pushes` is for a first try, on loopback only."""

    # None: no mirror
    listen: Address | None = field(default_factory=lambda: Address("127.0.0.1", 7465))
    accept_pushes: bool = False


@dataclass(frozen=True, slots=True)
class HomeAssistant:
    """Whether the node and its applications are devices there, by the broker of `Mqtt`."""

    enabled: bool = False
    prefix: str = "homeassistant"  # where it listens for discovery
    interval: float = 30.0  # seconds between two messages of counts


@dataclass(frozen=True, slots=True)
class Page:
    """The page of this node, for a browser."""

    # A password has at least so many characters: who guesses has few attempts, but for years.
    SHORTEST: ClassVar[int] = 8

    # None: no page
    listen: Address | None = field(default_factory=lambda: Address("127.0.0.1", 7468))
    password: str | None = field(default=None, repr=False)  # none: for this machine only
    password_file: Path | None = None  # or the name of a credential


@dataclass(frozen=True, slots=True)
class Traces:
    """Where spans of invocations are sent to, by OTLP over HTTP."""

    endpoint: str | None = None  # a URL without a slash at its end; None: nothing is traced
    ratio: float = 1.0  # of the traces that begin here


@dataclass(frozen=True, slots=True)
class Daemon:
    """All of edge.toml. `directory`: what relative paths in it start from (resolved already)."""

    node: Node = field(default_factory=Node)
    http: Http = field(default_factory=lambda: Http(listen=(Address("0.0.0.0", 8080),)))  # noqa: S104
    mqtt: Mqtt = field(default_factory=Mqtt)
    applications: tuple[ApplicationEntry, ...] = ()
    fleet: Fleet = field(default_factory=Fleet)
    registries: tuple[Registry, ...] = ()
    sync: Sync = field(default_factory=Sync)
    mirror: Mirror = field(default_factory=Mirror)
    page: Page = field(default_factory=Page)
    traces: Traces = field(default_factory=Traces)
    limits: Limits = field(default_factory=Limits)
    quota: int = 4096 * MiB  # of the content store, bytes
    defaults: Mapping[str, object] = field(default_factory=dict)  # options of every component
    stores: Stores = field(default_factory=Stores)
    home_assistant: HomeAssistant = field(default_factory=HomeAssistant)
    blocked: tuple[str, ...] = ()  # networks that no guest reaches
