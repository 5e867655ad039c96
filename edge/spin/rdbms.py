"""fermyon:spin/rdbms-types, which its PostgreSQL and MySQL share, and who refuses to connect.

edge has neither: a component that imports them runs, and is told so where it would connect.
"""

from __future__ import annotations

from typing import Any, NoReturn

from edge.engine.host import Err, Interface

__all__ = ["RDBMS_TYPES", "UNVERSIONED", "Unavailable", "unavailable"]

_TYPES = """
  enum db-data-type {
    boolean, int8, int16, int32, int64, uint8, uint16, uint32, uint64, floating32, floating64,
    str, binary, other
  }
  variant db-value {
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64), uint8(u8), uint16(u16),
    uint32(u32), uint64(u64), floating32(f32), floating64(f64), str(string), binary(list<u8>),
    db-null, unsupported
  }
  variant parameter-value {
    boolean(bool), int8(s8), int16(s16), int32(s32), int64(s64), uint8(u8), uint16(u16),
    uint32(u32), uint64(u64), floating32(f32), floating64(f64), str(string), binary(list<u8>),
    db-null
  }
  record column { name: string, data-type: db-data-type }
  type row = list<db-value>;
  record row-set { columns: list<column>, rows: list<row> }
"""

RDBMS_TYPES = Interface(
    f"""interface fermyon:spin/rdbms-types@2 {{
      variant error {{
        connection-failed(string), bad-parameter(string), query-failed(string),
        value-conversion-failed(string), other(string)
      }}
      {_TYPES}
    }}"""
)

UNVERSIONED = Interface(f"interface fermyon:spin/rdbms-types {{ {_TYPES} }}")


def unavailable(what: str) -> NoReturn:
    """Ends a call with the error of a server that cannot be reached."""
    raise Err(
        ("connection-failed", f"edge does not offer {what}; a service with HTTP is reachable")
    )


class Unavailable:
    """A connection to `database`, of which there is none: `open` always fails."""

    database = "a database"

    @classmethod
    def open(cls, _context: Any, _address: str) -> NoReturn:
        unavailable(cls.database)

    def query(self, _statement: str, _parameters: list[Any]) -> NoReturn:
        unavailable(self.database)

    def execute(self, _statement: str, _parameters: list[Any]) -> NoReturn:
        unavailable(self.database)
