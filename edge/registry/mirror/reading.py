"""The end points that read: manifests, blobs, tags, repositories, referrers.

By the distribution specification 1.1; `?ns=` chooses among registries, as in its section on
proxies.
"""

from __future__ import annotations

import asyncio
import json
import re
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import BytesIO
from typing import IO, Protocol
from urllib.parse import urlencode

from aiohttp import web

from edge.registry.blobs import in_thread
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_INDEX, MAX_MANIFEST, Descriptor, Index
from edge.registry.mirror.answers import Pace, Refusal, send
from edge.registry.mirror.holdings import Ambiguous, Held, Holdings, Repository
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.reference import is_repository, is_tag
from edge.registry.store import ContentStore

__all__ = ["Reading", "digest_of", "repository_of"]

# Names in one answer; what is left is behind its `Link`.
_PAGE = 1000

_RANGE = re.compile(r"bytes=(\d{0,19})-(\d{0,19})")


class Unnamed(Protocol):
    """Blobs that are here for somebody though no manifest names them yet."""

    def has(self, repository: str, digest: Digest) -> bool: ...


async def _unbounded(size: int) -> int:
    """The mirror serves this machine."""
    return size


class Reading:
    """Answers from what is held. `unnamed`: blobs that are being pushed are here for who pushes.
    `paced` is awaited for how many of so many bytes are sent next.
    """

    def __init__(
        self,
        store: ContentStore,
        holdings: Holdings,
        unnamed: Unnamed,
        limits: MirrorLimits,
        paced: Callable[[int], Awaitable[int]] = _unbounded,
    ) -> None:
        self._store, self._holdings, self._unnamed = store, holdings, unnamed
        self._limits, self._paced = limits, paced

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/v2", self.base),
            web.get("/v2/", self.base),
            web.get("/v2/_catalog", self._catalog),
            web.get("/v2/{name:.+}/tags/list", self._tags),
            web.get("/v2/{name:.+}/manifests/{reference}", self.manifest),
            web.get("/v2/{name:.+}/blobs/{digest}", self._blob),
            web.get("/v2/{name:.+}/referrers/{digest}", self.referrers),
        ]

    async def base(self, _: web.Request) -> web.Response:
        return web.json_response({})

    async def _catalog(self, request: web.Request) -> web.StreamResponse:
        names = await asyncio.to_thread(self._holdings.names)
        return await self._listed(request, names, lambda page: {"repositories": page})

    async def _tags(self, request: web.Request) -> web.StreamResponse:
        name = repository_of(request)
        found = await self._find(request, name)
        tags = sorted({tag for repository in found for tag in repository.tags})
        return await self._listed(request, tags, lambda page: {"name": name, "tags": page})

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        name, wanted = repository_of(request), request.match_info["reference"]
        found = await self._find(request, name)
        held = await asyncio.to_thread(self._held, found, name, wanted)
        _check_accepted(request, held.descriptor.media_type)
        if _is_known(request, held.descriptor.digest):
            return _not_modified(request, held.descriptor.digest)
        data = await asyncio.to_thread(self._store.read, held.descriptor.digest, MAX_MANIFEST)
        return await self._content(request, BytesIO(data), held.descriptor, {})

    def _held(self, found: Sequence[Repository], name: str, wanted: str) -> Held:
        try:
            digest = _wanted(wanted) or self._holdings.tagged(found, wanted)
        except Ambiguous as error:
            raise _ambiguous(name, wanted, error) from None
        held = digest and self._holdings.manifest(found, digest)
        if not held:
            raise Refusal(404, "MANIFEST_UNKNOWN", f"{name} has no {wanted} here that is complete")
        return held

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        name, digest = repository_of(request), digest_of(request.match_info["digest"])
        return await self.blob(request, digest, await self._size(request, name, digest))

    async def blob(
        self,
        request: web.Request,
        digest: Digest,
        size: int,
        headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """A blob that is here and that may be had."""
        if _is_known(request, digest):
            return _not_modified(request, digest)
        descriptor = Descriptor("application/octet-stream", digest, size)
        with ExitStack() as opened:
            file = await in_thread(lambda: opened.enter_context(self._store.open(digest)))
            return await self._content(request, file, descriptor, headers or {})

    async def _size(self, request: web.Request, name: str, digest: Digest) -> int:
        if self._unnamed.has(name, digest):
            size = await asyncio.to_thread(self._store.size, digest)
        else:
            found = await self._find(request, name)
            size = await asyncio.to_thread(self._holdings.blob, found, digest)
        if size is None:
            raise Refusal(404, "BLOB_UNKNOWN", f"{name} has no {digest} here")
        return size

    async def referrers(self, request: web.Request) -> web.StreamResponse:
        name, digest = repository_of(request), digest_of(request.match_info["digest"])
        found = await self._find(request, name)
        held = await asyncio.to_thread(self._holdings.referrers, found, digest)
        entries = tuple(map(_referrer, held))
        response = web.StreamResponse(headers={"Content-Type": IMAGE_INDEX})
        if kind := request.query.get("artifactType"):
            entries = tuple(entry for entry in entries if entry.artifact_type == kind)
            response.headers["OCI-Filters-Applied"] = "artifactType"
        return await self._whole(request, response, Index(entries).to_bytes())

    async def _find(self, request: web.Request, name: str) -> list[Repository]:
        namespace = request.query.get("ns")
        found = await asyncio.to_thread(
            self._holdings.find, name, namespace.lower() if namespace else None
        )
        if not found:
            whose = f" of {namespace[:300]!a}" if namespace else ""
            raise Refusal(404, "NAME_UNKNOWN", f"this node has nothing{whose} in {name}")
        return found

    async def _content(
        self,
        request: web.Request,
        file: IO[bytes],
        descriptor: Descriptor,
        headers: Mapping[str, str],
    ) -> web.StreamResponse:
        """A manifest or a blob, or the part of it that is wanted."""
        size = descriptor.size
        part = _part(request, descriptor.digest, size)
        start, end = part or (0, size)
        response = web.StreamResponse(headers={**headers, **_headers(request, descriptor.digest)})
        response.content_type = descriptor.media_type
        response.headers["Accept-Ranges"] = "bytes"
        if part:
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        response.content_length = end - start
        file.seek(start)

        async def read(count: int) -> bytes:
            return await in_thread(file.read, await self._paced(count))

        return await send(request, response, read, Pace(self._limits))

    async def _whole(
        self, request: web.Request, response: web.StreamResponse, data: bytes
    ) -> web.StreamResponse:
        response.content_length = len(data)
        file = BytesIO(data)

        async def read(count: int) -> bytes:
            return file.read(count)

        return await send(request, response, read, Pace(self._limits))

    async def _listed(
        self, request: web.Request, names: list[str], document: Callable[[list[str]], object]
    ) -> web.StreamResponse:
        """A page of names, and where the next one is."""
        start = bisect_right(names, request.query.get("last", ""))
        count = min(_count(request), _PAGE)
        page = names[start : start + count]
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if page and start + count < len(names):
            query = urlencode({"n": count, "last": page[-1]} | _namespace(request))
            response.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
        return await self._whole(request, response, json.dumps(document(page)).encode())


def repository_of(request: web.Request) -> str:
    """The repository that a request names. Raises Refusal."""
    name = request.match_info["name"]
    if not is_repository(name):
        raise Refusal(400, "NAME_INVALID", f"{name[:300]!a} is not the name of a repository")
    return name


def digest_of(text: str) -> Digest:
    """Raises Refusal for what is not a digest."""
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise Refusal(400, "DIGEST_INVALID", str(error)) from None


def _wanted(text: str) -> Digest | None:
    """A digest; None for a tag."""
    if ":" in text:
        return digest_of(text)
    if not is_tag(text):
        raise Refusal(400, "MANIFEST_INVALID", f"{text[:200]!a} is neither a tag nor a digest")
    return None


def _ambiguous(name: str, tag: str, error: Ambiguous) -> Refusal:
    first = error.registries[0]
    return Refusal(
        400,
        "NAME_INVALID",
        f"{name}:{tag} means different things in {' and '.join(error.registries)}: "
        f"say which with ?ns={first}, or ask for {first}/{name}",
    )


def _referrer(held: Held) -> Descriptor:
    """How the list of referrers describes a manifest."""
    parsed = held.parsed
    kind = parsed.artifact_type
    if not kind and not isinstance(parsed, Index):
        kind = parsed.config.media_type
    return replace(held.descriptor, annotations=parsed.annotations, artifact_type=kind or None)


def _check_accepted(request: web.Request, media_type: str) -> None:
    accepted = [
        part.partition(";")[0].strip().lower()
        for value in request.headers.getall("Accept", [])
        for part in value.split(",")
    ]
    if accepted and not {media_type, "application/*", "*/*"} & set(accepted):
        message = f"it is of the type {media_type}, which is not among those in Accept"
        raise Refusal(404, "MANIFEST_UNKNOWN", message)


def _is_known(request: web.Request, digest: Digest) -> bool:
    tags = request.headers.get("If-None-Match", "").split(",")
    return any(tag.strip().removeprefix("W/") in (f'"{digest}"', "*") for tag in tags)


def _not_modified(request: web.Request, digest: Digest) -> web.Response:
    return web.Response(status=304, headers=_headers(request, digest))


def _headers(request: web.Request, digest: Digest) -> dict[str, str]:
    headers = {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}
    if (namespace := request.query.get("ns")) and namespace.isprintable():
        headers["OCI-Namespace"] = namespace
    return headers


def _part(request: web.Request, digest: Digest, size: int) -> tuple[int, int] | None:
    """From where to where; None for all of it: several ranges, and nonsense, may be ignored."""
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if not match or request.headers.get("If-Range", f'"{digest}"') != f'"{digest}"':
        return None
    first, last = (int(text) if text else None for text in match.groups())
    if first is None:
        if last is None:
            return None
        start, end = max(0, size - last), size
    else:
        start, end = first, size if last is None else min(size, last + 1)
        if last is not None and last < first:
            return None
    if start >= size:
        headers = {"Content-Range": f"bytes */{size}"}
        raise Refusal(416, "SIZE_INVALID", f"it has {size} bytes", headers)
    return start, end


def _namespace(request: web.Request) -> dict[str, str]:
    return {"ns": request.query["ns"]} if "ns" in request.query else {}


def _count(request: web.Request) -> int:
    text = request.query.get("n", str(_PAGE))
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Refusal(400, "UNSUPPORTED", f"n={text[:50]!a}: is not a number of names")
    return int(text)
