"""Readers of what only a fleet document has: credentials, selectors, times."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

from edge.application.fields import Reader, Where, check, items, mapping, parsed, raw_table, string
from edge.application.names import variable_name
from edge.application.options import given
from edge.errors import ConfigError

__all__ = [
    "components",
    "configured",
    "credentials",
    "labels",
    "pattern",
    "patterns",
    "time",
    "variables",
]

T = TypeVar("T")

# What systemd takes as a credential's id, and no way out of its directory.
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_MAX_TEXT = 255


def configured(parse: Callable[[str], T]) -> Reader[T]:
    """As `parsed`, for what raises ConfigErrors of its own: they get their place."""

    def read(value: object, where: Where) -> T:
        text = string(value, where)
        try:
            return parse(text)
        except ConfigError as error:
            raise where.error(error.message, error.hint) from None

    return read


def variables(value: object, where: Where) -> Mapping[str, str]:
    return mapping(string, check(variable_name))(value, where)


def credentials(value: object, where: Where) -> Mapping[str, str]:
    """Variable -> the name of a credential: its value is never in a document."""
    return mapping(check(_credential), check(variable_name))(value, where)


def _credential(text: str) -> str:
    if not _CREDENTIAL.fullmatch(text):
        raise ValueError(f"{text[:200]!a} is not the name of a credential")
    return text


Table = Mapping[str, object]


def components(value: object, where: Where) -> Mapping[str, tuple[Table, Table]]:
    """Component -> its options as they are read, and as they were written."""
    return mapping(_options)(value, where)


def _options(value: object, where: Where) -> tuple[Table, Table]:
    return given(value, where), raw_table(value, where)


def labels(value: object, where: Where) -> Mapping[str, tuple[str, ...]]:
    """Label -> one value, or several of which one must be the node's."""
    return mapping(_values, check(_text))(value, where)


def _values(value: object, where: Where) -> tuple[str, ...]:
    if isinstance(value, str):
        return (check(_text)(value, where),)
    found = items(check(_text))(value, where)
    if not found:
        raise where.error("names no value, so that it fits no node")
    return found


def patterns(value: object, where: Where) -> tuple[str, ...]:
    return items(check(pattern))(value, where)


def pattern(text: str) -> str:
    """The name of a node, or a part of it and "*"."""
    if not _is_text(text):
        raise ValueError(f'must be the name of a node, or one like "shop-*", not {text[:80]!a}')
    return text


def _text(text: str) -> str:
    if not _is_text(text):
        raise ValueError(f"must have 1 to {_MAX_TEXT} characters that can be printed")
    return text


def _is_text(text: str) -> bool:
    """What people can be shown: it comes from strangers."""
    return 0 < len(text) <= _MAX_TEXT and text.isprintable()


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
        raise ValueError(f'must be a time like "2030-01-31T00:00:00Z", not {text[:80]!a}') from None
