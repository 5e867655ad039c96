"""What the mirror answers: errors as the distribution specification writes them, and bodies that
do not wait for ever for who reads them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web

from edge.errors import BundleError, EdgeError
from edge.registry.disk import NoRoom
from edge.registry.mirror.limits import MirrorLimits

__all__ = ["Pace", "Refusal", "refusals", "send"]

# Written at a time; it takes less than the silence of a client that is just fast enough.
_PIECE = 128 << 10

_log = logging.getLogger("edge.registry.mirror")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(Exception):
    """An answer that is not what was asked for. `code`: one of the specification's."""

    def __init__(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.headers = headers or {}

    def answer(self) -> web.Response:
        error = {"code": self.code, "message": self.message}
        return web.json_response({"errors": [error]}, status=self.status, headers=self.headers)


@web.middleware
async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every error into the specification's words."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return refusal.answer()
    except web.HTTPException as error:
        return _of_http(error).answer()
    except NoRoom as error:
        return _worded(507, "DENIED", error).answer()
    except BundleError as error:
        return _worded(404, "MANIFEST_UNKNOWN", error).answer()
    except EdgeError as error:
        return _worded(500, "UNSUPPORTED", error).answer()
    except ConnectionError:
        raise  # who asked is gone
    except OSError as error:
        _log.error("mirror: %s %s: %s", request.method, request.path, error)
        return Refusal(500, "UNSUPPORTED", "the node cannot read its disk").answer()


def _of_http(error: web.HTTPException) -> Refusal:
    """What aiohttp itself finds: no such route, no such method."""
    allowed = error.headers.get("Allow")
    code = "NAME_UNKNOWN" if error.status == HTTPStatus.NOT_FOUND else "UNSUPPORTED"
    headers = {"Allow": allowed} if allowed else None
    return Refusal(error.status, code, error.reason.lower(), headers)


def _worded(status: int, code: str, error: EdgeError) -> Refusal:
    hint = f"; {error.hint}" if error.hint else ""
    return Refusal(status, code, f"{error.message}{hint}")


class Pace:
    """How long a peer may take: it is cut off when it is silent, or too slow on the whole."""

    def __init__(self, limits: MirrorLimits) -> None:
        self._silence, self._rate = limits.silence, limits.rate
        self._now = asyncio.get_running_loop().time
        self._begun = self._now()
        self._moved = 0

    @asynccontextmanager
    async def within(self) -> AsyncIterator[None]:
        """Raises TimeoutError inside when the peer is too slow."""
        whole = self._begun + self._silence + self._moved / self._rate
        async with asyncio.timeout_at(min(self._now() + self._silence, whole)):
            yield

    def moved(self, size: int) -> None:
        self._moved += size


async def send(
    request: web.Request,
    response: web.StreamResponse,
    read: Callable[[int], Awaitable[bytes]],
    pace: Pace,
) -> web.StreamResponse:
    """Sends `content_length` bytes of what `read` gives; a client that is too slow is cut off."""
    await response.prepare(request)
    left = 0 if request.method == "HEAD" else response.content_length or 0
    try:
        while left and (piece := await read(min(left, _PIECE))):
            async with pace.within():
                await response.write(piece)
            pace.moved(len(piece))
            left -= len(piece)
    except TimeoutError:
        pass
    finally:
        # Whatever came between: another answer would be read as what is left of this one.
        if left and request.transport is not None:
            request.transport.abort()
    return response
