"""Signed updates and settings, without a machine: what is refused, and what is written."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest
from ab import grow, setup, update
from ab.disk import Problem, scrub

REPOSITORY = Path(__file__).resolve().parents[2]
SIGN = REPOSITORY / "image/sign.sh"
HERE = update.Image(version=5, board="pi")


def manifest(**changes: object) -> bytes:
    part = {"size": 3, "sha256": "00"}
    known = {"format": 1, "version": 6, "board": "pi", "parts": {"root.sqfs": part}}
    return json.dumps(known | changes).encode()


def test_an_update_for_this_image_is_taken() -> None:
    parts = update.check_manifest(manifest(), HERE, older=False)
    assert parts == {"root.sqfs": update.Part(3, "00")}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": 2}, "format 2"),
        ({"board": "vm-amd64"}, "for vm-amd64"),
        ({"version": 5}, "not newer"),
        ({"version": 4}, "not newer"),
    ],
)
def test_an_update_that_is_not_for_this_image_is_refused(
    changes: dict[str, object], why: str
) -> None:
    with pytest.raises(Problem, match=why):
        update.check_manifest(manifest(**changes), HERE, older=False)


def test_an_older_one_is_taken_when_somebody_says_so() -> None:
    assert update.check_manifest(manifest(version=4), HERE, older=True)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    subprocess.run([SIGN, "--generate-key", tmp_path / "key"], check=True, capture_output=True)
    return tmp_path / "key"


def archive(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        for name, data in (("manifest.json", manifest()), ("slot.tar", b""), ("root.sqfs", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))


def test_what_the_key_signed_is_verified_and_nothing_else(tmp_path: Path, key: Path) -> None:
    path = tmp_path / "update"
    archive(path)
    subprocess.run([SIGN, "--key", key, path], check=True, capture_output=True)
    with tarfile.open(path) as file:
        assert tuple(file.getnames()) == update.ORDER
        signature, text = (file.extractfile(name).read() for name in update.ORDER[:2])  # type: ignore[union-attr]
    public = Path(f"{key}.pub")
    update.verify(text, signature, public)
    with pytest.raises(Problem, match="signature"):
        update.verify(text.replace(b"6", b"7"), signature, public)
    with pytest.raises(Problem, match="signature"):
        update.verify(text, b"", public)


def test_a_key_is_not_overwritten(key: Path) -> None:
    done = subprocess.run([SIGN, "--generate-key", key], check=False, capture_output=True)
    assert done.returncode == 1
    assert b"already" in done.stderr


def test_wireless_settings_hold_no_password() -> None:
    text = setup.wireless({"country": "DE", "ssid": "shop", "password": "correct horse"})
    assert "correct" not in text
    # What `wpa_passphrase` makes of network and password.
    assert "psk=fb2059ba77e6cf2bdb010d53d2238711665995b7e90c498e72faebff99a8870b" in text
    assert bytes.fromhex(text.split("\tssid=")[1].split()[0]) == b"shop"


def test_a_country_is_two_letters() -> None:
    with pytest.raises(Problem, match="two capital letters"):
        setup.wireless({"country": "de\n}", "ssid": "shop"})


def test_what_is_wrong_stays_and_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hostname").write_text("not a name\n")
    (tmp_path / "edge.toml").write_text("[node\n")
    said: list[str] = []
    assert setup.run_all(tmp_path, said.append) == []
    assert len(said) == 2
    with pytest.raises(tomllib.TOMLDecodeError):
        tomllib.loads((tmp_path / "edge.toml").read_text())


def test_what_is_scrubbed_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret")
    kept = path.open("rb")
    scrub(path)
    assert not path.exists()
    assert kept.read() == bytes(6)
    kept.close()


@pytest.mark.parametrize(
    ("partition", "disk"),
    [("mmcblk0p4", "mmcblk0"), ("vda4", "vda"), ("nvme0n1p4", "nvme0n1"), ("sda4", "sda")],
)
def test_the_disk_of_a_partition(partition: str, disk: str) -> None:
    assert grow.disk_of(Path("/dev", partition)) == Path("/dev", disk)
