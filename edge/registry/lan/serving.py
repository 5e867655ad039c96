"""What neighbours may have of this node: manifests and blobs by their digests, signatures and the
fleet's document by their tags, and what it knows of who has a blob.

All of it is read from the content store; nothing is ever fetched for who asks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

from aiohttp import web

from edge.registry.digest import Digest
from edge.registry.lan.board import Board
from edge.registry.lan.talk import BLOBS, HOLDERS, Report, is_id
from edge.registry.lan.throttle import Full, Slots, Throttle
from edge.registry.mirror.answers import Refusal, refusals
from edge.registry.mirror.holdings import Holdings
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.mirror.reading import Reading, digest_of, repository_of
from edge.registry.reference import DEFAULT_TAG, Reference
from edge.registry.store import ContentStore

__all__ = ["Serving", "Who"]

# Who sent a request: the id of the certificate that its connection was made with.
Who = Callable[[web.Request], str]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Seconds that a question may wait, and those of them for who was told to fetch to have begun.
_LONGEST_WAIT = 10
_BEGUN = 2.0
# Where signatures are, by cosign and the distribution specification: they prove themselves.
_SIGNATURES = re.compile(r"sha256-[0-9a-f]{64}(?:\.sig)?")


class Serving:
    """For one node. `document`: the reference of the fleet document that this node follows."""

    def __init__(
        self, store: ContentStore, board: Board, who: Who, document: Reference | None, upload: int
    ) -> None:
        self._store, self._board, self._who, self._document = store, board, who, document
        # As an own registry it has no name: what was pushed to it has its name in references.
        self._holdings = Holdings(store, lambda: "", lambda _: False)
        # With a bound, one at a time: each of several would seem to stall.
        self._slots = Slots(1) if upload else Slots()
        limits = MirrorLimits()
        self._reading = Reading(store, self._holdings, self, limits, Throttle(upload))

    def close(self) -> None:
        self._slots.close()

    def routes(self) -> list[web.RouteDef]:
        blob = f"{BLOBS}/{{digest}}"
        return [
            web.get("/v2/", partial(_answered, self._reading.base)),
            web.get("/v2/{name:.+}/manifests/{reference}", partial(_answered, self._manifest)),
            web.get("/v2/{name:.+}/blobs/{digest}", partial(_answered, self._blob)),
            web.get(
                "/v2/{name:.+}/referrers/{digest}", partial(_answered, self._reading.referrers)
            ),
            web.get(blob, partial(_answered, self._state)),
            web.post(blob, partial(_answered, self._claim)),
            web.put(blob, partial(_answered, self._have)),
        ]

    def has(self, _repository: str, digest: Digest) -> bool:
        """Whether a blob came, though no name may lead to it yet."""
        return self._board.has_come(digest)

    # Content

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        wanted = request.match_info["reference"]
        if ":" not in wanted and not self._is_proven(request, wanted):
            raise Refusal(404, "MANIFEST_UNKNOWN", "tags come from registries")
        return await self._reading.manifest(request)

    def _is_proven(self, request: web.Request, tag: str) -> bool:
        """Whether who asks for a tag needs no word of ours for what it gets."""
        if _SIGNATURES.fullmatch(tag):
            return True
        document = self._document
        name = f"{request.query.get('ns', '')}/{repository_of(request)}"
        return document is not None and (name, tag) == (
            document.name,
            document.tag or DEFAULT_TAG,
        )

    async def _blob(self, request: web.Request) -> web.StreamResponse:
        digest = digest_of(request.match_info["digest"])
        if (size := await self._size(digest)) is None:
            raise Refusal(404, "BLOB_UNKNOWN", f"{digest} is not here")
        holders = {HOLDERS: ",".join(self._board.holders(digest))}
        try:
            async with self._slots.of(self._who(request)):
                return await self._reading.blob(request, digest, size, holders)
        except Full:
            again = {"Retry-After": "1", **holders}
            raise Refusal(503, "TOOMANYREQUESTS", "others are served", again) from None

    async def _size(self, digest: Digest) -> int | None:
        """Of a blob that may be had: one that a manifest of a bundle names, or that just came."""
        size = await asyncio.to_thread(self._store.size, digest)
        # Most questions end here: names and manifests are looked through for what is here only.
        if size is None or self._board.has_come(digest):
            return size
        return await asyncio.to_thread(
            lambda: self._holdings.blob(self._holdings.everything(), digest)
        )

    # What is known

    async def _state(self, request: web.Request) -> web.StreamResponse:
        digest = digest_of(request.match_info["digest"])
        report = await self._report(digest)
        if not report.here and (seconds := _seconds(request)):
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._ended(digest)
            report = await self._report(digest)
        return web.json_response(report.to_json())

    async def _ended(self, digest: Digest) -> None:
        """Waits until this node has fetched it, or does not begin to."""
        async with asyncio.timeout(_BEGUN):
            fetch = await self._board.begun(digest)
        await fetch.ended.wait()

    async def _report(self, digest: Digest) -> Report:
        fetch = self._board.fetch(digest)
        return Report(
            here=await self._size(digest) is not None,
            holders=self._board.holders(digest),
            # A download that begins anew counts backwards.
            received=max(0, fetch.received) if fetch else None,
            fetcher=self._board.appointed(digest),
        )

    async def _claim(self, request: web.Request) -> web.StreamResponse:
        digest = digest_of(request.match_info["digest"])
        report = await self._report(digest)
        if not report.here:
            lost = request.query.get("lost")
            if lost is not None and not is_id(lost):
                raise Refusal(400, "UNSUPPORTED", "lost: is not the id of a node")
            fetcher = self._board.appoint(digest, self._who(request), lost)
            report = Report(holders=report.holders, fetcher=fetcher)
        return web.json_response(report.to_json())

    async def _have(self, request: web.Request) -> web.StreamResponse:
        who = self._who(request)
        self._board.has(digest_of(request.match_info["digest"]), who)
        self._slots.done(who)
        return web.Response(status=204)


async def _answered(handler: Handler, request: web.Request) -> web.StreamResponse:
    response = await refusals(request, handler)
    if not response.prepared:
        response.headers["Docker-Distribution-API-Version"] = "registry/2.0"
    return response


def _seconds(request: web.Request) -> int:
    text = request.query.get("wait", "0")
    if not re.fullmatch(r"[0-9]{1,3}", text):
        raise Refusal(400, "UNSUPPORTED", "wait: is not a number of seconds")
    return min(int(text), _LONGEST_WAIT)
