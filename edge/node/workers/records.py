"""A worker's log: its records become the first process's, which alone writes the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Forward", "take"]

_KEPT = ("name", "levelno", "levelname", "created", "msecs", "pathname", "lineno", "funcName")


class Forward(logging.Handler):
    """Tells each record as JSON by `tell`, on the loop that is running. Threads log as well."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            told = _told(record)
            if asyncio._get_running_loop() is self._loop:
                self._tell(told)
            else:
                self._loop.call_soon_threadsafe(self._tell, told)
        except Exception:
            self.handleError(record)


def _told(record: logging.LogRecord) -> dict[str, Any]:
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info).rstrip()
    attributes = record.__dict__
    own = {n: str(v) for n, v in attributes.items() if n == "MESSAGE_ID" or n.startswith("EDGE_")}
    return {**{name: attributes[name] for name in _KEPT}, "msg": message, **own}


def take(told: Mapping[str, Any]) -> None:
    """Logs here what a worker told."""
    record = logging.makeLogRecord({**told, "args": None})
    logging.getLogger(record.name).handle(record)
