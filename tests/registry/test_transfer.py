"""Whole bundles from a registry into the content store, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from aiohttp import web
from registry_lab import Answer, Liar, body, docker_registry, drops, hangs, liar, skopeo, status

from edge.errors import BundleError, PullError, Refused
from edge.registry.client import Patience, RegistryClient
from edge.registry.digest import Digest
from edge.registry.manifest import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
)
from edge.registry.reference import Reference
from edge.registry.store import ContentStore
from edge.registry.transfer import complete, pull, push

QUICK = Patience(total=20, attempts=3, first=0.01, silence=0.5, exchange=5)


class Count:
    """A progress that is added up."""

    def __init__(self) -> None:
        self.total = self.now = 0

    def begin(self, total: int) -> None:
        self.total = total

    def moved(self, size: int) -> None:
        self.now += size


def bundle(store: ContentStore, *layers: bytes) -> Manifest:
    """In the store; its manifest too."""
    config, *rest = (store.add(data, IMAGE_CONFIG) for data in (b"{}", *layers))
    manifest = Manifest(config, tuple(rest))
    store.add(manifest.to_bytes(), IMAGE_MANIFEST)
    return manifest


def fill(registry: Liar, *layers: bytes) -> tuple[Reference, Manifest]:
    blobs = {Digest.of(data): data for data in (b"{}", *layers)}
    config, *rest = (Descriptor(IMAGE_CONFIG, d, len(data)) for d, data in blobs.items())
    manifest = Manifest(config, tuple(rest))
    registry.blobs |= {str(digest): data for digest, data in blobs.items()}
    data = manifest.to_bytes()
    for name in ("1", str(Digest.of(data))):
        registry.manifests[name] = (IMAGE_MANIFEST, data)
    return Reference.parse(f"{registry.host}/app:1"), manifest


def left(state: Path) -> list[Path]:
    return list((state / "blobs" / "incoming").iterdir())


async def test_a_bundle_is_pushed_and_pulled(tmp_path: Path) -> None:
    layers = [bytes([n]) * 100_000 for n in range(9)] + [b""]
    ours, theirs = ContentStore(tmp_path / "ours"), ContentStore(tmp_path / "theirs")
    manifest = bundle(ours, *layers)
    digest = Digest.of(manifest.to_bytes())
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        reference = Reference.parse(f"{host}/team/app:1")
        async with RegistryClient(patience=QUICK) as client:
            for _ in range(2):  # the second time nothing is left to send
                sent = Count()
                await push(client, digest, ours, reference, sent)
                assert sent.now == sent.total == 900_002
            received = Count()
            assert await pull(client, reference, theirs, received) == digest
            assert received.now == received.total == 900_002
            again = Count()
            assert await pull(client, reference, theirs, again) == digest
            assert again.total == 0
        copy = f"oci:{tmp_path / 'layout'}:1"
        skopeo("copy", "--src-tls-verify=false", f"docker://{reference}", copy)
    assert complete(theirs, reference) == digest
    for blob in manifest.blobs:
        theirs.verify(blob.digest)


async def test_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    async with liar() as registry, RegistryClient(patience=QUICK) as client:
        reference, _ = fill(registry, b"first", b"shared")
        first = await pull(client, reference, store)
        reference, _ = fill(registry, b"second", b"shared")
        registry.requests.clear()
        second = await pull(client, reference, store)
        assert len(registry.seen("blobs")) == 1
        assert store.tags.all()[str(reference)] == (second, first)


async def test_few_blobs_at_a_time(tmp_path: Path) -> None:
    now, most = 0, 0
    four = asyncio.Event()

    def counted(registry: Liar) -> Answer:
        async def answer(request: web.Request) -> web.StreamResponse:
            nonlocal now, most
            now += 1
            most = max(most, now)
            if now == 4:
                four.set()
            await four.wait()
            *_, kind, name = request.path.split("/")
            found = await registry.honest(request, kind, name)
            now -= 1
            return found

        return answer

    async with liar() as registry, RegistryClient(patience=QUICK) as client:
        reference, manifest = fill(registry, *(f"{n}".encode() for n in range(20)))
        registry.faults["blobs"] = [counted(registry)] * 21
        await pull(client, reference, ContentStore(tmp_path))
    assert most == 4
    assert len(manifest.blobs) == 21


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (status(404), Refused, "layer sha256:[0-9a-f]{64}: not found"),
        (body(b"?"), BundleError, "its digest is sha256:"),
        (body(b"??"), BundleError, "has 2 bytes, its manifest says 1"),
    ],
)
async def test_a_layer_that_fails_ends_the_pull_and_names_nothing(
    fault: Answer, error: type[Exception], message: str, tmp_path: Path
) -> None:
    store = ContentStore(tmp_path)
    async with liar() as registry, RegistryClient(patience=QUICK) as client:
        reference, _ = fill(registry, *(f"{n}".encode() for n in range(8)))
        good = await pull(client, reference, store)
        reference, _ = fill(registry, *(f"{chr(97 + n)}".encode() for n in range(8)))
        registry.faults["blobs"] = [fault] * 8
        with pytest.raises(error, match=message):
            await pull(client, reference, store)
        # Whoever hangs is not waited for once another one has failed.
        registry.faults["blobs"] = [hangs, hangs, hangs, fault]
        with pytest.raises(error, match=message):
            await pull(client, reference, store)
    assert not left(tmp_path)
    assert complete(store, reference) == good


async def test_a_registry_that_breaks_off_is_asked_again(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    async with liar() as registry, RegistryClient(patience=QUICK) as client:
        reference, manifest = fill(registry, *(f"{n}".encode() for n in range(8)))
        registry.faults["blobs"] = [drops, status(500)] * 2
        await pull(client, reference, store)
    assert all(map(store.has, manifest.blobs))


async def test_what_is_damaged_here_is_not_what_is_known(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    async with liar() as registry, RegistryClient(patience=QUICK) as client:
        reference, manifest = fill(registry, b"layer")
        digest = await pull(client, reference, store)
        store.path(digest).unlink()
        assert complete(store, reference) is None
        store.path(digest).write_bytes(b"x" * len(manifest.to_bytes()))
        assert complete(store, reference) is None
        assert await pull(client, reference, store) == digest
        assert complete(store, reference) == digest
        store.path(manifest.layers[0].digest).unlink()
        assert complete(store, reference) is None
        assert await pull(client, reference, store) == digest
        assert complete(store, reference) == digest


async def test_no_network_is_needed_to_know_what_is_here(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    async with RegistryClient(patience=QUICK) as client:
        async with liar() as registry:
            reference, _ = fill(registry, b"layer")
            digest = await pull(client, reference, store)
        assert complete(store, reference) == digest
        assert complete(store, reference.at(digest)) == digest
        assert complete(store, Reference.parse("a.example/x")) is None
        # A digest cannot come to mean something else: nobody is asked.
        assert await pull(client, reference.at(digest), store) == digest
        with pytest.raises(PullError, match="refused"):
            await pull(client, reference, store)


async def test_the_part_for_webassembly_is_taken_from_an_index(tmp_path: Path) -> None:
    store = ContentStore(tmp_path)
    async with liar() as registry, RegistryClient(patience=QUICK) as client:
        reference, manifest = fill(registry, b"layer")
        data = manifest.to_bytes()
        digest = Digest.of(data)

        def entry(architecture: str, kind: str = IMAGE_MANIFEST) -> Descriptor:
            platform = Platform(architecture, "wasip1")
            return Descriptor(kind, digest, len(data), platform=platform)

        index = Index((entry("arm64"), entry("wasm"))).to_bytes()
        registry.manifests["1"] = (IMAGE_INDEX, index)
        assert await pull(client, reference, store) == digest
        registry.manifests[str(Digest.of(index))] = (IMAGE_INDEX, index)
        at = reference.at(Digest.of(index))
        assert await pull(client, at, store) == digest
        assert complete(store, at) == digest
        registry.manifests["1"] = (IMAGE_INDEX, Index((entry("arm64"),)).to_bytes())
        with pytest.raises(BundleError, match="holds no WebAssembly: wasip1/arm64"):
            await pull(client, reference, store)
        registry.manifests["1"] = (IMAGE_INDEX, index)
        store.path(digest).unlink()
        registry.manifests[str(digest)] = (IMAGE_INDEX, Index(()).to_bytes())
        with pytest.raises(BundleError, match="sends content of the digest"):
            await pull(client, reference, store)


async def test_a_bundle_beyond_reason_is_refused(tmp_path: Path) -> None:
    async with liar() as registry, RegistryClient(patience=QUICK) as client:
        reference, manifest = fill(registry)
        huge = Descriptor("application/wasm", Digest.of(b"x"), 5 << 30)
        data = Manifest(manifest.config, (huge,)).to_bytes()
        registry.manifests["1"] = (IMAGE_MANIFEST, data)
        with pytest.raises(BundleError, match="5368709122B, more than 4GiB"):
            await pull(client, reference, ContentStore(tmp_path))
        assert not registry.seen("blobs")
