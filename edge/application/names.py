"""Which names Spin accepts: kebab-case identifiers, snake_case labels, variable names."""

from __future__ import annotations

import re

__all__ = ["environment_name", "kebab", "label", "variable_name"]

# Component-model words: each starts with a letter and is all lower or all upper case.
_WORD = r"(?:[a-z][a-z0-9]*|[A-Z][A-Z0-9]*)"
_KEBAB = re.compile(f"{_WORD}(?:-{_WORD})*")
_SNAKE = re.compile(f"{_WORD}(?:_{_WORD})*")
_VARIABLE = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*")


def kebab(text: str) -> str:
    if not _KEBAB.fullmatch(text):
        wrong = "_" in text and _KEBAB.fullmatch(text.replace("_", "-"))
        why = 'words must be separated by "-", not "_"' if wrong else "must be in kebab-case"
        raise ValueError(f'"{text}" is not a component id: {why}')
    return text


def label(text: str) -> str:
    if not (_KEBAB.fullmatch(text) or _SNAKE.fullmatch(text)):
        raise ValueError(f'"{text}" is not a label: must be in kebab-case or snake_case')
    return text


def variable_name(text: str) -> str:
    if not _VARIABLE.fullmatch(text):
        raise ValueError(
            f'"{text}" is not a variable name: lower-case letters, digits and single "_" between'
            " them, starting with a letter"
        )
    return text


def environment_name(text: str) -> str:
    if not text or "=" in text or "\0" in text:
        raise ValueError("not the name of an environment variable")
    return text
