"""PostgreSQL in every version that SDKs import: not offered, and every call says so in its own
error type. The asynchronous functions of 4.2 are missing.
"""

from __future__ import annotations

from typing import Any, NoReturn

from edge.engine.host import Interface
from edge.spin.rdbms import RDBMS_TYPES, Unavailable, unavailable
from edge.spin.rdbms import UNVERSIONED as UNVERSIONED_TYPES

__all__ = ["POSTGRES", "POSTGRES_3", "POSTGRES_4", "UNVERSIONED"]


class PostgresConnection(Unavailable):
    """Never there."""

    database = "PostgreSQL"


class ConnectionBuilder:
    """What a connection would be made of."""

    @staticmethod
    def new(_context: Any, _address: str) -> ConnectionBuilder:
        return ConnectionBuilder()

    def set_ca_root(self, _certificate: str) -> None:
        """Nothing will be connected to."""

    def build(self) -> NoReturn:
        unavailable(PostgresConnection.database)


def _refuse(_context: Any, _address: str, _statement: str, _parameters: list[Any]) -> NoReturn:
    unavailable(PostgresConnection.database)


_CONNECTION = """
  resource connection {
    open: static func(address: string) -> result<connection, error>;
    query: func(statement: string, params: list<parameter-value>) -> result<row-set, error>;
    execute: func(statement: string, params: list<parameter-value>) -> result<u64, error>;
  }
"""

POSTGRES = Interface(
    f"""interface fermyon:spin/postgres@2 {{
      use fermyon:spin/rdbms-types@2.{{parameter-value, row-set, error}};
      {_CONNECTION}
    }}""",
    uses=(RDBMS_TYPES,),
    resources={"connection": PostgresConnection},
)

# Of every value and parameter since version 3.
_VALUES_3 = """
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64), floating32(f32), floating64(f64),
    str(string), binary(list<u8>), date(tuple<s32, u8, u8>), time(tuple<u8, u8, u8, u32>),
    datetime(tuple<s32, u8, u8, u8, u8, u8, u32>), timestamp(s64)"""

_ROWS = """
  record column { name: string, data-type: db-data-type }
  type row = list<db-value>;
  record row-set { columns: list<column>, rows: list<row> }
"""

POSTGRES_3 = Interface(
    f"""interface spin:postgres/postgres@3 {{
      variant error {{
        connection-failed(string), bad-parameter(string), query-failed(string),
        value-conversion-failed(string), other(string)
      }}
      enum db-data-type {{
        boolean, int8, int16, int32, int64, floating32, floating64, str, binary,
        date, time, datetime, timestamp, other
      }}
      variant db-value {{ {_VALUES_3}, db-null, unsupported }}
      variant parameter-value {{ {_VALUES_3}, db-null }}
      {_ROWS}
      {_CONNECTION}
    }}""",
    resources={"connection": PostgresConnection},
)


def _range(of: str) -> str:
    bound = f"option<tuple<{of}, range-bound-kind>>"
    return f"tuple<{bound}, {bound}>"


_VALUES_4 = f"""{_VALUES_3},
    uuid(string), jsonb(list<u8>), decimal(string),
    range-int32({_range("s32")}), range-int64({_range("s64")}), range-decimal({_range("string")}),
    array-int32(list<option<s32>>), array-int64(list<option<s64>>),
    array-decimal(list<option<string>>), array-str(list<option<string>>), interval(interval)"""

POSTGRES_4 = Interface(
    f"""interface spin:postgres/postgres@4 {{
      record db-error {{
        as-text: string, severity: string, code: string, message: string, detail: option<string>,
        extras: list<tuple<string, string>>
      }}
      variant query-error {{ text(string), db-error(db-error) }}
      variant error {{
        connection-failed(string), bad-parameter(string), query-failed(query-error),
        value-conversion-failed(string), other(string)
      }}
      variant db-data-type {{
        boolean, int8, int16, int32, int64, floating32, floating64, str, binary,
        date, time, datetime, timestamp, uuid, jsonb, decimal, range-int32, range-int64,
        range-decimal, array-int32, array-int64, array-decimal, array-str, interval, other(string)
      }}
      enum range-bound-kind {{ inclusive, exclusive }}
      record interval {{ micros: s64, days: s32, months: s32 }}
      variant db-value {{ {_VALUES_4}, db-null, unsupported(list<u8>) }}
      variant parameter-value {{ {_VALUES_4}, db-null }}
      {_ROWS}
      {_CONNECTION}
      resource connection-builder {{
        constructor(address: string);
        set-ca-root: func(certificate: string) -> result<_, error>;
        build: func() -> result<connection, error>;
      }}
    }}""",
    resources={"connection": PostgresConnection, "connection-builder": ConnectionBuilder},
)

UNVERSIONED = Interface(
    """interface fermyon:spin/postgres {
      use fermyon:spin/rdbms-types.{parameter-value, row-set};
      variant pg-error {
        success, connection-failed(string), bad-parameter(string), query-failed(string),
        value-conversion-failed(string), other-error(string)
      }
      query: func(address: string, statement: string, params: list<parameter-value>)
        -> result<row-set, pg-error>;
      execute: func(address: string, statement: string, params: list<parameter-value>)
        -> result<u64, pg-error>;
    }""",
    uses=(UNVERSIONED_TYPES,),
    functions={"query": _refuse, "execute": _refuse},
)
