"""Hints that a tag moved: said once by who sees it first, and heard with restraint.

A hint says where to look and nothing else: each node asks its own registry what the tag stands for.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from edge.errors import ConfigError
from edge.registry.digest import Digest
from edge.registry.reference import Reference

__all__ = ["Hints"]

# Seconds between two looks at a tag that hints cause, and up to which each node waits before one:
# the registry is not to hear of all at once, nor of one that hints all day.
_BETWEEN = 5.0
_JITTER = 1.0
# Seconds in which what this node finds needs no hint: it had one.
_HEARD = 60.0
# References that are kept in mind. Those that are pending have a timer each.
_MOST, _MOST_PENDING = 1024, 16
_MOST_TEXT = 512

T = TypeVar("T")


class Hints:
    """Of one node. `say`: tells the neighbours; `moved`: is told of a reference to look at, that
    may be none of this node's.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        moved: Callable[[Reference], None],
        rng: random.Random,
    ) -> None:
        self._say, self._moved, self._rng = say, moved, rng
        self._found: OrderedDict[Reference, Digest] = OrderedDict()
        self._heard: OrderedDict[Reference, float] = OrderedDict()
        self._looked: OrderedDict[Reference, float] = OrderedDict()
        self._pending: dict[Reference, asyncio.TimerHandle] = {}

    def close(self) -> None:
        for timer in self._pending.values():
            timer.cancel()
        self._pending.clear()

    def found(self, reference: Reference, digest: Digest, known: Digest | None) -> None:
        """What a tag stands for, by its registry; `known`: what it stood for here."""
        before = self._found.get(reference, known)
        _remember(self._found, reference, digest)
        if before in (None, digest) or _now() - self._heard.get(reference, -_HEARD) < _HEARD:
            return
        if len(text := str(reference)) <= _MOST_TEXT:
            self._say(text)

    def hear(self, _id: str, text: str) -> None:
        """What a neighbour says. What is no tag is passed over."""
        try:
            reference = Reference.parse(text[: _MOST_TEXT + 1])
        except ConfigError:
            return
        if reference.digest is not None or reference in self._pending:
            return
        now = _now()
        _remember(self._heard, reference, now)
        if len(self._pending) >= _MOST_PENDING:
            return
        due = max(now, self._looked.get(reference, -_BETWEEN) + _BETWEEN)
        due += self._rng.uniform(0, _JITTER)
        loop = asyncio.get_running_loop()
        self._pending[reference] = loop.call_at(due, self._look, reference)

    def _look(self, reference: Reference) -> None:
        del self._pending[reference]
        _remember(self._looked, reference, _now())
        self._moved(reference)


def _remember(known: OrderedDict[Reference, T], reference: Reference, value: T) -> None:
    known[reference] = value
    known.move_to_end(reference)
    if len(known) > _MOST:
        known.popitem(last=False)


def _now() -> float:
    return asyncio.get_running_loop().time()
