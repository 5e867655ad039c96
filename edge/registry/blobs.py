"""Blobs on their way between a registry and a disk; each attempt goes on, or begins anew."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from edge.errors import BundleError, PullError, Refused
from edge.registry.manifest import Descriptor
from edge.registry.reference import Reference
from edge.registry.source import BlobWriter
from edge.registry.transport import Exchange, Transport, expect

__all__ = ["Download", "Upload", "in_thread"]

# Read and written at a time, by a thread.
_PIECE = 256 << 10

_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(?:\d{1,19}|\*)")

T = TypeVar("T")


class Download:
    """A blob on its way here; each attempt goes on where the one before ended."""

    def __init__(
        self,
        transport: Transport,
        reference: Reference,
        descriptor: Descriptor,
        into: BlobWriter,
        received: Callable[[int], None],
    ) -> None:
        self._transport, self._reference, self._descriptor = transport, reference, descriptor
        self._into, self._received = into, received
        self._name = f"{reference}: layer {descriptor.digest}"

    async def attempt(self) -> None:
        have, size = self._into.written, self._descriptor.size
        if have == size > 0:
            return
        exchange = Exchange.of(
            self._reference,
            "GET",
            f"blobs/{self._descriptor.digest}",
            name=self._name,
            size=size,
            headers={"Range": f"bytes={have}-"} if have else {},
        )
        async with self._transport.send(exchange) as response:
            await expect(exchange, response, 200, 206)
            await self._begin(response, have)
            async for piece in response.content.iter_chunked(_PIECE):
                await self._write(piece)
        if (written := self._into.written) < size:
            raise PullError(f"{self._name}: ends after {written} of {size} bytes")

    async def _begin(self, response: aiohttp.ClientResponse, have: int) -> None:
        """Whether it goes on where we are, or from the start."""
        if response.status == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if not match or int(match[1]) != have:
                raise Refused(
                    f"{self._name}: the registry sends another part than the one asked for"
                )
            return
        length = response.content_length
        if length is not None and length != self._descriptor.size:
            size = self._descriptor.size
            raise BundleError(f"{self._name}: has {length} bytes, its manifest says {size}")
        if have:
            await in_thread(self._into.restart)
            self._received(-have)

    async def _write(self, piece: bytes) -> None:
        if self._into.written + len(piece) > self._descriptor.size:
            raise BundleError(
                f"{self._name}: has more than the {self._descriptor.size} bytes of its manifest"
            )
        await in_thread(self._into.write, piece)
        self._received(len(piece))


class Upload:
    """A file on its way to a registry, in one piece; each attempt begins anew."""

    def __init__(
        self,
        transport: Transport,
        reference: Reference,
        descriptor: Descriptor,
        source: Path,
        mount_from: str | None,
        sent: Callable[[int], None],
    ) -> None:
        self._transport, self._reference, self._descriptor = transport, reference, descriptor
        self._source, self._mount_from, self._sent = source, mount_from, sent
        self._counted = 0
        self._bodies: list[AsyncGenerator[bytes, None]] = []

    async def attempt(self) -> None:
        location = await self._begin()
        if location is None:
            return
        # Not by a URL's own means: the upload's state in it is to come back as it was.
        url = f"{location}{'&' if '?' in location else '?'}digest={self._descriptor.digest}"
        exchange = Exchange.of(
            self._reference,
            "PUT",
            "",
            push=True,
            name=f"{self._reference}: layer {self._descriptor.digest}",
            url=url,
            size=self._descriptor.size,
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(self._descriptor.size),
            },
            body=self._body,
        )
        try:
            async with self._transport.send(exchange) as response:
                await expect(exchange, response, 201)
        finally:
            await self._close_bodies()

    async def _close_bodies(self) -> None:
        """A registry that answers early leaves a body half read."""
        bodies, self._bodies = self._bodies, []
        for body in bodies:
            try:
                await body.aclose()
            except RuntimeError:  # aiohttp is at its last piece: it closes what it reads
                continue

    async def _begin(self) -> str | None:
        """Where to upload to; None if the blob was mounted and is there."""
        query = ""
        if self._mount_from:
            query = f"?mount={self._descriptor.digest}&from={self._mount_from}"
        path = f"blobs/uploads/{query}"
        exchange = Exchange.of(self._reference, "POST", path, push=True, body=lambda: b"")
        async with self._transport.send(exchange) as response:
            await expect(exchange, response, *((201, 202) if query else (202,)))
            if response.status == 201:
                return None
            if location := response.headers.get("Location"):
                return str(response.url.join(URL(location, encoded=True)))
        raise Refused(f"{self._reference}: the registry does not say where to upload to")

    def _body(self) -> AsyncIterator[bytes]:
        self._bodies.append(body := self._pieces())
        return body

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        self._sent(-self._counted)
        self._counted = 0
        with self._source.open("rb") as file:
            while piece := await in_thread(file.read, _PIECE):
                yield piece
                self._sent(len(piece))
                self._counted += len(piece)


async def in_thread(call: Callable[..., T], *arguments: Any) -> T:
    """`call` in a thread. Even when cancelled it does not go on behind the caller's back."""
    future = asyncio.get_running_loop().run_in_executor(None, call, *arguments)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError:
                continue  # it was said before
        if not future.cancelled():
            future.exception()  # nobody else asks
        raise
