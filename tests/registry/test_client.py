"""The client against Debian's docker-registry: pushed, pulled, moved, mounted, logged in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from registry_lab import (
    PASSWORD,
    USER,
    Authority,
    TokenServer,
    docker_registry,
    skopeo,
    token_server,
)

from edge.errors import PullError, Refused
from edge.registry.client import Patience, RegistryClient, RegistrySettings
from edge.registry.credentials import Credential, DockerConfig
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_CONFIG, Descriptor, Manifest, read
from edge.registry.reference import Reference
from edge.registry.store import ContentStore

QUICK = Patience(total=5, attempts=3, first=0.01)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("plain")) as host:
        yield host


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("guarded"), users=True) as host:
        yield host


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("encrypted")
    with docker_registry(folder, users=True, authority=authority) as host:
        yield host


@asynccontextmanager
async def with_tokens(
    directory: Path, authority: Authority
) -> AsyncIterator[tuple[str, TokenServer]]:
    async with token_server(authority) as tokens:
        with docker_registry(directory, authority=authority, token_server=tokens.url) as host:
            yield host, tokens


def client(host: str, **settings: object) -> RegistryClient:
    return RegistryClient({host: RegistrySettings(**settings)}, patience=QUICK)  # type: ignore[arg-type]


class Bundle:
    """A manifest with layers in files."""

    def __init__(self, directory: Path, *layers: bytes) -> None:
        directory.mkdir(exist_ok=True)
        self.paths: dict[Digest, Path] = {}
        found = [self._file(directory, data) for data in (b"{}", *layers)]
        config, *rest = found
        self.manifest = Manifest(config, tuple(rest))
        self.data = self.manifest.to_bytes()
        self.digest = Digest.of(self.data)

    def _file(self, directory: Path, data: bytes) -> Descriptor:
        digest = Digest.of(data)
        self.paths[digest] = directory / digest.hex
        self.paths[digest].write_bytes(data)
        kind = IMAGE_CONFIG if data == b"{}" else "application/wasm"
        return Descriptor(kind, digest, len(data))

    async def push(self, registry: RegistryClient, reference: Reference) -> int:
        """How many blobs were sent."""
        sent = 0
        for blob in self.manifest.blobs:
            sent += await registry.push_blob(reference, blob, self.paths[blob.digest])
        assert (
            await registry.push_manifest(reference, self.data, self.manifest.media_type)
            == self.digest
        )
        return sent


async def pull(registry: RegistryClient, reference: Reference, store: ContentStore) -> Manifest:
    resolved = await registry.resolve(reference)
    assert resolved.data is not None
    manifest = read(resolved.data, str(reference), resolved.descriptor.media_type)
    assert isinstance(manifest, Manifest)
    for blob in manifest.blobs:
        with store.writer(blob.size) as writer:
            await registry.pull_blob(reference, blob, writer)
    return manifest


async def check_round_trip(host: str, tmp_path: Path, **settings: object) -> None:
    bundle = Bundle(tmp_path / "files", b"\0asm", b"", bytes(range(256)) * 5000)
    reference = Reference.parse(f"{host}/team/round-trip:1")
    store = ContentStore(tmp_path / "state")
    async with client(host, **settings) as registry:
        assert await bundle.push(registry, reference) == 4
        assert await bundle.push(registry, reference) == 0
    async with client(host, **settings) as registry:
        for asked in (reference, reference.at(bundle.digest)):
            assert await pull(registry, asked, store) == bundle.manifest
    for digest, path in bundle.paths.items():
        assert store.path(digest).read_bytes() == path.read_bytes()


async def test_what_is_pushed_is_pulled(plain: str, tmp_path: Path) -> None:
    await check_round_trip(plain, tmp_path)


async def test_what_is_pushed_is_pulled_by_password(guarded: str, tmp_path: Path) -> None:
    await check_round_trip(guarded, tmp_path, username=USER, password=PASSWORD)


async def test_what_is_pushed_is_pulled_by_tls_of_a_private_authority(
    encrypted: str, authority: Authority, tmp_path: Path
) -> None:
    login = {"username": USER, "password": PASSWORD}
    await check_round_trip(encrypted, tmp_path, ca_file=authority.ca, **login)


async def test_what_is_pushed_is_pulled_by_tokens(authority: Authority, tmp_path: Path) -> None:
    async with with_tokens(tmp_path, authority) as (host, tokens):
        await check_round_trip(host, tmp_path, username=USER, password=PASSWORD)
        # One token for each client and each scope, however many requests.
        scopes = [asked["scope"].rpartition(":")[2] for asked in tokens.asked]
        assert scopes == ["pull,push", "pull"]
        assert tokens.asked[0]["service"] == "test"


async def test_a_token_that_is_over_is_replaced(authority: Authority, tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "files", b"layer")
    layer = bundle.manifest.layers[0]
    async with with_tokens(tmp_path, authority) as (host, tokens):
        tokens.life = -1000  # the registry's clock and the token server's differ
        reference = Reference.parse(f"{host}/x")
        async with client(host, username=USER, password=PASSWORD) as registry:
            with pytest.raises(Refused, match="access denied"):
                await registry.has_blob(reference, layer.digest)
            tokens.life = 300
            await bundle.push(registry, reference)
            assert len(tokens.asked) == 2
    async with with_tokens(tmp_path, authority) as (host, tokens):
        tokens.seconds = 0  # the specification's default is 60 s
        async with client(host, username=USER, password=PASSWORD) as registry:
            await bundle.push(registry, Reference.parse(f"{host}/x"))
            assert len(tokens.asked) == 1


async def test_an_identity_token_is_exchanged(authority: Authority, tmp_path: Path) -> None:
    bundle = Bundle(tmp_path / "files", b"layer")
    async with with_tokens(tmp_path, authority) as (host, tokens):
        docker = DockerConfig({host: Credential(identity_token=tokens.refresh_token)})
        async with RegistryClient(docker=docker, patience=QUICK) as registry:
            await bundle.push(registry, Reference.parse(f"{host}/x"))
        assert tokens.asked[0]["grant_type"] == "refresh_token"


async def test_a_wrong_password_is_refused_at_once(
    guarded: str, authority: Authority, tmp_path: Path
) -> None:
    reference = Reference.parse(f"{guarded}/x")
    async with client(guarded, username=USER, password="wrong") as registry:
        with pytest.raises(Refused, match="access denied") as caught:
            await registry.resolve(reference)
        assert f"docker login {guarded}" in (caught.value.hint or "")
    async with client(guarded) as registry:
        with pytest.raises(Refused, match="asks for a user and a password") as caught:
            await registry.resolve(reference)
        assert "docker login" in (caught.value.hint or "")
    async with with_tokens(tmp_path, authority) as (host, tokens):
        async with client(host, username=USER, password="wrong") as registry:
            with pytest.raises(Refused, match=f"{host}: token: access denied: who are you"):
                await registry.resolve(Reference.parse(f"{host}/x"))
        assert len(tokens.asked) == 1


async def test_what_is_not_there_is_refused_at_once(plain: str, tmp_path: Path) -> None:
    async with client(plain) as registry:
        with pytest.raises(Refused, match=f"{plain}/nowhere:1: not found"):
            await registry.resolve(Reference.parse(f"{plain}/nowhere:1"))
        layer = Descriptor("application/wasm", Digest.of(b"none"), 4)
        reference = Reference.parse(f"{plain}/nowhere")
        assert not await registry.has_blob(reference, layer.digest)
        missing = pytest.raises(Refused, match=f"layer {layer.digest}: not found")
        with ContentStore(tmp_path).writer(4) as writer, missing:
            await registry.pull_blob(reference, layer, writer)


async def test_what_is_known_is_asked_for_cheaply(plain: str, tmp_path: Path) -> None:
    first, second = Bundle(tmp_path / "1", b"first"), Bundle(tmp_path / "2", b"second")
    reference = Reference.parse(f"{plain}/moves:stable")
    async with client(plain) as registry:
        await first.push(registry, reference)
        known = (await registry.resolve(reference)).descriptor
        assert known.digest == first.digest
        assert await registry.resolve(reference, known) == (known, None)
        await second.push(registry, reference)
        moved = await registry.resolve(reference, known)
        assert moved.data == second.data
        at = reference.at(first.digest)
        assert await registry.resolve(at, known) == (known, None)
        assert (await registry.resolve(at, moved.descriptor)).data == first.data


async def test_a_blob_is_mounted_from_another_repository(plain: str, tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, b"shared by two")
    layer = bundle.manifest.layers[0]
    async with client(plain) as registry:
        await bundle.push(registry, Reference.parse(f"{plain}/from"))
        other = Reference.parse(f"{plain}/to")
        bundle.paths[layer.digest].unlink()  # nothing to send
        path = bundle.paths[layer.digest]
        assert await registry.push_blob(other, layer, path, mount_from="from")
        assert await registry.has_blob(other, layer.digest)


async def test_an_unknown_authority_is_refused_with_a_hint(
    encrypted: str, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> None:
    foreign = Authority.make(tmp_path_factory.mktemp("foreign"))
    reference = Reference.parse(f"{encrypted}/x")
    async with client(encrypted, ca_file=foreign.ca) as registry:
        with pytest.raises(Refused, match="certificate is not trusted") as caught:
            await registry.resolve(reference)
        assert "--registry-ca" in (caught.value.hint or "")
    async with client(encrypted) as registry:
        with pytest.raises(Refused, match="the registry answers 400") as caught:
            await registry.resolve(reference)
        assert "--registry-ca" in (caught.value.hint or "")


async def test_tls_to_a_registry_without_it_is_refused_with_a_hint(
    plain: str, authority: Authority
) -> None:
    async with client(plain, ca_file=authority.ca) as registry:
        with pytest.raises(Refused, match="no TLS with the registry") as caught:
            await registry.resolve(Reference.parse(f"{plain}/x"))
        assert "--insecure" in (caught.value.hint or "")


async def test_no_registry_is_a_pull_error_after_a_few_tries() -> None:
    notes: list[str] = []
    async with RegistryClient(patience=QUICK, note=notes.append) as registry:
        with pytest.raises(PullError, match=r"127\.0\.0\.1:1: .*refused") as caught:
            await registry.resolve(Reference.parse("127.0.0.1:1/x"))
    assert not isinstance(caught.value, Refused)
    assert len(notes) == QUICK.attempts - 1
    assert "trying again in" in notes[0]


async def test_others_read_what_is_pushed_and_what_others_copy_is_pulled(
    plain: str, guarded: str, tmp_path: Path
) -> None:
    bundle = Bundle(tmp_path / "files", b"one", b"two")
    reference = Reference.parse(f"{plain}/ours:1")
    async with client(plain) as registry:
        await bundle.push(registry, reference)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
    assert json.loads(raw) == json.loads(bundle.data)
    login = ["--dest-creds", f"{USER}:{PASSWORD}"]
    tls = ["--src-tls-verify=false", "--dest-tls-verify=false"]
    copy = Reference.parse(f"{guarded}/theirs:1")
    skopeo("copy", *tls, *login, f"docker://{reference}", f"docker://{copy}")
    async with client(guarded, username=USER, password=PASSWORD) as registry:
        store = ContentStore(tmp_path / "state")
        assert await pull(registry, copy, store) == bundle.manifest
