"""Spin's `runtime-config.toml`: what stands behind an application's stores and variables here.

What only tunes Spin itself is noted and not used; what would change what a guest may reach or
where its data goes is done, or refused with the place of the key.
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge import config
from edge.application import units
from edge.application.addresses import RedisAddress
from edge.application.fields import (
    Reader,
    Table,
    Where,
    boolean,
    integer,
    items,
    mapping,
    parsed,
    raw_table,
    show,
    string,
)
from edge.application.names import label, variable_name
from edge.errors import ConfigError
from edge.spin import dotenv

__all__ = ["Provider", "RuntimeConfig", "load", "read"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Environment variables of a name: SPIN_VARIABLE_API_KEY is api_key.
_PREFIX = "SPIN_VARIABLE"

# "private" in block_networks: whatever is not routed in the internet.
_PRIVATE = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/4", "240.0.0.0/4",
    "::/128", "::1/128", "fc00::/7", "fe80::/10", "ff00::/8",
)  # fmt: skip

# Tables and keys that tune Spin's own connections, pools and log files.
_TUNING = (
    "log_dir", "max_instance_memory", "outbound_http", "outbound_redis", "outbound_pg",
    "outbound_mysql", "outbound_mqtt",
)  # fmt: skip

_HERE = {
    "variables_provider": ("static", "env"),
    "key_value_store": ("spin", "redis"),
    "sqlite_database": ("spin",),
}
_KNOWN = {
    "variables_provider": ("vault", "azure_key_vault"),
    "key_value_store": ("azure_cosmos", "aws_dynamo"),
    "sqlite_database": ("libsql",),
}


@dataclass(frozen=True, slots=True)
class Provider:
    """Where variables come from: given ones, or the environment by a prefix, with a dotenv file."""

    given: Mapping[str, str] = field(default_factory=dict, repr=False)
    prefix: str | None = None  # None: not from the environment
    file: Mapping[str, str] = field(default_factory=dict, repr=False)

    def value(self, name: str, environ: Mapping[str, str]) -> str | None:
        if self.prefix is None:
            return self.given.get(name)
        key = f"{self.prefix}_{name.upper()}"
        return environ.get(key, self.file.get(key))


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What the file says; without one, what Spin does then."""

    stores: config.Stores = field(default_factory=config.Stores)
    providers: tuple[Provider, ...] = ()
    state_dir: Path | None = None
    blocked: tuple[Network, ...] = ()  # networks that no guest may reach
    notes: tuple[str, ...] = ()  # what is read over, one line each

    def variables(
        self, names: Iterable[str], given: Mapping[str, str], environ: Mapping[str, str]
    ) -> dict[str, str]:
        """Values for an application's variables: `given` first, then the providers in order, then
        SPIN_VARIABLE_… of the environment. A name that none knows is left out."""
        values = dict(given)
        for name in names:
            if name in values:
                continue
            for provider in (*self.providers, Provider(prefix=_PREFIX)):
                value = provider.value(name, environ)
                if value is not None:
                    values[name] = value
                    break
        return values


def load(path: Path) -> RuntimeConfig:
    """Reads the file, and the dotenv files it names. Blocks. Raises ConfigError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {_reason(exc)}") from exc
    return read(text, file=str(path), directory=path.parent)


def read(text: str, *, file: str, directory: Path) -> RuntimeConfig:
    """Reads the text. `directory` is where relative paths begin. Raises ConfigError."""
    where = Where(file)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        message = str(exc)
        raise where.error(f"is not TOML: {message[:1].lower()}{message[1:]}") from None
    with Table(document, where) as table:
        key = "config_provider" if "config_provider" in table else "variables_provider"
        providers = table.optional(key, items(_provider(directory))) or ()
        key_value = table.optional("key_value_store", mapping(_key_value(directory), _label)) or {}
        sqlite = table.optional("sqlite_database", mapping(_sqlite(directory), _label)) or {}
        state_dir = table.get("state_dir", string, "")
        blocked = table.optional("outbound_networking", _blocked) or ()
        for refused in ("llm_compute", "client_tls"):
            table.get(refused, _refused, None)
        notes = [f"{where.key(key)}: not used here" for key in _TUNING if key in table]
        for key in _TUNING:
            table.get(key, lambda value, _: value, None)
    stores = config.Stores(
        {"default": config.KeyValue(), **key_value}, {"default": config.Sqlite(), **sqlite}
    )
    return RuntimeConfig(
        stores, providers, Path(state_dir) if state_dir else None, blocked, tuple(notes)
    )


def _label(value: object, where: Where) -> str:
    return parsed(label)(value, where)


def _variable(value: object, where: Where) -> str:
    return parsed(variable_name)(value, where)


def _refused(_value: object, where: Where) -> None:
    raise where.error("not available in this version")


def _type(kind: str) -> Reader[str]:
    """The `type` of a table: one of those that exist here."""

    def read(value: object, where: Where) -> str:
        name = string(value, where)
        here = _HERE[kind]
        if name in here:
            return name
        spin = " of Spin" if name in _KNOWN[kind] else ""
        names = " or ".join(f'"{known}"' for known in here)
        raise where.error(f"{show(name)}{spin} is not available, use {names}")

    return read


def _path(directory: Path) -> Reader[str]:
    def read(value: object, where: Where) -> str:
        return str(directory / string(value, where))

    return read


def _size(value: object, where: Where) -> int:
    number = parsed(units.size)(value, where) if isinstance(value, str) else value
    return integer(1, 1 << 40)(number, where)


def _seconds(value: object, where: Where) -> float:
    return parsed(units.duration)(value, where)


def _provider(directory: Path) -> Reader[Provider]:
    def read(value: object, where: Where) -> Provider:
        with Table(value, where) as table:
            if table.need("type", _type("variables_provider")) == "static":
                return Provider(table.need("values", mapping(_secret, _variable)))
            prefix = table.get("prefix", string, _PREFIX)
            path = table.optional("dotenv_path", _path(directory))
            place = where.key("dotenv_path")
        return Provider({}, prefix, {} if path is None else _dotenv(Path(path), place))

    return read


def _secret(value: object, where: Where) -> str:
    if not isinstance(value, str):
        raise where.error("must be a string")  # the value is not shown
    return value


def _dotenv(path: Path, where: Where) -> Mapping[str, str]:
    try:
        return dotenv.parse(path.read_text())
    except (OSError, UnicodeDecodeError) as exc:
        raise where.error(f"{path}: {_reason(exc)}") from exc
    except ValueError as exc:
        raise where.error(f"{path}: {exc}") from None


def _reason(error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8"
    return (error.strerror or str(error)).lower()


def _key_value(directory: Path) -> Reader[config.KeyValue]:
    def read(value: object, where: Where) -> config.KeyValue:
        defaults: Any = config.KeyValue()
        stands: dict[str, Any]
        with Table(value, where) as table:
            kind = table.need("type", _type("key_value_store"))
            if kind == "redis":
                stands = {"type": "redis", "url": table.need("url", _redis_url)}
            else:
                stands = {"path": table.optional("path", _path(directory))}
            sizes = {
                name: table.get(name, _size, getattr(defaults, name))
                for name in ("max_key", "max_value", "max_entries", "max_bytes")
            }
            timeout = table.get("timeout", _seconds, defaults.timeout)
        return config.KeyValue(**stands, **sizes, timeout=timeout)

    return read


def _redis_url(value: object, where: Where) -> str:
    url = _secret(value, where)
    try:
        RedisAddress.parse(url)
    except ValueError as exc:
        raise where.error(str(exc)) from None
    return url


def _sqlite(directory: Path) -> Reader[config.Sqlite]:
    def read(value: object, where: Where) -> config.Sqlite:
        defaults: Any = config.Sqlite()
        with Table(value, where) as table:
            table.need("type", _type("sqlite_database"))
            path = table.optional("path", _path(directory))
            if table.get("allow_attach_file", boolean, False):
                raise where.key("allow_attach_file").error(
                    "a database of one application is no way to the files of another"
                )
            sizes = {
                name: table.get(name, _size, getattr(defaults, name))
                for name in ("max_bytes", "max_statement", "max_result")
            }
            timeout = table.get("timeout", _seconds, defaults.timeout)
        return config.Sqlite(path, **sizes, timeout=timeout)

    return read


def _blocked(value: object, where: Where) -> tuple[Network, ...]:
    with Table(raw_table(value, where), where) as table:
        networks = table.optional("block_networks", items(_network)) or ()
        for tuning in ("max_socket_connections", "max_total_connections"):
            table.get(tuning, _refused, None)
    return tuple(network for some in networks for network in some)


def _network(value: object, where: Where) -> tuple[Network, ...]:
    text = string(value, where)
    if text == "private":
        return tuple(map(ipaddress.ip_network, _PRIVATE))
    try:
        return (ipaddress.ip_network(text),)
    except ValueError as exc:
        raise where.error(str(exc)) from None
