"""SQLite's functions whose work is the product of two lengths: nothing interrupts one of them, and
with values of 16 MB it runs for days. Beyond a limit they are refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

__all__ = ["Bounded"]

# Names, numbers of arguments.
_FUNCTIONS = (
    ("instr", 2), ("replace", 3), ("trim", 2), ("ltrim", 2), ("rtrim", 2), ("unhex", 2),
)  # fmt: skip

# The longest takes about a second on a small board.
_WORK_MAX = 1 << 28


class Bounded:
    """The functions of one connection. `refused`: why the last one was, until it is asked for."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._plain: sqlite3.Connection | None = None
        self._refused: str | None = None
        for name, count in _FUNCTIONS:
            if name == "unhex" and sqlite3.sqlite_version_info < (3, 41):
                continue
            function = self._bounded(name, count)
            connection.create_function(name, count, function, deterministic=True)

    def refused(self) -> str | None:
        why, self._refused = self._refused, None
        return why

    def __del__(self) -> None:
        if self._plain is not None:
            self._plain.close()

    def _bounded(self, name: str, count: int) -> Callable[..., Any]:
        statement = f"SELECT {name}({','.join('?' * count)})"

        def call(*arguments: Any) -> Any:
            if _length(arguments[0]) * _length(arguments[1]) > _WORK_MAX:
                self._refused = f"{name}: its arguments are too large together"
                raise ValueError(self._refused)
            return self._original(statement, arguments)

        return call

    def _original(self, statement: str, arguments: tuple[Any, ...]) -> Any:
        """What SQLite's own gives, by a connection where it still has its name."""
        if self._plain is None:
            self._plain = sqlite3.connect(":memory:", check_same_thread=False)
        return self._plain.execute(statement, arguments).fetchone()[0]


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | bytes) else 24
