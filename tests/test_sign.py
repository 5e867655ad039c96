"""`edge sign` and `edge verify` from the command line."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from registry_lab import docker_registry

from edge.cli import main
from edge.registry import transfer
from edge.registry.client import RegistryClient
from edge.registry.manifest import IMAGE_CONFIG, Manifest
from edge.registry.reference import Reference
from edge.registry.store import ContentStore


@pytest.fixture
def app(tmp_path: Path) -> Iterator[str]:
    """Something in a registry; where it is."""
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as host:
        asyncio.run(_push(tmp_path / "pushed", f"{host}/team/app:1"))
        yield f"{host}/team/app:1"


async def _push(directory: Path, text: str) -> None:
    store = ContentStore(directory)
    manifest = Manifest(store.add(b"{}", IMAGE_CONFIG), ())
    digest = store.add(manifest.to_bytes(), manifest.media_type).digest
    async with RegistryClient() as client:
        await transfer.push(client, digest, store, Reference.parse(text))


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "open sesame")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert main(["sign", "--generate-key", str(tmp_path / "edge.key")]) == 0
    return tmp_path / "edge.key"


def test_a_key_is_made_and_signs_and_verifies(
    app: str, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert main(["verify", app, "--key", str(key.with_suffix(".pub"))]) == 1
    assert "is not signed" in capsys.readouterr().err
    assert main(["sign", app, "--key", str(key)]) == 0
    signed = capsys.readouterr().out
    assert signed.startswith(f"{app.rpartition(':')[0]}@sha256:")
    assert main(["verify", app, "--key", str(key.with_suffix(".pub"))]) == 0
    assert capsys.readouterr().out == signed
    assert main(["verify", signed.strip(), "--key", str(key.with_suffix(".pub"))]) == 0


def test_one_of_several_keys_is_enough(app: str, key: Path, tmp_path: Path) -> None:
    assert main(["sign", "--generate-key", str(tmp_path / "other.key")]) == 0
    assert main(["sign", app, "--key", str(key)]) == 0
    other, own = (["--key", str(tmp_path / name)] for name in ("other.pub", "edge.pub"))
    assert main(["verify", app, *other]) == 1
    assert main(["verify", app, *other, *own]) == 0


def test_a_signature_expires(
    app: str, key: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["sign", app, "--key", str(key), "--expires", "1ms"]) == 0
    assert main(["verify", app, "--key", str(tmp_path / "edge.pub")]) == 1
    assert "expired on " in capsys.readouterr().err
    assert main(["sign", app, "--key", str(key), "--expires", "90d"]) == 0
    assert main(["verify", app, "--key", str(tmp_path / "edge.pub")]) == 0


def test_the_password_comes_from_a_file(app: str, key: Path, tmp_path: Path) -> None:
    (tmp_path / "right").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("sesame\n")
    sign = ["sign", app, "--key", str(key), "--key-password-file"]
    assert main([*sign, str(tmp_path / "right")]) == 0
    assert main([*sign, str(tmp_path / "wrong")]) == 78
    assert main([*sign, str(tmp_path / "none")]) == 78


def test_the_public_key_is_what_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sign", "--generate-key", str(tmp_path / "fleet.key")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'fleet.pub'}\n"
    assert "PUBLIC KEY" in (tmp_path / "fleet.pub").read_text()


def test_a_key_is_never_overwritten(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = key.read_bytes()
    assert main(["sign", "--generate-key", str(key)]) == 78
    assert "file exists\nhint: it stays; name another\n" in capsys.readouterr().err
    key.with_suffix(".pub").unlink()
    assert main(["sign", "--generate-key", str(key)]) == 78
    assert key.read_bytes() == before
    assert not key.with_suffix(".pub").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "sign needs REF and --key"),
        (["127.0.0.1:9/app:1"], "sign needs REF and --key"),
        (["--key", "k"], "sign needs REF and --key"),
        (["127.0.0.1:9/app:1", "--key", "/nowhere/k"], "/nowhere/k: no such file or directory"),
        (["--generate-key", "k", "--key", "k"], "--generate-key signs nothing"),
        (["--generate-key", "k.pub"], ".pub is for the public key"),
        (["--generate-key", "/nowhere/k"], "/nowhere/k: no such file or directory"),
    ],
)
def test_mistakes(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["sign", *arguments]) == 78
    assert said in capsys.readouterr().err


def test_keys_that_are_mixed_up_are_told_apart(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    public = key.with_suffix(".pub")
    assert main(["sign", "127.0.0.1:9/app:1", "--key", str(public)]) == 78
    assert f"edge: {public}: is a public key, which cannot sign\nhint: " in capsys.readouterr().err
    assert main(["verify", "127.0.0.1:9/app:1", "--key", str(key)]) == 78
    assert f"edge: {key}: is a private key" in capsys.readouterr().err


def test_a_key_with_a_password_asks_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSIGN_PASSWORD", "secret")
    assert main(["sign", "--generate-key", str(tmp_path / "s.key")]) == 0
    capsys.readouterr()
    monkeypatch.setenv("COSIGN_PASSWORD", "")
    assert main(["sign", "127.0.0.1:9/app:1", "--key", str(tmp_path / "s.key")]) == 78
    said = capsys.readouterr().err
    assert said.startswith(f"edge: {tmp_path / 's.key'}: has a password, and none was given\n")
    assert "--key-password-file" in said


@pytest.mark.parametrize("time", ["0", "soon", "101d5", "99999999d", "-1d"])
def test_lifetimes_that_make_no_sense(time: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sign", "127.0.0.1:9/app:1", "--key", "k", f"--expires={time}"])
    assert ended.value.code == 2
    assert "--expires" in capsys.readouterr().err


def test_each_format_is_made_alone(app: str, key: Path, tmp_path: Path) -> None:
    name = app.rpartition(":")[0]
    storage = tmp_path / "registry" / "storage" / "docker" / "registry" / "v2" / "repositories"
    tags = storage / name.partition("/")[2] / "_manifests" / "tags"
    for kind, suffix in (("tag", ".sig"), ("bundle", "")):
        before = {path.name for path in tags.iterdir()}
        assert main(["sign", app, "--key", str(key), "--format", kind]) == 0
        (new,) = {path.name for path in tags.iterdir()} - before
        assert new.startswith("sha256-")
        assert new.removeprefix("sha256-")[64:] == suffix
        assert main(["verify", app, "--key", str(tmp_path / "edge.pub")]) == 0


def test_what_is_signed_says_no_more_than_it_must(app: str, key: Path, tmp_path: Path) -> None:
    """Neither this machine's name nor its user's."""
    assert main(["sign", app, "--key", str(key), "--format", "tag"]) == 0
    blobs = tmp_path / "registry" / "storage" / "docker" / "registry" / "v2" / "blobs"
    payloads = [path.read_bytes() for path in blobs.rglob("data")]
    (payload,) = [json.loads(data) for data in payloads if data.startswith(b'{"critical"')]
    assert payload["critical"]["identity"]["docker-reference"] == app
    assert set(payload["optional"]) == {"creator", "timestamp"}
