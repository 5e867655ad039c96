"""Downloads of single files over HTTP: a size limit while they arrive, time-outs throughout."""

from __future__ import annotations

import aiohttp

from edge.errors import PullError

__all__ = ["download"]

# A stalled server is given up on; a slow one that keeps sending is not.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)


async def download(url: str, limit: int) -> bytes:
    """The body behind a URL, at most `limit` bytes; every failure is a PullError."""
    try:
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            session.get(url, max_redirects=5) as response,
        ):
            if url.startswith("https:") and response.url.scheme != "https":
                raise PullError(f"{url}: redirects to {response.url}, which is not encrypted")
            if response.status != 200:
                raise PullError(f"{url}: the server answers {response.status} {response.reason}")
            return await _body(url, response, limit)
    except TimeoutError as error:
        raise PullError(f"{url}: the server does not answer in time") from error
    except aiohttp.ClientError as error:
        raise PullError(f"{url}: {error}") from error


async def _body(url: str, response: aiohttp.ClientResponse, limit: int) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise PullError(f"{url}: is larger than {limit} bytes")
    return bytes(body)
