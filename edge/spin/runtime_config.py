"""Spin's `runtime-config.toml`: what stands behind an application's stores and variables here.

What only tunes Spin itself is noted and not used; what would change what a guest may reach or
where its data goes is done, or refused with the place of the key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge import config
from edge.application.fields import (
    Reader,
    Table,
    Where,
    items,
    mapping,
    parsed,
    raw_table,
    show,
    string,
)
from edge.application.names import variable_name
from edge.errors import ConfigError
from edge.spin import dotenv
from edge.spin.store_settings import Network, key_value, network, secret, sqlite, store_label

__all__ = ["Provider", "RuntimeConfig", "load", "read"]

# Environment variables of a name: SPIN_VARIABLE_API_KEY is api_key.
_PREFIX = "SPIN_VARIABLE"

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
        path = _path(directory)
        store = mapping(key_value(_type("key_value_store"), path), store_label)
        database = mapping(sqlite(_type("sqlite_database"), path), store_label)
        stores = config.Stores(
            {"default": config.KeyValue()} | (table.optional("key_value_store", store) or {}),
            {"default": config.Sqlite()} | (table.optional("sqlite_database", database) or {}),
        )
        state_dir = table.get("state_dir", string, "")
        blocked = table.optional("outbound_networking", _blocked) or ()
        for refused in ("llm_compute", "client_tls"):
            table.get(refused, _refused, None)
        notes = [f"{where.key(key)}: not used here" for key in _TUNING if key in table]
        for key in _TUNING:
            table.get(key, lambda value, _: value, None)
    return RuntimeConfig(
        stores, providers, Path(state_dir) if state_dir else None, blocked, tuple(notes)
    )


def _variable(value: object, where: Where) -> str:
    return parsed(variable_name)(value, where)


def _refused(_value: object, where: Where) -> None:
    raise where.error("not available in this version")


def _path(directory: Path) -> Reader[str]:
    def read(value: object, where: Where) -> str:
        return str(directory / string(value, where))

    return read


def _type(kind: str) -> Callable[[Table], str]:
    """The `type` of a table: one of those that exist here."""

    def read(value: object, where: Where) -> str:
        name = string(value, where)
        here = _HERE[kind]
        if name in here:
            return name
        spin = " of Spin" if name in _KNOWN[kind] else ""
        names = " or ".join(f'"{known}"' for known in here)
        raise where.error(f"{show(name)}{spin} is not available, use {names}")

    return lambda table: table.need("type", read)


def _provider(directory: Path) -> Reader[Provider]:
    def read(value: object, where: Where) -> Provider:
        with Table(value, where) as table:
            if _type("variables_provider")(table) == "static":
                return Provider(table.need("values", mapping(secret, _variable)))
            prefix = table.get("prefix", string, _PREFIX)
            path = table.optional("dotenv_path", _path(directory))
            place = where.key("dotenv_path")
        return Provider({}, prefix, {} if path is None else _dotenv(Path(path), place))

    return read


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


def _blocked(value: object, where: Where) -> tuple[Network, ...]:
    with Table(raw_table(value, where), where) as table:
        networks = table.optional("block_networks", items(network)) or ()
        for tuning in ("max_socket_connections", "max_total_connections"):
            table.get(tuning, _refused, None)
    return tuple(network for some in networks for network in some)
