"""Reads `.env` files: `NAME=value` lines, values quoted or not. Substitutes nothing."""

from __future__ import annotations

import re

__all__ = ["parse"]

_LINE = re.compile(
    r"""(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_.]*)\s*=\s*
    (?: '(?P<literal>[^']*)' | "(?P<quoted>(?:[^"\\]|\\.)*)"
        | (?P<plain>[^'"\s\#]\S*(?:\s+[^\s\#]\S*)*)? )
    \s*(?:(?:^|\s)\#.*)?""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def parse(text: str) -> dict[str, str]:
    """Later lines win. Raises ValueError with the number of a line that is none, never its text."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None:
            raise ValueError(f"line {number} is not NAME=VALUE")
        values[match["name"]] = _value(match)
    return values


def _value(match: re.Match[str]) -> str:
    if match["quoted"] is not None:
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), match["quoted"])
    return match["literal"] or match["plain"] or ""
