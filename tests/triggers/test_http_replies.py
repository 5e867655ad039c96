"""How a reply looks on the wire, whatever the handler does."""

from __future__ import annotations

import json
import logging

import pytest
from http_lab import HELLO, get, lab, post


async def test_a_small_reply_has_a_length_and_a_date() -> None:
    async with lab() as at:
        answer = await at.ask(HELLO)
        assert answer.headers.keys() == {"content-type", "date", "content-length"}
        assert answer.headers["content-length"] == "5"
        assert answer.headers["date"].endswith(" GMT")


async def test_a_reply_that_goes_on_is_streamed_in_chunks() -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/twice"))
        status, headers = await client.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert await client.reader.readexactly(8) == b"3\r\none\r\n"
        at.app.gate.set()
        assert await client.reader.readexactly(13) == b"3\r\ntwo\r\n0\r\n\r\n"
        assert (await client.ask(HELLO)).status == 200


async def test_http_1_0_gets_no_chunks() -> None:
    async with lab() as at, await at.client() as client:
        at.app.gate.set()
        answer = await client.ask(get("/twice", "Connection: keep-alive", version="1.0"))
        assert answer.body == b"onetwo"
        if "content-length" not in answer.headers:
            assert answer.headers["connection"] == "close"


async def test_http_1_0_may_keep_its_connection() -> None:
    async with lab() as at, await at.client() as client:
        for _ in range(2):
            answer = await client.ask(get("/", "Connection: keep-alive", version="1.0"))
            assert answer.headers["connection"] == "keep-alive"
        assert (await client.ask(get("/", version="1.0"))).headers["connection"] == "close"
        assert await client.closed() == b""


async def test_a_client_that_wants_to_close_is_closed() -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(get("/", "Connection: close"))
        assert answer.headers["connection"] == "close"
        assert await client.closed() == b""


async def test_a_request_after_the_last_one_is_not_served() -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(get("/", "Connection: close") + get("/"))
        assert answer.status == 200
        assert await client.closed() in (b"", b"(reset)")
        assert len(at.app.requests) == 1


async def test_head_has_the_headers_of_get_and_no_body() -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(get("/hello", method="HEAD"), head=True)
        assert answer.headers["content-length"] == "5"
        at.app.reply_headers = [(b"content-length", b"1234")]
        answer = await client.ask(get("/headers", method="HEAD"), head=True)
        assert answer.headers["content-length"] == "1234"
        answer = await client.ask(get("/bug", method="HEAD"), head=True)
        assert answer.status == 500
        at.app.gate.set()
        answer = await client.ask(get("/twice", method="HEAD"), head=True)
        assert answer.status == 200
        assert (await client.ask(HELLO)).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_none(status: int) -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(get(f"/status/{status}"))
        assert answer.status == status
        assert "transfer-encoding" not in answer.headers
        assert (status == 204) <= ("content-length" not in answer.headers)
        assert (await client.ask(HELLO)).body == b"hello"


async def test_unknown_statuses_pass() -> None:
    async with lab() as at:
        assert (await at.ask(get("/status/799"))).status == 799


async def test_a_guest_cannot_frame_its_reply() -> None:
    async with lab() as at, await at.client() as client:
        at.app.reply_headers = [
            (b"Transfer-Encoding", b"chunked"),
            (b"connection", b"close"),
            (b"keep-alive", b"1"),
            (b"Upgrade", b"h2c"),
            (b"content-length", b"5"),
            (b"Content-Length", b" 5"),
            (b"date", b"then"),
            (b"x-ok", b"\xc3\xa4"),
        ]
        answer = await client.ask(get("/headers"))
        assert answer.headers == {"content-length": "5", "date": "then", "x-ok": "Ã¤"}
        assert (await client.ask(HELLO)).status == 200


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nset-cookie: b"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\0b"),
        (b"x\r\ny", b"a"),
        (b"x: y", b"a"),
        (b"x ", b"a"),
        (b"", b"a"),
        (b"content-length", b"-1"),
        (b"content-length", b"1, 2"),
        (b"content-length", b"9" * 30),
    ],
    ids=repr,
)
async def test_a_guest_cannot_inject_headers(
    header: tuple[bytes, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async with lab() as at, await at.client() as client:
        at.app.reply_headers = [header]
        assert (await client.ask(get("/headers"))).status == 500
        assert (await client.ask(HELLO)).status == 200
    assert "ValueError" in caplog.text


async def test_a_length_that_is_not_kept_is_no_clean_reply() -> None:
    async with lab() as at, await at.client() as client:
        assert (await client.ask(get("/long"))).status == 500
        assert (await client.ask(get("/short"))).status == 500
        assert (await client.ask(HELLO)).status == 200


async def test_trailers_are_sent_in_chunks() -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(get("/trailers"))
        assert (answer.body, answer.trailers) == (b"hello", {"x-sum": "5"})
        answer = await client.ask(get("/trailers", version="1.0"))
        assert (answer.body, answer.trailers) == (b"hello", {})


async def test_a_failure_before_the_head_left_is_a_status() -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(get("/early"))
        assert answer.status == 500
        assert json.loads(answer.body) == {"error": "guest failed", "invocation": "i-7"}
        answer = await client.ask(get("/timeout"))
        assert answer.status == 504
        assert json.loads(answer.body) == {"error": "guest timeout", "invocation": "i-8"}
        answer = await client.ask(get("/full"))
        assert (answer.status, answer.headers["retry-after"]) == (503, "7")
        assert json.loads(answer.body) == {"error": "queue full"}
        assert (await client.ask(get("/nowhere"))).status == 404
        assert (await client.ask(HELLO)).status == 200


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_failure_after_the_head_left_cuts_the_connection(version: str) -> None:
    async with lab() as at, await at.client() as client:
        client.send(get("/cut", version=version))
        status, _ = await client.head()
        assert status == 200
        left = await client.closed()
        assert not left.endswith(b"0\r\n\r\n")
        # Without a length or chunks only a reset tells that something is missing.
        assert version == "1.1" or left.endswith(b"(reset)")


@pytest.mark.parametrize("target", ["/bug", "/later", "/nothing", "/never"])
async def test_our_bugs_are_logged_once_and_not_told(
    target: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab() as at, await at.client() as client:
        answer = await client.ask(get(target))
        assert answer.status == 500
        assert json.loads(answer.body) == {"error": "internal error"}
        assert (await client.ask(HELLO)).status == 200
    assert [r.levelno for r in caplog.records] == [logging.ERROR]


async def test_a_guest_may_go_on_after_its_reply() -> None:
    async with lab() as at, await at.client() as client:
        assert (await client.ask(get("/after"))).body == b"done"
        assert (await client.ask(HELLO)).body == b"hello"
        await client.close()
        assert at.app.running == 1
        at.app.gate.set()
        await at.server.drain(5)
        assert at.app.seen == [("AFTER", "/after", b"")]


async def test_a_reply_may_come_before_the_body() -> None:
    async with lab() as at, await at.client() as client:
        client.send(post(b"x" * 100_000, "/unread")[:-50_000])
        assert (await client.answer()).body == b"not interested"
        client.send(b"x" * 50_000)
        assert (await client.ask(HELLO)).body == b"hello"


async def test_a_body_that_nobody_reads_is_not_taken_for_ever() -> None:
    async with lab(drain_bytes=100_000) as at, await at.client() as client:
        client.send(get("/unread", "Content-Length: 10000000", method="POST"))
        client.send(b"x" * 10_000_000)
        assert (await client.answer()).status == 200
        assert await client.closed() in (b"", b"(reset)")
        await client.close()
        assert not len(at.server.connections)
