"""Clients that send what is no request: a clear status and a closed connection, nothing else."""

from __future__ import annotations

import asyncio
import json
import resource
import time

import pytest
from http_lab import HELLO, chunked, get, lab, post, until

CHUNKED = get("/record", "Transfer-Encoding: chunked", method="POST")

REFUSED = {
    # framing
    "length and chunks": (get("/", "Content-Length: 5", "Transfer-Encoding: chunked"), 400),
    "chunks and length": (get("/", "Transfer-Encoding: chunked", "Content-Length: 5"), 400),
    "two lengths": (get("/", "Content-Length: 5", "Content-Length: 6"), 400),
    "the same length twice": (get("/", "Content-Length: 5", "Content-Length: 5"), 400),
    "lengths in one": (get("/", "Content-Length: 5, 5"), 400),
    "a signed length": (get("/", "Content-Length: +5"), 400),
    "a negative length": (get("/", "Content-Length: -5"), 400),
    "a length with a blank": (get("/", "Content-Length: 5 5"), 400),
    "an empty length": (get("/", "Content-Length:"), 400),
    "a hexadecimal length": (get("/", "Content-Length: 0x5"), 400),
    "a length of 2^64": (get("/", "Content-Length: 18446744073709551616"), 400),
    "a length beyond the limit": (get("/", "Content-Length: 18446744073709551615"), 413),
    "chunked twice": (get("/", "Transfer-Encoding: chunked, chunked"), 400),
    "chunked not last": (get("/", "Transfer-Encoding: chunked, gzip"), 400),
    "gzip before chunked": (get("/", "Transfer-Encoding: gzip, chunked"), 501),
    "an empty coding": (get("/", "Transfer-Encoding: , chunked"), 501),
    "identity": (get("/", "Transfer-Encoding: identity"), 400),
    "an unknown coding": (get("/", "Transfer-Encoding: xchunked"), 400),
    "a quoted coding": (get("/", 'Transfer-Encoding: "chunked"'), 400),
    "chunks in HTTP/1.0": (get("/", "Transfer-Encoding: chunked", version="1.0"), 400),
    # chunks
    "a chunk size that overflows": (CHUNKED + b"10000000000000000\r\n", 400),
    "a negative chunk": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk in C notation": (CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "an empty chunk size": (CHUNKED + b"\r\nhello\r\n0\r\n\r\n", 400),
    "a blank after the size": (CHUNKED + b"5 \r\nhello\r\n0\r\n\r\n", 400),
    "a bare LF after the size": (CHUNKED + b"5\nhello\r\n0\r\n\r\n", 400),
    "a bare LF after a chunk": (CHUNKED + b"5\r\nhello\n0\r\n\r\n", 400),
    "a chunk that is longer": (CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n", 400),
    "a line in an extension": (CHUNKED + b"5;a\nb\r\nhello\r\n0\r\n\r\n", 400),
    "a folded trailer": (CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n", 400),
    "a length as a trailer": (CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", 400),
    "a coding as a trailer": (CHUNKED + b"0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "an endless extension": (CHUNKED + b"5;" + b"a" * 200_000, 431),
    "an endless trailer": (CHUNKED + b"0\r\nA: " + b"a" * 200_000, 431),
    "endless trailers": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 40_000, 431),
    # the line
    "a bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400),
    "two blanks": (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "two blanks later": (b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a tab": (b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a blank before": (b" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a blank behind": (b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
    "LFs before": (b"\n\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a small method": (b"get / HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "an unknown method": (b"BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "a method of RTSP": (b"OPTIONS / RTSP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 505),
    "TLS": (bytes.fromhex("16030100ba010000b60303") + bytes(180), 400),
    "noise": (bytes(range(256)), 400),
    # targets and hosts
    "a fragment": (get("/a#b"), 400),
    "a star for GET": (get("*"), 400),
    "a star and more": (get("*/a", method="OPTIONS"), 400),
    "another scheme": (get("ftp://test/"), 400),
    "a user": (b"GET http://u@test/ HTTP/1.1\r\nHost: u@test\r\n\r\n", 400),
    "a raw byte": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "a control": (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (get("/", "Host: test"), 400),
    "two hosts in one": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "a path for a host": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "a host that is none": (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "another host in the target": (get("http://other/"), 400),
    # headers
    "a folded header": (get("/", "A: b", " c"), 400),
    "a folded first header": (b"GET / HTTP/1.1\r\n A: b\r\nHost: a\r\n\r\n", 400),
    "a blank before the colon": (get("/", "A : b"), 400),
    "no name": (get("/", ": b"), 400),
    "no colon": (get("/", "A"), 400),
    "a NUL": (get("/", "A: b\0c"), 400),
    "a bare CR": (get("/", "A: b\rc"), 400),
    "a bare LF in a header": (get("/", "A: b\nC: d"), 400),
    "a control in a header": (get("/", "A: b\x01c"), 400),
    "a name that is no token": (get("/", "A(b): c"), 400),
    "an unknown expectation": (get("/", "Expect: 200-ok"), 417),
    # sizes
    "a huge header": (get("/", "A: " + "b" * 40_000), 431),
    "an endless header": (b"GET / HTTP/1.1\r\nA: " + b"b" * 200_000, 431),
    "endless headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 40_000, 431),
    "many headers": (get("/", *["A: b"] * 200), 431),
    "a huge target": (get("/" + "a" * 20_000), 414),
    "an endless target": (b"GET /" + b"a" * 200_000, 414),
    "endless empty lines": (b"\r\n" * 100_000, 431),
}


# What is large would only take long in small pieces.
PIECES = [
    pytest.param(case, step, id=f"{case.replace(' ', '-')}-{step}")
    for case, (data, _) in REFUSED.items()
    for step in (65_536, 7)
    if step > 7 or len(data) < 50_000
]


@pytest.mark.parametrize(("case", "step"), PIECES)
async def test_what_is_no_request_is_refused(case: str, step: int) -> None:
    data, status = REFUSED[case]
    async with lab() as at, await at.client() as client:
        for start in range(0, len(data), step):
            client.send(data[start : start + step])
            await asyncio.sleep(0)
        answer = await client.answer()
        assert answer.status == status, answer.body
        assert answer.headers["connection"] == "close"
        assert json.loads(answer.body).keys() == {"error"}
        assert await client.closed() in (b"", b"(reset)")
        assert not at.app.seen
        assert (await at.ask(HELLO)).status == 200


async def test_what_follows_a_refused_request_is_not_served() -> None:
    async with lab() as at, await at.client() as client:
        client.send(HELLO + get("/", "Content-Length: 5", "Transfer-Encoding: chunked") + HELLO)
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 400
        assert await client.closed() in (b"", b"(reset)")
        assert len(at.app.requests) == 1


ACCEPTED = {
    "chunk extensions": CHUNKED + b'5;a=b;c="d e"\r\nhello\r\n0;x\r\n\r\n',
    "zeros before a chunk size": CHUNKED + b"0000000000000000005\r\nhello\r\n00\r\n\r\n",
    "blanks after a length": get("/record", "Content-Length: 5 \t", method="POST") + b"hello",
    "capitals": get("/record", "TRANSFER-ENCODING: Chunked") + b"5\r\nhello\r\n0\r\n\r\n",
    "empty lines before": b"\r\n\r\n" + post(b"hello", "/record"),
    "bytes above 127 in a value": post(b"hello", "/record", "A: \x80\xff"),
    "a body with GET": get("/record", "Content-Length: 5") + b"hello",
    "an IPv6 host": b"GET /record HTTP/1.1\r\nHost: [::1]:80\r\nContent-Length: 5\r\n\r\nhello",
}


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case.replace(" ", "-"))
async def test_what_is_merely_unusual_is_served(case: str) -> None:
    async with lab() as at, await at.client() as client:
        assert (await client.ask(ACCEPTED[case])).status == 200
        assert at.app.seen[0][2] == b"hello"
        assert (await client.ask(HELLO)).status == 200


async def test_a_body_beyond_the_limit_is_refused_while_it_comes() -> None:
    async with lab(max_body=300_000) as at, await at.client() as client:
        client.send(CHUNKED + chunked(*[b"x" * 10_000] * 50))
        assert (await client.answer()).status == 413
        assert await client.closed() in (b"", b"(reset)")
        await until(lambda: not at.app.running)
        assert at.app.cancelled == 1


async def test_a_slow_head_is_timed_out() -> None:
    async with lab(head_timeout=0.3) as at, await at.client() as client:
        began = time.monotonic()
        async with asyncio.timeout(10):
            for byte in get("/", "X: " + "y" * 200):
                client.send(bytes((byte,)))
                await asyncio.sleep(0.02)
                if client.reader._buffer:  # type: ignore[attr-defined]
                    break
        assert (await client.answer()).status == 408
        assert time.monotonic() - began < 2.5
        assert await client.closed() in (b"", b"(reset)")


async def test_a_slow_body_is_timed_out() -> None:
    async with lab(body_timeout=0.3) as at, await at.client() as client:
        client.send(post(b"x" * 100, "/record")[:-50])
        assert (await client.answer()).status == 408
        assert at.app.cancelled == 1
        client2 = await at.client()
        client2.send(post(b"x" * 100)[:-50])
        assert (await client2.head())[0] == 200
        assert (await client2.closed()).endswith(b"(reset)")
        await client2.close()


async def test_an_idle_connection_is_closed() -> None:
    async with lab(idle_timeout=0.3) as at, await at.client() as client, await at.client() as other:
        assert (await client.ask(HELLO)).status == 200
        assert await client.closed() == b""
        assert await other.closed() == b""


async def test_a_reply_that_is_not_taken_is_cut() -> None:
    async with lab(write_timeout=0.3) as at, await at.client(limit=1000) as client:
        client.send(get("/endless"))
        await until(lambda: at.app.cancelled == 1)
        assert not at.app.running
        await until(lambda: not len(at.server.connections))


async def test_a_thousand_idle_connections_cost_no_other_client() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    async with lab() as at:
        clients = [await at.client() for _ in range(1000)]
        for client in clients[:100]:
            client.send(b"GET / HT")
        assert (await at.ask(HELLO)).status == 200
        assert len(at.server.connections) >= 1000
        for client in clients:
            client.writer.transport.abort()
        await until(lambda: not len(at.server.connections))


async def test_more_connections_than_allowed_are_told() -> None:
    async with lab(max_connections=2) as at:
        clients = [await at.client() for _ in range(2)]
        for client in clients:
            assert (await client.ask(HELLO)).status == 200
        answer = await at.ask(HELLO)
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert answer.headers["retry-after"] == "1"
        await clients.pop().close()
        await until(lambda: len(at.server.connections) < 2)
        assert (await at.ask(HELLO)).status == 200
        await clients.pop().close()


async def test_there_is_no_timer_without_connections() -> None:
    async with lab() as at:
        assert at.server.connections._timer is None
        async with await at.client() as client:
            assert (await client.ask(HELLO)).status == 200
            assert at.server.connections._timer is not None
        await until(lambda: not len(at.server.connections))
        assert at.server.connections._timer is None


async def test_curl_gets_what_it_asks_for() -> None:
    async with lab() as at:
        url = f"http://127.0.0.1:{at.port}"

        async def curl(*arguments: str, stdin: bytes = b"") -> bytes:
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(
                "curl", "-sS", *arguments, stdin=pipe, stdout=pipe, stderr=pipe
            )
            out, errors = await process.communicate(stdin)
            assert process.returncode == 0, errors
            return out

        body = b"0123456789" * 300_000
        assert await curl(f"{url}/hello", f"{url}/hello") == b"hellohello"
        assert await curl("--data-binary", "@-", f"{url}/echo", stdin=body) == body
        assert await curl("-T", "-", f"{url}/echo", stdin=body) == body
        assert await curl("--http2", "--data-binary", "@-", f"{url}/echo", stdin=body) == body
        assert await curl("--http1.0", "--data-binary", "@-", f"{url}/echo", stdin=body) == body
        assert b"content-length: 5" in await curl("-I", f"{url}/hello")


async def test_wrk_sees_no_error() -> None:
    async with lab() as at:
        process = await asyncio.create_subprocess_exec(
            *("wrk", "-t1", "-c20", "-d1", f"http://127.0.0.1:{at.port}/"),
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        assert b"Requests/sec" in out
        assert b"Non-2xx" not in out
        assert b"Socket errors" not in out
