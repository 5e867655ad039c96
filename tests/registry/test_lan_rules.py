"""The rules of sharing, one at a time: whose turn it is, who is responsible, what a hint does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from lan_lab import at_home, fleet, name, noise, push, together, until
from registry_lab import docker_registry

from edge.registry.digest import Digest
from edge.registry.lan import board as boards
from edge.registry.lan import hints as rules
from edge.registry.lan import throttle
from edge.registry.lan.board import Board
from edge.registry.lan.hints import Hints
from edge.registry.lan.order import by_rendezvous
from edge.registry.lan.talk import BLOBS, HOLDERS
from edge.registry.lan.throttle import Full, Slots, Throttle
from edge.registry.manifest import Descriptor
from edge.registry.reference import Reference

IDS = [name(number) for number in range(40)]
BLOB = Digest.of(b"a blob")
TAG = Reference.parse("registry.example/app:1")


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


# Who is responsible


def test_a_node_that_goes_changes_nothing_among_the_others() -> None:
    for seed in range(50):
        digest = Digest.of(noise(10, seed))
        order = by_rendezvous(digest, IDS)
        for gone in IDS[:5]:
            left = [id for id in IDS if id != gone]
            assert by_rendezvous(digest, left) == [id for id in order if id != gone]


def test_all_nodes_are_responsible_for_as_much() -> None:
    homes = Counter(by_rendezvous(Digest.of(noise(10, seed)), IDS[:10])[0] for seed in range(2000))
    assert min(homes.values()) > 130
    assert max(homes.values()) < 270


async def test_who_asked_first_fetches_until_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "_FRESH", 0.0)
    alive = set(IDS)
    board = Board("me", alive.__contains__)
    assert board.appoint(BLOB, IDS[0], None) == IDS[0]
    assert board.appoint(BLOB, IDS[1], None) == IDS[0]
    assert board.appoint(BLOB, IDS[1], IDS[5]) == IDS[0], "somebody else was lost"
    assert board.appoint(BLOB, IDS[1], IDS[0]) == IDS[1]
    assert board.appoint(BLOB, IDS[2], IDS[0]) == IDS[1], "who says it later is not first"
    alive.remove(IDS[1])
    assert board.appointed(BLOB) is None
    assert board.appoint(BLOB, IDS[2], None) == IDS[2]
    board.has(BLOB, IDS[2])
    assert (board.appointed(BLOB), board.holders(BLOB)) == (None, (IDS[2],))


async def test_who_has_just_asked_lives_though_nobody_knows_it_yet() -> None:
    board = Board("me", lambda _: False)
    assert board.appoint(BLOB, IDS[0], None) == IDS[0]
    assert board.appoint(BLOB, IDS[1], None) == IDS[0]


async def test_what_is_kept_in_mind_is_bounded() -> None:
    board = Board("me", lambda _: True)
    for id in IDS:
        board.has(BLOB, id)
    assert board.holders(BLOB) == tuple(IDS[-boards.MOST_HOLDERS :]), "the latest"
    for number in range(boards.MOST_BLOBS):
        board.appoint(Digest.of(number.to_bytes(4)), "x", None)
        board.came(Digest.of(number.to_bytes(4)))
    assert board.holders(BLOB) == ()
    board.came(BLOB)
    assert board.has_come(BLOB)
    assert not board.has_come(Digest.of((0).to_bytes(4)))


async def test_who_waits_hears_of_the_beginning_and_of_the_end() -> None:
    board = Board("me", lambda _: True)
    waiting = asyncio.get_running_loop().create_task(board.begun(BLOB))
    other = Descriptor("x", Digest.of(b"another"), 5)
    with board.fetching(other), board.fetching(Descriptor("x", BLOB, 5)) as fetch:
        assert await waiting is fetch
        assert not fetch.ended.is_set()
    assert fetch.ended.is_set()
    assert board.fetch(BLOB) is None


# Whose turn it is


async def test_few_are_served_at_a_time_and_the_next_when_one_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle, "_WAIT", 10.0)
    slots = Slots(2)
    served: list[str] = []

    async def part(id: str) -> None:
        async with slots.of(id):
            served.append(id)

    async with slots.of("a"), slots.of("b"), slots.of("a"):
        waiting = [asyncio.get_running_loop().create_task(part(id)) for id in "cd"]
        await asyncio.sleep(0)
        assert served == []
    slots.done("a")
    await waiting[0]
    await waiting[1]  # also when nobody says that it is done
    assert served == ["c", "d"]
    slots.close()


async def test_who_has_waited_long_enough_is_sent_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle, "_WAIT", 0.05)
    slots = Slots(1)
    async with slots.of("a"):
        for _ in range(2):
            with pytest.raises(Full):
                async with slots.of("b"):
                    raise AssertionError
    slots.done("a")
    async with slots.of("b"):
        pass
    slots.close()


async def test_no_more_wait_for_a_turn_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(throttle, "_MOST_WAITING", 3)
    slots = Slots(1)

    async def part(id: int) -> bool:
        try:
            async with slots.of(f"{id}"):
                return True
        except Full:
            return False

    async with slots.of("a"):
        tasks = [asyncio.get_running_loop().create_task(part(id)) for id in range(5)]
        await until(lambda: sum(task.done() for task in tasks) == 2)
    slots.done("a")
    assert sorted([await task for task in tasks]) == [False, False, True, True, True]
    slots.close()


async def test_a_turn_ends_when_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_TURN", 0.2)
    slots = Slots(1)
    async with asyncio.timeout(10), slots.of("greedy"), slots.of("greedy"):
        async with slots.of("greedy"):  # nobody else wants it: it goes on
            pass
        async with slots.of("b"):  # though nothing of it has ended
            pass
    slots.close()


async def test_one_does_not_fill_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_TURN", 0.3)
    slots = Slots(1)

    async def part(id: str) -> bool:
        try:
            async with slots.of(id):
                return True
        except Full:
            return False

    async with asyncio.timeout(10), slots.of("a"):
        flood = [asyncio.get_running_loop().create_task(part("b")) for _ in range(100)]
        await until(lambda: sum(task.done() for task in flood) == 100 - throttle._MOST_OF_ONE)
        assert await part("c")
        assert [await task for task in flood].count(True) == throttle._MOST_OF_ONE
    slots.close()


async def test_who_goes_away_gives_back_what_it_was_promised() -> None:
    paced = Throttle(1000)
    tasks = [asyncio.get_running_loop().create_task(paced(4096)) for _ in range(100)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert paced._free - asyncio.get_running_loop().time() < 5, "one piece, not minutes"


async def test_all_together_stay_below_the_bound() -> None:
    paced = Throttle(1_000_000)
    begun = asyncio.get_running_loop().time()
    assert await together(paced(50_000) for _ in range(8)) == [50_000] * 8
    assert asyncio.get_running_loop().time() - begun >= 0.34
    assert await Throttle(64 << 10)(1 << 20) == 8 << 10, "an eighth of a second's"
    free = Throttle(0)
    assert await together(free(1 << 40) for _ in range(3)) == [1 << 40] * 3


# Hints


@dataclass
class Heard:
    hints: Hints
    said: list[str] = field(default_factory=list)
    moved: list[Reference] = field(default_factory=list)


@asynccontextmanager
async def hinting() -> AsyncIterator[Heard]:
    said: list[str] = []
    moved: list[Reference] = []
    hints = Hints(said.append, moved.append, random.Random(3))
    yield Heard(hints, said, moved)
    hints.close()


async def test_a_tag_that_moved_is_said_once() -> None:
    one, two, three = (Digest.of(text) for text in (b"1", b"2", b"3"))
    async with hinting() as it:
        it.hints.found(TAG, one, None)  # it is new here, nothing moved
        it.hints.found(TAG, one, one)
        assert it.said == []
        it.hints.found(TAG, two, one)
        it.hints.found(TAG, two, one)  # the pull failed, and it is looked at again
        assert it.said == [str(TAG)]
        it.hints.found(TAG, three, two)
        assert it.said == [str(TAG)] * 2


async def test_who_was_told_does_not_tell() -> None:
    async with hinting() as it:
        it.hints.hear("peer", str(TAG))
        it.hints.found(TAG, Digest.of(b"2"), Digest.of(b"1"))
        assert it.said == []


async def test_hints_make_nobody_look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_JITTER", 0.02)
    monkeypatch.setattr(rules, "_BETWEEN", 0.3)
    async with hinting() as it, asyncio.timeout(10):
        for _ in range(50):
            it.hints.hear("peer", str(TAG))
        await until(lambda: it.moved)
        looked = asyncio.get_running_loop().time()
        for _ in range(50):
            it.hints.hear("peer", str(TAG))
        await until(lambda: len(it.moved) == 2)
        assert asyncio.get_running_loop().time() - looked > 0.25


async def test_what_is_no_tag_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "_JITTER", 0.0)
    async with hinting() as it, asyncio.timeout(10):
        for text in ("", "x", f"{TAG}@{BLOB}", "../../etc", "registry.example/" + "a" * 600, "\0"):
            it.hints.hear("peer", text)
        it.hints.hear("peer", str(TAG))
        await until(lambda: it.moved)
        assert it.moved == [TAG]


async def test_a_flood_of_hints_is_bounded() -> None:
    async with hinting() as it:
        for number in range(5000):
            it.hints.hear("peer", f"registry.example/app:{number}")
        assert len(it.hints._pending) == rules._MOST_PENDING
        assert len(it.hints._heard) == rules._MOST


# Of a neighbour that is slow or busy


async def test_a_part_that_does_not_come_is_asked_of_another(registry: str, tmp_path: Path) -> None:
    ids = [name(0), name(1), name(9)]
    data = at_home(name(9), ids, 300_000)
    await push(registry, tmp_path, "hedged:1", data)

    async def slow(request: web.Request) -> web.StreamResponse:
        if request.path.startswith(BLOBS):
            return web.json_response({"here": True, "holders": [name(0)]})
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async with fleet(tmp_path, 2) as nodes:
        await nodes[0].pull(f"{registry}/hedged:1")
        await nodes.impostor(9, slow)
        async with asyncio.timeout(6):  # and not until its deadline
            await nodes[1].pull(f"{registry}/hedged:1")
        assert nodes[1].neighbours.penalised == {}


async def test_who_is_busy_names_others(registry: str, tmp_path: Path) -> None:
    ids = [name(0), name(1), name(9)]
    data = at_home(name(9), ids, 300_000)
    await push(registry, tmp_path, "busy:1", data)

    async def busy(request: web.Request) -> web.StreamResponse:
        if request.path.startswith(BLOBS):
            return web.json_response({"here": True})
        headers = {HOLDERS: f"{name(0)}, nobody", "Retry-After": "99999999999"}
        return web.Response(status=503, headers=headers)

    async with fleet(tmp_path, 2) as nodes, asyncio.timeout(15):
        await nodes[0].pull(f"{registry}/busy:1")
        await nodes.impostor(9, busy)
        await nodes[1].pull(f"{registry}/busy:1")
        assert any(id == name(0) and "/v2/" in path for id, _, path in nodes[1].neighbours.asked)
