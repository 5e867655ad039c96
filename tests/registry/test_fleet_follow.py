"""A node follows its fleet's document: at a real registry, at hostile ones, and without any."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from registry_lab import Liar, body, docker_registry, drops, hangs, liar, status

from edge.config import ApplicationEntry, Node
from edge.errors import BundleError, EdgeError, PullError
from edge.registry.client import Patience, RegistryClient
from edge.registry.collect import collect, contents
from edge.registry.digest import Digest
from edge.registry.fleetdoc import artifact
from edge.registry.fleetdoc.document import FLEET, MAX_DOCUMENT, Document, Rollout, Target
from edge.registry.fleetdoc.follow import Follower, Verify
from edge.registry.manifest import IMAGE_MANIFEST, Descriptor, Manifest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

QUICK = Patience(total=5, attempts=2, first=0.01, silence=0.5, exchange=5)
YEAR_2030 = 1_900_000_000.0
SLOW = Rollout(soak=600.0)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


class Clock:
    """Trusted time that a test sets, and the seconds that the machine has run."""

    def __init__(self, now: float = YEAR_2030) -> None:
        self.now = now
        self.awake = 1000.0

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.awake += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("edge.registry.fleetdoc.follow._awake", lambda: found.awake)
    return found


@asynccontextmanager
async def following(
    reference: Reference, state: Path, clock: Clock, verify: Verify | None = None
) -> AsyncIterator[Follower]:
    """As a node does after its start."""
    async with RegistryClient(patience=QUICK) as client:

        async def connected(_: Reference) -> RegistryClient:
            return client

        node = Node(name="pi", state_dir=state)
        follower = Follower(
            reference,
            node,
            ContentStore(state),
            client=connected,
            verify=verify,
            now=clock,
            soak=60.0,
        )
        await follower.load()
        yield follower


def document(generation: int, version: int = 1, rollout: Rollout | None = None) -> Document:
    entry = ApplicationEntry("thermo", f"registry.example/thermo:{version}")
    return Document("site-a", generation, (Target(entry, rollout=rollout),))


async def push(reference: Reference, *documents: Document) -> None:
    async with RegistryClient(patience=QUICK) as client:
        for found in documents:
            await artifact.push(client, reference, artifact.build(found))


def runs(follower: Follower) -> list[str | None]:
    return [wanted.entry.reference for wanted in follower.wanted]


V1, V2 = ["registry.example/thermo:1"], ["registry.example/thermo:2"]


# At a real registry


async def test_a_node_takes_up_each_generation(registry: str, tmp_path: Path, clock: Clock) -> None:
    reference = Reference.parse(f"{registry}/fleet/site-a:stable")
    await push(reference, document(1))
    async with following(reference, tmp_path, clock) as follower:
        assert runs(follower) == []
        assert await follower.poll()
        assert runs(follower) == V1
        assert not await follower.poll()
        await push(reference, document(2, 2))
        assert await follower.poll()
        assert runs(follower) == V2
        found = follower.status()
        assert (found.fleet, found.generation, found.since) == ("site-a", 2, YEAR_2030)
        assert found.digest == artifact.build(document(2, 2)).digest


async def test_an_older_generation_is_refused_also_after_a_restart(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/older:stable")
    await push(reference, document(7, 2))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
    await push(reference, document(6))
    async with following(reference, tmp_path, clock) as follower:
        for _ in range(2):
            with pytest.raises(BundleError, match="is generation 6, this node has seen 7 already"):
                await follower.poll()
        assert runs(follower) == V2
        assert "is generation 6" in (follower.status().reason or "")
        assert "is generation 6" in follower.notes[0]
        await push(reference, document(8))
        assert await follower.poll()
        assert runs(follower) == V1
        assert follower.status().reason is None


async def test_a_generation_has_one_meaning(registry: str, tmp_path: Path, clock: Clock) -> None:
    reference = Reference.parse(f"{registry}/fleet/twice:stable")
    await push(reference, document(7))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
        await push(reference, document(7, 2))
        with pytest.raises(BundleError, match="as which this node has seen another document"):
            await follower.poll()
        assert runs(follower) == V1


async def test_a_node_that_boots_without_a_network_knows_what_to_run(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/offline:stable")
    await push(reference, document(1, 2))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
    gone = Reference.parse("127.0.0.1:1/fleet/offline:stable")
    kept = json.loads((tmp_path / "fleet.json").read_text())
    (tmp_path / "fleet.json").write_text(json.dumps(kept | {"reference": str(gone)}))
    clock.now = 0.0  # 1970
    async with following(gone, tmp_path, clock) as follower:
        assert runs(follower) == V2
        with pytest.raises(PullError):
            await follower.poll()
        assert runs(follower) == V2
        assert [wanted.entry.reference for wanted in await follower.follow()] == V2


async def test_peers_can_have_it_from_this_node(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/peers:stable")
    await push(reference, document(1))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
    store = ContentStore(tmp_path)
    kept = store.tags.get(str(reference))
    assert kept == artifact.build(document(1)).digest
    collect(store, contents(store))
    assert all(store.path(d).exists() for d in (kept, *contents(store)(kept)))


async def test_a_signature_is_there_before_the_tag(registry: str) -> None:
    reference = Reference.parse(f"{registry}/fleet/signed:stable")
    built = artifact.build(document(1))
    async with RegistryClient(patience=QUICK) as client:

        async def sign(found: artifact.Found) -> None:
            assert found is built
            exact = reference.at(built.digest)
            assert (await client.resolve(exact)).descriptor.digest == built.digest
            with pytest.raises(PullError, match="not found"):
                await client.resolve(reference)

        await artifact.push(client, reference, built, sign)
        assert (await client.resolve(reference)).descriptor.digest == built.digest


# Signatures


async def test_nothing_is_fetched_or_kept_of_what_is_not_signed(
    tmp_path: Path, clock: Clock
) -> None:
    async def verify(reference: Reference, digest: Digest) -> str | None:
        raise BundleError(f"{reference}: is not signed")

    async with liar() as registry:
        reference = serve(registry, document(1))
        async with following(reference, tmp_path, clock, verify) as follower:
            with pytest.raises(BundleError, match="is not signed"):
                await follower.poll()
            assert runs(follower) == []
        assert not registry.seen("blobs")
    assert not (tmp_path / "fleet.json").exists()
    assert not (tmp_path / "blobs" / "tags.json").exists()


async def test_keys_that_were_changed_are_asked_about_what_is_kept(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/keys:stable")
    await push(reference, document(1))
    asked: list[Digest] = []

    async def verify(reference: Reference, digest: Digest) -> str | None:
        asked.append(digest)
        return None

    for _ in range(2):
        async with following(reference, tmp_path, clock, verify) as follower:
            await follower.poll()
            await follower.poll()
    assert asked == [artifact.build(document(1)).digest] * 2


# Expiry, and clocks that are wrong


async def test_what_has_expired_is_not_taken_up_and_what_runs_goes_on(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/expires:stable")
    end = datetime.fromtimestamp(YEAR_2030 + 100, UTC)
    await push(reference, replace(document(1), expires=end))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
        clock.passes(100)
        assert runs(follower) == V1
        assert follower.status().expired
        assert follower.notes == ("fleet: generation 1 expired at 2030-03-17T17:48:20Z",)
        await push(reference, replace(document(2, 2), expires=end))
        with pytest.raises(BundleError, match="its generation 2 expired at 2030-03-17"):
            await follower.poll()
        assert runs(follower) == V1


async def test_others_wait_and_a_restart_does_not_begin_the_wait_anew(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/wait:stable")
    await push(reference, document(1))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
        await push(reference, document(2, 2, SLOW))
        await follower.poll()
        assert runs(follower) == V1
        assert follower.status().waiting == {"thermo": YEAR_2030 + 600}
        assert follower.notes == ("fleet: thermo gets what canaries try at 2030-03-17T17:56:40Z",)
        assert follower.next_change == YEAR_2030 + 600
        clock.passes(500)
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
        assert runs(follower) == V1
        clock.passes(100)
        assert runs(follower) == V2
        assert follower.next_change is None


async def test_a_clock_that_is_set_does_not_end_the_wait(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    clock.now = 1_700_000_000.0  # of the build: the board's own says 1970
    reference = Reference.parse(f"{registry}/fleet/clock:stable")
    await push(reference, document(1))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
        await push(reference, document(2, 2, SLOW))
        await follower.poll()
        clock.passes(300)
        assert runs(follower) == V1
        clock.now = YEAR_2030  # NTP answers
        assert runs(follower) == V1
        await follower.poll()
    async with following(reference, tmp_path, clock) as follower:
        assert runs(follower) == V1
        clock.passes(299)
        assert runs(follower) == V1
        clock.passes(1)
        assert runs(follower) == V2


# Hostile registries


def serve(registry: Liar, found: Document) -> Reference:
    return serve_artifact(registry, artifact.build(found))


def serve_artifact(registry: Liar, built: artifact.Found) -> Reference:
    manifest = built.named.manifest
    registry.manifests["stable"] = (IMAGE_MANIFEST, built.named.data)
    registry.blobs[str(manifest.config.digest)] = built.config
    registry.blobs[str(manifest.layers[0].digest)] = built.layer
    return Reference.parse(f"{registry.host}/fleet:stable")


def layered(layer: bytes, size: int | None = None, media_type: str = FLEET) -> Manifest:
    return Manifest(
        Descriptor(artifact.EMPTY, Digest.of(b"{}"), 2),
        (Descriptor(media_type, Digest.of(layer), len(layer) if size is None else size),),
        artifact_type=FLEET,
    )


NOT_DOCUMENTS = {
    "a bundle": (replace(layered(b"x"), artifact_type=None), "is not a fleet document"),
    "no layer": (replace(layered(b"x"), layers=()), "has not one layer that is a fleet document"),
    "another layer": (layered(b"x", media_type="text/plain"), "has not one layer"),
    "a huge layer": (layered(b"x", MAX_DOCUMENT + 1), "has more than 4194304 bytes"),
    "not JSON": (layered(b"x"), "is not JSON"),
    "a wrong size": (layered(b"x", 2), "1 of 2|has 1 bytes, its manifest says 2"),
}


@pytest.mark.parametrize(("manifest", "message"), NOT_DOCUMENTS.values(), ids=NOT_DOCUMENTS)
async def test_what_is_no_document_changes_nothing(
    tmp_path: Path, clock: Clock, manifest: Manifest, message: str
) -> None:
    async with liar() as registry:
        reference = serve(registry, document(1))
        async with following(reference, tmp_path, clock) as follower:
            await follower.poll()
            before = (tmp_path / "fleet.json").read_bytes()
            registry.manifests["stable"] = (IMAGE_MANIFEST, manifest.to_bytes())
            registry.blobs[str(Digest.of(b"x"))] = b"x"
            with pytest.raises(EdgeError, match=message):
                await follower.poll()
            assert runs(follower) == V1
    assert (tmp_path / "fleet.json").read_bytes() == before


async def test_a_tampered_document_is_refused(tmp_path: Path, clock: Clock) -> None:
    async with liar() as registry:
        reference = serve(registry, document(1))
        built = artifact.build(document(1))
        layer = built.layer.replace(b"thermo:1", b"thermo:9")
        registry.blobs[str(built.named.manifest.layers[0].digest)] = layer
        async with following(reference, tmp_path, clock) as follower:
            with pytest.raises(BundleError, match="its digest is"):
                await follower.poll()


@pytest.mark.parametrize(
    "fault",
    [status(500), status(429), status(401), hangs, drops, body(b"{}"), body(b"\xff" * 100)],
    ids=["500", "429", "401", "hangs", "drops", "empty", "noise"],
)
async def test_a_registry_that_fails_changes_nothing_and_is_told_of_once(
    tmp_path: Path, clock: Clock, fault: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with liar() as registry:
        reference = serve(registry, document(1))
        async with following(reference, tmp_path, clock) as follower:
            await follower.poll()
            serve(registry, document(2, 2))
            for _ in range(2):
                registry.faults["manifests"] = [fault] * 4  # type: ignore[list-item]
                with caplog.at_level(logging.WARNING):
                    await follower.follow()
                assert runs(follower) == V1
            said = [r for r in caplog.records if "going on with what is here" in r.message]
            assert len(said) == 1
            registry.faults.clear()
            await follower.follow()
            assert runs(follower) == V2


# What is kept


async def test_a_damaged_state_is_kept_aside_and_the_document_read_anew(
    registry: str, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    reference = Reference.parse(f"{registry}/fleet/damaged:stable")
    await push(reference, document(1))
    for damage in ("{", '{"schema": 1}'):
        (tmp_path / "fleet.json").write_text(damage)
        async with following(reference, tmp_path, clock) as follower:
            assert await follower.poll()
            assert runs(follower) == V1
    assert "fleet.json.damaged-2, the fleet's document is read anew" in caplog.text
    assert (tmp_path / "fleet.json.damaged-1").read_text() == "{"


async def test_a_node_that_is_moved_to_another_fleet_begins_anew(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    first, second = (Reference.parse(f"{registry}/fleet/move:{tag}") for tag in "ab")
    await push(first, document(9))
    await push(second, replace(document(1, 2), fleet="site-b"))
    async with following(first, tmp_path, clock) as follower:
        await follower.poll()
        await push(first, replace(document(10, 2), fleet="site-b"))
        with pytest.raises(BundleError, match='is of the fleet "site-b"'):
            await follower.poll()
    async with following(second, tmp_path, clock) as follower:
        assert runs(follower) == []
        await follower.poll()
        assert runs(follower) == V2


async def test_a_disk_that_does_not_take_the_state_leaves_what_there_was(
    registry: str, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = Reference.parse(f"{registry}/fleet/full:stable")
    await push(reference, document(1))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
        await push(reference, document(2, 2))

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("edge.registry.fleetdoc.state.write_file", full)
            with pytest.raises(EdgeError, match="no room"):
                await follower.poll()
            assert "no room" in follower.notes[0]
        assert runs(follower) == V1
        assert await follower.poll()
        assert runs(follower) == V2


async def test_whoever_looks_at_the_same_time_waits(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/both:stable")
    await push(reference, document(1))
    async with following(reference, tmp_path, clock) as follower:
        async with asyncio.TaskGroup() as group:
            looks = [group.create_task(follower.poll()) for _ in range(3)]
        assert [look.result() for look in looks] == [True, False, False]


async def test_ten_thousand_applications_are_followed(
    registry: str, tmp_path: Path, clock: Clock
) -> None:
    reference = Reference.parse(f"{registry}/fleet/many:stable")
    targets = tuple(
        Target(ApplicationEntry(f"app-{n}", f"registry.example/app-{n}:1"), rollout=Rollout(50))
        for n in range(10_000)
    )
    await push(reference, Document("site-a", 1, targets))
    async with following(reference, tmp_path, clock) as follower:
        await follower.poll()
        assert len(follower.wanted) == 10_000
    async with following(reference, tmp_path, clock) as follower:
        assert len(follower.wanted) == 10_000
