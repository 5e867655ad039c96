"""What goes from a content store, and when: after a pull, and for want of room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from mirror_lab import bundle
from registry_lab import docker_registry

from edge.cli import main
from edge.errors import EdgeError
from edge.registry import transfer
from edge.registry.client import RegistryClient
from edge.registry.collect import Collected
from edge.registry.digest import Digest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.sweep import MakeRoom, sweep

APP = "registry.example/app:1"
LARGE = bytes(range(256)) * 1000


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "state")


def has(store: ContentStore, data: bytes) -> bool:
    return store.size(Digest.of(data)) is not None


def blobs(store: ContentStore) -> int:
    return len(list((store.directory / "sha256").iterdir()))


# What goes


def test_versions_before_the_last_two(store: ContentStore) -> None:
    for number in range(5):
        bundle(store, APP, b"%d" % number)
    done = sweep(store)
    assert done is not None
    assert done.blobs == 6, "three layers and their manifests"
    assert [has(store, b"%d" % n) for n in range(5)] == [False, False, False, True, True]
    assert sweep(store) == Collected(0, 0)


def test_what_is_live_stays_with_all_that_it_names(store: ContentStore) -> None:
    live = bundle(store, APP, b"live")
    for number in range(3):
        bundle(store, APP, b"%d" % number)
    sweep(store, [live.digest, Digest.of(b"never here")])
    assert has(store, b"live")
    store.read(live.digest, 10_000)
    sweep(store)
    assert not has(store, b"live")


def test_nothing_goes_while_somebody_writes(store: ContentStore) -> None:
    store.add(b"unused", "x/y")
    with store.lease():
        assert sweep(store) is None
    assert sweep(store) == Collected(1, 6)


def test_nothing_goes_while_what_is_kept_cannot_be_read(store: ContentStore) -> None:
    kept = bundle(store, APP, b"kept")
    store.tags.remove(APP)
    store.add(b"unused", "x/y")
    path = store.path(kept.digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * kept.size)
    done = sweep(store, [kept.digest])
    assert done is not None
    assert done.blobs == 0
    assert done.unreadable
    assert has(store, b"unused")


def sign(store: ContentStore, kind: str, number: int) -> bytes:
    """Names a version, and what is about it."""
    app = bundle(store, APP, b"version %d" % number)
    about = b"signature %d" % number
    if kind == "tag":
        bundle(store, f"registry.example/app:sha256-{app.digest.hex}.sig", about)
    else:
        bundle(store, "registry.example/app@DIGEST", about, subject=app)
    return about


@pytest.mark.parametrize("kind", ["tag", "digest"])
def test_signatures_go_with_what_they_are_about(store: ContentStore, kind: str) -> None:
    signatures = [sign(store, kind, number) for number in range(4)]
    sweep(store)
    assert [has(store, data) for data in signatures] == [False, False, True, True]
    assert len(store.tags.all()) == 3
    sweep(store, floor=0)
    assert [has(store, data) for data in signatures] == [False, False, False, True]


@pytest.mark.parametrize("kind", ["tag", "digest"])
def test_signatures_of_what_is_live_stay(store: ContentStore, kind: str) -> None:
    about = sign(store, kind, 0)
    live = store.tags.get(APP)
    assert live is not None
    store.tags.remove(APP)
    sweep(store, [live])
    assert has(store, about)
    sweep(store)
    assert blobs(store) == 0
    assert store.tags.all() == {}


def test_what_is_about_a_signature_lives_as_long(store: ContentStore) -> None:
    app = bundle(store, APP, b"app")
    one = bundle(store, "registry.example/app@DIGEST", b"one", subject=app)
    bundle(store, "registry.example/app@DIGEST", b"two", subject=one)
    sweep(store)
    assert has(store, b"two")
    store.tags.remove(APP)
    sweep(store)
    assert blobs(store) == 0


def test_nothing_is_forgotten_while_something_cannot_be_read(store: ContentStore) -> None:
    app = bundle(store, APP, b"app")
    store.tags.remove(APP)
    bundle(store, "registry.example/app@DIGEST", b"about", subject=app)
    broken = bundle(store, "registry.example/other:1", b"other")
    store.path(broken.digest).unlink()
    before = store.tags.all()
    assert sweep(store) is not None
    assert store.tags.all() == before


# Room


def test_room_is_made_of_garbage_first(store: ContentStore) -> None:
    for number in range(3):
        bundle(store, APP, b"%d" % number)
    said: list[str] = []
    make_room = MakeRoom(store, note=said.append)
    assert make_room()
    assert [has(store, b"%d" % n) for n in range(3)] == [False, True, True]
    assert make_room()
    assert [has(store, b"%d" % n) for n in range(3)] == [False, False, True]
    assert not make_room(), "what is in use stays"
    assert [text.partition(", ")[0] for text in said] == [
        "no room: removed 2 blobs that nothing needs",
        "no room: removed 2 blobs of older versions",
    ]


def test_what_is_kept_is_asked_each_time(store: ContentStore) -> None:
    kept: list[Digest] = [bundle(store, APP, b"old").digest]
    bundle(store, APP, b"new")
    make_room = MakeRoom(store, lambda: kept)
    assert not make_room()
    kept.clear()
    assert make_room()
    assert not has(store, b"old")


async def test_a_pull_makes_room(tmp_path: Path) -> None:
    source = ContentStore(tmp_path / "source")
    store = ContentStore(tmp_path / "state", quota=len(LARGE) * 5 // 2)
    (tmp_path / "registry").mkdir()
    said: list[str] = []
    make_room = MakeRoom(store, note=said.append)
    with docker_registry(tmp_path / "registry") as host:
        reference = Reference.parse(f"{host}/app:1")
        async with RegistryClient() as client:
            for number in range(4):
                digest = bundle(source, APP, bytes([number]) + LARGE).digest
                await transfer.push(client, digest, source, reference)
                pulled = await transfer.pull(client, reference, store, make_room=make_room)
                assert pulled == digest
                assert transfer.complete(store, reference) == digest
            kept = MakeRoom(store, lambda: [d for all in store.tags.all().values() for d in all])
            digest = bundle(source, APP, bytes([9]) + LARGE).digest
            await transfer.push(client, digest, source, reference)
            with pytest.raises(EdgeError, match="beyond its quota"):
                await transfer.pull(client, reference, store, make_room=kept)
    assert len(said) == 2
    assert all("of older versions" in text for text in said)
    assert not list((store.directory / "incoming").iterdir())


# What the verbs do

Edge = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edge(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Edge:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return run


def push(folder: Path, reference: str, data: bytes) -> None:
    store = ContentStore(folder)
    digest = bundle(store, APP, data).digest

    async def body() -> None:
        async with RegistryClient() as client:
            await transfer.push(client, digest, store, Reference.parse(reference))

    asyncio.run(body())


def test_a_pull_leaves_two_versions(edge: Edge, tmp_path: Path) -> None:
    source, state = tmp_path / "source", tmp_path / "state"
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        for number in range(4):
            push(source, f"{host}/app:1", b"version %d" % number)
            assert edge("pull", f"{host}/app:1", "--state-dir", state)[0] == 0
        assert blobs(ContentStore(state)) == 1 + 2 * 2, "the configuration is that of all"
        # A node's state directory is the node's: only it knows what it could go back to.
        (state / "apps.json").write_text("{}")
        push(source, f"{host}/app:1", b"version 9")
        assert edge("pull", f"{host}/app:1", "--state-dir", state)[0] == 0
        assert blobs(ContentStore(state)) == 1 + 3 * 2


def test_a_second_pull_heals_a_bad_disk(edge: Edge, tmp_path: Path) -> None:
    state = tmp_path / "state"
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        push(tmp_path / "source", f"{host}/app:1", LARGE)
        edge("pull", f"{host}/app:1", "--state-dir", state)
        paths = list((state / "blobs" / "sha256").iterdir())
        assert len(paths) == 3
        for path in paths:
            data = path.read_bytes()
            path.chmod(0o644)
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
            assert edge("pull", f"{host}/app:1", "--state-dir", state)[0] == 0
            assert path.read_bytes() == data
