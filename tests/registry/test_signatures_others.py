"""Signatures between edge and other implementations: skopeo and cosign of Debian 13."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian_tools import Tools
from registry_lab import docker_registry

from edge.cli import main
from edge.errors import BundleError
from edge.registry import transfer
from edge.registry.client import RegistryClient
from edge.registry.digest import Digest
from edge.registry.manifest import IMAGE_CONFIG, Manifest
from edge.registry.reference import Reference
from edge.registry.signatures import attestation
from edge.registry.signatures.keys import SigningKey
from edge.registry.signatures.sign import Signer, subjects
from edge.registry.signatures.trust import verify
from edge.registry.store import ContentStore

PASSWORD = "open sesame"
NOW = 1_800_000_000.0
# What cosign's bundles are checked with beside a key, when no transparency log is asked.
NO_ROOT = '{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}'
QUIET = ("--tlog-upload=false", "--yes")


@pytest.fixture(scope="session")
def tools(pytestconfig: pytest.Config) -> Tools:
    return Tools.unpack(Path(pytestconfig.cache.mkdir("debian")), "cosign", "skopeo")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "registries.d").mkdir()
    attachments = "default-docker:\n  use-sigstore-attachments: true\n"
    (tmp_path / "registries.d" / "default.yaml").write_text(attachments)
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        yield host


async def pushed(state: Path, text: str) -> Digest:
    """A small image in the registry."""
    store = ContentStore(state)
    manifest = Manifest(store.add(b'{"os":"wasi","architecture":"wasm"}', IMAGE_CONFIG), ())
    digest = store.add(manifest.to_bytes(), manifest.media_type).digest
    async with RegistryClient() as client:
        await transfer.push(client, digest, store, Reference.parse(text))
    return digest


async def check(state: Path, text: str, digest: Digest, key: Path) -> None:
    async with RegistryClient() as client:
        store = ContentStore(state)
        await verify(client, Reference.parse(text), digest, [key], NOW, store)
    # From then on without a network.
    await verify(None, Reference.parse(text), digest, [key], NOW, ContentStore(state))


def copy(tools: Tools, folder: Path, *arguments: str, expected: int = 0) -> str:
    policy = () if "--policy" in arguments else ("--insecure-policy",)
    given = ("--registries.d", "registries.d", *policy, *arguments)
    return tools.run("skopeo", *given, cwd=folder, expected=expected)


def skopeo_key(tools: Tools, folder: Path) -> tuple[Path, Path]:
    new = ("generate-sigstore-key", "--output-prefix", "skopeo", "--passphrase-file", "password")
    tools.run("skopeo", *new, cwd=folder)
    return folder / "skopeo.private", folder / "skopeo.pub"


def edge_key(folder: Path) -> tuple[Path, Path]:
    arguments = ["--generate-key", f"{folder}/edge.key", "--key-password-file"]
    assert main(["sign", *arguments, f"{folder}/password"]) == 0
    return folder / "edge.key", folder / "edge.pub"


async def sign(text: str, key: Path) -> None:
    async with RegistryClient() as client:
        reference = Reference.parse(text)
        signer = Signer(client, SigningKey.load(key, PASSWORD.encode), NOW)
        for subject in await subjects(client, reference):
            await signer.sign(reference, subject)


@pytest.mark.parametrize("make_key", ["skopeo", "edge"])
async def test_a_signature_of_skopeo_counts(
    tmp_path: Path, host: str, tools: Tools, make_key: str
) -> None:
    digest = await pushed(tmp_path / "unsigned", f"{host}/unsigned:1")
    private, public = skopeo_key(tools, tmp_path) if make_key == "skopeo" else edge_key(tmp_path)
    copy(
        tools,
        tmp_path,
        *("copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *("--sign-by-sigstore-private-key", str(private), "--sign-passphrase-file", "password"),
        *(f"docker://{host}/unsigned:1", f"docker://{host}/team/app:1"),
    )
    await check(tmp_path / "state", f"{host}/team/app:1", digest, public)
    foreign = tmp_path / "foreign.pub"
    foreign.write_bytes(SigningKey.generate().public.to_pem())
    with pytest.raises(BundleError, match="is signed with another key"):
        await check(tmp_path / "other", f"{host}/team/app:1", digest, foreign)


async def test_skopeo_takes_what_edge_signed_and_nothing_else(
    tmp_path: Path, host: str, tools: Tools
) -> None:
    """By its default for names: repository and tag, or repository and digest."""
    private, public = edge_key(tmp_path)
    digest = await pushed(tmp_path / "pushed", f"{host}/team/app:1")
    await pushed(tmp_path / "pushed", f"{host}/team/unsigned:1")
    signed_by = [{"type": "sigstoreSigned", "keyPath": str(public)}]
    policy = {"default": [{"type": "reject"}], "transports": {"docker": {host: signed_by}}}
    (tmp_path / "policy.json").write_text(json.dumps(policy))

    def pull(name: str, expected: int) -> str:
        source = ("--policy", "policy.json", "copy", "--src-tls-verify=false")
        target = f"dir:{tmp_path}/{abs(hash(name))}"
        return copy(tools, tmp_path, *source, f"docker://{host}/{name}", target, expected=expected)

    assert "signature was required" in pull("team/app:1", 1)
    await sign(f"{host}/team/app:1", private)
    pull("team/app:1", 0)
    pull(f"team/app@{digest}", 0)
    assert "signature was required" in pull("team/unsigned:1", 1)


async def test_signatures_of_edge_and_skopeo_live_side_by_side(
    tmp_path: Path, host: str, tools: Tools
) -> None:
    ours, theirs = edge_key(tmp_path), skopeo_key(tools, tmp_path)
    digest = await pushed(tmp_path / "pushed", f"{host}/app:1")
    await sign(f"{host}/app:1", ours[0])
    copy(
        tools,
        tmp_path,
        *("copy", "--src-tls-verify=false", "--dest-tls-verify=false"),
        *("--sign-by-sigstore-private-key", str(theirs[0]), "--sign-passphrase-file", "password"),
        *(f"docker://{host}/app:1", f"docker://{host}/app:1"),
    )
    await sign(f"{host}/app:1", ours[0])  # renews its own and leaves theirs
    for number, (_, public) in enumerate((ours, theirs)):
        await check(tmp_path / f"{number}", f"{host}/app:1", digest, public)


async def test_a_signature_of_cosign_counts(tmp_path: Path, host: str, tools: Tools) -> None:
    digest = await pushed(tmp_path / "pushed", f"{host}/app:1")
    tools.run("cosign", "generate-key-pair", cwd=tmp_path, COSIGN_PASSWORD=PASSWORD)
    signed = ("sign", "--key", "cosign.key", *QUIET, f"{host}/app@{digest}")
    tools.run("cosign", *signed, cwd=tmp_path, COSIGN_PASSWORD=PASSWORD)
    await check(tmp_path / "state", f"{host}/app:1", digest, tmp_path / "cosign.pub")


async def test_a_bundle_of_cosign_counts(tmp_path: Path, host: str, tools: Tools) -> None:
    """The statement that cosign 3 signs, made by cosign 2.5, which only calls it attestation."""
    digest = await pushed(tmp_path / "pushed", f"{host}/app:1")
    tools.run("cosign", "generate-key-pair", cwd=tmp_path, COSIGN_PASSWORD=PASSWORD)
    (tmp_path / "predicate.json").write_text("{}")
    attest = ("attest", "--key", "cosign.key", *QUIET, "--new-bundle-format")
    what = ("--predicate", "predicate.json", f"{host}/app@{digest}")
    other = ("--type", "https://slsa.dev/provenance/v1")
    tools.run("cosign", *attest, *other, *what, cwd=tmp_path, COSIGN_PASSWORD=PASSWORD)
    with pytest.raises(BundleError, match=r"an attestation of .*, not a signature"):
        await check(tmp_path / "state", f"{host}/app:1", digest, tmp_path / "cosign.pub")
    kind = ("--type", attestation.PREDICATE)
    tools.run("cosign", *attest, *kind, *what, cwd=tmp_path, COSIGN_PASSWORD=PASSWORD)
    await check(tmp_path / "state", f"{host}/app:1", digest, tmp_path / "cosign.pub")


async def test_cosign_verifies_both_formats_of_edge(
    tmp_path: Path, host: str, tools: Tools
) -> None:
    private, public = edge_key(tmp_path)
    digest = await pushed(tmp_path / "pushed", f"{host}/app:1")
    await sign(f"{host}/app:1", private)
    offline = ("--insecure-ignore-tlog", "--key", public)
    tools.run("cosign", "verify", *offline, f"{host}/app@{digest}", cwd=tmp_path)
    (tmp_path / "root.json").write_text(NO_ROOT)
    bundle = ("--new-bundle-format", "--trusted-root", "root.json", "--type", attestation.PREDICATE)
    what = f"{host}/app@{digest}"
    tools.run("cosign", "verify-attestation", *offline, *bundle, what, cwd=tmp_path)
    foreign = tmp_path / "foreign.pub"
    foreign.write_bytes(SigningKey.generate().public.to_pem())
    wrong = ("--insecure-ignore-tlog", "--key", foreign)
    tools.run("cosign", "verify", *wrong, what, cwd=tmp_path, expected=12)
