"""How a node answers over HTTP, whoever asks: JSON, errors as JSON, and work that takes long.

Such work is told as lines of JSON as it goes: progress, and at last {"result": …} or
{"error": …}. It goes on in the node when who asked goes away.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

from aiohttp import web

from edge.application.units import show_size
from edge.errors import ConfigError, EdgeError

__all__ = [
    "LINES",
    "Answer",
    "Jobs",
    "Operation",
    "Reading",
    "body",
    "reading",
    "stream",
    "translated",
]

LINES = "application/x-ndjson"

# Seconds between two signs of life of work that takes long.
_ALIVE = 10.0
# Lines of progress that wait for a slow reader; what comes after them is not told.
_UNREAD = 64

_log = logging.getLogger("edge.node")

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
# What is read, some of it awaited, and what is done with a body; JSON.
Reading = Callable[[], Any]
Operation = Callable[[object], Awaitable[Any]]
# What takes long; it is handed what tells how far it is.
Work = Callable[[Callable[[str], None]], Awaitable[Any]]


class Jobs:
    """Work under way. Its owner ends it."""

    def __init__(self) -> None:
        self._jobs: set[asyncio.Task[Any]] = set()

    async def answer(self, request: web.Request, work: Work) -> web.StreamResponse:
        async with aclosing(self._followed(work)) as parts:
            return await stream(request, parts)

    async def _followed(self, work: Work) -> AsyncGenerator[Mapping[str, Any], None]:
        """Its result; until then its progress, or a sign of life now and then."""
        said: asyncio.Queue[str | None] = asyncio.Queue()

        def progress(text: str) -> None:
            if said.qsize() < _UNREAD:
                said.put_nowait(text)

        async def run() -> Any:
            try:
                return await work(progress)
            finally:
                said.put_nowait(None)

        job = asyncio.get_running_loop().create_task(run(), name="node api")
        self._jobs.add(job)
        job.add_done_callback(self._ended)
        while not job.done():
            try:
                async with asyncio.timeout(_ALIVE):
                    text = await said.get()
            except TimeoutError:
                yield {"progress": None}
                continue
            if text is None:
                break
            yield {"progress": text}
        yield {"result": await job}

    def _ended(self, job: asyncio.Task[Any]) -> None:
        """Looks at its error, which nobody else does when who asked is gone."""
        self._jobs.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:
            _log.debug("%s: %s", job.get_name(), error)

    async def end(self) -> None:
        jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait(jobs)


def reading(read: Reading) -> Answer:
    async def answer(_request: web.Request) -> web.StreamResponse:
        found = read()
        return web.json_response(await found if inspect.isawaitable(found) else found)

    return answer


async def body(request: web.Request) -> object:
    """Of JSON. Raises ConfigError."""
    try:
        return json.loads(await request.read() or b"{}")
    except ValueError as exc:
        raise ConfigError(f"the body is not JSON: {exc}") from exc
    except web.HTTPRequestEntityTooLarge:
        hint = "send it to the application's own address"
        raise ConfigError(
            f"has more than {show_size(request.client_max_size)}", hint=hint
        ) from None


@web.middleware
async def translated(request: web.Request, handler: Answer) -> web.StreamResponse:
    """Errors as JSON."""
    try:
        return await handler(request)
    except EdgeError as error:
        status = 400 if isinstance(error, ConfigError) else 500
        return web.json_response({"error": _error(error)}, status=status)
    except web.HTTPException as error:
        text = f"{request.method} {request.path}: {error.reason}"
        more = {n: v for n, v in error.headers.items() if n.lower() != "content-type"}
        told = {"error": _error(EdgeError(text))}
        return web.json_response(told, status=error.status, headers=more)
    except Exception:
        return web.json_response({"error": _unexpected(request)}, status=500)


async def stream(
    request: web.Request, parts: AsyncGenerator[Mapping[str, Any], None]
) -> web.StreamResponse:
    """Lines as they come. An error before the first of them has a status of its own."""
    response = web.StreamResponse(headers={"content-type": LINES})
    try:
        async for part in parts:
            await _line(request, response, part)
    except EdgeError as error:
        if not response.prepared:
            raise
        await _line(request, response, {"error": _error(error)})
    except ConnectionError:
        return response  # who asked is gone
    except Exception:
        if not response.prepared:
            raise
        await _line(request, response, {"error": _unexpected(request)})
    await response.write_eof()
    return response


async def _line(
    request: web.Request, response: web.StreamResponse, part: Mapping[str, Any]
) -> None:
    if not response.prepared:
        await response.prepare(request)
    await response.write(json.dumps(part).encode() + b"\n")


def _error(error: EdgeError) -> dict[str, Any]:
    return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}


def _unexpected(request: web.Request) -> dict[str, Any]:
    _log.exception("%s %s failed", request.method, request.path)
    return _error(EdgeError("the node made a mistake", hint="its log has the details"))
