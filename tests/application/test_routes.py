"""Routes, by example and against a slow oracle written from Spin's rules."""

from __future__ import annotations

from functools import cmp_to_key

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.application.routes import Match, Route, Router


def router(*routes: str) -> Router[int]:
    return Router((Route.parse(text), index) for index, text in enumerate(routes))


def best(path: str, *routes: str) -> str | None:
    match = router(*routes).match(path)
    return match.route.text if match else None


def info(path: str, route: str) -> str | None:
    match = router(route).match(path)
    return match.path_info if match else None


@pytest.mark.parametrize("path", ["/a/b", "/a/b/", "//a//b//", "a/b"])
def test_an_exact_route_matches_with_and_without_slashes_around(path: str) -> None:
    assert best(path, "/a/b") == "/a/b"
    assert best(path, "/a/b/") == "/a/b/"
    assert best(path, "a/b") == "a/b"


@pytest.mark.parametrize("path", ["/", "/a", "/a/bc", "/a/b/c", "/ab", "/A/b", "/a%2Fb"])
def test_an_exact_route_matches_nothing_else(path: str) -> None:
    assert best(path, "/a/b") is None


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/test", ""),
        ("/test/", "/"),
        ("/test/hello", "/hello"),
        ("/test/hello/", "/hello/"),
        ("/test/a/b", "/a/b"),
        ("/test//a//b", "/a//b"),
        ("/testing", None),
        ("/", None),
    ],
)
def test_a_wildcard_captures_the_rest_of_the_path(path: str, expected: str | None) -> None:
    assert info(path, "/test/...") == expected
    assert info(path, "/test/*") == expected


@pytest.mark.parametrize(("path", "expected"), [("/", "/"), ("/a", "/a"), ("/a/", "/a/"), ("", "")])
def test_the_root_wildcard_captures_everything(path: str, expected: str) -> None:
    assert info(path, "/...") == expected


@given(path=st.text("/a.?", max_size=8), text=st.sampled_from(["/...", "*", "..."]))
def test_the_root_wildcard_alone_is_as_among_others(path: str, text: str) -> None:
    alone, among = router(text).match(path), router(text, "/never/seen").match(path)
    assert alone is not None
    assert alone == among


def test_names_capture_a_segment_each() -> None:
    match = router("/:a/x/:b/...").match("/1/x/2.5/rest")
    assert match is not None
    assert dict(zip(match.route.names, match.values, strict=True)) == {"a": "1", "b": "2.5"}
    assert match.path_info == "/rest"
    assert router("/:a/x").match("//x") is None


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/data.json", ("data",)),
        ("/data.xml", None),
        ("/data", None),
        ("/a.b.json", None),
        ("/.json", None),
    ],
)
def test_a_name_may_be_followed_by_a_dot(path: str, values: tuple[str, ...] | None) -> None:
    match = router("/:name.json").match(path)
    assert (match.values if match else None) == values


def test_the_last_name_of_a_segment_takes_its_dots() -> None:
    match = router("/:a.:b").match("/x.tar.gz")
    assert match is not None
    assert match.values == ("x", "tar.gz")


@pytest.mark.parametrize(
    ("path", "routes", "expected"),
    [
        ("/one", ["/...", "/one"], "/one"),
        ("/one/two/three/four", ["/one/...", "/one/two/...", "/one/two/three/..."], 2),
        ("/foo/123", ["/foo/...", "/foo/:bar"], "/foo/:bar"),
        ("/foo", ["/foo/...", "/foo"], "/foo"),
        ("/foo/", ["/foo/...", "/foo"], "/foo"),
        ("/a/b", ["/:x/b", "/a/:y"], "/a/:y"),
        ("/a/b", ["/:x/...", "/a/..."], "/a/..."),
        ("/a/b", ["/:x/b", "/a/..."], "/a/..."),
        ("/data.json", ["/:x", "/:x.json"], "/:x.json"),
        ("/data.json", ["/:x.:y", "/:x.json"], "/:x.json"),
        ("/data.json", ["/:x.:y", "/data.:y"], "/data.:y"),
        ("/a/b/c", ["/:x/...", "/:x/:y/..."], "/:x/:y/..."),
        ("/hey/earth/more", ["/*", "/:greeting", "/hey/:w", "/:greeting/:world/*"], 3),
    ],
)
def test_the_most_specific_route_wins(path: str, routes: list[str], expected: str | int) -> None:
    wanted = routes[expected] if isinstance(expected, int) else expected
    assert best(path, *routes) == wanted
    assert best(path, *reversed(routes)) == wanted


def test_of_the_same_route_the_last_declared_wins() -> None:
    routes = router("/", "/foo", "/foo", "/whee/...")
    match = routes.match("/foo")
    assert match is not None
    assert match.target == 2
    assert [(lost.target, lost.instead) for lost in routes.unreachable] == [(1, 2)]


def test_of_routes_that_match_alike_the_first_declared_wins() -> None:
    routes = router("/a/:x", "/a/:y", "/b/", "/b")
    assert [(lost.target, lost.instead) for lost in routes.unreachable] == [(1, 0), (3, 2)]
    match = routes.match("/b")
    assert match is not None
    assert match.target == 2


@pytest.mark.parametrize(
    ("route", "reserved"),
    [
        ("/.well-known/spin/...", True),
        ("/.well-known/spin/fie", True),
        ("/.well-known/spindle/...", False),
        ("/.well-known/spin", False),
    ],
)
def test_routes_of_the_runtime_are_not_reachable(*, route: str, reserved: bool) -> None:
    routes = router(route)
    assert bool(routes.unreachable) is reserved
    assert (routes.match(route.replace("...", "x")) is None) is reserved


def test_an_exact_match_costs_no_new_object() -> None:
    routes = router("/a", "/...")
    assert routes.match("/a") is routes.match("/a/")


@pytest.mark.parametrize(
    "route", ["/a/.../b", "/*/b", "/*x", "/a...", "/:", "/:a:/", "/:a/:a", "/a b", "/a?b", "/a#b"]
)
def test_what_is_not_a_route_is_refused(route: str) -> None:
    with pytest.raises(ValueError, match="route"):
        Route.parse(route)


# The oracle: each rule of the grammar as it is said, one route after another.

Captured = tuple[str, tuple[str, ...]]


def captured(route: Route, path: str) -> Captured | None:
    """What a route captures of a path, found piece by piece."""
    parts = [part for part in path.split("/") if part]
    fixed = [segment for segment in route.text.split("/") if segment]
    wildcard = fixed[-1:] in (["..."], ["*"])
    if wildcard:
        fixed.pop()
    if len(parts) < len(fixed) or (not wildcard and len(parts) > len(fixed)):
        return None
    values: list[str] = []
    for segment, part in zip(fixed, parts, strict=False):
        if (found := named(segment.split("."), part)) is None:
            return None
        values += found
    if not wildcard:
        return "", tuple(values)
    rest = path.strip("/")
    for part in parts[: len(fixed)]:
        rest = rest.removeprefix(part).lstrip("/")
    slash = "/" if path.endswith("/") else ""
    return (f"/{rest}{slash}" if rest else slash), tuple(values)


def named(pieces: list[str], part: str) -> list[str] | None:
    if not any(piece.startswith(":") for piece in pieces):
        return [] if ".".join(pieces) == part else None
    piece, *others = pieces
    if not others:
        if piece.startswith(":"):
            return [part] if part else None
        return [] if piece == part else None
    first, dot, rest = part.partition(".")
    if not dot or not (first == piece or (piece.startswith(":") and first)):
        return None
    found = named(others, rest)
    return None if found is None else [first] * piece.startswith(":") + found


def before(mine: Route, other: Route) -> int:
    """Exact, then named, then wildcard, segment by segment; more dots; the shorter; declared."""

    def classes(route: Route) -> list[int]:
        kinds = []
        for segment in route.segments:
            pieces = [piece.startswith(":") for piece in segment.split(".")]
            kinds.append(0 if not any(pieces) else 2 if pieces[0] else 1)
        return kinds + [3] * route.wildcard

    for a, b in zip(classes(mine), classes(other), strict=False):
        if a != b:
            return a - b
    # only dots behind names count: one behind a fixed piece belongs to that piece
    dots = [
        sum(piece.startswith(":") for segment in r.segments for piece in segment.split(".")[:-1])
        for r in (mine, other)
    ]
    if dots[0] != dots[1]:
        return dots[1] - dots[0]
    for a, b in zip(mine.segments, other.segments, strict=False):
        for p, q in zip(a.split("."), b.split("."), strict=False):
            if p.startswith(":") != q.startswith(":"):
                return -1 if q.startswith(":") else 1
    return len(classes(mine)) - len(classes(other))


def slow(routes: list[str], path: str) -> Match[int] | None:
    last = {text: index for index, text in enumerate(routes)}
    unique = [(Route.parse(text), last[text]) for text in dict.fromkeys(routes)]
    found = [(r, i, c) for r, i in unique if (c := captured(r, path)) is not None]
    if not found:
        return None
    ordered = sorted(found, key=cmp_to_key(lambda a, b: before(a[0], b[0])))  # stable
    route, index, (rest, values) = ordered[0]
    return Match(route, index, rest, values)


pieces = st.sampled_from(["a", "b", "ab", ":x", ":y", "a.b", ":x.a", ":x.:y", "a.:y", ":y.b"])
slashes = st.sampled_from(["/", "/", "/", "//"])


@st.composite
def routes(draw: st.DrawFn) -> str:
    segments = draw(st.lists(pieces, max_size=4))
    names = [p for s in segments for p in s.split(".") if p[0] == ":"]
    if len(names) != len(set(names)):
        segments = segments[:1]
    end = draw(st.sampled_from(["", "", "/", "/...", "/*"]))
    return "/" + "/".join(segments) + (end if segments else end.removeprefix("/"))


@st.composite
def paths(draw: st.DrawFn) -> str:
    part = st.sampled_from(["a", "b", "ab", "a.b", "c", "a.b.c", ".a", "a.", "%20", "ä"])
    path = "".join(draw(slashes) + draw(part) for _ in range(draw(st.integers(0, 5))))
    return path + draw(st.sampled_from(["", "", "/", "//"]))


@settings(max_examples=1500)
@given(st.lists(routes(), max_size=8), paths())
def test_the_router_agrees_with_the_oracle(texts: list[str], path: str) -> None:
    assert router(*texts).match(path) == slow(texts, path)


@given(st.text(max_size=40))
def test_any_text_is_a_route_or_refused(text: str) -> None:
    try:
        route = Route.parse(text)
    except ValueError:
        return
    Router([(route, 0)]).match(text)


def test_a_hostile_path_costs_linear_time() -> None:
    routes = router("/:a/:b/:c/:d/x", "/:a.:b.:c.:d/y", "/:a/:b.z/...")
    assert routes.match("/" + "a/" * 50_000) is None
    assert routes.match("/" + "a." * 50_000) is None
    assert routes.match("/" * 100_000) is None
