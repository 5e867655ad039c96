"""The headers a guest gets about its route."""

from __future__ import annotations

import pytest

from edge.application.headers import RequestHeaders
from edge.application.routes import CHAINED, Match, Route, Router


def headers(
    route: str,
    path: str,
    sent: list[tuple[bytes, bytes]] | None = None,
    *,
    base_path: str = "/",
) -> list[tuple[bytes, bytes]]:
    parsed = Route.parse(route)
    match = Router([(parsed, "target")]).match(path)
    assert match is not None
    return RequestHeaders(parsed, base_path=base_path).add(
        sent or [], match, url=f"http://a.example{path}?q=1", client="127.0.0.1:8777"
    )


def test_a_wildcard_route_with_a_name() -> None:
    assert dict(headers("/foo/:userID/...", "/foo/42/bar/")) == {
        b"spin-full-url": b"http://a.example/foo/42/bar/?q=1",
        b"spin-path-info": b"/bar/",
        b"spin-matched-route": b"/foo/:userID/...",
        b"spin-base-path": b"/",
        b"spin-raw-component-route": b"/foo/:userID/...",
        b"spin-component-route": b"/foo/:userID",
        b"spin-client-addr": b"127.0.0.1:8777",
        b"spin-path-match-userid": b"42",
    }


@pytest.mark.parametrize(
    ("route", "path", "matched", "component", "info"),
    [
        ("/a/b", "/a/b", b"/a/b", b"/a/b", b""),
        ("/a/b/", "/a/b", b"/a/b", b"/a/b/", b""),
        ("a", "/a", b"/a", b"a", b""),
        ("/", "/", b"/", b"/", b""),
        ("/...", "/", b"/...", b"", b"/"),
        ("/a/*", "/a/b", b"/a/*", b"/a/*", b"/b"),
    ],
)
def test_what_a_route_is_called(
    route: str, path: str, matched: bytes, component: bytes, info: bytes
) -> None:
    found = dict(headers(route, path))
    assert found[b"spin-matched-route"] == matched
    assert found[b"spin-raw-component-route"] == route.encode()
    assert found[b"spin-component-route"] == component
    assert found[b"spin-path-info"] == info


def test_a_client_has_no_say_in_ours() -> None:
    sent = [
        (b"host", b"a.example"),
        (b"spin-path-info", b"/forged"),
        (b"spin-client-addr", b"10.0.0.1:1"),
        (b"spin-path-match-other", b"forged"),
        (b"connection", b"keep-alive"),
        (b"spin-mine", b"kept"),
        (b"accept", b"a"),
        (b"accept", b"b"),
    ]
    found = headers("/:id", "/7", sent)
    assert found[:4] == [
        (b"host", b"a.example"),
        (b"spin-mine", b"kept"),
        (b"accept", b"a"),
        (b"accept", b"b"),
    ]
    names = [name for name, _ in found]
    assert names.count(b"spin-path-info") == 1
    assert dict(found)[b"spin-client-addr"] == b"127.0.0.1:8777"
    assert b"spin-path-match-other" not in names


def test_a_mount_is_in_front_of_the_route() -> None:
    found = dict(headers("/a/...", "/a/b", base_path="/thermo"))
    assert found[b"spin-base-path"] == b"/thermo"
    assert found[b"spin-matched-route"] == b"/thermo/a/..."
    assert found[b"spin-raw-component-route"] == b"/a/..."


def test_a_chained_request_has_the_whole_path_to_itself() -> None:
    match = Match(CHAINED, "target", "/x/y")
    found = RequestHeaders(CHAINED).add(
        [], match, url="http://b.spin.internal/x/y", client="0.0.0.0:0"
    )
    assert dict(found)[b"spin-path-info"] == b"/x/y"
    assert dict(found)[b"spin-matched-route"] == b"/..."


def test_text_beyond_latin_1_is_sent_as_utf_8() -> None:
    assert dict(headers("/☃", "/☃"))[b"spin-matched-route"] == "/☃".encode()
