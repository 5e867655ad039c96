"""A line of the log, wherever it was read: from this process, from a node, from the journal.

Knows no source: what it is made of is handed over.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Entry", "Wanted", "of_journal", "of_json", "of_record"]

# What levels are called here: those of logging, and the priorities of syslog(3).
_NAMES = ("debug", "info", "warning", "error", "error")
_LEVELS = ("error", "error", "error", "error", "warning", "info", "info", "debug")


class Entry(NamedTuple):
    """One line. Without a `stream` the node wrote it, about the others if they are there."""

    time: float  # seconds since 1970
    level: str  # "debug", "info", "warning", "error"
    message: str
    logger: str | None = None  # the part of the node, or who wrote about it
    application: str | None = None
    component: str | None = None
    invocation: str | None = None
    stream: str | None = None  # "stdout", "stderr": a guest printed it
    message_id: str | None = None  # of `messages`

    def to_json(self) -> dict[str, Any]:
        moment = datetime.datetime.fromtimestamp(self.time, datetime.UTC)
        text = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {**self._asdict(), "time": text}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines somebody asks for; None: any. `since`: seconds since 1970."""

    application: str | None = None
    component: str | None = None
    invocation: str | None = None
    since: float | None = None

    def fits(self, entry: Entry) -> bool:
        return (
            self.application in (None, entry.application)
            and self.component in (None, entry.component)
            and self.invocation in (None, entry.invocation)
            and (self.since is None or entry.time >= self.since)
        )


def of_record(record: logging.LogRecord) -> Entry:
    """What this process logs."""
    message = record.getMessage()
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info).rstrip()
    # In tens, from 10 on: DEBUG, INFO, WARNING, ERROR, CRITICAL.
    level = _NAMES[min(max(record.levelno // 10, 1), 5) - 1]
    return _entry(record.created, level, message, record.name, record.__dict__)


def of_journal(fields: Mapping[str, Any]) -> Entry:
    """What `journalctl -o json` prints of an entry. Raises KeyError or ValueError."""
    text = {name: value for name in fields if (value := _text(fields[name])) is not None}
    priority = text.get("PRIORITY", "6")
    level = _LEVELS[int(priority)] if priority in tuple("01234567") else "info"
    logger = text.get("EDGE_LOGGER") or text.get("SYSLOG_IDENTIFIER")
    moment = int(text["__REALTIME_TIMESTAMP"]) / 1e6
    return _entry(moment, level, text.get("MESSAGE", ""), logger, text)


def of_json(told: Mapping[str, Any]) -> Entry:
    """What `to_json` made; what it does not know is left out. Raises KeyError or ValueError."""
    moment = datetime.datetime.fromisoformat(told["time"]).timestamp()
    known = {name: told[name] for name in Entry._fields if name in told}
    return Entry(**{**known, "time": moment})


def _entry(
    moment: float, level: str, message: str, logger: str | None, fields: Mapping[str, Any]
) -> Entry:
    get = fields.get
    component, invocation = get("EDGE_COMPONENT"), get("EDGE_INVOCATION")
    if component is not None:
        # Whose it is stands before it, for logs without fields.
        message = message.removeprefix(
            f"{component} " if invocation is None else f"{component} [{invocation}] "
        )
    return Entry(
        moment, level, message, logger,
        get("EDGE_APP"), component, invocation, get("EDGE_STREAM"), get("MESSAGE_ID"),
    )  # fmt: skip


def _text(value: object) -> str | None:
    """Of a field: text, bytes as numbers where they are none, or the first of several."""
    if isinstance(value, list) and value and isinstance(value[0], int):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, list):
        return _text(value[0]) if value else None
    return value if isinstance(value, str) else None
