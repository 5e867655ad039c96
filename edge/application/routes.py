# cython: annotation_typing=False, binding=False
"""Spin's routes: which one a path belongs to, and what it captures from it.

    /a/b            exact: this path, with or without a trailing slash
    /a/:id/b        a named segment; also /:name.json
    /a/...          a trailing wildcard (also written /a/*): /a, /a/ and all below

The most specific route wins: segment by segment from the left, exact before named before
wildcard; then more dots between names; then the shorter; then the one declared first. Slashes may
be repeated. Paths are compared as received, not percent-decoded. Knows nothing of HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

__all__ = ["CHAINED", "RESERVED", "Match", "Route", "Router", "Unreachable"]

# Answered by the runtime itself, before any route is looked at.
RESERVED = "/.well-known/spin/"

_WILDCARDS = ("...", "*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")  # becomes part of a header's name
_NOT_IN_PATHS = re.compile(r"[\x00-\x20?#\x7f]")
_SLASHES = re.compile("//+")

# How specific a segment is; lower comes first.
_EXACT, _EXACT_THEN_NAMED, _NAMED, _OPEN = range(4)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Route:
    """A parsed route; `text` is what its author wrote."""

    text: str
    segments: tuple[str, ...]
    wildcard: bool
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Route:
        if found := _NOT_IN_PATHS.search(text):
            raise ValueError(f'route "{text}": no path contains {found[0]!r}')
        segments = tuple(s for s in text.split("/") if s)
        wildcard = bool(segments) and segments[-1] in _WILDCARDS
        fixed = segments[:-1] if wildcard else segments
        names = tuple(piece[1:] for s in fixed for piece in _pieces(s) if piece[0] == ":")
        _check(text, fixed, names)
        return cls(text, fixed, wildcard, names)

    @property
    def matched(self) -> str:
        """The route with a leading slash and without a trailing one: "/api/:id/..."."""
        return "/" + self.text.removeprefix("/").removesuffix("/")

    @property
    def prefix(self) -> str:
        """The route as written, without its "/..."."""
        return self.text.removesuffix("/...")

    @property
    def exact(self) -> bool:
        return not (self.wildcard or self.names)

    @property
    def first(self) -> str | None:
        """The first segment of every path that it matches; None: they differ, or have none."""
        if not self.segments or any(piece[0] == ":" for piece in _pieces(self.segments[0])):
            return None
        return self.segments[0]

    @property
    def pattern(self) -> str:
        """The same for routes that match the same paths."""
        return _pattern(self)

    @property
    def reserved(self) -> bool:
        return self.matched.startswith(RESERVED)


# What a component sees that another one calls directly: the whole path is its own.
CHAINED = Route("/...", (), wildcard=True, names=())


class Match(Generic[T]):
    """Where a path goes. The wildcard matched `path_info`, `route.names` stand for `values`."""

    __slots__ = ("path_info", "route", "target", "values")

    def __init__(
        self, route: Route, target: T, path_info: str = "", values: tuple[str, ...] = ()
    ) -> None:
        self.route = route
        self.target = target
        self.path_info = path_info
        self.values = values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Match) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return self.route, self.target, self.path_info, self.values


class Unreachable(NamedTuple, Generic[T]):
    """A route that no request reaches, and who gets its requests: None is the runtime itself."""

    route: Route
    target: T
    instead: T | None


class _Captures(NamedTuple, Generic[T]):
    """A route of the regular expression: the groups of its names, and that of its wildcard."""

    route: Route
    target: T
    names: tuple[int, ...]
    rest: int


class Router(Generic[T]):
    """Finds the route of a path. Immutable; `unreachable` is for the operator to be told."""

    __slots__ = ("_every", "_exact", "_find", "_found", "unreachable")

    def __init__(self, routes: Iterable[tuple[Route, T]]) -> None:
        reachable, self.unreachable = _reachable(routes)
        exact = [pair for pair in reachable if pair[0].exact]
        # An exact route beats every other one that matches the same path.
        self._exact = {"/".join(route.segments): Match(route, target) for route, target in exact}
        # The others are one regular expression: an alternative for each, in order of precedence.
        # Every alternative ends in an empty group, so `lastindex` tells which one has matched.
        self._found: dict[int, _Captures[T]] = {}
        alternatives, group = [], 1
        for route, target in sorted(reachable, key=lambda pair: _order(pair[0])):
            if route.exact:
                continue
            rest = group + len(route.names)
            last = rest + route.wildcard
            self._found[last] = _Captures(route, target, tuple(range(group, rest)), rest)
            alternatives.append(_pattern(route) + "()")
            group = last + 1
        self._find = re.compile("|".join(alternatives) or "(?!)", re.DOTALL).fullmatch
        # Most applications have one route, "/...".
        only = reachable[0] if len(reachable) == 1 else None
        self._every = only if only and only[0].wildcard and not only[0].segments else None

    def match(self, path: str) -> Match[T] | None:
        """The best route for a path without its query."""
        if self._every is not None and "//" not in path and path[:1] == "/":
            return Match(*self._every, path)
        trimmed = path.strip("/")
        known = self._exact.get(trimmed)
        if known is None and "//" in trimmed:
            known = self._exact.get(_SLASHES.sub("/", trimmed))
        if known is not None:
            return known
        found = self._find(trimmed)
        if found is None or found.lastindex is None:
            return None
        route, target, names, rest = self._found[found.lastindex]
        info = _path_info(found[rest] or "", path) if route.wildcard else ""
        # without the test, an empty tuple would cost as much as the search
        values = tuple([found[name] for name in names]) if names else ()
        return Match(route, target, info, values)


def _path_info(rest: str, path: str) -> str:
    slash = "/" if path.endswith("/") else ""
    return f"/{rest}{slash}" if rest else slash


def _pieces(segment: str) -> list[str]:
    return [piece for piece in segment.split(".") if piece]


def _check(text: str, segments: tuple[str, ...], names: tuple[str, ...]) -> None:
    for segment in segments:
        if segment in _WILDCARDS:
            raise ValueError(f'route "{text}": "{segment}" is possible at the end only')
        if segment.startswith("*") or segment.endswith("..."):
            raise ValueError(f'route "{text}": a wildcard is the segment "..." at the end')
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f'route "{text}": ":{name}" needs a name of letters, digits, "-", "_"')
        if names.count(name) > 1:
            raise ValueError(f'route "{text}": ":{name}" is there twice')


def _reachable(
    routes: Iterable[tuple[Route, T]],
) -> tuple[list[tuple[Route, T]], tuple[Unreachable[T], ...]]:
    """Of routes written alike the last declared counts, at the place of the first."""
    kept: dict[str, tuple[Route, T]] = {}
    lost: list[tuple[Route, T]] = []
    for route, target in routes:
        if route.text in kept:
            lost.append(kept[route.text])
        kept[route.text] = (route, target)
    # Routes written differently may still match the same paths: "/a" and "/a/", "/:x" and "/:y".
    first: dict[str, tuple[Route, T]] = {}
    reachable = []
    for route, target in kept.values():
        if route.reserved or first.setdefault(_pattern(route), (route, target))[0] is not route:
            lost.append((route, target))
        else:
            reachable.append((route, target))
    gone = tuple(Unreachable(r, t, None if r.reserved else first[_pattern(r)][1]) for r, t in lost)
    return reachable, gone


def _order(route: Route) -> tuple[tuple[int, ...], int, tuple[tuple[bool, ...], ...], int]:
    """Sort key: who comes first among routes that match the same path."""
    named = [[piece[0] == ":" for piece in _pieces(segment)] for segment in route.segments]
    ranks = tuple(_rank(pieces) for pieces in named)
    # A wildcard and the end of the route count the same here; the length decides between them.
    dots = sum(sum(pieces[:-1]) for pieces in named)
    pieces = tuple(tuple(p) for p in named)
    return (*ranks, _OPEN), -dots, pieces, len(ranks) + route.wildcard


def _rank(pieces: list[bool]) -> int:
    if not any(pieces):
        return _EXACT
    return _NAMED if pieces[0] else _EXACT_THEN_NAMED


def _pattern(route: Route) -> str:
    """A regular expression for trimmed paths: a group for each name, one for the wildcard.

    Possessive throughout: a path is read once, however it is made up.
    """
    fixed = "/++".join(_segment_pattern(segment) for segment in route.segments)
    if not route.wildcard:
        return fixed
    return f"{fixed}(?:/++(.*+))?" if fixed else "(.*+)"


def _segment_pattern(segment: str) -> str:
    pieces = segment.split(".")
    patterns = [re.escape(p) if p[:1] != ":" else "([^/.]++)" for p in pieces]
    if pieces[-1][:1] == ":":
        patterns[-1] = "([^/]++)"  # the last name takes the rest, dots included
    return r"\.".join(patterns)
