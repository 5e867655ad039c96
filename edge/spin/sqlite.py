"""fermyon:spin/sqlite@2, the synchronous part of spin:sqlite@3, and the unversioned one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from edge.engine.host import Err, Interface
from edge.spin.platform import Context, Database, DatabaseError, Session, Value

__all__ = ["SQLITE", "SQLITE_3", "UNVERSIONED"]

Case = str | tuple[str, Value]  # of WIT's `value`
QueryResult = tuple[list[str], list[tuple[list[Case]]]]

# Values of a result that are made the guest's before others get their turn: about a millisecond.
_VALUES_AT_ONCE = 2000

_CASES: dict[type, str] = {int: "integer", float: "real", str: "text", bytes: "blob"}


class Connection:
    """A database that a guest has opened."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    @staticmethod
    def open(context: Context, database: str) -> Connection:
        return Connection(_connected(_granted(context, database)))

    async def execute(self, statement: str, parameters: Sequence[tuple[str, Value]]) -> QueryResult:
        return await _execute(self._session, statement, parameters)

    def last_insert_rowid(self) -> int:
        return self._session.last_insert_rowid

    def changes(self) -> int:
        return self._session.changes

    def drop(self) -> None:
        self._session.close()


def _granted(context: Context, label: str) -> Database:
    database = context.platform.databases.get(label)
    if database is None:
        context.note(f'may not use the database "{label}": name it in sqlite_databases')
        raise Err("access-denied")
    return database


def _connected(database: Database) -> Session:
    try:
        return database.connect()
    except DatabaseError as exc:
        raise Err(_case(exc)) from None


async def _execute(
    session: Session, statement: str, parameters: Sequence[tuple[str, Value]]
) -> QueryResult:
    try:
        columns, rows = await session.execute(statement, [value for _, value in parameters])
    except DatabaseError as exc:
        raise Err(_case(exc)) from None
    return columns, await _converted(rows, max(1, _VALUES_AT_ONCE // max(1, len(columns))))


async def _converted(rows: list[tuple[Value, ...]], some: int) -> list[tuple[list[Case]]]:
    """So many at a time: others get their turn between them."""
    done = [([_value(value) for value in row],) for row in rows[:some]]
    for start in range(some, len(rows), some):
        await asyncio.sleep(0)
        done += [([_value(value) for value in row],) for row in rows[start : start + some]]
    return done


def _value(value: Value) -> Case:
    return "null" if value is None else (_CASES[type(value)], value)


def _case(error: DatabaseError) -> str | tuple[str, str]:
    return "database-full" if error.full else ("io", str(error))


_TYPES = """
      variant error {
        no-such-database, access-denied, invalid-connection, database-full, io(string)
      }
      variant value { integer(s64), real(f64), text(string), blob(list<u8>), null }
      record row-result { values: list<value> }
      record query-result { columns: list<string>, rows: list<row-result> }
"""
_METHODS = """
        open: static func(database: string) -> result<connection, error>;
        execute: func(statement: string, parameters: list<value>) -> result<query-result, error>;
"""

SQLITE = Interface(
    f"""interface fermyon:spin/sqlite@2 {{ {_TYPES}
      resource connection {{ {_METHODS} }}
    }}""",
    resources={"connection": Connection},
)

SQLITE_3 = Interface(
    f"""interface spin:sqlite/sqlite@3 {{ {_TYPES}
      resource connection {{ {_METHODS}
        last-insert-rowid: func() -> s64;
        changes: func() -> u64;
      }}
    }}""",
    resources={"connection": Connection},
)


def _open_number(context: Context, database: str) -> int:
    """The number of a database: its place among those that are granted."""
    _granted(context, database)
    return list(context.platform.databases).index(database)


async def _execute_number(
    context: Context, number: int, statement: str, parameters: Sequence[tuple[str, Value]]
) -> QueryResult:
    """Each statement is on its own: a number stands for no connection that could stay open."""
    databases = tuple(context.platform.databases.values())
    if number >= len(databases):
        raise Err("invalid-connection")
    session = _connected(databases[number])
    try:
        return await _execute(session, statement, parameters)
    finally:
        session.close()


def _close_number(_context: Context, _number: int) -> None:
    return


UNVERSIONED = Interface(
    f"""interface fermyon:spin/sqlite {{ {_TYPES}
      type connection = u32;
      open: func(database: string) -> result<connection, error>;
      execute: func(conn: connection, statement: string, parameters: list<value>)
        -> result<query-result, error>;
      close: func(conn: connection);
    }}""",
    functions={"open": _open_number, "execute": _execute_number, "close": _close_number},
)
