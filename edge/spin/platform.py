"""What a component is granted of the Spin platform, and the node's stores behind it.

States the contracts between interfaces and back ends; knows neither WIT nor a database's own
language. Back ends are loaded when the first application needs them.
"""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edge import config
from edge.errors import ConfigError

if TYPE_CHECKING:
    from edge.application.model import Component
    from edge.spin.sqlite_pool import Pool

__all__ = [
    "Brokers",
    "Context",
    "Database",
    "DatabaseError",
    "KeyValueError",
    "KeyValueStore",
    "Outbound",
    "Platform",
    "Rows",
    "Session",
    "Stores",
    "Value",
]

Value = int | float | str | bytes | None
Rows = tuple[list[str], list[tuple[Value, ...]]]  # names of columns, rows


class KeyValueError(Exception):
    """A key-value operation failed; its text is for the guest: no path, no secret."""


class DatabaseError(Exception):
    """A statement failed; its text is for the guest. `full`: the database's quota is used up."""

    def __init__(self, message: str, *, full: bool = False) -> None:
        super().__init__(message)
        self.full = full


class KeyValueStore(Protocol):
    """One store of one application. Every method raises KeyValueError for what cannot be done.

    Returning from a method that writes means that it outlives a power cut, as far as the back end
    can tell. Keys and values were checked against `limits` before; totals are the back end's.
    """

    @property
    def limits(self) -> config.KeyValue: ...

    async def get(self, key: str) -> bytes | None: ...

    async def set(self, key: str, value: bytes) -> None: ...

    async def delete(self, key: str) -> None:
        """A key that is not there is no error."""

    async def exists(self, key: str) -> bool: ...

    async def keys(self, cursor: str | None = None) -> tuple[list[str], str | None]:
        """Some keys, and the cursor for the next ones; None: there are no more."""

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]: ...

    async def set_many(self, items: Sequence[tuple[str, bytes]]) -> None: ...

    async def delete_many(self, keys: Sequence[str]) -> None: ...

    async def increment(self, key: str, delta: int) -> int:
        """Atomic; the new value. A key that is not there counts from 0."""

    async def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        """Sets `new` where the value still is `old` (None: not there); False: it is not."""

    async def close(self) -> None:
        """Lets go of what only this store has open."""


class Session(Protocol):
    """One connection of one guest."""

    last_insert_rowid: int  # of its last successful INSERT, 0 before
    changes: int  # rows of its last INSERT, UPDATE or DELETE

    async def execute(self, statement: str, parameters: Sequence[Value]) -> Rows:
        """Runs one statement. Raises DatabaseError. Cancelled, it leaves nothing of it behind."""

    def close(self) -> None:
        """Rolls back what is open; does not wait. Idempotent."""


class Database(Protocol):
    """One database of one application."""

    def connect(self) -> Session:
        """Raises DatabaseError. What is wrong with the file may show at the first statement."""


class Outbound(Protocol):
    """The way out of an invocation (see `edge.wasi.outbound`)."""

    @property
    def trace(self) -> tuple[tuple[str, str], ...]: ...

    def allows(self, scheme: str, host: str, port: int) -> bool: ...

    def allows_address(self, scheme: str, name: str | None, address: str, port: int) -> bool: ...

    async def lookup(self, name: str) -> list[str]: ...

    def acquire(self) -> bool: ...

    def release(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Brokers:
    """Limits of what a guest exchanges with MQTT brokers and Redis servers. Times in seconds."""

    connect: float = 10.0  # from the name to the end of the login
    reply: float = 30.0
    max_payload: int = 16 << 20  # bytes of one message or command, or of its reply
    tls: ssl.SSLContext | None = field(default=None, repr=False)  # None: what the system trusts


@dataclass(frozen=True, slots=True)
class Platform:
    """What a component is granted, shared by all its invocations. Grants nothing by default."""

    variables: Mapping[str, str] = field(default_factory=dict, repr=False)  # the component's own
    key_value: Mapping[str, KeyValueStore] = field(default_factory=dict)  # by label
    databases: Mapping[str, Database] = field(default_factory=dict)  # by label
    brokers: Brokers = field(default_factory=Brokers)


class Context(Protocol):
    """What the interfaces ask of an invocation's context."""

    @property
    def platform(self) -> Platform: ...

    @property
    def outbound(self) -> Any:  # Outbound | None
        ...

    def note(self, text: str) -> None:
        """For the log of who runs the guest: why it was refused something."""


class Stores:
    """The stores of a node: knows what applications are granted, opens it when it is first used.

    `settings` says which labels exist and what stands behind each. Made on any thread, used on the
    loop's; `close` when no invocation runs any more.
    """

    def __init__(self, state_dir: Path, settings: config.Stores | None = None) -> None:
        self._state_dir = state_dir
        self._settings = settings or config.Stores()
        self._key_value: dict[tuple[str, str], KeyValueStore] = {}
        self._databases: dict[tuple[str, str], Database] = {}
        self._pool: Pool | None = None

    def grant(self, application: str, declared: Component, values: Mapping[str, str]) -> Platform:
        """What a component of that application may use; nothing is opened yet.

        `values` are those of the application's variables. Raises ConfigError for a label that is
        not configured and for a variable without a value.
        """
        where = f"{application}: component.{declared.id}"
        for kind, labels, known in (
            ("key_value_stores", declared.key_value_stores, self._settings.key_value),
            ("sqlite_databases", declared.sqlite_databases, self._settings.sqlite),
        ):
            for label in labels:
                if label not in known:
                    raise ConfigError(
                        f'{where}.{kind}: no store "{label}" is configured',
                        hint=_known(kind, label, known),
                    )
        if self._pool is not None:
            for folder in self._folders(application):
                self._pool.admit(folder)
        return Platform(
            _variables(where, declared, values),
            {label: self._store(application, label) for label in declared.key_value_stores},
            {label: self._database(application, label) for label in declared.sqlite_databases},
        )

    async def close(self) -> None:
        """Ends every back end. What was acknowledged is on the disk already."""
        if self._pool is not None:
            await self._pool.close()
        for store in self._key_value.values():
            await store.close()

    async def forget(self, application: str) -> None:
        """Closes what an application keeps in the state directory; nobody makes it again."""
        if self._pool is not None:
            for folder in self._folders(application):
                await self._pool.forget(folder)

    async def purge(self, application: str) -> None:
        """Removes what an application kept in this node's state directory; what it kept in files
        and servers that the configuration names is not the node's to remove. Raises OSError.
        """
        await self.forget(application)
        for folder in self._folders(application):
            if await asyncio.to_thread(folder.exists):
                await asyncio.to_thread(shutil.rmtree, folder)

    def _folders(self, application: str) -> list[Path]:
        from edge.spin.sqlite_pool import file_name

        return [self._state_dir / kind / file_name(application) for kind in ("kv", "sqlite")]

    def _store(self, application: str, label: str) -> KeyValueStore:
        key = application, label
        if key not in self._key_value:
            self._key_value[key] = self._open_store(application, label)
        return self._key_value[key]

    def _open_store(self, application: str, label: str) -> KeyValueStore:
        settings = self._settings.key_value[label]
        if settings.type == "redis":
            from edge.spin.kv_redis import RedisKeyValue

            return RedisKeyValue(application, label, settings)
        from edge.spin.kv_sqlite import SqliteKeyValue

        path = self._path("kv", application, label, settings.path)
        return SqliteKeyValue(self._files(), path, label, settings)

    def _database(self, application: str, label: str) -> Database:
        from edge.spin.database import SqliteDatabase

        key = application, label
        if key not in self._databases:
            settings = self._settings.sqlite[label]
            path = self._path("sqlite", application, label, settings.path)
            self._databases[key] = SqliteDatabase(self._files(), path, settings)
        return self._databases[key]

    def _path(self, kind: str, application: str, label: str, given: str | None) -> Path:
        from edge.spin.sqlite_pool import file_name

        if given is not None:
            return Path(given)
        return self._state_dir / kind / file_name(application) / f"{file_name(label)}.db"

    def _files(self) -> Pool:
        from edge.spin.sqlite_pool import Pool

        if self._pool is None:
            settings = self._settings
            self._pool = Pool(settings.open, settings.idle, settings.queue)
        return self._pool


# Kind of label -> tables of a runtime-config.toml and of an edge.toml.
_TABLES = {
    "key_value_stores": ("key_value_store", "stores.key_value"),
    "sqlite_databases": ("sqlite_database", "stores.sqlite"),
}


def _known(kind: str, label: str, known: Iterable[str]) -> str:
    names = ", ".join(f'"{name}"' for name in sorted(known))
    runtime, node = (f"[{table}.{label}]" for table in _TABLES[kind])
    return f"there is {names}; {runtime} of a runtime-config file adds it, {node} of an edge.toml"


def _variables(where: str, declared: Component, values: Mapping[str, str]) -> dict[str, str]:
    rendered = {}
    for name, template in declared.variables.items():
        try:
            rendered[name] = template.render(values)
        except KeyError as missing:
            raise ConfigError(
                f"{where}.variables.{name}: the application has no variable {missing}"
            ) from None
    return rendered
