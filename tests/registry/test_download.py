"""Downloads, from a real server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from edge.errors import PullError
from edge.registry.download import download


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    async def body(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(4):
            await response.write(b"x" * 1000)
        return response

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b"x")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def moved(request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound("/body")

    app = web.Application()
    app.router.add_get("/body", body)
    app.router.add_get("/cut", cut)
    app.router.add_get("/moved", moved)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_file_is_downloaded() -> None:
    async with server() as url:
        assert await download(f"{url}/body", 4000) == b"x" * 4000
        assert await download(f"{url}/moved", 4000) == b"x" * 4000


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/body", "is larger than 3999 bytes"),
        ("/none", "the server answers 404"),
        ("/cut", "cut: "),
    ],
)
async def test_what_fails_is_a_pull_error_that_names_the_url(path: str, message: str) -> None:
    async with server() as url:
        with pytest.raises(PullError, match=f"^{url}{path}: ") as caught:
            await download(f"{url}{path}", 3999)
        assert message in str(caught.value)


async def test_no_server_is_a_pull_error() -> None:
    with pytest.raises(PullError, match=r"127\.0\.0\.1:1"):
        await download("http://127.0.0.1:1/x", 10)
