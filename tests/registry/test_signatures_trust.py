"""What a node believes: policies, registries good and hostile, and no network at all."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from registry_lab import Liar, body, docker_registry, drops, hangs, served, status

from edge.config import Registry
from edge.errors import BundleError, ConfigError, PullError, Refused
from edge.registry import transfer
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
from edge.registry.signatures import attached, attestation, simple
from edge.registry.signatures.keys import SigningKey
from edge.registry.signatures.sign import Format, Signer, subjects
from edge.registry.signatures.trust import Trust, policy
from edge.registry.store import ContentStore
from edge.registry.sweep import sweep

QUICK = Patience(total=5, attempts=2, first=0.01, silence=0.5, exchange=2)
NOW = 1_800_000_000.0
KEY, OTHER = SigningKey.generate(), SigningKey.generate()


@dataclass
class Clock:
    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Node:
    """A node that trusts one key for everything of a registry."""

    host: str
    state: Path
    signatures: str = "required"
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.state.mkdir(exist_ok=True)
        self.key = self.state / "trusted.pub"
        self.key.write_bytes(KEY.public.to_pem())
        self.store = ContentStore(self.state)
        self.app = Reference.parse(f"{self.host}/team/app:1")

    @property
    def trust(self) -> Trust:
        entry = Registry(self.host, signatures=self.signatures, keys=(self.key,))  # type: ignore[arg-type]
        return Trust([entry], self.clock, self.store)

    async def check(self, digest: Digest, *, offline: bool = False) -> str | None:
        if offline:
            return await self.trust.check(None, self.app, digest)
        async with RegistryClient(patience=QUICK) as client:
            return await self.trust.check(client, self.app, digest)

    async def pull(self) -> Digest:
        async with RegistryClient(patience=QUICK) as client:
            return await transfer.pull(client, self.app, self.store)


async def pushed(directory: Path, text: str, content: bytes = b"{}") -> Digest:
    store = ContentStore(directory)
    manifest = Manifest(store.add(content, IMAGE_CONFIG), ())
    digest = store.add(manifest.to_bytes(), manifest.media_type).digest
    async with RegistryClient() as client:
        await transfer.push(client, digest, store, Reference.parse(text))
    return digest


async def sign(
    text: str, key: SigningKey = KEY, kind: Format = "both", expires: float | None = None
) -> None:
    reference = Reference.parse(text)
    async with RegistryClient(patience=QUICK) as client:
        for subject in await subjects(client, reference):
            await Signer(client, key, NOW, expires).sign(reference, subject, kind)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        yield host


# Policies


def entry(name: str) -> Registry:
    return Registry(name)


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("r.example/team/app:1", "r.example/team/app"),
        ("r.example/team/app/more:1", "r.example/team/app"),
        ("r.example/team/apps:1", "r.example/team"),
        ("r.example/teams/app:1", "r.example"),
        ("r.example:5000/team/app:1", None),
        ("r.example.org/team/app:1", None),
    ],
)
def test_the_longest_name_counts(reference: str, name: str | None) -> None:
    entries = [entry(n) for n in ("r.example", "r.example/team/app", "r.example/team", "x.example")]
    found = policy(entries, Reference.parse(reference))
    assert (found.name if found else None) == name


def test_names_of_registries_are_read_without_case() -> None:
    assert policy([entry("R.Example")], Reference.parse("r.example/app:1")) is not None


async def test_off_asks_nobody(tmp_path: Path) -> None:
    node = Node("127.0.0.1:9", tmp_path, "off")
    node.key.unlink()
    assert await node.check(Digest.of(b"x")) is None
    other = Trust([entry("elsewhere.example")], node.clock, node.store)
    assert await other.check(None, node.app, Digest.of(b"x")) is None


async def test_warn_says_it_and_lets_it_through(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state", "warn")
    digest = await pushed(tmp_path / "pushed", str(node.app))
    said = await node.check(digest)
    assert said is not None
    assert "is not signed: its registry has no signature of it; used all the same" in said
    await sign(str(node.app))
    assert await node.check(digest) is None
    gone = await Node("127.0.0.1:9", tmp_path / "other", "warn").check(digest)
    assert gone is not None
    assert "refused" in gone


async def test_required_refuses(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state")
    digest = await pushed(tmp_path / "pushed", str(node.app))
    with pytest.raises(BundleError, match="is not signed") as error:
        await node.check(digest)
    assert error.value.hint == f"edge sign {node.app.name}@{digest} --key K"
    await sign(str(node.app), OTHER)
    with pytest.raises(BundleError, match="is signed with another key") as error:
        await node.check(digest)
    assert error.value.hint == "trusted here: trusted.pub"
    assert not list((node.state / "blobs" / "sha256").glob("*")), "kept what nobody trusts"


async def test_keys_of_the_caller_count_whatever_the_policy_says(tmp_path: Path, host: str) -> None:
    """As for the document of a fleet."""
    node = Node(host, tmp_path / "state", "off")
    digest = await pushed(tmp_path / "pushed", str(node.app))
    async with RegistryClient(patience=QUICK) as client:
        with pytest.raises(BundleError):
            await node.trust.check(client, node.app, digest, keys=[node.key])
        await sign(str(node.app))
        assert await node.trust.check(client, node.app, digest, keys=[node.key]) is None


async def test_a_policy_without_a_key_trusts_nobody(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state")
    digest = await pushed(tmp_path / "pushed", str(node.app))
    await sign(str(node.app))
    trust = Trust([Registry(host, signatures="required")], node.clock, node.store)
    async with RegistryClient(patience=QUICK) as client:
        with pytest.raises(BundleError) as error:
            await trust.check(client, node.app, digest)
    assert error.value.hint == "no key is trusted here"


@pytest.mark.parametrize("signatures", ["required", "warn"])
async def test_a_key_that_is_not_there_is_a_mistake(tmp_path: Path, signatures: str) -> None:
    node = Node("127.0.0.1:9", tmp_path, signatures)
    node.key.unlink()
    with pytest.raises(ConfigError, match=r"trusted\.pub"):
        await node.check(Digest.of(b"x"))


def test_who_checks_no_signature_does_not_load_the_library() -> None:
    """Seven megabytes, on a board."""
    script = "import sys, edge.cli, edge.node.daemon; sys.exit('cryptography' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd="/")


# Signed once, verified for ever


@pytest.mark.parametrize("kind", ["tag", "bundle", "both"])
async def test_what_was_verified_once_is_verified_without_a_network(
    tmp_path: Path, host: str, kind: Format
) -> None:
    node = Node(host, tmp_path / "state")
    await pushed(tmp_path / "pushed", str(node.app))
    await sign(str(node.app), kind=kind)
    digest = await node.pull()
    with pytest.raises(BundleError, match="no signature of it is here"):
        await node.check(digest, offline=True)
    assert await node.check(digest) is None
    assert await node.check(digest, offline=True) is None
    assert sweep(node.store) is not None
    assert await node.check(digest, offline=True) is None
    node.key.write_bytes(OTHER.public.to_pem())
    with pytest.raises(BundleError, match="is signed with another key"):
        await node.check(digest, offline=True)


async def test_signatures_go_with_what_they_are_of(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state")
    for number in range(12):
        await pushed(tmp_path / "pushed", str(node.app), b"%d" % number)
        await sign(str(node.app))
        digest = await node.pull()
        await node.check(digest)
        sweep(node.store)
    # Of the version here, and of the one before it.
    assert len(node.store.tags.all()) <= 1 + 2 * 2
    assert len(list((node.state / "blobs" / "sha256").iterdir())) <= 2 * 2 + 2 * 8


async def test_a_bundle_whose_tag_looks_like_one_of_signatures_stays(
    tmp_path: Path, host: str
) -> None:
    node = Node(host, tmp_path / "state")
    layer = node.store.add(b"code", "application/wasm")
    bundle = Manifest(node.store.add(b"{}", IMAGE_CONFIG), (layer,))
    digest = node.store.add(bundle.to_bytes(), IMAGE_MANIFEST).digest
    names = [f"{host}/team/other:sha256-{'a' * 64}{suffix}" for suffix in ("", ".sig")]
    node.store.tags.set_all(dict.fromkeys(names, digest))
    signed = await pushed(tmp_path / "pushed", str(node.app))
    await sign(str(node.app))
    assert await node.check(signed) is None
    assert set(names) < set(node.store.tags.all())


async def test_a_signature_that_expired_is_asked_for_anew(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state")
    digest = await pushed(tmp_path / "pushed", str(node.app))
    await sign(str(node.app), expires=NOW + 100)
    assert await node.check(digest) is None
    node.clock.now = NOW + 100
    with pytest.raises(BundleError, match="expired on 2027-01-15 08:01 UTC"):
        await node.check(digest, offline=True)
    with pytest.raises(BundleError, match="expired on"):
        await node.check(digest)
    await sign(str(node.app), expires=NOW + 1000)
    assert await node.check(digest) is None
    assert await node.check(digest, offline=True) is None


async def test_a_kept_signature_that_is_damaged_is_fetched_again(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state")
    digest = await pushed(tmp_path / "pushed", str(node.app))
    await sign(str(node.app))
    await node.check(digest)
    for blob in (node.state / "blobs" / "sha256").iterdir():
        blob.chmod(0o644)
        blob.write_bytes(b"x" * blob.stat().st_size)
    with pytest.raises(BundleError, match="no signature of it is here"):
        await node.check(digest, offline=True)
    assert await node.check(digest) is None
    assert await node.check(digest, offline=True) is None


async def test_a_renewed_signature_takes_the_place_of_the_old_one(
    tmp_path: Path, host: str
) -> None:
    node = Node(host, tmp_path / "state")
    digest = await pushed(tmp_path / "pushed", str(node.app))
    for key in (KEY, OTHER, KEY, KEY):
        await sign(str(node.app), key)
    async with RegistryClient() as client:
        tag = await client.resolve(attached.signature_tag(node.app, digest))
        assert len(json.loads(tag.data or b"")["layers"]) == 2
        assert len(await attached.listed(client, node.app, digest)) == 2


async def test_one_digest_under_two_tags_has_a_signature_for_each(
    tmp_path: Path, host: str
) -> None:
    """skopeo asks for the tag."""
    node = Node(host, tmp_path / "state")
    digest = await pushed(tmp_path / "pushed", f"{host}/team/app:1")
    await pushed(tmp_path / "pushed", f"{host}/team/app:stable")
    for tag in ("1", "stable", "1"):
        await sign(f"{host}/team/app:{tag}")
    async with RegistryClient() as client:
        tag_manifest = await client.resolve(attached.signature_tag(node.app, digest))
    assert len(json.loads(tag_manifest.data or b"")["layers"]) == 2


async def test_of_an_index_both_it_and_what_nodes_run_are_signed(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state")
    digest = await pushed(tmp_path / "pushed", f"{host}/team/app:wasm")
    size = ContentStore(tmp_path / "pushed").size(digest) or 0
    entry = Descriptor(IMAGE_MANIFEST, digest, size, platform=Platform("wasm", "wasi"))
    index = Index((entry,)).to_bytes()
    async with RegistryClient() as client:
        await client.push_manifest(node.app, index, IMAGE_INDEX)
    await sign(str(node.app))
    for signed in (digest, Digest.of(index)):
        assert await node.check(signed) is None


# Registries that list referrers, and registries that lie


class Listing(Liar):
    """A registry with the referrers API."""

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[Descriptor] = []

    async def honest(self, request: web.Request, kind: str, name: str) -> web.StreamResponse:
        if kind != "referrers":
            return await super().honest(request, kind, name)
        start = int(request.query.get("n", "0"))
        index = Index(tuple(self.listed[start : start + 2])).to_bytes()
        response = web.Response(body=index, headers={"Content-Type": IMAGE_INDEX})
        if start + 2 < len(self.listed):
            response.headers["Link"] = f'<{request.path}?n={start + 2}>; rel="next"'
        return response

    def add(self, manifest: Manifest, *blobs: bytes, tag: str | None = None) -> Descriptor:
        data = manifest.to_bytes()
        digest = Digest.of(data)
        for name in filter(None, (str(digest), tag)):
            self.manifests[name] = (IMAGE_MANIFEST, data)
        self.blobs |= {str(Digest.of(blob)): blob for blob in blobs}
        return Descriptor(IMAGE_MANIFEST, digest, len(data), artifact_type=manifest.artifact_type)

    def bundle(self, app: Reference, subject: Digest, key: SigningKey = KEY) -> Descriptor:
        payload = attestation.statement(app, subject, {})
        signature = key.sign(attestation.encode(payload))
        return self.blob(attestation.bundle(payload, signature, key.public.hint))

    def blob(self, data: bytes, kind: str = attestation.MEDIA_TYPE) -> Descriptor:
        layer = Descriptor(kind, Digest.of(data), len(data))
        config = Descriptor(attached.EMPTY, Digest.of(b"{}"), 2)
        manifest = Manifest(config, (layer,), artifact_type=attestation.MEDIA_TYPE)
        return self.add(manifest, data, b"{}")


@pytest.fixture
def subject() -> Digest:
    return Digest.of(b"what is to be run")


async def against(
    tmp_path: Path, prepare: Callable[[Listing, Node], None], subject: Digest
) -> tuple[Listing, Node, Exception | None]:
    registry = Listing()
    async with served(registry.answer) as url:
        registry.host = url.partition("://")[2]
        node = Node(registry.host, tmp_path / "state")
        prepare(registry, node)
        try:
            assert await node.check(subject) is None
        except (BundleError, PullError) as error:
            return registry, node, error
    return registry, node, None


async def test_referrers_are_found_on_every_page(tmp_path: Path, subject: Digest) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        junk = [registry.bundle(node.app, subject, OTHER) for _ in range(6)]
        registry.listed = [*junk, registry.bundle(node.app, subject)]

    registry, node, error = await against(tmp_path, prepare, subject)
    assert error is None
    assert len(registry.seen("referrers")) == 4
    assert await node.check(subject, offline=True) is None


async def test_junk_of_strangers_does_not_hide_a_signature(tmp_path: Path, subject: Digest) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        large = Descriptor(attestation.MEDIA_TYPE, Digest.of(b"large"), 1 << 40)
        config = Descriptor(attached.EMPTY, Digest.of(b"{}"), 2)
        missing = Descriptor(attestation.MEDIA_TYPE, Digest.of(b"missing"), 7)
        registry.listed = [
            registry.blob(b"no json"),
            registry.blob(b"{}"),
            registry.blob(b"x", "text/plain"),
            registry.add(Manifest(config, (large,), artifact_type=attestation.MEDIA_TYPE), b"{}"),
            registry.add(Manifest(config, (missing,), artifact_type=attestation.MEDIA_TYPE)),
            registry.add(Manifest(config, (missing,) * 2000)),
            Descriptor(IMAGE_MANIFEST, Digest.of(b"gone"), 4),
            Descriptor(IMAGE_INDEX, Digest.of(b"not it"), 4),
            registry.bundle(node.app, subject),
        ]
        registry.manifests[str(Digest.of(b"not it"))] = (IMAGE_INDEX, b"other bytes")
        registry.add(Manifest(config, ()), tag=f"sha256-{subject.hex}.sig")

    _, _, error = await against(tmp_path, prepare, subject)
    assert error is None


async def test_more_than_a_few_dozen_are_not_looked_at(tmp_path: Path, subject: Digest) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        registry.listed = [registry.blob(b"%d" % number) for number in range(14)] * 10

    registry, _, error = await against(tmp_path, prepare, subject)
    assert isinstance(error, BundleError)
    assert len(registry.seen("referrers")) <= 8
    assert len(registry.seen("manifests")) <= 33
    assert len(error.message) < 1500


@pytest.mark.parametrize(
    "manifest",
    [
        b"no json",
        b"[" * 100_000,
        b'{"schemaVersion":2,"manifests":[]}',
        b'{"schemaVersion":2,"config":{},"layers":[]}',
        b"x" * (5 << 20),
    ],
)
async def test_a_tag_of_signatures_that_is_something_else(
    tmp_path: Path, subject: Digest, manifest: bytes
) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        registry.manifests[f"sha256-{subject.hex}.sig"] = (IMAGE_MANIFEST, manifest)

    _, node, error = await against(tmp_path, prepare, subject)
    assert isinstance(error, BundleError)
    assert not (node.state / "blobs" / "sha256").exists()


async def test_thousands_of_signatures_in_a_tag_are_not_fetched(
    tmp_path: Path, subject: Digest
) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        layers = [
            Descriptor(simple.MEDIA_TYPE, Digest.of(b"%d" % n), 10, {simple.SIGNATURE: "AAAA"})
            for n in range(1000)
        ]
        config = Descriptor(IMAGE_CONFIG, Digest.of(b"{}"), 2)
        manifest = Manifest(config, tuple(layers))
        registry.add(manifest, tag=f"sha256-{subject.hex}.sig")

    registry, _, error = await against(tmp_path, prepare, subject)
    assert "holds more than 32 signatures" in str(error)
    assert not registry.seen("blobs")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (status(500), PullError),
        (status(429), PullError),
        (status(401), Refused),
        (status(403), Refused),
        (hangs, PullError),
        (drops, PullError),
    ],
    ids=["500", "429", "401", "403", "hangs", "drops"],
)
@pytest.mark.parametrize("where", ["manifests", "referrers", "blobs"])
async def test_a_registry_that_does_not_answer_is_not_one_without_signatures(
    tmp_path: Path, subject: Digest, answer: object, kind: type[PullError], where: str
) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        registry.listed = [registry.bundle(node.app, subject)]
        registry.faults[where] = [answer] * 10  # type: ignore[list-item]

    _, node, error = await against(tmp_path, prepare, subject)
    assert isinstance(error, kind)
    with pytest.raises(BundleError, match="no signature of it is here"):
        await node.check(subject, offline=True)


@pytest.mark.parametrize(
    "answer",
    [
        body(b"<html>welcome</html>", **{"Content_Type": "text/html"}),
        body(b"{}", **{"Content_Type": "application/json"}),
        status(404),
    ],
)
async def test_a_registry_without_the_referrers_api_has_a_tag(
    tmp_path: Path, subject: Digest, answer: object
) -> None:
    """And cosign writes the type of its configuration into it."""

    def prepare(registry: Listing, node: Node) -> None:
        registry.faults["referrers"] = [answer]  # type: ignore[list-item]
        found = registry.bundle(node.app, subject)
        listed = Descriptor(
            found.media_type, found.digest, found.size, artifact_type=attached.EMPTY
        )
        registry.manifests[f"sha256-{subject.hex}"] = (IMAGE_INDEX, Index((listed,)).to_bytes())

    _, _, error = await against(tmp_path, prepare, subject)
    assert error is None


async def test_a_malformed_list_of_referrers_is_an_error(tmp_path: Path, subject: Digest) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        registry.faults["referrers"] = [body(b"{", **{"Content_Type": IMAGE_INDEX})]

    _, _, error = await against(tmp_path, prepare, subject)
    assert isinstance(error, BundleError)


async def test_a_signature_copied_from_elsewhere_does_not_count(
    tmp_path: Path, subject: Digest
) -> None:
    def prepare(registry: Listing, node: Node) -> None:
        elsewhere = Reference.parse("registry.example/team/app:1")
        registry.listed = [registry.bundle(elsewhere, subject)]

    _, _, error = await against(tmp_path, prepare, subject)
    assert "was made for another repository: 'registry.example/team/app'" in str(error)


async def test_a_registry_that_trickles_is_given_up(
    tmp_path: Path, subject: Digest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.registry.signatures.trust._SECONDS", 0.2)

    def prepare(registry: Listing, node: Node) -> None:
        registry.faults["manifests"] = [hangs]

    _, _, error = await against(tmp_path, prepare, subject)
    assert isinstance(error, PullError)
    assert "do not arrive in time" in str(error)


async def test_many_checks_at_once_keep_all_signatures(tmp_path: Path, host: str) -> None:
    node = Node(host, tmp_path / "state")
    digests = []
    for number in range(8):
        digests.append(
            await pushed(tmp_path / "pushed", f"{host}/team/app:{number}", b"%d" % number)
        )
        await sign(f"{host}/team/app:{number}")
    async with asyncio.TaskGroup() as group:
        for digest in digests:
            group.create_task(node.check(digest))
    for digest in digests:
        assert await node.check(digest, offline=True) is None
