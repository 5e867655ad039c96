"""MQTT's topics and filters, and topics made from other topics: `out/{topic.1}`. Pure.

A filter selects topics: `+` stands for one level, `#` at the end for any number of them. Neither
selects a topic that begins with `$` unless the filter does. MQTT 5.0 §4.7.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Filter", "TopicTemplate", "check_topic"]

# Bytes of UTF-8, MQTT's own limit.
_LONGEST = 65_535
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_SHARE = "$share/"
# What a name may hold and a level of a topic may not.
_NO_LEVEL = re.compile(r"[/+#]")


def check_topic(text: str) -> str:
    """A topic that may be published to; else a ValueError. Those of the broker (`$…`) may not."""
    _check(text, "a topic")
    if "+" in text or "#" in text:
        raise ValueError(f'"{_short(text)}" has a wildcard: a topic has none')
    if text.startswith("$"):
        raise ValueError(f'"{_short(text)}" begins with $: such topics are the broker\'s own')
    return text


@dataclass(frozen=True, slots=True)
class Filter:
    """A topic filter, perhaps of a shared subscription: `$share/GROUP/FILTER`."""

    text: str
    share: str | None = None

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Raises ValueError."""
        share = None
        _check(text, "a topic filter")
        if text.startswith(_SHARE):
            share, slash, text = text.removeprefix(_SHARE).partition("/")
            if not slash or not text:
                raise ValueError("a shared subscription is written $share/GROUP/FILTER")
            check_group(share)
        levels = text.split("/")
        for index, level in enumerate(levels):
            if level != "#" and "#" in level:
                raise ValueError(f'"{_short(text)}": "#" stands alone, after the last "/"')
            if level == "#" and index < len(levels) - 1:
                raise ValueError(f'"{_short(text)}": "#" is only possible at the end')
            if level != "+" and "+" in level:
                raise ValueError(f'"{_short(text)}": "+" stands for a whole level')
        return cls(text, share)

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(self.text.split("/"))

    @property
    def subscription(self) -> str:
        """What the broker is asked for."""
        return self.text if self.share is None else f"{_SHARE}{self.share}/{self.text}"

    def matches(self, topic: str) -> bool:
        if topic.startswith("$") and self.text[0] in "+#":
            return False
        return _covers(self.levels, topic.split("/"))


@dataclass(frozen=True, slots=True)
class TopicTemplate:
    """A topic with `{topic}`, `{topic.N}` (its levels count from 0) and other names in it."""

    text: str

    @classmethod
    def parse(cls, text: str, names: Mapping[str, str], source: Filter) -> TopicTemplate:
        """`names`: known now, filled in at once. `source`: what the topics come from.

        A ValueError tells what is wrong, also that no topic of the filter has such a level.
        """

        def known(match: re.Match[str]) -> str:
            name = match[1]
            if name in names:
                return _NO_LEVEL.sub("-", names[name])
            if name != "topic" and _level(name) is None:
                allowed = ", ".join(f"{{{n}}}" for n in ("topic", "topic.0", *names))
                raise ValueError(f"{{{name}}} is not known here: {allowed} are")
            _check_level(name, source)
            return match[0]

        filled = _PLACEHOLDER.sub(known, text)
        if "{" in (rest := _PLACEHOLDER.sub("", filled)) or "}" in rest:
            raise ValueError("a brace without its partner")
        check_topic(_PLACEHOLDER.sub("x", filled))
        template = cls(filled)
        if _covers(source.levels, template.pattern(source)):
            raise ValueError(f'what is published there is selected by "{source.text}" again')
        return template

    def render(self, topic: str) -> str:
        """The topic for a message that came on `topic`. Raises ValueError."""
        if "{" not in self.text:
            return self.text
        levels = topic.split("/")

        def value(match: re.Match[str]) -> str:
            number = _level(match[1])
            if number is None:
                return topic
            if number >= len(levels):
                raise ValueError(f'"{_short(topic)}" has no level {number}')
            return levels[number]

        return check_topic(_PLACEHOLDER.sub(value, self.text))

    def pattern(self, source: Filter) -> list[str]:
        """The levels of what it makes of the filter's topics, with the filter's wildcards."""
        levels = source.levels

        def value(match: re.Match[str]) -> str:
            number = _level(match[1])
            if number is None:
                return source.text
            return levels[number] if number < len(levels) and levels[number] != "#" else "+"

        return _PLACEHOLDER.sub(value, self.text).split("/")


def check_group(name: str) -> str:
    """The name of a group that shares a subscription; else a ValueError."""
    if not name or any(c in name for c in "/+#\0"):
        raise ValueError(f'"{_short(name)}" is no name of a group: it has no "/", "+" or "#"')
    return name


def _check(text: str, what: str) -> None:
    if not text:
        raise ValueError(f"{what} is not empty")
    try:
        length = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{what} consists of valid characters") from None
    if length > _LONGEST:
        raise ValueError(f"{what} has at most {_LONGEST} bytes, not {length}")
    if any(c < " " or c == "\x7f" for c in text):
        raise ValueError(f"{what} has no control characters")


def _covers(filter: tuple[str, ...], levels: list[str]) -> bool:
    """Does the filter select every topic of this pattern, or this topic?"""
    for index, level in enumerate(filter):
        if level == "#":
            return True
        if index >= len(levels) or levels[index] == "#":
            return False
        if level not in ("+", levels[index]):
            return False
    return len(filter) == len(levels)


def _level(name: str) -> int | None:
    word, dot, number = name.partition(".")
    if word == "topic" and dot and number.isascii() and number.isdigit() and len(number) <= 4:
        return int(number)
    return None


def _check_level(name: str, source: Filter) -> None:
    number = _level(name)
    levels = source.levels
    if number is not None and number >= len(levels) and levels[-1] != "#":
        raise ValueError(f'{{{name}}}: topics of "{source.text}" have {len(levels)} levels')


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:80] + "…"
