"""Readers of what a fleet document is made of: names, mounts, selectors, options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from edge.application.fields import (
    Reader,
    Table,
    Where,
    check,
    items,
    mapping,
    parsed,
    raw_table,
    string,
)
from edge.application.names import variable_name
from edge.application.options import options
from edge.application.units import duration
from edge.config import Mount
from edge.errors import ConfigError

__all__ = [
    "components",
    "configured",
    "credentials",
    "labels",
    "mount",
    "name",
    "pattern",
    "patterns",
    "seconds",
    "time",
    "variables",
]

T = TypeVar("T")

# Safe as a file's name, in a URL's path and in a line of a log.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
# What systemd takes as a credential's id, and no way out of its directory.
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_SEGMENT = re.compile(r"[A-Za-z0-9._~!$&'()+,;=:@-]+")
_MAX_TEXT = 255
_YEAR = 366 * 86400.0


def name(value: object, where: Where) -> str:
    return check(_name)(value, where)


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text[:200]!a} is not a name: letters, digits, . _ and - between them, at most 128"
        )
    return text


def configured(parse: Callable[[str], T]) -> Reader[T]:
    """As `parsed`, for what raises ConfigErrors of its own: they get their place."""

    def read(value: object, where: Where) -> T:
        text = string(value, where)
        try:
            return parse(text)
        except ConfigError as error:
            raise where.error(error.message, error.hint) from None

    return read


def mount(value: object, where: Where) -> Mount:
    """ "/path", or a table of path and host."""
    if isinstance(value, str):
        return Mount(parsed(_path)(value, where))
    with Table(value, where) as table:
        return Mount(
            path=table.get("path", parsed(_path), "/"),
            host=table.optional("host", parsed(_host)),
        )


def _path(text: str) -> str:
    if text == "/":
        return text
    _, *segments = text.split("/")
    wrong = not text.startswith("/") or len(text) > _MAX_TEXT
    if wrong or any(s in (".", "..") or not _SEGMENT.fullmatch(s) for s in segments):
        raise ValueError(
            f'must be a path like "/thermo", without a slash at its end, not {text[:200]!a}'
        )
    return text


def _host(text: str) -> str:
    if len(text) > _MAX_TEXT or not _HOST.fullmatch(text.lower()):
        raise ValueError(f'must be a host like "thermo.local", not {text[:200]!a}')
    return text.lower()


def variables(value: object, where: Where) -> Mapping[str, str]:
    return mapping(string, check(variable_name))(value, where)


def credentials(value: object, where: Where) -> Mapping[str, str]:
    """Variable -> the name of a credential: its value is never in a document."""
    return mapping(check(_credential), check(variable_name))(value, where)


def _credential(text: str) -> str:
    if not _CREDENTIAL.fullmatch(text):
        raise ValueError(f"{text[:200]!a} is not the name of a credential")
    return text


def components(value: object, where: Where) -> Mapping[str, Mapping[str, object]]:
    """Component -> options, checked, and kept as they were written."""
    return mapping(_options)(value, where)


def _options(value: object, where: Where) -> Mapping[str, object]:
    options(value, where)
    return raw_table(value, where)


def labels(value: object, where: Where) -> Mapping[str, tuple[str, ...]]:
    """Label -> one value, or several of which one must be the node's."""
    return mapping(_values, check(_text))(value, where)


def _values(value: object, where: Where) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else items(string)(value, where)
    if not found:
        raise where.error("names no value, so that it fits no node")
    return found


def patterns(value: object, where: Where) -> tuple[str, ...]:
    return items(check(pattern))(value, where)


def pattern(text: str) -> str:
    """The name of a node, or a part of it and "*"."""
    if not text.replace("*", "x") or "**" in text or len(text) > _MAX_TEXT:
        raise ValueError(f'must be the name of a node, or one like "shop-*", not {text[:200]!a}')
    return text


def _text(text: str) -> str:
    if not text or len(text) > _MAX_TEXT:
        raise ValueError(f"must have 1 to {_MAX_TEXT} characters")
    return text


def seconds(value: object, where: Where) -> float:
    found = parsed(duration)(value, where)
    if found > _YEAR:
        raise where.error("must be at most a year")
    return found


def time(value: object, where: Where) -> datetime:
    """By RFC 3339, with a time zone."""
    return parsed(_time)(value, where)


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("without a time zone")
        return moment.astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise ValueError(
            f'must be a time like "2030-01-31T00:00:00Z", not {text[:100]!a}'
        ) from None
