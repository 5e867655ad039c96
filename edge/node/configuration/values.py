"""How values and tables of `edge.toml` are read, whatever they are for.

Every mistake is collected at its place; what is read after one is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from edge import config
from edge.application.fields import Reader, Table, Where, items, show, string
from edge.application.quantities import seconds
from edge.errors import ConfigError
from edge.fleet.static import split
from edge.registry.reference import Reference

__all__ = [
    "Readers",
    "address",
    "addresses",
    "apart",
    "as_it_is",
    "given",
    "matching",
    "peer",
    "reference",
    "section",
    "share",
    "together",
    "whole_seconds",
]

T = TypeVar("T")
Readers = Mapping[str, Reader[Any]]


def given(table: Table, readers: Readers) -> dict[str, Any]:
    """What is written of these keys; the others keep the defaults of their dataclass."""
    found = {key: table.get(key, read, None) for key, read in readers.items()}
    return {key: value for key, value in found.items() if key in table}


def section(
    make: Callable[..., T], readers: Readers, finish: Callable[[Table, dict[str, Any]], None]
) -> Reader[T]:
    """A table that becomes the arguments of `make`; `finish` sees those that had no mistake."""

    def read(value: object, where: Where) -> T:
        assert where.mistakes is not None
        before = len(where.mistakes)
        with Table(value, where) as table:
            found = given(table, readers)
        if len(where.mistakes) > before:
            return make()
        finish(table, found)
        try:
            return make(**found)
        except ConfigError as error:
            raise ConfigError(f"{where.file}: {error.message}", hint=error.hint) from None

    return read


def as_it_is(_table: Table, _found: dict[str, Any]) -> None:
    pass


def together(table: Table, *keys: str) -> None:
    """These keys are all there, or none."""
    missing = [key for key in keys if key not in table]
    if missing and len(missing) < len(keys):
        raise table.where.error(f"{' and '.join(keys)} need each other")


def apart(table: Table, *keys: str) -> None:
    """Not more than one of these keys is there."""
    found = [key for key in keys if key in table]
    if len(found) > 1:
        raise table.where.error(f"{' and '.join(found)} exclude each other")


def address(value: object, where: Where) -> config.Address:
    text = string(value, where)
    try:
        return config.parse_address(text)
    except ConfigError as error:
        raise where.error(f"{show(text)} is not an address and a port", error.hint) from None


def addresses(value: object, where: Where) -> tuple[config.Address, ...]:
    if isinstance(value, str):
        return (address(value, where),)
    found = items(address)(value, where)
    if not value:
        raise where.error("must name an address")
    for index, one in enumerate(found):
        if one.port and one in found[:index]:
            where.refuse(where.item(index).error(f"{one} is there twice"))
    return found


def peer(value: object, where: Where) -> str:
    text = string(value, where)
    try:
        return str(config.Address(*split(text)))
    except ValueError as error:
        hint = 'write it like "10.0.0.7", "pi.lan:7466" or "[fd00::7]:7466"'
        raise where.error(f"{show(text)}: {error}", hint) from None


def reference(value: object, where: Where) -> str:
    text = string(value, where)
    try:
        return str(Reference.parse(text))
    except ConfigError as error:
        raise where.error(error.message, error.hint) from None


def matching(pattern: re.Pattern[str], what: str) -> Reader[str]:
    def read(value: object, where: Where) -> str:
        text = string(value, where)
        if not pattern.fullmatch(text):
            raise where.error(f"{show(text)} is not {what}")
        return text

    return read


def whole_seconds(at_least: int, at_most: int) -> Reader[int]:
    def read(value: object, where: Where) -> int:
        return round(seconds(at_least=at_least, at_most=at_most)(value, where))

    return read


def share(value: object, where: Where) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise where.error(f"must be a number from 0 to 1, not {show(value)}")
    return float(value)
