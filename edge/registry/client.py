"""A client of OCI registries: resolves references, pulls and pushes blobs and manifests.

By the distribution specification 1.1. Content is verified by its digest, whoever delivered it.
Every failure is a PullError (Refused: final), or a BundleError where what came is not what was
named.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import aiohttp

from edge.errors import BundleError
from edge.platform.dates import Clock
from edge.registry import manifest
from edge.registry.answers import read_some
from edge.registry.blobs import Download, Upload, in_thread
from edge.registry.credentials import DockerConfig
from edge.registry.digest import Digest
from edge.registry.manifest import ACCEPTED, IMAGE_INDEX, MAX_MANIFEST, Descriptor
from edge.registry.reference import Reference
from edge.registry.source import BlobWriter, Memory, Resolved
from edge.registry.transport import (
    Exchange,
    Patience,
    RegistrySettings,
    Transport,
    expect,
    new_session,
)

__all__ = ["BlobWriter", "Patience", "RegistryClient", "RegistrySettings", "Resolved"]

T = TypeVar("T")

# A list of referrers may come in parts; nothing that is signed has more of them.
_MAX_PAGES = 8


class RegistryClient:
    """Connections to registries, as an async context manager.

    `settings`: by registry, for those that need any. `note` gets a line for each wait.
    `clock`: trusted time, for machines whose own may not be set.
    """

    def __init__(
        self,
        settings: Mapping[str, RegistrySettings] | None = None,
        *,
        docker: DockerConfig | None = None,
        patience: Patience | None = None,
        note: Callable[[str], None] = lambda _: None,
        clock: Clock | None = None,
    ) -> None:
        self._settings = dict(settings or {})
        self._clock = clock
        self._docker = docker or DockerConfig()
        self._patience = patience or Patience()
        self._note = note
        self._session: aiohttp.ClientSession | None = None
        self._transports: dict[str, Transport] = {}

    async def __aenter__(self) -> RegistryClient:
        self._session = new_session(self._patience)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        self._transports.clear()
        await self._session.close()

    async def resolve(self, reference: Reference, known: Descriptor | None = None) -> Resolved:
        """What a reference stands for: its manifest's descriptor and bytes, verified.

        With `known`, a registry is asked cheaply first whether that is still so.
        """
        transport = self._transport(reference)
        if known is not None:
            if reference.digest == known.digest:
                return Resolved(known, None)
            digest = await self._retry(transport, lambda: _head(transport, reference, known))
            if digest == known.digest:
                return Resolved(known, None)
        return await self._retry(transport, lambda: _get(transport, reference))

    async def pull_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        into: BlobWriter,
        *,
        received: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Writes a blob and commits it. A connection that breaks is resumed where it broke."""
        transport = self._transport(reference)
        download = Download(transport, reference, descriptor, into, received)
        await transport.retry(download.attempt, lambda: into.written)
        await in_thread(into.commit, descriptor)

    async def read_blob(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """A small blob, in memory."""
        into = Memory()
        await self.pull_blob(reference, descriptor, into)
        return bytes(into.data)

    async def hearsay(self, reference: Reference) -> Sequence[Resolved]:
        """Nothing: a registry alone has no neighbours."""
        return ()

    def is_silent(self, reference: Reference) -> bool:
        """Never: there is nobody else to ask."""
        return False

    async def referrers(
        self, reference: Reference, digest: Digest, artifact_type: str
    ) -> tuple[Descriptor, ...] | None:
        """Manifests that refer to a manifest; None: the registry cannot tell.

        Registries may leave out those of other types, and need not.
        """
        transport = self._transport(reference)
        found: list[Descriptor] = []
        url: str | None = f"/v2/{reference.repository}/referrers/{digest}"
        url = f"{url}?artifactType={quote(artifact_type, safe='')}"
        for _ in range(_MAX_PAGES):
            exchange = Exchange.of(reference, "GET", "", url=url, headers={"Accept": IMAGE_INDEX})
            page = await self._retry(transport, partial(_referrers, transport, exchange))
            if page is None:
                return None if not found else tuple(found)
            found += page.found
            if (url := page.following) is None:
                break
        return tuple(found)

    async def has_blob(self, reference: Reference, digest: Digest) -> bool:
        transport = self._transport(reference)
        exchange = Exchange.of(reference, "HEAD", f"blobs/{digest}", push=True)

        async def attempt() -> bool:
            async with transport.send(exchange) as response:
                return response.status == 200

        return await self._retry(transport, attempt)

    async def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        source: Path,
        *,
        mount_from: str | None = None,
        sent: Callable[[int], None] = lambda _: None,
    ) -> bool:
        """Uploads a file unless the repository has it; False if it has.

        `mount_from`: another repository of the registry that may have it.
        """
        if await self.has_blob(reference, descriptor.digest):
            return False
        transport = self._transport(reference)
        upload = Upload(transport, reference, descriptor, source, mount_from, sent)
        await self._retry(transport, upload.attempt)
        return True

    async def push_manifest(self, reference: Reference, data: bytes, media_type: str) -> Digest:
        """Puts a manifest at the reference's tag, or at its digest."""
        digest = Digest.of(data)
        if reference.digest not in (None, digest):
            raise BundleError(f"{reference}: what is pushed has another digest: {digest}")
        target = reference.tag or (str(digest) if reference.digest else reference.wanted)
        transport = self._transport(reference)
        exchange = Exchange.of(
            reference,
            "PUT",
            f"manifests/{target}",
            push=True,
            headers={"Content-Type": media_type},
            body=lambda: data,
        )

        async def attempt() -> Digest:
            async with transport.send(exchange) as response:
                await expect(exchange, response, 201)
                _same_digest(exchange, response, digest)
            return digest

        return await self._retry(transport, attempt)

    def _transport(self, reference: Reference) -> Transport:
        """One for each registry: it knows how to log in there."""
        assert self._session is not None, "used outside of its context"
        registry = reference.registry
        if registry not in self._transports:
            settings = self._settings.get(registry, RegistrySettings())
            self._transports[registry] = Transport(
                self._session,
                registry,
                settings,
                self._docker,
                self._patience,
                self._note,
                self._clock,
            )
        return self._transports[registry]

    async def _retry(self, transport: Transport, attempt: Callable[[], Awaitable[T]]) -> T:
        return await transport.retry(attempt, lambda: 0)


def _same_digest(exchange: Exchange, response: aiohttp.ClientResponse, digest: Digest) -> None:
    """A registry need not say what it has; when it does it must be that."""
    said = response.headers.get("Docker-Content-Digest")
    if said and said.startswith("sha256:") and said != str(digest):
        raise BundleError(f"{exchange.name}: the registry has {said[:80]!a}, which is not {digest}")


async def _head(transport: Transport, reference: Reference, known: Descriptor) -> Digest | None:
    """The digest of a tag as the registry says it; None if it does not say."""
    exchange = Exchange.of(
        reference,
        "HEAD",
        f"manifests/{reference.wanted}",
        headers={"Accept": ", ".join(ACCEPTED), "If-None-Match": f'"{known.digest}"'},
    )
    async with transport.send(exchange) as response:
        if response.status == 304:
            return known.digest
        await expect(exchange, response, 200)
        try:
            return Digest.parse(response.headers.get("Docker-Content-Digest", ""))
        except ValueError:
            return None


class _Page(NamedTuple):
    """A part of a list, and where the next one is."""

    found: tuple[Descriptor, ...]
    following: str | None


async def _referrers(transport: Transport, exchange: Exchange) -> _Page | None:
    async with transport.send(exchange) as response:
        # Some registries answer what they do not know as they answer any other page.
        if response.status == 404 or response.content_type != IMAGE_INDEX:
            return None
        await expect(exchange, response, 200)
        data = await read_some(response, MAX_MANIFEST)
        found = manifest.read(data, exchange.name, IMAGE_INDEX)
        following = response.links["next"].get("url") if "next" in response.links else None
    assert isinstance(found, manifest.Index)
    return _Page(found.manifests, str(following) if following else None)


async def _get(transport: Transport, reference: Reference) -> Resolved:
    exchange = Exchange.of(
        reference,
        "GET",
        f"manifests/{reference.wanted}",
        headers={"Accept": ", ".join(ACCEPTED)},
    )
    async with transport.send(exchange) as response:
        await expect(exchange, response, 200)
        data = await read_some(response, MAX_MANIFEST)
        if len(data) > MAX_MANIFEST:
            raise BundleError(f"{reference}: its manifest has more than {MAX_MANIFEST} bytes")
        digest = Digest.of(data)
        if reference.digest not in (None, digest):
            raise BundleError(f"{reference}: the registry sends content of the digest {digest}")
        _same_digest(exchange, response, digest)
        found = manifest.read(data, str(reference), response.content_type)
    return Resolved(Descriptor(found.media_type, digest, len(data)), data)
