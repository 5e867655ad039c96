"""Members of a fleet that lie, stall and flood: nothing of theirs is kept, and all of them show."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from lan_lab import Board, Fleet, Handler, at_home, counted, fleet, name, noise, push, together
from registry_lab import docker_registry

from edge.errors import PullError
from edge.registry.digest import Digest
from edge.registry.lan import bringing, gather, talk
from edge.registry.lan.order import by_rendezvous
from edge.registry.lan.talk import BLOBS

MIB = 1 << 20
BAD = 9  # the number of the node that is not honest


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "_ANSWER", 0.5)
    monkeypatch.setattr(talk, "_SILENCE", 0.5)
    monkeypatch.setattr(talk, "_SLOWEST", 2 * MIB)
    monkeypatch.setattr(bringing, "WAIT", 0.3)
    monkeypatch.setattr(bringing, "_STALLED", 1.0)
    monkeypatch.setattr(bringing, "_LEAST_PAUSE", 0.1)
    monkeypatch.setattr(gather, "_PATIENCE", 1.0)


def whole(data: bytes, request: web.Request) -> tuple[bytes, dict[str, str]]:
    """The part of `data` that is asked for, and the headers of an honest answer."""
    part = request.http_range
    start, end = part.start or 0, part.stop or len(data)
    return data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}


@dataclass
class Liar:
    """Says that it has everything; `blob` is what it then does."""

    blob: Handler
    report: object = field(default_factory=lambda: {"here": True})
    served: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(BLOBS):
            return web.json_response(self.report)
        if "/blobs/" in request.path:
            self.served += 1
            return await self.blob(request)
        raise web.HTTPNotFound


def wrong(size: int) -> Handler:
    """Other bytes of the right length."""
    other = noise(size, 77)

    async def answer(request: web.Request) -> web.StreamResponse:
        part, headers = whole(other, request)
        return web.Response(status=206, body=part, headers=headers)

    return answer


def long(size: int) -> Handler:
    """Ten gigabytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        _, headers = whole(bytes(size), request)
        response = web.StreamResponse(status=206, headers=headers)
        response.content_length = 10 << 30
        await response.prepare(request)
        while True:
            await response.write(bytes(MIB))

    return answer


def endless(size: int) -> Handler:
    """As many, without a word about their length."""

    async def answer(request: web.Request) -> web.StreamResponse:
        _, headers = whole(bytes(size), request)
        response = web.StreamResponse(status=206, headers=headers)
        await response.prepare(request)
        while True:
            await response.write(bytes(MIB))

    return answer


def stalls(size: int) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        part, headers = whole(bytes(size), request)
        response = web.StreamResponse(status=206, headers=headers)
        response.content_length = len(part)
        await response.prepare(request)
        await response.write(part[:1000])
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    return answer


def trickles(size: int) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        part, headers = whole(bytes(size), request)
        response = web.StreamResponse(status=206, headers=headers)
        response.content_length = len(part)
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    return answer


def another_part(size: int) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        part, _ = whole(bytes(size), request)
        headers = {"Content-Range": f"bytes 1-{len(part)}/{size}"}
        return web.Response(status=206, body=part, headers=headers)

    return answer


@asynccontextmanager
async def with_liar(
    tmp_path: Path, honest: int, blob: Handler, report: object = None
) -> AsyncIterator[tuple[Fleet, Liar]]:
    liar = Liar(blob) if report is None else Liar(blob, report)
    async with fleet(tmp_path, honest) as nodes:
        await nodes.impostor(BAD, liar.answer)
        yield nodes, liar


def layer(size: int, honest: int) -> bytes:
    """One that the liar is asked about first."""
    ids = [*(name(number) for number in range(honest)), name(BAD)]
    return at_home(name(BAD), ids, size)


def shown(node: Board) -> str:
    return node.neighbours.penalised.get(name(BAD), "")


PROVEN = [
    (wrong, "sends wrong bytes"),
    (long, "another part of a blob"),
    (endless, "another part of a blob"),
    (another_part, "another part of a blob"),
    (stalls, "stalls in the middle"),
    (trickles, "stalls in the middle"),
]


@pytest.mark.parametrize(("lie", "reason"), PROVEN)
@pytest.mark.parametrize("size", [100_000, 6 * MIB])
async def test_a_lie_about_a_blob_is_dropped_and_shown(
    registry: str, tmp_path: Path, lie: Callable[[int], Handler], reason: str, size: int
) -> None:
    data = layer(size, 1)
    await push(registry, tmp_path, f"lie:{size}", data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with with_liar(tmp_path, 1, lie(size)) as (nodes, liar), asyncio.timeout(20):
        await nodes[0].pull(f"{registry}/lie:{size}")
        assert reason in shown(nodes[0])
        assert liar.served > 0
        assert nodes[0].store.read(Digest.of(data), size) == data
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100 << 10, "kilobytes: what it sends is not held"


async def test_of_several_that_brought_parts_the_liar_is_found(
    registry: str, tmp_path: Path
) -> None:
    size = 8 * MIB
    data = layer(size, 2)
    await push(registry, tmp_path, "found:1", data)
    async with counted(registry) as uplink, with_liar(tmp_path, 2, wrong(size)) as (nodes, liar):
        nodes[0].neighbours.gone.add(name(BAD))
        await nodes[0].pull(f"{uplink.host}/found:1")
        before = uplink.received
        liar.report = {"here": True, "holders": [nodes[0].id]}
        await nodes[1].pull(f"{uplink.host}/found:1")
        assert shown(nodes[1]) == "sends wrong bytes for a blob"
        assert list(nodes[1].neighbours.penalised) == [name(BAD)]
        assert uplink.received - before < MIB // 10, "the honest one had all of it"
        assert nodes[1].store.read(Digest.of(data), size) == data


async def nothing(_: web.Request) -> web.StreamResponse:
    raise web.HTTPNotFound


@pytest.mark.parametrize(
    "lie", [wrong(6 * MIB), stalls(6 * MIB), nothing], ids=["wrong", "stalls", "nothing"]
)
@pytest.mark.parametrize("next_home", [0, 1])
async def test_a_home_that_names_itself_alone_hides_nobody(
    registry: str, tmp_path: Path, lie: Handler, next_home: int
) -> None:
    seeds = (noise(6 * MIB, seed) for seed in range(1000))
    order = [name(BAD), name(next_home), name(1 - next_home)]
    data = next(data for data in seeds if by_rendezvous(Digest.of(data), order) == order)
    await push(registry, tmp_path, "hidden:1", data)
    async with counted(registry) as uplink, with_liar(tmp_path, 2, lie) as (nodes, liar):
        nodes[0].neighbours.gone.add(name(BAD))
        await nodes[0].pull(f"{uplink.host}/hidden:1")
        before = uplink.received
        async with asyncio.timeout(20):
            await nodes[1].pull(f"{uplink.host}/hidden:1")
        assert liar.served > 0
        assert uplink.received - before < MIB // 10, "an honest one had all of it"
        assert nodes[1].store.read(Digest.of(data), 6 * MIB) == data


REPORTS: list[object] = [
    [],
    "here",
    {"here": 1},
    {"here": True, "holders": "x"},
    {"received": -1},
    {"received": 1 << 60},
    {"fetcher": 5},
    {"fetcher": "\ud800"},
    {"fetcher": "../../etc"},
    {"holders": ["\ud800"]},
    {"holders": [""]},
    {"holders": ["x" * 20_000]},
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: json.dumps(report)[:30])
async def test_a_report_that_cannot_be_is_a_lie(
    registry: str, tmp_path: Path, report: object
) -> None:
    data = layer(100_000, 1)
    await push(registry, tmp_path, "report:1", data)
    async with with_liar(tmp_path, 1, wrong(1), report) as (nodes, liar):
        await nodes[0].pull(f"{registry}/report:1")
        assert "about a blob" in shown(nodes[0])
        assert liar.served == 0


@pytest.mark.parametrize(
    "report",
    [
        {"fetcher": name(BAD)},  # and then it has not begun
        {"fetcher": name(BAD), "received": 5},  # and gets no further
        {"fetcher": name(77)},  # whom nobody knows
        {"holders": [name(77), name(BAD)]},
        {"received": 5, "later": "versions say more"},
    ],
)
async def test_a_home_that_points_nowhere_holds_nobody_up_for_long(
    registry: str, tmp_path: Path, report: object
) -> None:
    data = layer(100_000, 2)
    await push(registry, tmp_path, "nowhere:1", data)
    async with with_liar(tmp_path, 2, nothing, report) as (nodes, _), asyncio.timeout(15):
        await together(node.pull(f"{registry}/nowhere:1") for node in nodes.boards)


async def test_progress_without_an_end_is_believed_for_so_long(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bringing, "_FINISHED", 1.5)
    data = layer(100_000, 1)
    await push(registry, tmp_path, "endless:1", data)
    received = iter(range(1 << 20))

    async def creeps(request: web.Request) -> web.StreamResponse:
        if request.path.startswith(BLOBS):
            return web.json_response({"fetcher": name(BAD), "received": next(received)})
        raise web.HTTPNotFound

    async with fleet(tmp_path, 1) as nodes, asyncio.timeout(15):
        await nodes.impostor(BAD, creeps)
        await nodes[0].pull(f"{registry}/endless:1")
        assert next(received) < 60, "however fast it answers, it is asked seldom"


async def test_a_node_that_was_held_up_blames_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "_HELD_UP", 0.1)

    async def waits(stopped: float) -> None:
        async with talk._no_slower(0.05):
            time.sleep(stopped)  # noqa: ASYNC251 - as if it had been stopped
            await asyncio.sleep(1)

    with pytest.raises(PullError, match="held up"):
        await waits(0.3)
    with pytest.raises(talk._Lied, match="stalls"):
        await waits(0.0)


async def test_who_may_give_little_is_not_blamed_for_it(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "_SLOWEST", 16 << 10)
    await push(registry, tmp_path, "little:1", noise(300_000))
    async with fleet(tmp_path, 2, upload=128 << 10) as nodes, counted(registry) as uplink:
        await nodes[0].pull(f"{uplink.host}/little:1")
        before = uplink.received
        await nodes[1].pull(f"{uplink.host}/little:1")
        assert nodes[1].neighbours.penalised == {}
        assert uplink.received - before < 50_000


async def test_who_failed_is_not_asked_again_however_often_it_is_named(
    registry: str, tmp_path: Path
) -> None:
    ids = [name(0), name(1), name(BAD)]
    data = at_home(name(0), ids, 6 * MIB)
    await push(registry, tmp_path, "named:1", data)
    asked = 0

    async def nothing(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += "/v2/" in request.path
        if request.path.startswith(BLOBS):
            return web.json_response({})
        raise web.HTTPNotFound

    async with fleet(tmp_path, 2) as nodes:
        await nodes[0].pull(f"{registry}/named:1")
        await nodes.impostor(BAD, nothing)
        url = f"http://127.0.0.1:{nodes.ports[nodes[0].id]}{BLOBS}/{Digest.of(data)}"
        async with (
            aiohttp.ClientSession() as session,
            session.put(url, headers={"Peer": name(BAD)}) as answer,
        ):
            assert answer.status == 204, "it says that it has it"
        await nodes[1].pull(f"{registry}/named:1")
        assert 1 <= asked <= 2, "for two parts at once, and for none of the ten after them"


async def test_a_neighbour_that_never_answers_costs_seconds(registry: str, tmp_path: Path) -> None:
    data = layer(3 * MIB, 3)
    await push(registry, tmp_path, "mute:1", data)

    async def hangs(_: web.Request) -> web.StreamResponse:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async with counted(registry) as uplink, fleet(tmp_path, 3) as nodes, asyncio.timeout(15):
        await nodes.impostor(BAD, hangs)
        await together(node.pull(f"{uplink.host}/mute:1") for node in nodes.boards)
        assert uplink.received <= 1.2 * len(data)
