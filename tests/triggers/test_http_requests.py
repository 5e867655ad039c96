"""What a handler sees of a request."""

from __future__ import annotations

import asyncio

import pytest
from http_lab import HELLO, chunked, get, lab, post


async def test_a_request_arrives_whole() -> None:
    async with lab() as at:
        answer = await at.ask(get("/hello?a=b%20c", "X-A: 1", "x-a:2 \t", "X-Empty:"))
        (request,) = at.app.requests
        assert answer.body == b"hello"
        assert request.method == "GET"
        assert request.scheme == "http"
        assert request.authority == "test"
        assert request.target == "/hello?a=b%20c"
        assert request.headers == [
            (b"host", b"test"),
            (b"x-a", b"1"),
            (b"x-a", b"2"),
            (b"x-empty", b""),
        ]
        assert request.client.startswith("127.0.0.1:")
        assert request.body.exhausted


async def test_headers_of_the_connection_stay_on_it() -> None:
    async with lab() as at:
        await at.ask(
            get(
                "/",
                "Connection: keep-alive, X-Hop, host",
                "X-Hop: 1",
                "Keep-Alive: timeout=5",
                "Proxy-Connection: keep-alive",
                "TE: trailers",
                "Upgrade-Insecure-Requests: 1",
            )
        )
        names = [name for name, _ in at.app.requests[0].headers]
        assert names == [b"host", b"upgrade-insecure-requests"]


async def test_an_absolute_target_brings_its_authority() -> None:
    async with lab() as at:
        await at.ask(b"GET http://TEST:80/a?b HTTP/1.1\r\nHost: test:80\r\n\r\n")
        await at.ask(b"GET http://test?b HTTP/1.1\r\nHost: test\r\n\r\n")
        await at.ask(b"GET http://old/ HTTP/1.0\r\n\r\n")
        seen = [(r.authority, r.target) for r in at.app.requests]
        assert seen == [("TEST:80", "/a?b"), ("test", "/?b"), ("old", "/")]


async def test_http_1_0_needs_no_host() -> None:
    async with lab() as at:
        answer = await at.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert answer.headers["connection"] == "close"
        assert at.app.requests[0].authority == f"127.0.0.1:{at.port}"


async def test_options_for_the_whole_server_reach_no_application() -> None:
    async with lab() as at:
        answer = await at.ask(get("*", method="OPTIONS"))
        assert answer.status == 204
        assert not at.app.requests


async def test_unusual_methods_reach_the_application() -> None:
    async with lab() as at:
        for method in ("OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "PATCH"):
            assert (await at.ask(get("/record", method=method))).status == 200
            assert at.app.seen[-1][0] == method


async def test_bodies_with_a_length_and_in_chunks() -> None:
    async with lab() as at, await at.client() as client:
        assert (await client.ask(post(b"four"))).body == b"four"
        head = get("/echo", "Transfer-Encoding: chunked", method="POST")
        assert (await client.ask(head + chunked(b"a", b"bc" * 5000))).body == b"a" + b"bc" * 5000
        assert (await client.ask(head + chunked(end=b"000\r\n\r\n"))).body == b""
        assert (await client.ask(post(b""))).body == b""


async def test_trailers_follow_the_body() -> None:
    async with lab() as at, await at.client() as client:
        head = get("/echo", "Transfer-Encoding: chunked", method="POST")
        end = b"0\r\nX-Sum: 7\r\nHost: evil\r\n\r\n"
        answer = await client.ask(head + chunked(b"x", end=end))
        assert answer.trailers == {"x-sum": "7"}
        names = [name for name, _ in at.app.requests[0].headers]
        assert b"x-sum" not in names
        assert (await client.ask(HELLO)).status == 200


async def test_a_request_in_single_bytes_is_the_same_request() -> None:
    body = b"\r\n\r\n" * 3 + b"x"
    data = post(body, "/record", "X: 1")
    data += get("/record", "Transfer-Encoding: chunked", method="POST") + chunked(body, body)
    data += get("/record?last")
    async with lab() as at, await at.client() as client:
        for byte in data:
            client.send(bytes((byte,)))
            await client.writer.drain()
            await asyncio.sleep(0)
        for _ in range(3):
            assert (await client.answer()).status == 200
        assert at.app.seen == [
            ("POST", "/record", body),
            ("POST", "/record", body + body),
            ("GET", "/record?last", b""),
        ]


async def test_a_body_is_invited_when_it_is_read() -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/echo", "Content-Length: 4", "Expect: 100-continue", method="POST"))
        assert await client.head() == (100, {})
        assert (await client.ask(b"four")).body == b"four"
        assert (await client.ask(HELLO)).status == 200


async def test_a_body_that_is_not_wanted_is_not_invited() -> None:
    async with lab() as at, await at.client() as client:
        head = get("/unread", "Content-Length: 4", "Expect: 100-continue", method="POST")
        answer = await client.ask(head)
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""


async def test_a_body_that_does_not_wait_is_not_invited() -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(post(b"four", "/echo", "Expect: 100-Continue"))
        assert (answer.status, answer.body) == (200, b"four")
        assert "connection" not in answer.headers


async def test_an_upgrade_is_ignored_and_its_body_is_a_body() -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    inner = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"
    async with lab() as at, await at.client() as client:
        assert (await client.ask(get("/record", *upgrade))).status == 200
        assert (await client.ask(post(inner, "/record", *upgrade))).status == 200
        head = get("/record", *upgrade, "Transfer-Encoding: chunked", method="POST")
        assert (await client.ask(head + chunked(inner))).status == 200
        assert (await client.ask(get("/record"))).status == 200
        assert [body for _, _, body in at.app.seen] == [b"", inner, inner, b""]
        assert {name for r in at.app.requests for name, _ in r.headers} == {
            b"host",
            b"content-length",
        }


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/slow/1") + post(b"x", "/echo") + get("/slow/2") + get("/hello"))
        await asyncio.sleep(0.05)
        assert len(at.app.requests) == 1, "one at a time"
        at.app.gate.set()
        bodies = [(await client.answer()).body for _ in range(4)]
        assert bodies == [b"/slow/1", b"x", b"/slow/2", b"hello"]


@pytest.mark.parametrize("size", [65_537, 131_072, 262_144, 3_000_001])
async def test_what_follows_a_large_body_is_the_next_request(size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    async with lab() as at, await at.client() as client:
        client.send(post(body[:size], "/record") + post(body, "/record") + get("/hello") * 6_000)
        for sent in (size, len(body)):
            assert (await client.answer()).body == b"%d" % sent
        for _ in range(6_000):
            assert (await client.answer()).body == b"hello"
        assert [seen for _, _, seen in at.app.seen] == [body[:size], body]


async def test_pipelined_input_is_bounded() -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/slow"))
        pad = "X: " + "x" * 1000
        for _ in range(20_000):
            client.send(get("/hello", pad))
        await asyncio.sleep(0.3)
        (connection,) = at.server.connections
        assert len(connection._input) < 200_000
        assert not connection._transport.is_reading()
        at.app.gate.set()
        for _ in range(20_001):
            assert (await client.answer()).status == 200


async def test_the_handler_can_be_swapped_between_requests() -> None:
    async with lab() as at, await at.client() as client:
        assert (await client.ask(HELLO)).status == 200
        at.server.handler = at.app.full
        assert (await client.ask(HELLO)).status == 503
