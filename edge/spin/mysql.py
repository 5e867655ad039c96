"""fermyon:spin/mysql: not offered, and every call says so in its own error type."""

from __future__ import annotations

from typing import Any, NoReturn

from edge.engine.host import Interface
from edge.spin.rdbms import RDBMS_TYPES, Unavailable, unavailable
from edge.spin.rdbms import UNVERSIONED as UNVERSIONED_TYPES

__all__ = ["MYSQL", "UNVERSIONED"]


class MysqlConnection(Unavailable):
    """Never there."""

    database = "MySQL"


def _refuse(_context: Any, _address: str, _statement: str, _parameters: list[Any]) -> NoReturn:
    unavailable("MySQL")


MYSQL = Interface(
    """interface fermyon:spin/mysql@2 {
      use fermyon:spin/rdbms-types@2.{parameter-value, row-set, error};
      resource connection {
        open: static func(address: string) -> result<connection, error>;
        query: func(statement: string, params: list<parameter-value>) -> result<row-set, error>;
        execute: func(statement: string, params: list<parameter-value>) -> result<_, error>;
      }
    }""",
    uses=(RDBMS_TYPES,),
    resources={"connection": MysqlConnection},
)

UNVERSIONED = Interface(
    """interface fermyon:spin/mysql {
      use fermyon:spin/rdbms-types.{parameter-value, row-set};
      variant mysql-error {
        success, connection-failed(string), bad-parameter(string), query-failed(string),
        value-conversion-failed(string), other-error(string)
      }
      query: func(address: string, statement: string, params: list<parameter-value>)
        -> result<row-set, mysql-error>;
      execute: func(address: string, statement: string, params: list<parameter-value>)
        -> result<_, mysql-error>;
    }""",
    uses=(UNVERSIONED_TYPES,),
    functions={"query": _refuse, "execute": _refuse},
)
