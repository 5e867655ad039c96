"""Sync on nodes that have neighbours: hints, and registries that do not answer."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from lan_lab import Fleet, fleet
from registry_lab import Liar, drops, liar
from sync_lab import SETTINGS, FakeHost, put, status, syncing, until

from edge.config import ApplicationEntry, Mount
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.lan.source import LanSource
from edge.registry.reference import Reference
from edge.registry.sync import Registries, Sync, Wanted

# Nobody looks by itself a second time.
SELDOM = replace(SETTINGS, interval=3600.0)


def entry(registry: Liar, name: str, wanted: str) -> ApplicationEntry:
    return ApplicationEntry(name, f"{registry.host}/hello{wanted}", mount=Mount(f"/{name}"))


def off(registry: Liar) -> None:
    for kind in ("manifests", "blobs"):
        registry.faults[kind] = [drops] * 100_000


class Site:
    """Nodes with a sync each."""

    def __init__(self, nodes: Fleet, registry: Liar, scratch: Path) -> None:
        self.nodes, self.registry, self._scratch = nodes, registry, scratch
        self.hosts: list[FakeHost] = []
        self.syncs: list[Sync] = []

    def put(self, content: str, *tags: str) -> Digest:
        return put(self.registry, self._scratch, "hello", content, *tags)

    async def start(
        self, stack: AsyncExitStack, *entries: ApplicationEntry, **more: object
    ) -> Sync:
        number = len(self.syncs)
        board, host = self.nodes[number], FakeHost()
        state = board.store.directory.parent
        state.mkdir(exist_ok=True)
        sync = await stack.enter_async_context(
            syncing(state, host, entries, settings=SELDOM, lan=board.lan, **more)
        )
        self.hosts.append(host)
        self.syncs.append(sync)
        return sync

    def tell(self, text: str) -> None:
        """What hints do, between nodes."""
        for sync in self.syncs:
            sync.hinted(Reference.parse(text))


async def test_a_node_that_is_told_looks_at_once(tmp_path: Path) -> None:
    async with (
        liar() as registry,
        fleet(tmp_path, 2) as nodes,
        AsyncExitStack() as stack,
        asyncio.timeout(20),
    ):
        it = Site(nodes, registry, tmp_path / "scratch")
        first = it.put("one", "1")
        for _ in range(2):
            sync = await it.start(stack, entry(registry, "a", ":1"), entry(registry, "b", ":2"))
        await until(lambda: all(host.digest("a") == first for host in it.hosts))
        second = it.put("two", "1")
        before = len(registry.requests)
        it.tell(f"{registry.host}/other:1")
        await it.syncs[0].sync_now("a")
        assert it.hosts[0].digest("a") == second
        assert nodes[0].neighbours.hints == [f"{registry.host}/hello:1"]
        assert it.hosts[1].digest("a") == first, "it was told of nothing that it follows"
        asked = [r.path for r in registry.requests[before:]]
        it.tell(f"{registry.host}/hello:1")
        await until(lambda: it.hosts[1].digest("a") == second)
        assert not [path for path in asked if path.endswith("/other/manifests/1")]
        assert status(sync, "a").state == "soaking"


async def test_latest_is_what_no_tag_means(tmp_path: Path) -> None:
    async with (
        liar() as registry,
        fleet(tmp_path, 1) as nodes,
        AsyncExitStack() as stack,
        asyncio.timeout(20),
    ):
        it = Site(nodes, registry, tmp_path / "scratch")
        it.put("one", "latest")
        await it.start(stack, entry(registry, "a", ""))
        await until(lambda: it.hosts[0].digest("a"))
        second = it.put("two", "latest")
        it.tell(f"{registry.host}/hello:latest")
        await until(lambda: it.hosts[0].digest("a") == second)


async def test_a_fleets_document_is_looked_at_when_it_moved(tmp_path: Path) -> None:
    looks = 0

    async def follow() -> list[Wanted]:
        nonlocal looks
        looks += 1
        return []

    async with (
        liar() as registry,
        fleet(tmp_path, 1) as nodes,
        AsyncExitStack() as stack,
        asyncio.timeout(20),
    ):
        it = Site(nodes, registry, tmp_path / "scratch")
        sync = await it.start(stack, follow=follow)
        await until(lambda: looks == 1)
        sync.hinted(Reference.parse("registry.example/fleet:1"), of_fleet=True)
        await until(lambda: looks == 2)


async def test_a_registry_that_is_away_holds_up_tags_and_no_digests(tmp_path: Path) -> None:
    async with (
        liar() as registry,
        fleet(tmp_path, 2) as nodes,
        AsyncExitStack() as stack,
        asyncio.timeout(30),
    ):
        it = Site(nodes, registry, tmp_path / "scratch")
        digest = it.put("one", "1")
        await it.start(stack, entry(registry, "a", f"@{digest}"))
        await until(lambda: it.hosts[0].digest("a") == digest)
        off(registry)
        await it.start(stack, entry(registry, "tag", ":1"), entry(registry, "exact", f"@{digest}"))
        await until(lambda: it.hosts[1].digest("exact") == digest)
        await until(lambda: status(it.syncs[1], "tag").reason)
        assert it.hosts[1].digest("tag") is None


async def test_a_lan_that_is_expected_is_waited_for(tmp_path: Path) -> None:
    reference = Reference.parse("registry.example/app:1")
    async with fleet(tmp_path, 1) as nodes, Registries() as registries, asyncio.timeout(10):
        registries.expect_lan()
        client = asyncio.get_running_loop().create_task(registries.client(reference))
        done, _ = await asyncio.wait((client,), timeout=0.05)
        assert not done
        registries.lan = nodes[0].lan
        assert isinstance(await client, LanSource)
        registries.lan = None
        assert isinstance(await registries.client(reference), RegistryClient)


async def test_one_that_does_not_come_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.registry.sync.registries._EXPECTED", 0.1)
    reference = Reference.parse("registry.example/app:1")
    async with Registries() as registries, asyncio.timeout(2):
        registries.expect_lan()
        for _ in range(100):
            assert isinstance(await registries.client(reference), RegistryClient)
