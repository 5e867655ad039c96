"""The helper that writes a card: what it refuses, and what it leaves on a card."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from vm import Disk

FLASH = Path(__file__).resolve().parents[2] / "image/flash.sh"


def flash(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FLASH, *words], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """What matters of one: a boot partition at 4 MiB, with a folder for settings."""
    path = tmp_path / "small.img"
    with path.open("wb") as file:
        file.truncate(48 << 20)
    # In sectors; the rest is in KiB.
    words = ["mkfs.vfat", "-F", "32", "-s", "1", "--offset", str(8192), path, str(40 << 10)]
    subprocess.run(words, check=True, capture_output=True)
    disk = Disk(path)
    disk.make_folder("setup")
    disk.put("setup/README.txt", b"settings\n")
    return path


def test_a_card_gets_the_image_and_its_settings(image: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings"
    (settings / "bundles").mkdir(parents=True)
    (settings / "hostname").write_text("shelf-1\n")
    (settings / "bundles" / "hello.tar").write_bytes(b"a bundle")
    subprocess.run(["zstd", "-q", image], check=True)
    card = tmp_path / "card"
    done = flash("--setup", settings, f"{image}.zst", card)
    assert done.returncode == 0, done.stderr
    assert "reading back" in done.stderr
    files = Disk(card).files()
    assert files["setup/hostname"] == b"shelf-1\n"
    assert files["setup/bundles/hello.tar"] == b"a bundle"
    assert files["setup/README.txt"] == b"settings\n"


def test_what_is_no_setting_is_refused_before_anything_is_written(
    image: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "password").write_text("x\n")
    done = flash("--setup", settings, image, tmp_path / "card")
    assert done.returncode == 1
    assert "password is no setting" in done.stderr
    assert not (tmp_path / "card").exists()


def test_what_is_no_card_is_refused(image: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("precious")
    for target, why in ((there, "is there already"), (Path("/dev/null"), "is no disk")):
        done = flash("--yes", image, target)
        assert done.returncode == 1
        assert why in done.stderr
    assert there.read_text() == "precious"


@pytest.mark.skipif(os.geteuid() != 0, reason="asks for a disk, which needs root")
def test_the_disk_this_machine_runs_from_is_refused(image: Path) -> None:
    source = subprocess.run(
        ["findmnt", "-no", "SOURCE", "/"], check=True, capture_output=True, text=True
    ).stdout.strip()
    if not Path(source).is_block_device():
        pytest.skip(f"the root is on {source}")
    done = flash(image, source)  # without --yes: were it not refused, nobody confirms
    assert done.returncode == 1
    assert any(why in done.stderr for why in ("in use", "not removable", "not a whole disk"))
