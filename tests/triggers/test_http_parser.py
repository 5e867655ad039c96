"""The parser alone: where bytes are cut must not matter."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from http_lab import chunked, get, post
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import HttpSettings
from edge.triggers.http.failure import Refused
from edge.triggers.http.parser import Phase, RequestParser
from edge.wasi.pipe import Pipe

Seen = tuple[str, str, bytes, list[tuple[bytes, bytes]], list[tuple[bytes, bytes]] | None]


def parse(pieces: Iterable[bytes], **limits: int) -> tuple[list[Seen], int]:
    """The requests, and the status with which the rest was refused (0: it was not)."""
    parser = RequestParser(HttpSettings(**limits))
    seen: list[Seen] = []
    for piece in pieces:
        at = 0
        while at < len(piece):
            before = at
            try:
                if len(piece) - at <= parser.sure():
                    parser.feed_body(memoryview(piece)[at:])
                    at = len(piece)
                else:
                    at = parser.feed(piece, at)
            except Refused as refusal:
                return seen, refusal.status
            assert at > before
            if parser.phase is Phase.BODY and parser.body is None:
                parser.body = Pipe(1 << 30)
            if parser.phase is Phase.DONE:
                seen.append(_seen(parser))
                parser.reset()
    return seen, 0


def _seen(parser: RequestParser) -> Seen:
    body, content = parser.body, b""
    if body is not None:
        while data := body.read_nowait(1 << 30):
            content += data
        assert body.exhausted
    trailers = None if body is None else body.trailers
    return parser.method, parser.target, content, parser.headers, trailers


CHUNKED = "Transfer-Encoding: chunked"
AWKWARD = b"\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n\r"
REQUESTS = (
    get("/1"),
    post(AWKWARD, "/2"),
    get("/3", CHUNKED, method="POST") + chunked(AWKWARD, b"x", AWKWARD),
    get("/4", CHUNKED, method="POST") + chunked(b"\r\n\r", end=b"0;e=1\r\nT: 1\r\nU: 2\r\n\r\n"),
    b"\r\n\r\n" + get("/5", "Content-Length: 0"),
    post(AWKWARD, "/6", "Connection: upgrade", "Upgrade: x"),
    get("/7", CHUNKED, "Connection: upgrade", "Upgrade: x") + chunked(AWKWARD),
    get("/8", "Connection: upgrade", "Upgrade: x"),
)


@settings(max_examples=300)
@given(
    requests=st.lists(st.sampled_from(REQUESTS), max_size=6),
    cuts=st.lists(st.integers(0, 1500), max_size=30),
)
def test_requests_are_the_same_however_they_arrive(requests: list[bytes], cuts: list[int]) -> None:
    data = b"".join(requests)
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    expected = [parse([request]) for request in requests]
    assert all(len(seen) == 1 and not status for seen, status in expected)
    assert parse(pieces) == ([seen[0] for seen, _ in expected], 0)


def test_requests_are_the_same_in_single_bytes() -> None:
    data = b"".join(REQUESTS)
    seen, status = parse(data[i : i + 1] for i in range(len(data)))
    assert status == 0
    assert seen == parse([data])[0]
    assert [target for _, target, *_ in seen] == [f"/{i}" for i in range(1, 9)]


def test_what_is_kept_between_two_pieces_is_bounded() -> None:
    """A client that sends byte by byte cannot make the parser hold more than a head."""
    for begin in (b"GET /", b"GET / HTTP/1.1\r\nA: "):
        _, status = parse([begin] + [b"a" * 100] * 11, max_head=1000, max_target=500)
        assert status in (414, 431)
    head = get("/", CHUNKED)
    for begin in (b"5;a=", b"0\r\nA: ", b"0\r\n"):
        fill = b"A: b\r\n" * 20 if begin.endswith(b"\n") else b"a" * 100
        _, status = parse([head, begin] + [fill] * 11, max_head=1000)
        assert status == 431


@pytest.mark.parametrize("size", [1, 100, 65_536])
def test_framing_does_not_count_as_a_head(size: int) -> None:
    body = [b"x" * size] * 200
    seen, status = parse([get("/", CHUNKED), *(chunked(c, end=b"") for c in body), b"0\r\n\r\n"])
    assert status == 0
    assert len(seen[0][2]) == size * 200
