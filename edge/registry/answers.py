"""What goes wrong between a registry and us, as errors that say what, where and what to do."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from edge.errors import PullError, Refused
from edge.platform.dates import is_about_dates

__all__ = ["Busy", "NotFound", "is_failure", "read_some", "refusal", "translated"]

# May pass by itself.
_PASSING = (408, 425, 429, 500, 502, 503, 504)
# As much of an error's body is read; what matters is a line.
_MAX_BODY = 64 << 10
_MAX_DETAIL = 300


class Busy(PullError):
    """The registry cannot now. `retry_after`: seconds it asks to be left alone, or 0."""

    def __init__(self, message: str, *, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotFound(Refused):
    """The registry has no such repository, tag or content, or does not admit to it."""


def is_failure(status: int) -> bool:
    """Whether no caller has its own use for that status; 404 means something to most."""
    return status >= 400 and status not in (404, 416)


@asynccontextmanager
async def translated(name: str, seconds: float) -> AsyncIterator[None]:
    """Within `seconds`; errors of the network become PullErrors about `name`."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:  # aiohttp's are TimeoutErrors too
        raise PullError(f"{name}: the registry does not answer in time") from error
    except aiohttp.ClientConnectorCertificateError as error:
        hint = "name the authority that signed it: --registry-ca FILE"
        if is_about_dates(error.certificate_error):
            hint = "is this machine's date right? Then the registry needs a new certificate"
        raise Refused(
            f"{name}: the registry's certificate is not trusted: {error.certificate_error}",
            hint=hint,
        ) from error
    except aiohttp.ClientConnectorSSLError as error:
        raise Refused(
            f"{name}: no TLS with the registry: {error.strerror or error}",
            hint="if it speaks plain HTTP: --insecure",
        ) from error
    except aiohttp.ClientConnectorDNSError as error:
        hint = "is its name right, and is there a network?"
        raise PullError(f"{name}: no address for {error.host}", hint=hint) from error
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno  # asyncio's own text says only that it failed, and where
        reason = os.strerror(number).lower() if number else str(error.os_error)
        raise PullError(f"{name}: {error.host}:{error.port}: {reason}") from error
    except (aiohttp.ClientError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise PullError(f"{name}: the connection to the registry broke: {reason}") from error


async def read_some(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or its beginning: a little more than `limit` bytes, so that it can be told."""
    data = bytearray()
    async for piece in response.content.iter_any():
        data += piece
        if len(data) > limit:
            break
    return bytes(data)


async def refusal(name: str, response: aiohttp.ClientResponse, login: str) -> PullError:
    """A status that is not what was wished for as an error; `login` is the hint for 401 and 403."""
    detail = _detail(await read_some(response, _MAX_BODY))
    said = f": {detail}" if detail else ""
    status = response.status
    if status in _PASSING:
        busy = f"{name}: the registry answers {status} {response.reason or ''}".rstrip()
        if later := _retry_after(response):
            said += f"; it asks to come back in {later:.0f} s"
        return Busy(f"{busy}{said}", retry_after=later)
    if status in (401, 403):
        return Refused(f"{name}: access denied{said}", hint=login)
    if status == 404:
        return NotFound(f"{name}: not found{said}", hint="look at its name and its tag")
    hint = None
    if status == 400 and "HTTPS server" in detail:
        hint = "it speaks TLS: name the authority of its certificate with --registry-ca FILE"
    reason = f"{status} {response.reason or ''}".rstrip()
    return Refused(f"{name}: the registry answers {reason}{said}", hint=hint)


def _detail(body: bytes) -> str:
    """The registry's own words, by the distribution specification or as a line of text."""
    text = body.decode(errors="replace")
    try:
        found = [f"{e['message']}" for e in json.loads(text)["errors"] if e.get("message")]
        text = "; ".join(found)
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        text = "" if text.lstrip().startswith(("<", "{", "[")) else text
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:_MAX_DETAIL]


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds, or a date: against the registry's own, since a board's clock may be wrong."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        then = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(response.headers.get("Date", ""))
        return max(0.0, (then - now).total_seconds())
    except (TypeError, ValueError):
        return 0.0
