"""The end points that write, for a first try: uploads of blobs, and manifests.

By the distribution specification 1.1. Nothing is seen by who reads before all of it is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from io import BytesIO

from aiohttp import web

from edge.errors import BundleError, ConfigError
from edge.registry.blobs import in_thread
from edge.registry.digest import Digest
from edge.registry.manifest import MAX_MANIFEST, Descriptor, Index, Manifest, read
from edge.registry.mirror.answers import Pace, Refusal
from edge.registry.mirror.holdings import Holdings
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.mirror.pending import Pending
from edge.registry.mirror.reading import digest_of, repository_of
from edge.registry.mirror.uploads import Upload, Uploads, pieces
from edge.registry.reference import Reference, is_tag
from edge.registry.store import ContentStore

__all__ = ["Pushing"]

_RANGE = re.compile(r"(?:bytes )?(\d{1,19})-(\d{1,19})(?:/\S*)?")
_BLOB = "application/octet-stream"


class Pushing:
    """Takes what is pushed. `registry`: what references call this one; `pushed` is told of each."""

    def __init__(
        self,
        store: ContentStore,
        holdings: Holdings,
        pending: Pending,
        registry: Callable[[], str],
        pushed: Callable[[Reference, Digest], None],
        limits: MirrorLimits,
    ) -> None:
        self._store, self._holdings, self._pending = store, holdings, pending
        self._registry, self._pushed = registry, pushed
        self._limits = limits
        self._uploads = Uploads(store, limits)

    def routes(self) -> list[web.RouteDef]:
        upload = "/v2/{name:.+}/blobs/uploads/{id}"
        return [
            web.post("/v2/{name:.+}/blobs/uploads/", self._begin),
            web.patch(upload, self._append),
            web.put(upload, self._finish),
            web.get(upload, self._status),
            web.delete(upload, self._cancel),
            web.put("/v2/{name:.+}/manifests/{reference}", self._manifest),
        ]

    async def aclose(self) -> None:
        await self._uploads.aclose()

    # Blobs

    async def _begin(self, request: web.Request) -> web.StreamResponse:
        name, query = repository_of(request), request.query
        if "mount" in query and (mounted := await self._mount(name, query)):
            return _created(name, mounted)
        digest = digest_of(query["digest"]) if "digest" in query else None
        upload = await self._uploads.begin(name)
        if digest is None:
            return _going_on(upload)
        with self._uploads.taken(name, upload.id), self._uploads.ending(upload):
            await self._receive(request, upload)
            return await self._commit(upload, digest)

    async def _mount(self, name: str, query: Mapping[str, str]) -> Digest | None:
        """The blob, if the other repository has it, and so this one from now on."""
        digest, other = digest_of(query["mount"]), query.get("from", "")
        found = await in_thread(self._holdings.find, other)
        known = await in_thread(self._holdings.blob, found, digest) is not None
        if not known and not self._pending.has(other, digest):
            return None
        await self._pending.add(name, digest, lambda: None)
        return digest

    async def _append(self, request: web.Request) -> web.StreamResponse:
        with self._uploads.taken(repository_of(request), request.match_info["id"]) as upload:
            await self._receive(request, upload)
            return _going_on(upload)

    async def _finish(self, request: web.Request) -> web.StreamResponse:
        name = repository_of(request)
        if "digest" not in request.query:
            raise Refusal(400, "DIGEST_INVALID", "the last request of an upload says its digest")
        digest = digest_of(request.query["digest"])
        with self._uploads.taken(name, request.match_info["id"]) as upload:
            await self._receive(request, upload)
            with self._uploads.ending(upload):
                return await self._commit(upload, digest)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        with self._uploads.taken(repository_of(request), request.match_info["id"]) as upload:
            return _going_on(upload, 204)

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        taken = self._uploads.taken(repository_of(request), request.match_info["id"])
        with taken as upload, self._uploads.ending(upload):
            return web.Response(status=204)

    async def _receive(self, request: web.Request, upload: Upload) -> None:
        """Appends what the request brings."""
        length = request.content_length
        _check_range(request, upload, length)
        if length:
            await in_thread(upload.make_room, length)
        async for piece in pieces(request, Pace(self._limits)):
            await in_thread(upload.write, piece)

    async def _commit(self, upload: Upload, digest: Digest) -> web.Response:
        descriptor = Descriptor(_BLOB, digest, upload.written)
        try:
            await self._pending.add(upload.name, digest, partial(upload.commit, descriptor))
        except BundleError as error:
            raise Refusal(400, "DIGEST_INVALID", error.message) from error
        return _created(upload.name, digest)

    # Manifests

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        name, target = repository_of(request), request.match_info["reference"]
        data = await _body(request, Pace(self._limits))
        digest = Digest.of(data)
        reference = self._reference(name, target)
        if reference.digest not in (None, digest):
            raise Refusal(400, "DIGEST_INVALID", f"the manifest's digest is {digest}")
        try:
            found = read(data, str(reference), request.content_type)
        except BundleError as error:
            raise Refusal(400, "MANIFEST_INVALID", error.message) from error
        await in_thread(self._keep, reference, data, found)
        blobs = found.blobs if isinstance(found, Manifest) else found.manifests
        self._pending.named(name, (blob.digest for blob in blobs))
        self._pushed(reference, digest)
        return _put(name, digest, found)

    def _reference(self, name: str, target: str) -> Reference:
        """What is pushed there will be called."""
        if ":" not in target and not is_tag(target):
            raise Refusal(400, "MANIFEST_INVALID", f"{target[:200]!a} is neither tag nor digest")
        at = f"@{digest_of(target)}" if ":" in target else f":{target}"
        try:
            return Reference.parse(f"{self._registry()}/{name}{at}")
        except ConfigError as error:  # too long, together with the registry
            raise Refusal(400, "NAME_INVALID", error.message) from error

    def _keep(self, reference: Reference, data: bytes, found: Manifest | Index) -> None:
        with self._store.lease():
            for missing in self._missing(found):
                message = f"the manifest names {missing}, which is not here"
                raise Refusal(400, "MANIFEST_BLOB_UNKNOWN", message)
            descriptor = Descriptor(found.media_type, Digest.of(data), len(data))
            self._store.copy(BytesIO(data), descriptor)
            self._store.tags.set(str(reference), descriptor.digest)

    def _missing(self, found: Manifest | Index) -> list[Digest]:
        if isinstance(found, Manifest):
            return [blob.digest for blob in found.blobs if not self._store.has(blob)]
        return [e.digest for e in found.manifests if self._holdings.held(e.digest) is None]


def _created(name: str, digest: Digest) -> web.Response:
    headers = {
        "Location": f"/v2/{name}/blobs/{digest}",
        "Docker-Content-Digest": str(digest),
    }
    return web.Response(status=201, headers=headers)


def _put(name: str, digest: Digest, found: Manifest | Index) -> web.Response:
    headers = {
        "Location": f"/v2/{name}/manifests/{digest}",
        "Docker-Content-Digest": str(digest),
    }
    if found.subject:
        headers["OCI-Subject"] = str(found.subject.digest)
    return web.Response(status=201, headers=headers)


def _going_on(upload: Upload, status: int = 202) -> web.Response:
    headers = {
        "Location": upload.location,
        "Range": f"0-{max(0, upload.written - 1)}",
        "Docker-Upload-UUID": upload.id,
    }
    return web.Response(status=status, headers=headers)


def _check_range(request: web.Request, upload: Upload, length: int | None) -> None:
    """A chunk begins where the one before ended."""
    text = request.headers.get("Content-Range")
    if text is None:
        return
    match = _RANGE.fullmatch(text)
    if match is None:
        raise Refusal(400, "BLOB_UPLOAD_INVALID", f"Content-Range: {text[:100]!a} is not a range")
    start, end = int(match[1]), int(match[2])
    if start != upload.written:
        headers = dict(_going_on(upload).headers)
        message = f"the next chunk begins at {upload.written}"
        raise Refusal(416, "BLOB_UPLOAD_INVALID", message, headers)
    if length is not None and end - start + 1 != length:
        raise Refusal(400, "SIZE_INVALID", "Content-Range and Content-Length do not agree")


async def _body(request: web.Request, pace: Pace) -> bytes:
    too_large = Refusal(413, "SIZE_INVALID", f"a manifest has at most {MAX_MANIFEST} bytes")
    if (request.content_length or 0) > MAX_MANIFEST:
        raise too_large
    data = bytearray()
    async for piece in pieces(request, pace):
        data += piece
        if len(data) > MAX_MANIFEST:
            raise too_large
    return bytes(data)
