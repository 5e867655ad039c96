"""Several nodes of a fleet in one process: their stores, what they share, and a counted registry.

They talk over real HTTP on loopback; who they are is a header here, certificates are not.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from edge.errors import PullError
from edge.registry import transfer
from edge.registry.client import Patience, RegistryClient
from edge.registry.digest import Digest
from edge.registry.lan.lan import Lan
from edge.registry.lan.order import by_rendezvous
from edge.registry.manifest import IMAGE_CONFIG, IMAGE_MANIFEST, Manifest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

HASTY = Patience(total=1.0, attempts=2, first=0.01, connect=1.0, silence=1.0)
T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def name(number: int) -> str:
    """An id as certificates have it."""
    digest = hashlib.sha256(f"node {number}".encode()).digest()
    return base64.b32encode(digest).decode().rstrip("=").lower()


@dataclass(frozen=True)
class Near:
    id: str
    round_trip: float | None = 0.001


class Neighbours:
    """What one node thinks of the others; a test says what that is. `ports`: of all of them."""

    def __init__(self, me: str, ports: dict[str, int], session: aiohttp.ClientSession) -> None:
        self.me, self.ports, self._session = me, ports, session
        self.heard: Callable[[str, str], None] = lambda _id, _text: None
        self.gone: set[str] = set()
        self.penalised: dict[str, str] = {}
        self.hints: list[str] = []
        self.asked: list[tuple[str, str, str]] = []  # id, method, path

    def alive(self) -> Sequence[Near]:
        out = {self.me, *self.gone, *self.penalised}
        return [Near(id) for id in self.ports if id not in out]

    @asynccontextmanager
    async def request(
        self,
        id: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if id not in self.ports:
            raise PullError(f"{id}: is not known")
        self.asked.append((id, method, path))
        url = f"http://127.0.0.1:{self.ports[id]}{path}"
        sent = {**(headers or {}), "Peer": self.me}
        try:
            response = await self._session.request(method, url, headers=sent, timeout=timeout)
        except (aiohttp.ClientError, OSError) as error:
            raise PullError(f"{id}: {error}") from error
        try:
            yield response
        finally:
            response.close()

    def penalise(self, id: str, reason: str) -> None:
        self.penalised.setdefault(id, reason)

    def hint(self, text: str) -> None:
        self.hints.append(text)


@dataclass
class Board:
    """One node."""

    id: str
    store: ContentStore
    neighbours: Neighbours
    lan: Lan
    client: RegistryClient
    moved: list[Reference]
    runner: web.AppRunner | None = None

    async def pull(self, reference: str) -> Digest:
        source = self.lan.source(self.client)
        return await transfer.pull(source, Reference.parse(reference), self.store)

    def asked(self, kind: str) -> list[tuple[str, str, str]]:
        """The requests that it sent whose path has that in it."""
        return [one for one in self.neighbours.asked if kind in one[2]]

    async def stop(self) -> None:
        """As a killed process: its connections are gone in the middle of whatever they did."""
        if self.runner is not None:
            runner, self.runner = self.runner, None
            assert runner.server is not None
            for connection in list(runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()


@dataclass
class Fleet:
    """Nodes, by number, and strangers who pretend to be some."""

    ports: dict[str, int] = field(default_factory=dict)
    boards: list[Board] = field(default_factory=list)
    opened: AsyncExitStack = field(default_factory=AsyncExitStack)

    def __getitem__(self, number: int) -> Board:
        return self.boards[number]

    def by_id(self, id: str) -> Board:
        return next(board for board in self.boards if board.id == id)

    async def impostor(self, number: int, handler: Handler) -> str:
        """A node of the fleet that answers everything as `handler` does."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        await self._serve(name(number), app)
        return name(number)

    async def _serve(self, id: str, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        self.opened.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.ports[id] = runner.addresses[0][1]
        return runner

    async def add(
        self,
        directory: Path,
        *,
        document: str | None = None,
        upload: int = 0,
        settling: float = 0.0,
        patience: Patience = HASTY,
    ) -> Board:
        number = len(self.boards)
        id = name(number)
        session = await self.opened.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False)
        )
        client = await self.opened.enter_async_context(RegistryClient(patience=patience))
        neighbours = Neighbours(id, self.ports, session)
        store = ContentStore(directory / f"node-{number}")
        moved: list[Reference] = []
        lan = Lan(
            neighbours,
            store,
            document=Reference.parse(document) if document else None,
            moved=moved.append,
            upload=upload,
            settling=settling,
            rng=random.Random(number),
        )
        await self.opened.enter_async_context(lan)
        board = Board(id, store, neighbours, lan, client, moved)
        self.boards.append(board)
        app = web.Application()
        app.add_routes(lan.routes(lambda request: request.headers["Peer"]))
        board.runner = await self._serve(id, app)
        self.opened.push_async_callback(board.stop)
        return board


@asynccontextmanager
async def fleet(directory: Path, count: int, **options: object) -> AsyncIterator[Fleet]:
    found = Fleet()
    async with found.opened:
        for _ in range(count):
            await found.add(directory, **options)  # type: ignore[arg-type]
        yield found


def bundle(directory: Path, reference: str, *layers: bytes) -> tuple[ContentStore, Digest]:
    """In a store of its own, to be offered by a registry."""
    store = ContentStore(directory)
    config, *rest = (store.add(data, IMAGE_CONFIG) for data in (b"{}", *layers))
    data = Manifest(config, tuple(rest)).to_bytes()
    manifest = store.add(data, IMAGE_MANIFEST)
    store.tags.set(reference, manifest.digest)
    return store, manifest.digest


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Counted:
    """A registry as it is reached through a wire that counts; `cut`: nothing goes through."""

    host: str = ""
    received: int = 0  # by clients
    is_cut: bool = False
    is_mute: bool = False  # connections are taken, and nothing comes
    rate: float = 0.0  # bytes a second of each connection; 0: no bound
    writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        self.is_cut = True
        for writer in list(self.writers):
            writer.transport.abort()


@asynccontextmanager
async def counted(host: str) -> AsyncIterator[Counted]:
    """In front of a registry."""
    found = Counted()
    to, _, port = host.partition(":")

    async def copy(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Callable[[int], None]
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(16 << 10):
                if found.is_mute:
                    continue
                count(len(data))
                if found.rate:
                    await asyncio.sleep(len(data) / found.rate)
                writer.write(data)
                await writer.drain()
        writer.close()

    def add(size: int) -> None:
        found.received += size

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if found.is_cut:
            writer.transport.abort()
            return
        found.writers.add(writer)
        far_reader, far_writer = await asyncio.open_connection(to, int(port))
        found.writers.add(far_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(copy(reader, far_writer, lambda _: None))
                group.create_task(copy(far_reader, writer, add))
        finally:
            found.writers -= {writer, far_writer}
            for one in (writer, far_writer):
                one.transport.abort()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    found.host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield found
    finally:
        server.close()
        for writer in list(found.writers):
            writer.transport.abort()
        while found.writers:  # noqa: ASYNC110 - their tasks are the server's
            await asyncio.sleep(0.001)


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What all of them give."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
    return [task.result() for task in tasks]


async def until(condition: Callable[[], object]) -> None:
    """A deadline for it is the test's own."""
    while not condition():  # noqa: ASYNC110 - nobody tells of it
        await asyncio.sleep(0.005)


async def push(host: str, directory: Path, repository: str, *layers: bytes) -> Digest:
    """A bundle of these layers, at a registry."""
    reference = Reference.parse(f"{host}/{repository}")
    store, digest = bundle(directory / "author", str(reference), *layers)
    async with RegistryClient() as client:
        await transfer.push(client, digest, store, reference)
    return digest


def at_home(home: str, ids: Iterable[str], size: int) -> bytes:
    """A layer whose home among these nodes is that one."""
    for seed in range(1000):
        data = noise(size, seed)
        if by_rendezvous(Digest.of(data), ids)[0] == home:
            return data
    raise AssertionError("no such layer")
