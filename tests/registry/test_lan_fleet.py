"""A fleet's nodes share bundles: what goes over the uplink, and what without it. All honest."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lan_lab import Board, Fleet, at_home, counted, fleet, name, noise, push, together, until
from registry_lab import docker_registry

from edge.errors import PullError
from edge.registry.digest import Digest
from edge.registry.lan.gather import PART
from edge.registry.lan.talk import BLOBS

MIB = 1 << 20


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def innocent(nodes: Fleet) -> bool:
    return not any(node.neighbours.penalised for node in nodes.boards)


# With an uplink


async def test_ten_nodes_fetch_a_bundle_once(registry: str, tmp_path: Path) -> None:
    size = 20 * MIB
    digest = await push(registry, tmp_path, "app:1", noise(size))
    async with counted(registry) as uplink, fleet(tmp_path, 10) as nodes:
        found = await together(node.pull(f"{uplink.host}/app:1") for node in nodes.boards)
        assert set(found) == {digest}
        assert uplink.received <= 1.2 * size
        assert innocent(nodes)


async def test_of_many_layers_each_is_fetched_once(registry: str, tmp_path: Path) -> None:
    layers = [noise(300_000, seed) for seed in range(12)]
    await push(registry, tmp_path, "layers:1", *layers)
    async with counted(registry) as uplink, fleet(tmp_path, 5) as nodes:
        await together(node.pull(f"{uplink.host}/layers:1") for node in nodes.boards)
        assert uplink.received <= 1.2 * sum(map(len, layers))
        assert innocent(nodes)


async def test_who_comes_later_needs_no_uplink(registry: str, tmp_path: Path) -> None:
    await push(registry, tmp_path, "later:1", noise(3 * MIB))
    async with counted(registry) as uplink, fleet(tmp_path, 4) as nodes:
        await nodes[0].pull(f"{uplink.host}/later:1")
        before = uplink.received
        await together(node.pull(f"{uplink.host}/later:1") for node in nodes.boards[1:])
        assert uplink.received - before < MIB // 10


async def test_one_node_alone_asks_nobody(registry: str, tmp_path: Path) -> None:
    await push(registry, tmp_path, "alone:1", noise(MIB))
    async with fleet(tmp_path, 1) as nodes:
        await nodes[0].pull(f"{registry}/alone:1")
        assert nodes[0].neighbours.asked == []


async def test_nobody_waits_for_a_bundle_that_one_node_wants(registry: str, tmp_path: Path) -> None:
    await push(registry, tmp_path, "one:1", noise(MIB))
    async with fleet(tmp_path, 10) as nodes:
        await nodes[3].pull(f"{registry}/one:1")
        assert nodes[3].asked("wait=") == []
        assert not any(node.neighbours.asked for node in nodes.boards if node is not nodes[3])


async def test_two_bundles_of_one_node_share_a_layer(registry: str, tmp_path: Path) -> None:
    shared = noise(4 * MIB)
    await push(registry, tmp_path, "a:1", shared, b"a")
    await push(registry, tmp_path, "b:1", shared, b"b")
    async with counted(registry) as uplink, fleet(tmp_path, 2) as nodes:
        await together(nodes[0].pull(f"{uplink.host}/{name}:1") for name in "ab")
        assert uplink.received <= 1.2 * len(shared)


async def fetching(nodes: Fleet) -> Board:
    """The node that others wait for."""
    found: list[str] = []

    def waited_for() -> bool:
        found[:] = [one[0] for node in nodes.boards for one in node.asked("wait=")]
        return bool(found)

    await until(waited_for)
    return nodes.by_id(Counter(found).most_common(1)[0][0])


async def test_who_fetches_for_all_is_killed(registry: str, tmp_path: Path) -> None:
    size = 8 * MIB
    await push(registry, tmp_path, "killed:1", noise(size))
    async with counted(registry) as uplink, fleet(tmp_path, 6) as nodes:
        uplink.rate = 2 * MIB
        tasks = {
            node.id: asyncio.get_running_loop().create_task(node.pull(f"{uplink.host}/killed:1"))
            for node in nodes.boards
        }
        async with asyncio.timeout(20):
            victim = await fetching(nodes)
            await until(lambda: uplink.received > size // 2)
        tasks[victim.id].cancel()
        await victim.stop()  # the others still think that it lives
        with suppress(asyncio.CancelledError):
            await tasks.pop(victim.id)
        async with asyncio.timeout(10 + size / uplink.rate):
            await together(task_of(task) for task in tasks.values())
        assert uplink.received <= 2.2 * size


async def task_of(task: asyncio.Task[Digest]) -> Digest:
    return await task


async def test_a_node_that_starts_looks_round_before_it_uses_the_uplink(
    registry: str, tmp_path: Path
) -> None:
    await push(registry, tmp_path, "starts:1", noise(MIB))
    async with counted(registry) as uplink, fleet(tmp_path, 1) as nodes:
        await nodes[0].pull(f"{uplink.host}/starts:1")
        before = uplink.received
        second = await nodes.add(tmp_path, settling=1.0)
        second.neighbours.gone.add(nodes[0].id)  # it is not known yet
        pulled = asyncio.get_running_loop().create_task(second.pull(f"{uplink.host}/starts:1"))
        await until(lambda: uplink.received > before)  # the manifest
        second.neighbours.gone.clear()
        await pulled
        assert uplink.received - before < MIB // 10


# Without one


async def test_a_registry_that_is_gone_is_not_needed(registry: str, tmp_path: Path) -> None:
    digest = await push(registry, tmp_path, "gone:1", noise(5 * MIB), noise(1000), b"tiny")
    async with counted(registry) as uplink, fleet(tmp_path, 6) as nodes:
        await nodes[0].pull(f"{uplink.host}/gone:1@{digest}")
        uplink.cut()
        for node in nodes.boards[1:]:
            with pytest.raises(PullError):
                await node.pull(f"{uplink.host}/gone:1")  # a tag is the registry's word
        exact = f"{uplink.host}/gone:1@{digest}"
        found = await together(node.pull(exact) for node in nodes.boards[1:])
        assert set(found) == {digest}


async def test_a_large_layer_comes_from_several_at_once(registry: str, tmp_path: Path) -> None:
    await push(registry, tmp_path, "large:1", noise(12 * MIB))
    async with counted(registry) as uplink, fleet(tmp_path, 3) as nodes:
        for node in nodes.boards[:2]:
            await node.pull(f"{uplink.host}/large:1")
        await nodes[2].pull(f"{uplink.host}/large:1")
        parts = Counter(one[0] for one in nodes[2].asked("/blobs/") if BLOBS not in one[2])
        assert set(parts) == {nodes[0].id, nodes[1].id}
        assert sum(parts.values()) == 12 * MIB // PART


async def test_a_holder_that_dies_is_replaced_where_it_was(registry: str, tmp_path: Path) -> None:
    size = 8 * MIB
    await push(registry, tmp_path, "dies:1", noise(size))
    async with counted(registry) as uplink, fleet(tmp_path, 3, upload=4 * MIB) as nodes:
        for node in nodes.boards[:2]:
            await node.pull(f"{uplink.host}/dies:1")
        before = uplink.received
        task = asyncio.get_running_loop().create_task(nodes[2].pull(f"{uplink.host}/dies:1"))

        def parts() -> int:
            return len([one for one in nodes[2].asked("/blobs/") if BLOBS not in one[2]])

        await until(lambda: parts() > 10)
        await nodes[0].stop()
        await task
        assert uplink.received - before < MIB // 10
        assert parts() <= size // PART + 3, "only what was under way was asked for again"


async def test_a_bound_on_what_is_given_holds(registry: str, tmp_path: Path) -> None:
    await push(registry, tmp_path, "bound:1", noise(4 * MIB))
    async with counted(registry) as uplink, fleet(tmp_path, 3, upload=4 * MIB) as nodes:
        await nodes[0].pull(f"{uplink.host}/bound:1")
        begun = asyncio.get_running_loop().time()
        await nodes[1].pull(f"{uplink.host}/bound:1")
        assert asyncio.get_running_loop().time() - begun > 0.8
        assert innocent(nodes)


# Who is asked


async def test_the_home_of_a_blob_names_who_fetches_it(registry: str, tmp_path: Path) -> None:
    ids = [name(number) for number in range(3)]
    layer = at_home(ids[2], ids, 2 * MIB)
    await push(registry, tmp_path, "home:1", layer)
    async with counted(registry) as uplink, fleet(tmp_path, 3) as nodes:
        uplink.rate = 4 * MIB
        await together(node.pull(f"{uplink.host}/home:1") for node in nodes.boards[:2])
        claims = [one for node in nodes.boards for one in node.asked(BLOBS) if one[1] == "POST"]
        assert {claim[0] for claim in claims} == {ids[2]}
        assert nodes[2].store.size(Digest.of(layer)) is None, "it fetches nothing for others"
        assert uplink.received <= 1.2 * len(layer)
