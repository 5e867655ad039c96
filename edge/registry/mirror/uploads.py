"""Uploads on their way in: so many, and each for as long as it goes on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

from aiohttp import web

from edge.application.units import show_size
from edge.registry.blobs import in_thread
from edge.registry.manifest import Descriptor
from edge.registry.mirror.answers import Pace, Refusal
from edge.registry.mirror.limits import MirrorLimits
from edge.registry.store import BlobWriter, ContentStore
from edge.registry.transfer import MAX_BUNDLE

__all__ = ["Upload", "Uploads", "pieces"]

# Room is taken in such steps when a client does not say how much it sends.
_STEP = 4 << 20


class Upload:
    """A blob that comes in one or several requests."""

    def __init__(self, name: str, writer: BlobWriter) -> None:
        self.name, self.id = name, secrets.token_hex(16)
        self.busy = False
        self.timer: asyncio.TimerHandle | None = None
        self._writer = writer

    @property
    def location(self) -> str:
        return f"/v2/{self.name}/blobs/uploads/{self.id}"

    @property
    def written(self) -> int:
        return self._writer.written

    # These block

    def make_room(self, length: int) -> None:
        """For that many bytes more."""
        if self.written + length > MAX_BUNDLE:
            raise Refusal(413, "SIZE_INVALID", f"a blob has at most {show_size(MAX_BUNDLE)}")
        self._writer.grow(self.written + length)

    def write(self, data: bytes) -> None:
        if self.written + len(data) > self._writer.size:
            self.make_room(max(len(data), min(_STEP, MAX_BUNDLE - self.written)))
        self._writer.write(data)

    def commit(self, descriptor: Descriptor) -> None:
        self._writer.commit(descriptor)

    def abort(self) -> None:
        self._writer.abort()


class Uploads:
    """Those that are under way."""

    def __init__(self, store: ContentStore, limits: MirrorLimits) -> None:
        self._store, self._limits = store, limits
        self._known: dict[str, Upload] = {}
        self._beginning = 0
        self._aborting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._known)

    async def begin(self, name: str) -> Upload:
        if len(self._known) + self._beginning >= (most := self._limits.uploads):
            message = f"{most} uploads are under way"
            raise Refusal(429, "TOOMANYREQUESTS", message, {"Retry-After": "5"})
        self._beginning += 1
        try:
            with ExitStack() as undo:
                writer = await in_thread(lambda: undo.enter_context(self._store.writer(0)))
                undo.pop_all()
        finally:
            self._beginning -= 1
        upload = Upload(name, writer)
        self._known[upload.id] = upload
        self._wait(upload)
        return upload

    @contextmanager
    def taken(self, name: str, id: str) -> Iterator[Upload]:
        """The upload of that name, for one request at a time. Raises Refusal."""
        upload = self._known.get(id)
        if upload is None or upload.name != name:
            raise Refusal(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload, or no longer")
        if upload.busy:
            raise Refusal(409, "BLOB_UPLOAD_INVALID", "another request is writing to this upload")
        upload.busy = True
        self._stop(upload)
        try:
            yield upload
        finally:
            upload.busy = False
            if upload.id in self._known:
                self._wait(upload)

    @contextmanager
    def ending(self, upload: Upload) -> Iterator[None]:
        """With it the upload ends: what was not committed is dropped."""
        try:
            yield
        finally:
            self._drop(upload)

    async def aclose(self) -> None:
        for upload in tuple(self._known.values()):
            self._drop(upload)
        if self._aborting:
            await asyncio.wait(self._aborting)

    def _wait(self, upload: Upload) -> None:
        loop = asyncio.get_running_loop()
        upload.timer = loop.call_later(self._limits.upload_idle, self._drop, upload)

    def _stop(self, upload: Upload) -> None:
        if upload.timer is not None:
            upload.timer.cancel()
            upload.timer = None

    def _drop(self, upload: Upload) -> None:
        if self._known.pop(upload.id, None) is None:
            return
        self._stop(upload)
        loop = asyncio.get_running_loop()
        # In a thread: the blocks of a large file take their time to be freed.
        done = loop.run_in_executor(None, upload.abort)
        self._aborting.add(done)
        done.add_done_callback(self._aborting.discard)


async def pieces(request: web.Request, pace: Pace) -> AsyncIterator[bytes]:
    """A request's body; a client that is too slow gets a Refusal."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refusal(415, "UNSUPPORTED", "content comes as it is, without Content-Encoding")
    while True:
        try:
            async with pace.within():
                piece = await request.content.readany()
        except TimeoutError:
            raise Refusal(408, "BLOB_UPLOAD_INVALID", "the body does not arrive") from None
        if not piece:
            return
        pace.moved(len(piece))
        yield piece
