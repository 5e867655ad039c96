"""An application as values: what every other layer is handed.

Frozen, with every cross-reference checked by who built it (`manifest.read`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge.application.options import Options
from edge.application.routes import Route
from edge.application.templates import Template, Variable

__all__ = [
    "Application",
    "Build",
    "Component",
    "Dependency",
    "FilePattern",
    "FilePlacement",
    "HttpTrigger",
    "PackageSource",
    "PathSource",
    "Source",
    "StaticResponse",
    "Trigger",
    "TriggerDeclaration",
    "UrlSource",
    "Variable",
    "Wagi",
]


@dataclass(frozen=True, slots=True)
class PathSource:
    """A Wasm file, relative to the application's directory or absolute."""

    path: str


@dataclass(frozen=True, slots=True)
class UrlSource:
    """A Wasm file on a web server; `digest` is `sha256:` and 64 hexadecimal digits."""

    url: str
    digest: str


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A Wasm package of a registry; no registry means the default one."""

    package: str
    version: str
    registry: str | None = None


Source = PathSource | UrlSource | PackageSource


@dataclass(frozen=True, slots=True)
class FilePattern:
    """Files that keep their place: a path or a glob below the application's directory."""

    pattern: str


@dataclass(frozen=True, slots=True)
class FilePlacement:
    """A file or directory and the absolute path where the guest finds it."""

    source: str
    destination: str


@dataclass(frozen=True, slots=True)
class Build:
    """How a component's Wasm file is made, by commands in `workdir`."""

    commands: tuple[str, ...]
    workdir: str | None = None
    watch: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dependency:
    """What satisfies an import of a component. `inherits`: all grants, none, or these."""

    source: Source | str  # a string is the id of another component of the application
    export: str | None = None
    inherits: bool | tuple[str, ...] = False


@dataclass(frozen=True, slots=True)
class Component:
    """A named Wasm binary with its grants and limits. What is not listed is not granted."""

    id: str
    source: Source
    description: str = ""
    variables: Mapping[str, Template] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FilePattern | FilePlacement, ...] = ()
    exclude_files: tuple[str, ...] = ()
    allowed_outbound_hosts: tuple[str, ...] = ()  # checked; they may still contain templates
    key_value_stores: tuple[str, ...] = ()
    sqlite_databases: tuple[str, ...] = ()
    ai_models: tuple[str, ...] = ()
    dependencies: Mapping[str, Dependency] = field(default_factory=dict)
    build: Build | None = None
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class StaticResponse:
    """An answer that needs no component."""

    status: int = 200
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Wagi:
    """The component is a command: request on its standard input, answer on its output."""

    argv: str = "${SCRIPT_NAME} ${ARGS}"


@dataclass(frozen=True, slots=True)
class HttpTrigger:
    """Answers a route by a component or a static response: exactly one of them is set."""

    id: str
    route: Route | None  # None: private, reached by service chaining only
    component: str | None = None
    response: StaticResponse | None = None
    wagi: Wagi | None = None  # None: the component handles HTTP itself


@dataclass(frozen=True, slots=True)
class TriggerDeclaration:
    """A trigger of another type; `fields` are as its author wrote them."""

    id: str
    type: str
    component: str | None
    components: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # role -> ids
    fields: Mapping[str, object] = field(default_factory=dict)


Trigger = HttpTrigger | TriggerDeclaration


@dataclass(frozen=True, slots=True)
class Application:
    """What one `spin.toml` declares."""

    name: str
    version: str = ""
    description: str = ""
    authors: tuple[str, ...] = ()
    variables: Mapping[str, Variable] = field(default_factory=dict)
    components: Mapping[str, Component] = field(default_factory=dict)
    http: tuple[HttpTrigger, ...] = ()
    triggers: tuple[TriggerDeclaration, ...] = ()  # every trigger that is not HTTP
    # [application.trigger.<type>]: settings that triggers of a type share
    trigger_settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    # what its author should know and may ignore, one line each
    notes: tuple[str, ...] = ()

    @property
    def trigger_types(self) -> tuple[str, ...]:
        """The types of trigger it has, each once, HTTP first."""
        other = dict.fromkeys(trigger.type for trigger in self.triggers)
        return ("http", *other) if self.http else tuple(other)
