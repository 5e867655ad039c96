"""Sync where something else fails than a registry: errors of edge itself, purges, what is kept."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from registry_lab import liar
from sync_lab import SETTINGS, FakeHost, Prepared, put, status, syncing, until

from edge.config import ApplicationEntry, Mount
from edge.errors import ConfigError, EdgeError
from edge.registry.digest import Digest
from edge.registry.store import ContentStore


@dataclass
class FaultyHost(FakeHost):
    """`faulty`: digests at which the node itself makes a mistake."""

    faulty: set[Digest] = field(default_factory=set)

    async def prepare(self, *args: Any, check: bool = True) -> Prepared:
        if args[2] in self.faulty:
            raise RuntimeError("a mistake of the engine")
        return await super().prepare(*args, check=check)


async def test_an_error_of_edge_itself_does_not_stop_a_boot(tmp_path: Path) -> None:
    async with liar() as registry:
        digests = [put(registry, tmp_path / "scratch", "hello", name, name) for name in ("a", "b")]
        entries = [
            ApplicationEntry(name, f"{registry.host}/hello:{name}", mount=Mount(f"/{name}"))
            for name in ("a", "b")
        ]
        async with syncing(tmp_path / "state", FakeHost(), entries) as sync:
            await sync.wait_idle()
        host = FaultyHost(faulty={digests[0]})
        async with syncing(tmp_path / "state", host, entries) as sync:
            assert (host.digest("a"), host.digest("b")) == (None, digests[1])
            assert "a mistake of the engine" in status(sync, "a").reason


async def test_a_purge_that_failed_does_not_remove_what_comes_after_it(tmp_path: Path) -> None:
    async with liar() as registry:
        put(registry, tmp_path / "scratch", "hello", "one", "1")
        entry = ApplicationEntry("a", f"{registry.host}/hello:1")
        log: list[str] = []
        host = FakeHost()

        async def purge(name: str) -> None:
            assert host.digest(name) is None
            if not log:
                log.append("failed")
                raise EdgeError("the disk is gone")
            log.append("purged")

        async with syncing(tmp_path / "state", host, purge=purge) as sync:
            await sync.deploy(entry)
            with pytest.raises(EdgeError, match="the disk is gone"):
                await sync.undeploy("a", purge=True)
            await sync.deploy(entry)
            assert log == ["failed", "purged"]
        host = FakeHost()
        async with syncing(tmp_path / "state", host, purge=purge):
            assert log == ["failed", "purged"]  # what was kept since is kept


async def test_a_purge_that_failed_can_be_asked_for_again(tmp_path: Path) -> None:
    async with liar() as registry:
        put(registry, tmp_path / "scratch", "hello", "one", "1")
        outcomes = [EdgeError("the disk is gone"), None]

        async def purge(_: str) -> None:
            if error := outcomes.pop(0):
                raise error

        async with syncing(tmp_path / "state", FakeHost(), purge=purge) as sync:
            await sync.deploy(ApplicationEntry("a", f"{registry.host}/hello:1"))
            with pytest.raises(EdgeError, match="the disk is gone"):
                await sync.undeploy("a", purge=True)
            await sync.undeploy("a", purge=True)
            assert outcomes == []
            with pytest.raises(ConfigError, match="no application"):
                await sync.undeploy("a", purge=True)


async def test_a_refused_version_does_not_take_the_place_of_the_one_before(tmp_path: Path) -> None:
    async with liar() as registry:
        settings = replace(SETTINGS, soak=0.0)

        def entry(name: str, tag: str, mount: str) -> ApplicationEntry:
            return ApplicationEntry(name, f"{registry.host}/hello:{tag}", mount=Mount(mount))

        made = [put(registry, tmp_path / "scratch", "hello", tag, tag) for tag in "abcd"]
        host = FakeHost()
        async with syncing(tmp_path / "state", host, settings=settings) as sync:
            await sync.deploy(entry("other", "d", "/taken"))
            await sync.deploy(entry("app", "a", "/app"))
            await sync.deploy(entry("app", "b", "/app"))
            with pytest.raises(ConfigError, match="its mount is that of"):
                await sync.deploy(entry("app", "c", "/taken"))
            assert host.digest("app") == made[1]
            store = ContentStore(tmp_path / "state")
            await until(lambda: store.tags.all()["application/app"][1:] != (made[0],))
            await until(lambda: f"{registry.host}/hello:a" not in store.tags.all())
            await sync.wait_idle()
            await sync.rollback("app")
            assert host.digest("app") == made[0]


@pytest.mark.parametrize("junk", [b"", b"{", b'{"schema": 1, "tags": {"x": ["sha256:../.."]}}'])
async def test_names_that_were_damaged_are_given_again(tmp_path: Path, junk: bytes) -> None:
    state = tmp_path / "state"
    async with liar() as registry:
        made = [put(registry, tmp_path / "scratch", "hello", tag, "1", tag) for tag in "ab"]
        settings = replace(SETTINGS, soak=0.0)

        def entry(tag: str) -> ApplicationEntry:
            return ApplicationEntry("app", f"{registry.host}/hello:{tag}")

        host = FakeHost()
        async with syncing(state, host, settings=settings) as sync:
            await sync.deploy(entry("a"))
            await sync.deploy(entry("b"))
        (state / "blobs" / "tags.json").write_bytes(junk)
        host, notes = FakeHost(), list[str]()
        async with syncing(state, host, settings=settings, note=notes.append) as sync:
            assert host.digest("app") == made[1]
            assert any("kept as tags.json.damaged-1" in note for note in notes)
            store = ContentStore(state)
            assert store.tags.all()["application/app"] == (made[1], made[0])
            await sync.wait_idle()
            assert status(sync, "app").state == "live"
            await sync.rollback("app")
            assert host.digest("app") == made[0]
            new = put(registry, tmp_path / "scratch", "hello", "c", "b")
            await until(lambda: host.digest("app") == new)
        assert (state / "blobs" / "tags.json.damaged-1").read_bytes() == junk


async def test_a_look_that_fails_at_edges_own_fault_holds_nothing_up(tmp_path: Path) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with liar() as registry:
        made = put(registry, tmp_path / "scratch", "hello", "one", "1")
        host = FakeHost()

        async def follow() -> None:
            await until(lambda: host.digest("a") == made)
            raise RuntimeError("a mistake of the follower")

        entries = [ApplicationEntry("a", f"{registry.host}/hello:1")]
        settings = replace(SETTINGS, interval=3600.0)
        async with syncing(
            tmp_path / "state", host, entries, settings=settings, follow=follow
        ) as sync:
            async with asyncio.timeout(10):
                await sync.wait_idle()
            assert host.digest("a") == made
            assert told


async def test_each_application_says_once_that_its_registry_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = []
    async with AsyncExitStack() as stack, AsyncExitStack() as gone:
        registry = await gone.enter_async_context(liar())
        for name in ("a", "b"):
            put(registry, tmp_path / "scratch", "hello", name, name)
            reference = f"{registry.host}/hello:{name}"
            entries.append(ApplicationEntry(name, reference, mount=Mount(f"/{name}")))
        sync = await stack.enter_async_context(syncing(tmp_path / "state", FakeHost(), entries))
        await sync.wait_idle()
        await gone.aclose()
        caplog.clear()
        await until(lambda: sync.tally.undelivered > 20)
        for name in ("a", "b"):
            (said,) = (r for r in caplog.records if getattr(r, "EDGE_APP", "") == name)
            assert f"{name}: {registry.host}/hello:{name}: " in said.getMessage()
            assert f"/hello:{name}: " in (status(sync, name).reason or "")
