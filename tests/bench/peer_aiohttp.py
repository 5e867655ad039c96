"""`hello` and `echo` on bare aiohttp, one process: peer_aiohttp.py PORT."""

from __future__ import annotations

import sys

from aiohttp import web


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"hello {request.path_qs}")


async def echo(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    async for part in request.content.iter_any():
        await answer.write(part)
    await answer.write_eof()
    return answer


application = web.Application()
application.router.add_get("/{path:.*}", hello)
application.router.add_post("/{path:.*}", echo)
web.run_app(application, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
