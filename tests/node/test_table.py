"""Which application a request is for: hosts, mounts, shared routes. Nothing here runs a guest."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.application.routes import Route, Router
from edge.config import Mount
from edge.errors import ConfigError
from edge.node.table import Mounted, Table, host_of


def app(name: str, *routes: str, path: str = "/", host: str | None = None) -> Mounted[str]:
    return Mounted(Mount(path, host), tuple(map(Route.parse, routes or ("/...",))), name)


def table(**applications: Mounted[str]) -> Table[str]:
    return Table[str]().change(applications)


# --- mounts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/", ("root", "")),
        ("/thermo", ("thermo", "/thermo")),
        ("/thermo/", ("thermo", "/thermo")),
        ("/thermo/a/b", ("thermo", "/thermo")),
        ("/thermometer", ("root", "")),
        ("/thermo/deep/er", ("deep", "/thermo/deep/er")),
        ("/thermo/deep/er/x/y/z/" + "a/" * 5000, ("deep", "/thermo/deep/er")),
        ("/thermo/deep", ("thermo", "/thermo")),
        ("//thermo", ("root", "")),
        ("/Thermo", ("root", "")),
        ("", ("root", "")),
        ("*", ("root", "")),
    ],
)
def test_the_deepest_mount_wins_at_the_end_of_a_segment(path: str, found: object) -> None:
    mounts = table(
        root=app("root"),
        thermo=app("thermo", path="/thermo"),
        deep=app("deep", path="/thermo/deep/er"),
    )
    assert mounts.find("any", path) == found


def test_the_deepest_mount_is_final_even_where_it_has_no_route() -> None:
    mounts = table(root=app("root"), a=app("a", "/one", path="/a"), b=app("b", "/two", path="/a"))
    assert mounts.find("", "/a/one") == ("a", "/a")
    assert mounts.find("", "/a/two") == ("b", "/a")
    assert mounts.find("", "/a/three") is None
    # One application answers for itself what it has no route for.
    assert table(a=app("a", "/one", path="/a")).find("", "/a/three") == ("a", "/a")


def test_without_a_mount_nobody_answers() -> None:
    assert Table[str]().find("x", "/") is None
    assert table(a=app("a", path="/a")).find("x", "/b") is None


def test_a_host_with_a_mount_has_no_others() -> None:
    mounts = table(
        all=app("all"),
        own=app("own", host="thermo.local"),
        below=app("below", path="/x", host="other.local"),
    )
    assert mounts.find("thermo.local:8080", "/x") == ("own", "")
    assert mounts.find("THERMO.local.", "/") == ("own", "")
    assert mounts.find("other.local", "/x/1") == ("below", "/x")
    assert mounts.find("other.local", "/y") is None
    assert mounts.find("third.local", "/y") == ("all", "")
    assert mounts.find("", "/y") == ("all", "")


@pytest.mark.parametrize(
    ("authority", "host"),
    [
        ("a.b:80", "a.b"),
        ("A.B", "a.b"),
        ("a.b.:80", "a.b"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("", ""),
        (":80", ""),
    ],
)
def test_the_host_of_an_authority(authority: str, host: str) -> None:
    assert host_of(authority) == host


def test_an_application_without_routes_is_in_nobodys_way() -> None:
    mounts = table(web=app("web"), events=Mounted(Mount(), (), "events"))
    assert mounts.only == "web"
    assert mounts.find("", "/x") == ("web", "")


def test_the_only_application_needs_no_look() -> None:
    one = table(web=app("web"))
    assert one.only == "web"
    two = one.change({"x": app("x", path="/x")})
    assert two.only is None
    assert two.change({"x": None}).only == "web"
    assert one.change({"web": app("web", host="h")}).only is None
    assert one.change({"web": app("web", path="/p")}).only is None


# --- shared mounts ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [("/a", "/a"), ("/a", "/a/"), ("/:x", "/:y"), ("/a/...", "a/*"), ("/...", "/*"), ("/", "/")],
)
def test_routes_that_match_the_same_paths_conflict(one: str, other: str) -> None:
    first = table(first=app("first", one, path="/m"))
    with pytest.raises(ConfigError) as raised:
        first.change({"second": app("second", other, "/unrelated", path="/m")})
    assert raised.value.message == (
        f"application second: its route {other} is that of application first (mount /m)"
    )
    assert raised.value.hint == "give one of them another mount"
    assert first.find("", "/m/unrelated") == ("first", "/m"), "nothing has changed"
    first.change({"second": app("second", other, path="/n")})
    first.change({"second": app("second", other, path="/m", host="h")})


def test_a_conflict_on_a_host_names_it() -> None:
    with pytest.raises(ConfigError, match=r"\(mount thermo\.local/\)"):
        table(a=app("a", "/x", host="thermo.local"), b=app("b", "/x", host="thermo.local"))


def test_a_conflict_names_the_other_whatever_the_order() -> None:
    both = {"b": app("b", "/x"), "a": app("a", "/x")}
    with pytest.raises(ConfigError, match="application a: its route /x is that of application b"):
        Table[str]().change(both)


def test_applications_may_exchange_routes_and_mounts_in_one_change() -> None:
    mounts = table(a=app("a", "/x"), b=app("b", "/y"), c=app("c", path="/c"))
    turned = mounts.change({"a": app("a", "/y"), "b": app("b", "/x")})
    assert turned.find("", "/x") == ("b", "")
    moved = turned.change({"a": app("a", path="/c"), "c": app("c", "/y")})
    assert moved.find("", "/c/1") == ("a", "/c")
    assert moved.find("", "/y") == ("c", "")


def test_what_an_application_gave_up_another_may_have() -> None:
    mounts = table(a=app("a", "/x", "/y"), b=app("b", "/z"))
    smaller = mounts.change({"a": app("a", "/x")})
    assert smaller.find("", "/y") is None
    assert smaller.change({"b": app("b", "/y", "/z")}).find("", "/y") == ("b", "")
    assert smaller.change({"a": None}).find("", "/z") == ("b", "")


def test_a_new_version_with_the_same_routes_is_found_where_the_old_was() -> None:
    mounts = table(a=app("a", "/x/:n"), b=app("b", "/:m/y"))
    newer = mounts.change({"a": app("a2", "/x/:n")})
    assert newer.find("", "/x/y") == ("a2", "")
    assert mounts.find("", "/x/y") == ("a", ""), "the table before is as it was"


SEGMENT = st.sampled_from(["a", "b", "a.b", ":p", ":q.json", "x.:p"])
ROUTE = st.builds(
    lambda segments, wildcard: "/" + "/".join([*segments, *(["..."] if wildcard else [])]),
    st.lists(SEGMENT, max_size=3, unique=True),
    st.booleans(),
)
PATH = st.lists(st.sampled_from(["a", "b", "a.b", "x.y", "z.json", "", "c"]), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def _parsed(texts: list[str]) -> tuple[Route, ...]:
    found = []
    for text in texts:
        try:
            found.append(Route.parse(text))
        except ValueError:  # a name that is there twice
            continue
    return tuple({route.pattern: route for route in found}.values())


@given(
    routes=st.lists(ROUTE, min_size=1, max_size=12).map(_parsed),
    owners=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    paths=st.lists(PATH, min_size=1, max_size=12),
    removed=st.integers(0, 5),
)
def test_shared_routes_are_those_of_one_router(
    routes: tuple[Route, ...], owners: list[int], paths: list[str], removed: int
) -> None:
    """Many applications on one mount answer as one application with all their routes would."""
    by_owner: dict[str, list[Route]] = {}
    for route, owner in zip(routes, owners, strict=False):
        by_owner.setdefault(f"app{owner}", []).append(route)
    mounts = Table[str]()
    for name, own in by_owner.items():
        mounts = mounts.change({name: Mounted(Mount(), tuple(own), name)})
    _agree(mounts, by_owner, paths)
    gone = f"app{removed}"
    if by_owner.pop(gone, None):
        _agree(mounts.change({gone: None}), by_owner, paths)


def _agree(mounts: Table[str], by_owner: Mapping[str, list[Route]], paths: list[str]) -> None:
    # In the order of the names, which decides between routes of equal precedence.
    pairs = [(route, name) for name in sorted(by_owner) for route in by_owner[name]]
    oracle = Router(pairs)
    for path in paths:
        match = oracle.match(path)
        found = mounts.find("", path)
        if len(by_owner) == 1:
            assert found == (next(iter(by_owner)), "")
        else:
            assert (found and found[0]) == (match and match.target), path


# --- many ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mounted", [False, True], ids=["shared", "mounted"])
def test_one_of_a_thousand_is_swapped_in_milliseconds(mounted: bool) -> None:
    def one(n: int, target: str) -> Mounted[str]:
        if mounted:
            return app(target, path=f"/app{n}")
        return app(target, f"/app{n}/...", f"/app{n}/items/:id")

    mounts = Table[str]().change({f"app{n}": one(n, f"app{n}") for n in range(1000)})
    best = min(_timed(mounts, one) for _ in range(5))
    assert best < 0.05, "a rebuild of everything takes longer"
    _, base = mounts.find("", "/app999/x") or ("", "")
    assert base == ("/app999" if mounted else "")


def _timed(mounts: Table[str], one: object) -> float:
    assert callable(one)
    started = time.perf_counter()
    changed = mounts.change({"app500": one(500, "newer")})
    elapsed = time.perf_counter() - started
    assert (changed.find("", "/app500/x") or ("",))[0] == "newer"
    assert (changed.find("", "/app501/x") or ("",))[0] == "app501"
    return elapsed
