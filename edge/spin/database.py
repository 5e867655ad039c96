"""SQL databases of applications: SQLite files that any number of guests use at once.

Each statement is a transaction of its own, which shares its fsync with those of other guests that
wait. A guest that says BEGIN has the database to itself until it ends the transaction, its time
is over, or it is gone; the others wait as long as a statement may take.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge import config
from edge.application.units import show_duration, show_size
from edge.spin.platform import DatabaseError, Rows, Value
from edge.spin.sql_functions import Bounded
from edge.spin.sql_guard import COLUMNS, QUERIES, first_word, kind_of, limit, permit
from edge.spin.sqlite_pool import Busy, Pool, explain, open_file
from edge.spin.sqlite_thread import Job, Kind, Worker

__all__ = ["SqliteDatabase"]

# Steps of SQLite's machine between two looks at the clock: about 5 ms. A look needs the GIL.
_STEPS = 50_000

# What a value of a result, or a row, takes in the host's memory besides its bytes.
_VALUE_COST = 160

# A row is made as a whole before anybody sees its size, and its values may all be the same one:
# they may have so many times the bytes of a result, divided by their number.
_ROW_FACTOR = 4

# What is in statements that have rows and do not begin as queries do; in strings too, which costs
# little.
_WITH_ROWS = ("with", "returning")

# What may stand before a statement, though not between EXPLAIN and a statement.
_READ_OVER = "; \t\r\n\f\ufeff"

# Bytes of free space below which a disk is what is full, not the database.
_DISK_FULL = 4 << 20

# A transaction that would lock the file when it first writes: another process may do so before, and
# it would have to begin again, which no guest expects.
_LATER = re.compile(r"\s*BEGIN(\s+DEFERRED)?(\s+TRANSACTION)?[\s;]*", re.IGNORECASE)

# Parameters by name or number; in strings too, which costs little.
_NAMED = re.compile(r"[:@$?](?:(?<=\?)\d|(?<!\?)\w)")


@dataclass(frozen=True, slots=True)
class _Outcome:
    rows: Rows
    inserted: int | None  # the row of an INSERT
    changed: int | None  # rows of an INSERT, UPDATE or DELETE


class _Guarded:
    """The connection, on its thread: runs what guests wrote."""

    def __init__(self, path: Path, settings: config.Sqlite) -> None:
        self._path = path
        self._settings = settings
        self._job: Job | None = None
        self._inserting = False  # what runs is an INSERT
        self._inserter: object = None  # whose row the connection remembers
        # Without a cache each statement passes the authorizer.
        self.connection = open_file(path, settings.max_bytes, cached_statements=0)
        try:
            self._prepare(self.connection)
        except BaseException:
            self.connection.close()
            raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # Inserting a row's number here makes the connection remember it as its last.
        connection.execute("CREATE TEMP TABLE edge_last (id INTEGER PRIMARY KEY)")
        connection.create_function("changes", 0, self._changes)
        self._bounded = Bounded(connection)
        # So that they may also be in views and indexes. Whoever wrote the schema is the guest, and
        # the authorizer asks about all it may do.
        connection.execute("PRAGMA trusted_schema = ON")
        settings = self._settings
        self._defensive = limit(connection, settings.max_statement, settings.max_result)
        connection.text_factory = _text
        connection.set_progress_handler(self._interrupted, _STEPS)
        connection.set_authorizer(self._authorize)

    def began(self) -> None:
        """Nothing is remembered from before."""

    def undone(self) -> None:
        """Nothing is remembered from before."""

    def running(self, job: Job | None) -> None:
        self._job = job

    def execute(self, session: _Session, statement: str, parameters: Sequence[Value]) -> _Outcome:
        job, connection = self._job, self.connection
        assert job is not None
        if "last_insert_rowid" in statement.lower() and self._inserter is not session:
            self._job = None  # what follows is not the guest's
            connection.execute(
                "REPLACE INTO temp.edge_last VALUES (?)", (session.last_insert_rowid,)
            )
            self._inserter, self._job = session, job
        before = connection.total_changes
        try:
            cursor, rows = self._run(statement, parameters)
        except sqlite3.Error as exc:
            if (getattr(exc, "sqlite_errorcode", 0) & 0xFF) == sqlite3.SQLITE_FULL:
                raise self._full() from exc
            if (why := self._bounded.refused()) is not None:
                raise DatabaseError(why) from exc
            raise
        finally:
            self._allow(0)
        inserted = None
        if self._inserting and connection.total_changes != before:
            inserted, self._inserter = cursor.lastrowid, session
        changed = cursor.rowcount if cursor.rowcount >= 0 else connection.total_changes - before
        wrote = cursor.rowcount >= 0 or changed
        return _Outcome(rows, inserted, changed if wrote else None)

    def _run(self, statement: str, parameters: Sequence[Value]) -> tuple[sqlite3.Cursor, Rows]:
        word = first_word(statement)
        if word in QUERIES:
            try:  # with values that are not too large for any number of columns
                return self._fetched(statement, parameters, COLUMNS)
            except sqlite3.DataError:
                return self._fetched(statement, parameters, self._columns(statement, parameters))
        if not word:
            columns = COLUMNS
        elif any(map(statement.lower().__contains__, _WITH_ROWS)):
            columns = self._columns(statement, parameters)
        else:
            columns = 0
        return self._fetched(statement, parameters, columns)

    def _columns(self, statement: str, parameters: Sequence[Value]) -> int:
        """How many a row of its result has."""
        self._allow(0)
        explain = f"EXPLAIN {statement.lstrip(_READ_OVER)}"
        program = _bound(self.connection, explain, parameters)
        return max((row[3] for row in program if row[1] == "ResultRow"), default=0)

    def _allow(self, columns: int) -> None:
        """Values as large as so many columns may have."""
        most = self._settings.max_result
        size = min(most, most * _ROW_FACTOR // max(1, columns))
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, size)

    def _fetched(
        self, statement: str, parameters: Sequence[Value], columns: int
    ) -> tuple[sqlite3.Cursor, Rows]:
        self._allow(columns)
        self._inserting = False
        if _LATER.fullmatch(statement):
            statement = "BEGIN IMMEDIATE"
        cursor = _bound(self.connection, statement, parameters)
        return cursor, self._rows(cursor)

    def _rows(self, cursor: sqlite3.Cursor) -> Rows:
        columns = [str(column[0]) for column in cursor.description or ()]
        size, most = sum(map(len, columns)), self._settings.max_result
        rows: list[tuple[Value, ...]] = []
        for row in cursor:
            size += _VALUE_COST
            for value in row:
                size += _VALUE_COST + (len(value) if isinstance(value, str | bytes) else 0)
            if size > most:
                cursor.close()
                raise DatabaseError(f"the result is larger than {show_size(most)}")
            rows.append(row)
        return columns, rows

    def _authorize(
        self, action: int, first: str | None, second: str | None, schema: str | None, _: str | None
    ) -> int:
        job = self._job
        if job is None:
            return sqlite3.SQLITE_OK
        self._inserting = self._inserting or action == sqlite3.SQLITE_INSERT
        own = job.kind is Kind.OWN
        return permit(action, first, second, schema, own=own, defensive=self._defensive)

    def _interrupted(self) -> bool:
        job = self._job
        return job is not None and (job.abandoned or job.late)

    def _changes(self) -> int:
        session = self._job.session if self._job is not None else None
        return session.changes if isinstance(session, _Session) else 0

    def _full(self) -> DatabaseError:
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < _DISK_FULL:
            return DatabaseError("the disk is full")
        size = show_size(self._settings.max_bytes)
        return DatabaseError(f"the database has {size}, which is all it may have", full=True)


class SqliteDatabase:
    """A Database in the file at `path`."""

    __slots__ = ("path", "pool", "settings")

    def __init__(self, pool: Pool, path: Path, settings: config.Sqlite) -> None:
        self.pool = pool
        self.path = path
        self.settings = settings

    def connect(self) -> _Session:
        return _Session(self)

    def worker(self) -> Worker:
        return self.pool.worker(f"sqlite {self.path}", self._open)

    def _open(self) -> _Guarded:
        return _Guarded(self.path, self.settings)


class _Session:
    """A Session. Its statements come one after another."""

    __slots__ = ("_database", "_worker", "changes", "last_insert_rowid")

    def __init__(self, database: SqliteDatabase) -> None:
        self._database: SqliteDatabase | None = database
        self._worker: Worker | None = None  # where it may have a transaction open
        self.last_insert_rowid = 0
        self.changes = 0

    async def execute(self, statement: str, parameters: Sequence[Value]) -> Rows:
        database = self._database
        if database is None:
            raise DatabaseError("the connection is closed")
        if len(statement.encode()) > database.settings.max_statement:
            most = show_size(database.settings.max_statement)
            raise DatabaseError(f"the statement is longer than {most}")
        try:
            outcome = await self._run(database, statement, parameters)
        except (sqlite3.Error, sqlite3.Warning, OSError, MemoryError, Busy) as exc:
            raise self._explained(database, exc) from exc
        except UnicodeDecodeError as exc:  # Python reads SQLite's own words strictly
            said = exc.object.decode(errors="replace")
            raise DatabaseError(said) from exc
        if outcome.inserted is not None:
            self.last_insert_rowid = outcome.inserted
        if outcome.changed is not None:
            self.changes = outcome.changed
        return outcome.rows

    async def _run(
        self, database: SqliteDatabase, statement: str, parameters: Sequence[Value]
    ) -> _Outcome:
        kind, worker = kind_of(statement), database.worker()
        if self._worker is not None and self._worker.owner is self:
            kind, worker = Kind.OWN, self._worker
        if kind is Kind.OWN:
            self._worker = worker
        outcome: _Outcome = await database.pool.run(
            worker,
            lambda guarded: guarded.execute(self, statement, parameters),
            kind,
            database.settings.timeout,
            session=self,
            size=len(statement) + sum(map(_size, parameters)),
        )
        return outcome

    def close(self) -> None:
        self._database = None
        worker, self._worker = self._worker, None
        if worker is not None and not worker.ended.done():
            outcome = asyncio.get_running_loop().create_future()
            worker.submit(Job(None, Kind.END, math.inf, outcome, self))

    @staticmethod
    def _explained(database: SqliteDatabase, error: Exception) -> DatabaseError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            most = show_duration(database.settings.timeout)
            return DatabaseError(f"the statement took longer than {most}")
        if code in _OF_THE_FILE or isinstance(error, OSError):
            return DatabaseError(database.pool.failed(database.path, error))
        return DatabaseError(explain(error))


# Errors that are not about a statement: the operator wants to know, too.
_OF_THE_FILE = {
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
}  # fmt: skip


class _InOrder(dict[str, Value]):
    """Parameters for names: whatever they are called, the next one in order."""

    def __init__(self, values: Sequence[Value]) -> None:
        super().__init__()
        self._values = iter(values)

    def __missing__(self, name: str) -> Value:
        try:
            return next(self._values)
        except StopIteration:
            raise KeyError(name) from None


def _bound(
    connection: sqlite3.Connection, statement: str, parameters: Sequence[Value]
) -> sqlite3.Cursor:
    if not _NAMED.search(statement):
        return connection.execute(statement, parameters)
    # Guests give parameters by position only; for Python that does not go with names.
    try:
        return connection.execute(statement, _InOrder(parameters))
    except sqlite3.ProgrammingError as exc:
        if "has no name" not in str(exc):
            raise
    return connection.execute(statement, parameters)


def _text(data: bytes) -> str:
    """Text that is none (SQLite keeps any bytes) with a mark for what cannot be read."""
    return str(data, "utf-8", "replace")


def _size(value: Value) -> int:
    return len(value) if isinstance(value, str | bytes) else 8
