"""Key-value stores in SQLite files, in the table that Spin uses: a file of Spin's can be one.

A number that `increment` counts is 8 bytes, little endian, two's complement: Spin's way, too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import config
from edge.application.units import show_size
from edge.spin.platform import KeyValueError
from edge.spin.sqlite_pool import Busy, Pool, open_file
from edge.spin.sqlite_thread import Job, Kind

__all__ = ["SqliteKeyValue"]

_CREATE = """CREATE TABLE IF NOT EXISTS spin_key_value (
    store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (store, key))"""
_WHERE = "FROM spin_key_value WHERE store = ? AND key = ?"
_GET = f"SELECT value {_WHERE}"
_SIZE = f"SELECT length(value) {_WHERE}"
_EXISTS = f"SELECT 1 {_WHERE}"
_DELETE = f"DELETE {_WHERE}"
_SET = """INSERT INTO spin_key_value (store, key, value) VALUES (?, ?, ?)
    ON CONFLICT (store, key) DO UPDATE SET value = excluded.value"""
_KEYS = "SELECT key FROM spin_key_value WHERE store = ? AND key {} ? ORDER BY key LIMIT ?"
_FIRST_KEYS, _NEXT_KEYS = _KEYS.format(">="), _KEYS.format(">")
_USAGE = """SELECT count(*), total(length(CAST(key AS BLOB)) + length(value))
    FROM spin_key_value WHERE store = ?"""

# Keys in one answer; each of at most 256 bytes.
_PAGE = 1024

# Bytes of the values that one get_many brings.
_RESULT_MAX = 16 << 20

# A store's file may be larger than its values: pages that are not full, the index.
_FILE_FACTOR, _FILE_EXTRA = 2, 4 << 20

_INTEGER = range(-(1 << 63), 1 << 63)


@dataclass(slots=True)
class _Usage:
    entries: int
    bytes: int


class _Table:
    """The table, on its thread. What the stores in it hold is counted once and then kept."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._execute = connection.execute
        self._usage: dict[str, _Usage] = {}
        self._version = -1
        self._execute(_CREATE)

    def began(self) -> None:
        # It changes when another process has written.
        (version,) = self._execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._usage.clear()
            self._version = version

    def undone(self) -> None:
        self._usage.clear()

    def running(self, job: Job | None) -> None:
        """Its statements are short: nothing interrupts them."""

    def get(self, store: str, key: str) -> bytes | None:
        row = self._execute(_GET, (store, key)).fetchone()
        return None if row is None else _bytes(row[0])

    def exists(self, store: str, key: str) -> bool:
        return self._execute(_EXISTS, (store, key)).fetchone() is not None

    def keys(self, store: str, cursor: str | None) -> tuple[list[str], str | None]:
        statement = _FIRST_KEYS if cursor is None else _NEXT_KEYS
        rows = self._execute(statement, (store, cursor or "", _PAGE)).fetchall()
        keys = [str(key) for (key,) in rows]
        return keys, keys[-1] if len(keys) == _PAGE else None

    def get_many(self, store: str, keys: Sequence[str]) -> list[bytes | None]:
        values, size = [], 0
        for key in keys:
            value = self.get(store, key)
            size += len(value or b"")
            if size > _RESULT_MAX:
                raise KeyValueError(f"the values are more than {show_size(_RESULT_MAX)} together")
            values.append(value)
        return values

    def set(self, store: str, key: str, value: bytes, limits: config.KeyValue) -> None:
        usage = self._used(store)
        row = self._execute(_SIZE, (store, key)).fetchone()
        if row is None:
            grows = len(key.encode()) + len(value)
            if usage.entries >= limits.max_entries:
                raise KeyValueError(f"the store is full: {limits.max_entries} entries")
            usage.entries += 1
        else:
            grows = len(value) - row[0]
        if grows > 0 and usage.bytes + grows > limits.max_bytes:
            raise KeyValueError(f"the store is full: {show_size(limits.max_bytes)}")
        usage.bytes += grows
        self._execute(_SET, (store, key, value))

    def set_many(
        self, store: str, items: Sequence[tuple[str, bytes]], limits: config.KeyValue
    ) -> None:
        for key, value in items:
            self.set(store, key, value, limits)

    def delete(self, store: str, key: str) -> None:
        row = self._execute(_SIZE, (store, key)).fetchone()
        if row is not None:
            usage = self._used(store)
            self._execute(_DELETE, (store, key))
            usage.entries -= 1
            usage.bytes -= len(key.encode()) + row[0]

    def delete_many(self, store: str, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(store, key)

    def increment(self, store: str, key: str, delta: int, limits: config.KeyValue) -> int:
        value = self.get(store, key)
        if value is not None and len(value) != 8:
            raise KeyValueError("the value is not a number that can be incremented: not 8 bytes")
        number = int.from_bytes(value or b"", "little", signed=True) + delta
        if number not in _INTEGER:
            raise KeyValueError("the number would leave the range of 64 bits")
        self.set(store, key, number.to_bytes(8, "little", signed=True), limits)
        return number

    def swap(
        self, store: str, key: str, old: bytes | None, new: bytes, limits: config.KeyValue
    ) -> bool:
        if self.get(store, key) != old:
            return False
        self.set(store, key, new, limits)
        return True

    def _used(self, store: str) -> _Usage:
        usage = self._usage.get(store)
        if usage is None:
            entries, size = self._execute(_USAGE, (store,)).fetchone()
            usage = self._usage[store] = _Usage(entries, int(size))
        return usage


class SqliteKeyValue:
    """A KeyValueStore: the rows of `label` in the file at `path`."""

    __slots__ = ("_label", "_path", "_pool", "limits")

    def __init__(self, pool: Pool, path: Path, label: str, limits: config.KeyValue) -> None:
        self._pool = pool
        self._path = path
        self._label = label
        self.limits = limits

    async def get(self, key: str) -> bytes | None:
        label = self._label
        value: bytes | None = await self._run(lambda t: t.get(label, key), Kind.READ)
        return value

    async def exists(self, key: str) -> bool:
        label = self._label
        return bool(await self._run(lambda t: t.exists(label, key), Kind.READ))

    async def keys(self, cursor: str | None = None) -> tuple[list[str], str | None]:
        label = self._label
        page: tuple[list[str], str | None]
        page = await self._run(lambda t: t.keys(label, cursor), Kind.READ)
        return page

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        label = self._label
        values: list[bytes | None]
        values = await self._run(lambda t: t.get_many(label, keys), Kind.READ)
        return values

    async def set(self, key: str, value: bytes) -> None:
        label, limits = self._label, self.limits
        await self._run(lambda t: t.set(label, key, value, limits), size=len(value))

    async def set_many(self, items: Sequence[tuple[str, bytes]]) -> None:
        label, limits = self._label, self.limits
        size = sum(len(key) + len(value) for key, value in items)
        await self._run(lambda t: t.set_many(label, items, limits), size=size)

    async def delete(self, key: str) -> None:
        label = self._label
        await self._run(lambda t: t.delete(label, key))

    async def delete_many(self, keys: Sequence[str]) -> None:
        label = self._label
        await self._run(lambda t: t.delete_many(label, keys))

    async def increment(self, key: str, delta: int) -> int:
        label, limits = self._label, self.limits
        return int(await self._run(lambda t: t.increment(label, key, delta, limits)))

    async def swap(self, key: str, old: bytes | None, new: bytes) -> bool:
        label, limits = self._label, self.limits
        size = len(old or b"") + len(new)
        return bool(await self._run(lambda t: t.swap(label, key, old, new, limits), size=size))

    async def close(self) -> None:
        """The file is the pool's."""

    async def _run(
        self, work: Callable[[_Table], Any], kind: Kind = Kind.WRITE, *, size: int = 0
    ) -> Any:
        pool = self._pool
        try:
            worker = pool.worker(f"key-value {self._path}", self._open)
            return await pool.run(worker, work, kind, self.limits.timeout, size=size)
        except (sqlite3.Error, OSError, MemoryError, Busy) as exc:
            raise KeyValueError(pool.failed(self._path, exc)) from exc

    def _open(self) -> _Table:
        size = self.limits.max_bytes * _FILE_FACTOR + _FILE_EXTRA
        connection = open_file(self._path, size)
        try:
            return _Table(connection)
        except BaseException:
            connection.close()
            raise


def _bytes(value: object) -> bytes:
    # Somebody may have written text with another program.
    return value if isinstance(value, bytes) else str(value).encode()
