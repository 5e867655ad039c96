"""Sync with a registry that does what it is told, and a host that only remembers."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from registry_lab import Answer, Liar, body, drops, hangs, liar
from registry_lab import status as answers
from sync_lab import COMPONENT, SETTINGS, FakeHost, put, status, syncing, until

from edge.config import ApplicationEntry, Mount
from edge.errors import BundleError, ConfigError, EdgeError
from edge.registry.digest import Digest
from edge.registry.manifest import Manifest, read
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sync import Wanted


@dataclass
class Lab:
    """A registry, a host, and the state directory of a node that may be started again."""

    registry: Liar
    folder: Path
    host: FakeHost = field(default_factory=FakeHost)
    notes: list[str] = field(default_factory=list)

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def store(self) -> ContentStore:
        return ContentStore(self.state_dir)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.state_dir / "apps.json").read_text())
        return found

    def put(self, content: str, *tags: str) -> Digest:
        return put(self.registry, self.folder / "scratch", "hello", content, *tags)

    def entry(self, name: str, tag: str = "1", **more: Any) -> ApplicationEntry:
        more.setdefault("mount", Mount(f"/{name}"))
        return ApplicationEntry(name, f"{self.registry.host}/hello:{tag}", **more)

    def pinned(self, name: str, digest: Digest) -> ApplicationEntry:
        return ApplicationEntry(
            name, f"{self.registry.host}/hello@{digest}", mount=Mount(f"/{name}")
        )

    def node(self, *entries: ApplicationEntry, **options: Any) -> Any:
        options.setdefault("note", self.notes.append)
        return syncing(self.state_dir, self.host, entries, **options)

    def off(self) -> None:
        """The network is gone."""
        for kind in ("manifests", "blobs"):
            self.registry.faults[kind] = [drops] * 100_000

    def on(self) -> None:
        self.registry.faults.clear()


@asynccontextmanager
async def lab(folder: Path) -> AsyncIterator[Lab]:
    async with liar() as registry:
        yield Lab(registry, folder)


# Deploy, update, restart


async def test_what_is_deployed_is_live_when_deploy_returns(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        said: list[str] = []
        async with it.node() as sync:
            await sync.deploy(it.entry("a"), said.append)
            assert it.host.digest("a") == first
            found = status(sync, "a")
            assert (found.state, found.digest, found.source) == ("live", first, "deploy")
            assert said == ["asking the registry", "pulling", "preparing", "going live"]
            assert it.host.prepared[0].checked
        assert it.state["applications"]["a"]["live"]["digest"] == str(first)
        assert (it.state_dir / "apps.json").stat().st_mode & 0o777 == 0o600


async def test_a_node_without_a_network_boots_with_what_it_had(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node() as sync:
            await sync.deploy(it.entry("a", variables={"k": "v"}))
        it.off()
        it.host = FakeHost()
        async with it.node() as sync:
            assert it.host.digest("a") == first  # before anything else happens
            assert not it.host.prepared[0].checked
            assert it.host.live["a"].wanted.entry.variables == {"k": "v"}
            await until(lambda: bool(status(sync, "a").reason))
            assert status(sync, "a").state == "live"
            second = it.put("two", "1")
            it.on()
            await until(lambda: it.host.digest("a") == second)


async def test_all_of_a_boot_goes_live_in_one_swap(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        names = [f"a{n}" for n in range(5)]
        async with it.node(*map(it.entry, names)) as sync:
            await sync.wait_idle()
        it.host = FakeHost()
        async with it.node(*map(it.entry, names)) as sync:
            assert [sorted(swap) for swap in it.host.swaps] == [names]
            await sync.wait_idle()
        assert it.host.most <= 2


async def test_a_tag_that_moves_is_followed(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await until(lambda: it.host.digest("a") == first)
            assert "a" not in it.host.watches  # there is nothing to go back to
            second = it.put("two", "1")
            await until(lambda: it.host.digest("a") == second)
            assert status(sync, "a").state == "soaking"
            assert status(sync, "a").previous == first
            assert it.host.watches["a"].seconds == SETTINGS.soak
            it.host.pass_("a")
            await until(lambda: status(sync, "a").state == "live")
            # Who is told that may cut the power.
            assert "trial" not in it.state["applications"]["a"]
            assert it.state["applications"]["a"]["live"]["digest"] == str(second)
            assert status(sync, "a").previous == first


async def test_a_newer_version_waits_until_the_one_before_has_proved_itself(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            second = it.put("two", "1")
            await until(lambda: it.host.digest("a") == second)
            third = it.put("three", "1")
            looked = len(it.registry.requests)
            await sync.wait_idle()
            assert it.host.digest("a") == second
            it.host.pass_("a")
            await until(lambda: it.host.digest("a") == third)
            assert looked <= len(it.registry.requests)


# Going back


async def test_what_fails_while_it_is_watched_is_not_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            bad = it.put("two", "1")
            await until(lambda: it.host.digest("a") == bad)
            it.host.fail("a", "9 of 10 events failed")
            assert (status(sync, "a").state, status(sync, "a").digest) == ("rolled back", first)
            assert status(sync, "a").reason == "9 of 10 events failed"
            tried = len(it.host.prepared)
            await sync.sync_now("a")
            await sync.sync_now()
            assert len(it.host.prepared) == tried
            assert any("9 of 10 events failed" in line for line in caplog.messages)
        it.host = FakeHost()
        async with it.node(it.entry("a")) as sync:  # nor after a restart
            await sync.wait_idle()
            assert it.host.digest("a") == first
            assert status(sync, "a").reason == "9 of 10 events failed"
            await sync.sync_now("a", retry=True)  # but when somebody says so
            assert it.host.digest("a") == bad


async def test_a_reference_that_moves_on_ends_a_refusal(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            bad = it.put("two", "1")
            await until(lambda: it.host.digest("a") == bad)
            it.host.fail("a", "bad")
            third = it.put("three", "1")
            await until(lambda: it.host.digest("a") == third)
            it.host.pass_("a")
            await until(lambda: status(sync, "a").state == "live")
            assert "refused" not in it.state["applications"]["a"]


async def test_the_same_bundle_with_another_configuration_is_watched_too(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        good = it.entry("a", variables={"k": "good"})
        async with it.node(good) as sync:
            await sync.wait_idle()
            sync.set_file_entries([replace(good, variables={"k": "bad"})])
            await until(lambda: "a" in it.host.watches)
            it.host.fail("a", "bad")
            await sync.wait_idle()
            assert it.host.live["a"].wanted.entry.variables == {"k": "good"}
            await until(lambda: status(sync, "a").state == "rolled back")
            sync.set_file_entries([replace(good, variables={"k": "better"})])
            await until(lambda: it.host.live["a"].wanted.entry.variables == {"k": "better"})
            assert it.host.digest("a") == first


async def test_a_rollback_by_hand_stays_until_the_reference_moves(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            with pytest.raises(EdgeError, match="no version before"):
                await sync.rollback("a")
            second = it.put("two", "1")
            await until(lambda: it.host.digest("a") == second)
            it.host.pass_("a")
            await until(lambda: status(sync, "a").state == "live")
            await sync.rollback("a")
            assert it.host.digest("a") == first
            assert status(sync, "a").state == "rolled back"
            assert status(sync, "a").reason == "rolled back by hand"
            await sync.sync_now("a")
            assert it.host.digest("a") == first
        it.host = FakeHost()
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            assert it.host.digest("a") == first
            third = it.put("three", "1")
            await until(lambda: it.host.digest("a") == third)


async def test_a_rollback_by_hand_ends_a_watch(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            second = it.put("two", "1")
            await until(lambda: it.host.digest("a") == second)
            await sync.rollback("a")
            assert "a" not in it.host.watches
            await sync.wait_idle()
            assert it.host.digest("a") == first
            assert "trial" not in it.state["applications"]["a"]


async def test_a_deploy_over_what_is_watched_goes_back_to_what_was_good(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first, second, third = (it.put(text, text) for text in ("one", "two", "three"))
        async with it.node() as sync:
            await sync.deploy(it.entry("a", "one"))
            await sync.deploy(it.entry("a", "two"))
            assert it.host.digest("a") == second
            await sync.deploy(it.entry("a", "three"))
            assert it.host.digest("a") == third
            it.host.fail("a", "bad")
            assert it.host.digest("a") == first
            await sync.wait_idle()
            assert status(sync, "a").state == "rolled back"


# What is refused


async def test_a_refused_deploy_leaves_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.host.sick.add(it.put("one", "1"))
        async with it.node() as sync:
            with pytest.raises(EdgeError, match="answers /healthz with 500"):
                await sync.deploy(it.entry("a"))
            assert sync.apps() == []
            await until(lambda: not it.store.tags.all())
            await sync.wait_idle()
        assert it.state == {"schema": 1, "applications": {}, "deployed": {}, "pulled": []}
        assert not list((it.state_dir / "blobs" / "sha256").iterdir())


async def test_a_refused_deploy_over_a_live_one_changes_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        it.host.broken.add(it.put("two", "2"))
        async with it.node() as sync:
            await sync.deploy(it.entry("a"))
            before = it.state
            with pytest.raises(EdgeError, match="does not load"):
                await sync.deploy(it.entry("a", "2"))
            await sync.wait_idle()
            assert (it.host.digest("a"), status(sync, "a").state) == (first, "live")
            assert {**it.state, "pulled": []} == {**before, "pulled": []}


async def test_a_conflict_refuses_the_deploy_and_says_with_whom(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        it.put("two", "2")
        async with it.node() as sync:
            await sync.deploy(it.entry("a", mount=Mount("/same")))
            with pytest.raises(ConfigError, match="its mount is that of a"):
                await sync.deploy(it.entry("b", "2", mount=Mount("/same")))
            assert [app.name for app in sync.apps()] == ["a"]
            assert list(it.state["applications"]) == list(it.state["deployed"]) == ["a"]
            assert len(it.host.discarded) == 1
            assert "application/b" not in it.store.tags.all()
            with pytest.raises(ConfigError, match="its mount is that of a"):
                await sync.deploy(it.entry("b", "2", mount=Mount("/same")))
            await sync.undeploy("a")
            await sync.deploy(it.entry("b", "2", mount=Mount("/same")))
            assert it.host.digest("a") is None
            assert first != it.host.digest("b")


async def test_a_version_that_does_not_load_is_not_compiled_at_each_look(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        entry = it.entry("a")
        async with it.node(entry, settings=replace(SETTINGS, interval=0.02)) as sync:
            await sync.wait_idle()
            it.host.broken.add(it.put("two", "1"))
            await until(lambda: status(sync, "a").state == "failed")
            assert status(sync, "a").digest == first
            looks = len(it.registry.seen("manifests"))
            await until(lambda: len(it.registry.seen("manifests")) > looks + 8)
            assert len([line for line in caplog.messages if "does not load" in line]) == 1
            third = it.put("three", "1")
            await until(lambda: it.host.digest("a") == third)


async def test_who_asks_for_a_look_gets_another_try(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            second = it.put("two", "1")
            it.host.broken.add(second)
            with pytest.raises(EdgeError, match="does not load"):
                await sync.sync_now("a")
            it.host.broken.clear()
            await sync.sync_now("a")
            assert it.host.digest("a") == second


@pytest.mark.parametrize(
    ("kind", "fault", "state", "reason"),
    [
        ("manifests", answers(500), "live", "500"),
        ("manifests", answers(429, Retry_After="600"), "live", "429"),
        ("manifests", answers(404), "failed", "not found"),
        ("manifests", answers(401), "failed", ""),
        ("manifests", drops, "live", ""),
        ("manifests", hangs, "live", ""),
        ("manifests", body(b"{}", Content_Type="application/json"), "failed", ""),
        ("blobs", answers(500), "live", "500"),
        ("blobs", body(b"tampered"), "failed", ""),
        ("blobs", body(COMPONENT + b"TWO"), "failed", ""),
        ("blobs", drops, "live", ""),
    ],
)
async def test_a_registry_that_fails_changes_nothing_and_is_asked_again(
    kind: str, fault: Answer, state: str, reason: str, tmp_path: Path
) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            it.registry.faults[kind] = [fault] * 100_000
            second = it.put("two", "1")
            await until(lambda: bool(status(sync, "a").reason))
            found = status(sync, "a")
            assert (found.state, found.digest) == (state, first), found.reason
            assert reason in found.reason
            it.on()
            await until(lambda: it.host.digest("a") == second)
            assert not list((it.state_dir / "blobs" / "incoming").iterdir())


async def test_an_application_waits_for_a_registry_that_is_not_there_yet(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.off()
        async with it.node(it.entry("a"), it.entry("b", "2")) as sync:
            await until(lambda: all(app.reason for app in sync.apps()))
            assert [app.state for app in sync.apps()] == ["pending", "pending"]
            first, second = it.put("one", "1"), it.put("two", "2")
            it.on()
            await until(lambda: it.host.digest("a") == first and it.host.digest("b") == second)
            await sync.wait_idle()
            assert [app.state for app in sync.apps()] == ["live", "live"]


async def test_a_registry_that_hangs_is_asked_by_few(tmp_path: Path) -> None:
    async with lab(tmp_path) as slow, lab(tmp_path) as good:
        first = good.put("one", "1")
        slow.registry.faults["manifests"] = [hangs] * 100_000
        stuck = [slow.entry(f"stuck{n}") for n in range(50)]
        async with slow.node(*stuck, good.entry("a")) as sync:
            await until(lambda: slow.host.digest("a") == first)
            await until(lambda: all(app.reason for app in sync.apps() if app.name != "a"))
            assert len(slow.registry.requests) < 50


async def test_what_an_import_brought_is_enough(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        digest = it.put("one", "1")
        async with it.node() as sync:
            await sync.deploy(it.entry("a"))
            it.off()
            await sync.deploy(it.entry("b"))
            assert it.host.digest("b") == digest
            await until(lambda: bool(status(sync, "b").reason))
            assert status(sync, "b").state == "live"


async def test_nothing_is_pulled_that_nobody_signed(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first, second = it.put("one", "1"), it.put("two", "2")

        async def verify(reference: Reference, digest: Digest) -> str | None:
            if digest == second:
                raise BundleError(f"{reference}: nobody signed {digest}")
            return "signed by ada"

        async with it.node(verify=verify) as sync:
            await sync.deploy(it.entry("a"))
            assert "signed by ada" in it.notes
            with pytest.raises(BundleError, match="nobody signed"):
                await sync.deploy(it.entry("a", "2"))
            assert it.host.digest("a") == first
            assert it.store.size(second) is None


async def test_a_blob_that_has_changed_on_the_disk_is_fetched_again(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node() as sync:
            await sync.deploy(it.entry("a"))
        damage(it.store, first)
        it.host = FakeHost()
        async with it.node() as sync:
            await sync.wait_idle()
            assert it.host.digest("a") == first
            await sync.deploy(it.entry("b"))
        for path in (it.state_dir / "blobs" / "sha256").iterdir():
            assert Digest.of(path.read_bytes()).hex == path.name


def damage(store: ContentStore, digest: Digest) -> None:
    """The component is as long as before."""
    manifest = read(store.read(digest, 1 << 20), "it")
    assert isinstance(manifest, Manifest)
    path = store.path(manifest.layers[0].digest)
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"X")


# Who wants what


async def test_edge_toml_wins_over_a_deploy_which_wins_over_the_fleet(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        one, two, three = (it.put(text, text) for text in ("one", "two", "three"))
        fleet = [Wanted(it.entry("a", "one"), "fleet", 0)]
        settings = replace(SETTINGS, soak=0)
        async with it.node(fleet=fleet, settings=settings) as sync:
            await until(lambda: it.host.digest("a") == one)
            assert status(sync, "a").source == "fleet"
            with pytest.raises(ConfigError, match="the fleet's document wants it"):
                await sync.undeploy("a")
            await sync.deploy(it.entry("a", "two"))
            assert (it.host.digest("a"), status(sync, "a").source) == (two, "deploy")
            sync.set_file_entries([it.entry("a", "three")])
            await until(lambda: it.host.digest("a") == three)
            with pytest.raises(ConfigError, match="wins over a deployed one"):
                await sync.deploy(it.entry("a", "one"))
            sync.set_file_entries([])
            await until(lambda: it.host.digest("a") == two)
            await sync.undeploy("a")
            await until(lambda: it.host.digest("a") == one)
            sync.set_fleet([])
            await until(lambda: it.host.digest("a") is None)
            assert sync.apps() == []
        assert it.state["applications"] == {}


async def test_an_unknown_name_has_a_hint(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        async with it.node(it.entry("thermo")) as sync:
            await sync.wait_idle()
            commands: list[Callable[[str], Any]] = [sync.undeploy, sync.rollback, sync.sync_now]
            for command in commands:
                with pytest.raises(ConfigError, match="no application") as caught:
                    await command("termo")
                assert caught.value.hint == 'did you mean "thermo"?'


async def test_data_stays_unless_it_is_purged(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        purged: list[str] = []

        async def purge(name: str) -> None:
            assert it.host.digest(name) is None
            purged.append(name)

        async with it.node(purge=purge) as sync:
            await sync.deploy(it.entry("a"))
            await sync.undeploy("a")
            assert purged == []
            await sync.deploy(it.entry("a"))
            await sync.undeploy("a", purge=True)
            assert purged == ["a"]
            assert sync.apps() == []


async def test_a_purge_that_was_interrupted_is_finished_by_the_next_boot(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        purged: list[str] = []

        async def fails(name: str) -> None:
            raise EdgeError("the disk is gone")

        async def purge(name: str) -> None:
            purged.append(name)

        async with it.node(purge=fails) as sync:
            await sync.deploy(it.entry("a"))
            with pytest.raises(EdgeError, match="the disk is gone"):
                await sync.undeploy("a", purge=True)
        async with it.node(purge=purge):
            assert purged == ["a"]
        async with it.node(purge=purge):
            assert purged == ["a"]


async def test_a_fleet_may_have_a_node_wait(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        one, two = it.put("one", "one"), it.put("two", "two")
        now = 1000.0
        async with it.node(
            fleet=[Wanted(it.entry("a", "one"), "fleet", 0)], clock=lambda: now
        ) as sync:
            await until(lambda: it.host.digest("a") == one)
            sync.set_fleet([Wanted(it.entry("a", "two"), "fleet", 0, not_before=2000.0)])
            await sync.wait_idle()
            assert (it.host.digest("a"), status(sync, "a").state) == (one, "waiting")
            now = 2000.0
            await until(lambda: it.host.digest("a") == two)
            await until(lambda: status(sync, "a").state == "live")


async def test_a_fleet_is_asked_at_each_look_and_kept_when_it_does_not_answer(
    tmp_path: Path,
) -> None:
    async with lab(tmp_path) as it:
        one = it.put("one", "1")
        wanted: list[Wanted] | None = [Wanted(it.entry("a"), "fleet", 0)]

        async def follow() -> list[Wanted] | None:
            if wanted is None:
                raise EdgeError("fleet: no answer")
            return wanted

        async with it.node(follow=follow) as sync:
            await until(lambda: it.host.digest("a") == one)
            wanted = None
            await sync.sync_now()
            assert it.host.digest("a") == one
            assert any("no answer" in note for note in it.notes)
        it.host = FakeHost()
        async with it.node(follow=follow) as sync:  # and it has lost what it knew of the fleet
            await sync.sync_now()
            assert it.host.digest("a") == one
            wanted = []
            await sync.sync_now()
            assert it.host.digest("a") is None


async def test_a_directory_is_read_again_when_somebody_says_so(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        folder = tmp_path / "app"
        folder.mkdir()
        wasm = folder / "app.wasm"
        # A component without sections; its custom section makes it another one.
        wasm.write_bytes(COMPONENT)
        (folder / "spin.toml").write_text(
            'spin_manifest_version = 2\n[application]\nname = "app"\n'
            '[[trigger.http]]\nroute = "/..."\ncomponent = "c"\n'
            '[component.c]\nsource = "app.wasm"\n'
        )
        entry = ApplicationEntry("a", path=folder)
        async with it.node(entry) as sync:
            first = it.host.digest("a")
            assert first is not None, sync.apps()  # before the first look
            assert (status(sync, "a").reference, status(sync, "a").state) == (None, "live")
            wasm.write_bytes(COMPONENT + b"\0\2\1a")
            await sync.wait_idle()
            assert it.host.digest("a") == first
            sync.set_file_entries([entry])
            await until(lambda: it.host.digest("a") not in (None, first))
            it.host.fail("a", "bad")
            await sync.wait_idle()
            assert it.host.digest("a") == first
        wasm.unlink()
        it.host = FakeHost()
        async with it.node(entry) as sync:
            await sync.wait_idle()
            assert it.host.digest("a") == first
            assert "does not exist" in status(sync, "a").reason


# State and garbage


async def test_a_damaged_state_is_kept_aside_and_edge_toml_goes_on(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
        (it.state_dir / "apps.json").write_text('{"schema": 1, "deployed"')
        it.host = FakeHost()
        async with it.node(it.entry("a")) as sync:
            assert any("kept as apps.json.damaged-1" in note for note in it.notes)
            await until(lambda: it.host.digest("a") == first)
        assert (it.state_dir / "apps.json.damaged-1").read_text() == '{"schema": 1, "deployed"'
        assert it.state["applications"]["a"]["live"]["digest"] == str(first)


async def test_the_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.state_dir.mkdir()
        (it.state_dir / "apps.json").write_text('{"schema": 2}')
        with pytest.raises(EdgeError, match="schema 2") as caught:
            async with it.node():
                pass
        assert "newer version" in str(caught.value.hint)
        assert it.state == {"schema": 2}


async def test_one_broken_application_does_not_stop_a_boot(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        one, two = it.put("one", "one"), it.put("two", "two")
        entries = it.entry("a", "one"), it.entry("b", "two")
        async with it.node(*entries) as sync:
            await sync.wait_idle()
        it.host = FakeHost(broken={one})
        async with it.node(*entries) as sync:
            assert (it.host.digest("a"), it.host.digest("b")) == (None, two)
            assert status(sync, "a").state == "failed"
            assert "does not load" in status(sync, "a").reason


async def test_a_boot_between_trial_and_proof_begins_with_what_was_good(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        one = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            two = it.put("two", "1")
            await until(lambda: it.host.digest("a") == two)
        it.host = FakeHost()
        it.off()
        async with it.node(it.entry("a")) as sync:
            assert it.host.swaps == [["a"]]
            assert [p.digest for p in it.host.prepared] == [one]
            await until(lambda: it.host.digest("a") == two)  # no network is needed for that
            assert status(sync, "a").state == "soaking"


async def test_a_version_that_ends_the_node_is_given_up(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        one = it.put("one", "1")
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            two = it.put("two", "1")
            await until(lambda: it.host.digest("a") == two)
        for _ in range(2):  # it ends before the watch does
            it.host = FakeHost()
            async with it.node(it.entry("a")):
                await until(lambda: it.host.digest("a") == two)
        it.host = FakeHost()
        async with it.node(it.entry("a")) as sync:
            await sync.wait_idle()
            assert it.host.digest("a") == one
            assert "ended 3 times" in status(sync, "a").reason


async def test_what_edge_toml_wants_too_stays_when_it_is_undeployed(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        one = it.put("one", "1")
        async with it.node() as sync:
            await sync.deploy(it.entry("a"))
            sync.set_file_entries([it.entry("a")])
            await sync.undeploy("a", purge=True)
            await sync.wait_idle()
            assert (it.host.digest("a"), status(sync, "a").source) == (one, "file")
            assert len(it.host.swaps) == 1


async def test_a_disk_that_cannot_be_written_does_not_stop_a_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with lab(tmp_path) as it:
        one = it.put("one", "1")
        entry = it.entry("a")
        async with it.node(entry) as sync:
            await sync.wait_idle()
        it.host = FakeHost()

        def full(path: Path, data: bytes, **_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("edge.registry.sync.statefile.write_file", full)
        async with it.node(replace(entry, variables={"k": "v"})) as sync:
            assert it.host.digest("a") == one
            assert any("no room for" in note for note in it.notes)
            with pytest.raises(EdgeError, match="no room for"):
                await sync.deploy(it.entry("b"))
            assert it.host.digest("b") is None


async def test_nothing_grows_with_the_number_of_versions(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        settings = replace(SETTINGS, soak=0, interval=0.02)
        async with it.node(settings=settings) as sync:
            digests = []
            for number in range(12):
                digests.append(it.put(f"version {number}", "1"))
                await sync.deploy(it.pinned("a", digests[-1]))
            store = it.store
            # What is live and the one before it: a manifest, a component, an application, a config.
            blobs = it.state_dir / "blobs" / "sha256"
            await until(lambda: len(list(blobs.iterdir())) <= 8)
            assert [store.size(d) is not None for d in digests] == [False] * 10 + [True] * 2
            assert set(store.tags.all()) == {
                "application/a",
                f"{it.registry.host}/hello@{digests[-1]}",
            }
            assert len(it.state["pulled"]) == 1
            await sync.undeploy("a")
            await until(lambda: not list(blobs.iterdir()))
            assert not store.tags.all()
        assert {path.name for path in it.state_dir.iterdir()} == {
            "apps.json",
            "apps.json.reserve",
            "blobs",
        }


async def test_a_name_that_somebody_else_gave_is_not_removed(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        reference = f"{it.registry.host}/hello:1"
        async with it.node(settings=replace(SETTINGS, interval=0.02)) as sync:
            await sync.deploy(it.entry("a"))
        # as `edge pull` or a push to this node's own registry leaves it
        async with it.node(settings=replace(SETTINGS, interval=0.02)) as sync:
            digest = it.store.tags.get(reference)
            assert digest is not None
            it.store.tags.set("registry.example/mine:1", digest)
            await sync.undeploy("a")
            await until(lambda: reference not in it.store.tags.all())
            assert it.store.tags.get("registry.example/mine:1") == digest
            assert it.store.size(digest) is not None


async def test_an_idle_node_of_fixed_digests_asks_nobody(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        digest = it.put("one", "1")
        settings = replace(SETTINGS, interval=0.02)
        async with it.node(it.pinned("a", digest), settings=settings) as sync:
            await until(lambda: it.host.digest("a") == digest)
            await sync.wait_idle()
            before = len(it.registry.requests)
            await asyncio.sleep(0.2)  # ten intervals
            assert len(it.registry.requests) == before


# Cancellation


async def test_a_command_does_not_wait_for_a_pull_that_hangs(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        first, second = it.put("one", "1"), it.put("two", "2")
        async with it.node() as sync:
            await sync.deploy(it.entry("a"))
            waiting = asyncio.Event()

            async def gate() -> None:
                waiting.set()
                await asyncio.get_running_loop().create_future()

            it.host.gate = gate
            third = it.put("three", "1")
            await waiting.wait()
            it.host.gate = None
            await sync.deploy(it.entry("a", "2"))
            assert it.host.digest("a") == second
            assert {first, third} & {status(sync, "a").digest} == set()


async def test_a_deploy_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        it.put("one", "1")
        waiting = asyncio.Event()

        async def gate() -> None:
            waiting.set()
            await asyncio.get_running_loop().create_future()

        it.host.gate = gate
        async with it.node() as sync:
            task = asyncio.get_running_loop().create_task(sync.deploy(it.entry("a")))
            await waiting.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sync.apps() == []
            await until(lambda: not it.store.tags.all())
        assert it.state["deployed"] == it.state["applications"] == {}


def local_applications(folder: Path, count: int) -> list[ApplicationEntry]:
    """Of this machine, each on a mount of its own."""
    entries = []
    for number in range(count):
        at = folder / f"a{number}"
        at.mkdir(parents=True)
        (at / "app.wasm").write_bytes(COMPONENT)
        (at / "spin.toml").write_text(
            'spin_manifest_version = 2\n[application]\nname = "x"\n'
            f'version = "{number}.0.0"\n[[trigger.http]]\nroute = "/..."\ncomponent = "c"\n'
            '[component.c]\nsource = "app.wasm"\n'
        )
        entries.append(ApplicationEntry(f"a{number}", path=at, mount=Mount(f"/a{number}")))
    return entries


async def test_what_is_ready_at_the_same_time_goes_live_together(tmp_path: Path) -> None:
    """A thousand applications need no thousand writes of a state with a thousand entries."""
    async with lab(tmp_path) as it:
        entries = local_applications(tmp_path / "apps", 20)
        async with it.node(*entries) as sync:
            assert sorted(it.host.live) == sorted(entry.name for entry in entries)
            assert len(it.host.swaps) < 20
            assert {app.state for app in sync.apps()} == {"live"}
            assert sorted(it.state["applications"]) == sorted(it.host.live)


async def test_one_that_cannot_go_live_stops_no_other(tmp_path: Path) -> None:
    async with lab(tmp_path) as it:
        entries = local_applications(tmp_path / "apps", 12)
        entries[7] = replace(entries[7], mount=Mount("/a3"))
        async with it.node(*entries) as sync:
            found = {app.name: app for app in sync.apps()}
            assert sorted([*it.host.live, "a7"]) == sorted(entry.name for entry in entries)
            assert "its mount is that of a3" in found["a7"].reason, "the first one has it"
            assert "a7" not in it.state["applications"]
            assert len(it.host.discarded) == 1
            assert all(version.previous is None for version in found.values())
