"""Readers of durations and sizes as they are written in TOML, within bounds."""

from __future__ import annotations

from edge.application.fields import Reader, Where, parsed
from edge.application.units import duration, show_duration, show_size, size

__all__ = ["octets", "seconds"]


def seconds(*, at_least: float, at_most: float) -> Reader[float]:
    """Reads "1.5s" or "5m"; the bounds are in seconds."""

    def read(value: object, where: Where) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise where.error(f'must be a duration like "30s", not {value}', f'write "{value}s"')
        number = parsed(duration)(value, where)
        if not at_least <= number <= at_most:
            known = f"{show_duration(at_least)} and {show_duration(at_most)}"
            raise where.error(f'must be between {known}, not "{value}"')
        return number

    return read


def octets(*, at_least: int, at_most: int) -> Reader[int]:
    """Reads "64MiB" or "4kB"; the bounds are in bytes."""

    def read(value: object, where: Where) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            raise where.error(
                f'must be a size like "64MiB", not {value}', f'write "{show_size(value)}"'
            )
        number = parsed(size)(value, where)
        if not at_least <= number <= at_most:
            known = f"{show_size(at_least)} and {show_size(at_most)}"
            raise where.error(f'must be between {known}, not "{value}"')
        return number

    return read
