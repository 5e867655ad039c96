"""Typed reading of parsed TOML and JSON: values in, dataclasses or an error with its place out.

A *reader* takes a value and the place where it stands, and returns it typed or raises. Readers
compose: `items(string)` reads a list of strings. Where a place collects mistakes, reading goes on
after one, and what was read is not to be used. Knows no file format and no key of ours.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from edge.errors import ConfigError

__all__ = [
    "Reader",
    "Table",
    "Where",
    "boolean",
    "check",
    "choice",
    "did_you_mean",
    "integer",
    "items",
    "mapping",
    "parsed",
    "raw_table",
    "show",
    "string",
    "together",
]

T = TypeVar("T")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file, printed as `spin.toml: trigger.http[0].route`."""

    file: str
    keys: str = ""
    # Where they are collected; None: the first one ends the reading.
    mistakes: list[ConfigError] | None = field(default=None, compare=False, repr=False)

    def key(self, name: str) -> Where:
        shown = name if _BARE_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        return replace(self, keys=f"{self.keys}.{shown}" if self.keys else shown)

    def item(self, index: int) -> Where:
        return replace(self, keys=f"{self.keys}[{index}]")

    def refuse(self, error: ConfigError) -> None:
        """Collects the mistake, or raises it."""
        if self.mistakes is None:
            raise error
        self.mistakes.append(error)

    def error(self, message: str, hint: str | None = None) -> ConfigError:
        return ConfigError(f"{self}: {message}", hint=hint)

    def __str__(self) -> str:
        return f"{self.file}: {self.keys}" if self.keys else self.file


Reader = Callable[[object, Where], T]


def together(mistakes: Iterable[ConfigError]) -> ConfigError:
    """One error for all: a line for each; of several the hints are in the lines."""
    several = list(mistakes)
    if len(several) == 1:
        return several[0]
    hints = [f" ({mistake.hint})" if mistake.hint else "" for mistake in several]
    lines = [mistake.message + hint for mistake, hint in zip(several, hints, strict=True)]
    return ConfigError("\n".join(lines))


def show(value: object) -> str:
    """A value the way its author wrote it, for messages."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if value is None or isinstance(value, bool | int | float | str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)  # TOML's dates and times


def not_toml(where: Where, error: ValueError) -> ConfigError:
    """What a parser of TOML says, for who wrote it."""
    message = str(error)
    hint = (
        'a text ends in its line, with the " it began with'
        if r"character '\n'" in message
        else None
    )
    return where.error(f"is not TOML: {message[:1].lower()}{message[1:]}", hint)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{close[0]}"?' if close else None


def string(value: object, where: Where) -> str:
    if not isinstance(value, str):
        raise where.error(f"must be a string, not {show(value)}")
    return value


def boolean(value: object, where: Where) -> bool:
    if not isinstance(value, bool):
        raise where.error(f"must be true or false, not {show(value)}")
    return value


def integer(at_least: int, at_most: int) -> Reader[int]:
    def read(value: object, where: Where) -> int:
        # bool is an int to Python, never to a person who writes a configuration
        if not isinstance(value, int) or isinstance(value, bool):
            raise where.error(f"must be an integer, not {show(value)}")
        if not at_least <= value <= at_most:
            raise where.error(f"must be between {at_least} and {at_most}, not {value}")
        return value

    return read


def choice(*names: str) -> Reader[str]:
    def read(value: object, where: Where) -> str:
        text = string(value, where)
        if text not in names:
            *first, last = (f'"{name}"' for name in names)
            known = f"{', '.join(first)} or {last}" if first else last
            raise where.error(f"must be {known}, not {show(value)}", did_you_mean(text, names))
        return text

    return read


def items(read: Reader[T]) -> Reader[tuple[T, ...]]:
    def read_all(value: object, where: Where) -> tuple[T, ...]:
        if not isinstance(value, list):
            raise where.error(f"must be a list, not {show(value)}")
        found = (_attempt(read, item, where.item(index)) for index, item in enumerate(value))
        return tuple(item for one in found for item in one)

    return read_all


def raw_table(value: object, where: Where) -> dict[str, object]:
    if not isinstance(value, dict):
        # A text in the place of a table may be a secret that was meant to stand in it.
        shown = "a string" if isinstance(value, str) else show(value)
        raise where.error(f"must be a table, not {shown}")
    return value


def mapping(read: Reader[T], name: Reader[str] = string) -> Reader[dict[str, T]]:
    """A table whose keys its author chose; `name` checks each of them."""

    def read_all(value: object, where: Where) -> dict[str, T]:
        table = raw_table(value, where)
        found: dict[str, T] = {}
        for key, value in table.items():
            place = where.key(key)
            names, values = _attempt(name, key, place), _attempt(read, value, place)
            found.update(zip(names, values, strict=False))
        return found

    return read_all


def _attempt(read: Reader[T], value: object, where: Where) -> tuple[T, ...]:
    """What was read; nothing after a mistake that was collected."""
    try:
        return (read(value, where),)
    except ConfigError as error:
        where.refuse(error)
        return ()


def parsed(parse: Callable[[str], T]) -> Reader[T]:
    """A string that `parse` understands; its ValueError becomes an error with a place."""

    def read(value: object, where: Where) -> T:
        text = string(value, where)
        try:
            return parse(text)
        except ValueError as error:
            raise where.error(str(error)) from None

    return read


def check(parse: Callable[[str], object]) -> Reader[str]:
    """A string that `parse` accepts, kept as it was written."""

    def read(value: object, where: Where) -> str:
        parsed(parse)(value, where)
        return str(value)

    return read


def _maybe(read: Reader[T]) -> Reader[T | None]:
    return read


class Table:
    """A table being read, as a context: leaving it complains about each key nobody asked for."""

    def __init__(self, value: object, where: Where) -> None:
        self.where = where
        self._values: Mapping[str, object] = raw_table(value, where)
        self._known: list[str] = []

    def __enter__(self) -> Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            for key in self._unknown():
                self.where.refuse(self.where.key(key).error("unknown key", self._hint(key)))

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, read: Reader[T], default: T) -> T:
        self._known.append(key)
        if key not in self._values:
            return default
        return next(iter(_attempt(read, self._values[key], self.where.key(key))), default)

    def optional(self, key: str, read: Reader[T]) -> T | None:
        return self.get(key, _maybe(read), None)

    def need(self, key: str, read: Reader[T]) -> T:
        self._known.append(key)
        if key in self._values:
            return read(self._values[key], self.where.key(key))
        close = difflib.get_close_matches(key, self._unknown(), n=1)
        hint = f'"{close[0]}" is not a key here; did you mean "{key}"?' if close else None
        raise self.where.error(f'missing key "{key}"', hint)

    def needed(self, key: str, read: Reader[T], instead: T) -> T:
        """As `need`; `instead` after a mistake that was collected."""
        try:
            return self.need(key, read)
        except ConfigError as error:
            self.where.refuse(error)
            return instead

    def rest(self) -> dict[str, object]:
        """What has not been asked for so far; no longer unknown."""
        left = {key: self._values[key] for key in self._unknown()}
        self._known.extend(left)
        return left

    def _unknown(self) -> list[str]:
        return [key for key in self._values if key not in self._known]

    def _hint(self, key: str) -> str:
        return did_you_mean(key, self._known) or f"known here: {', '.join(sorted(self._known))}"
