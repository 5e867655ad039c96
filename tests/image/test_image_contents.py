"""The image for boards, against the boot documentation: partitions, boot files, firmware."""

from __future__ import annotations

import json
import os
from pathlib import Path

import bootloader
import built
import pytest
from ab import boards, disk
from vm import Disk, run

pytestmark = pytest.mark.skipif(
    os.environ.get("EDGE_IMAGE") != "full", reason="builds an image: make test-image"
)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Disk:
    return Disk.of(built.image("pi"), tmp_path_factory.mktemp("card") / "card.img")


@pytest.fixture(scope="module")
def boot(card: Disk) -> dict[str, bytes]:
    return card.files()


def test_partitions(card: Disk) -> None:
    found = json.loads(run("sfdisk", "--json", card.path))["partitiontable"]
    # A Pi 3's boot ROM knows no other label, and wants FAT as the first partition.
    assert (found["label"], found["id"]) == ("dos", f"0x{disk.DISK}")
    partitions = found["partitions"]
    assert [entry["type"] for entry in partitions] == ["c", "83", "83", "83"]
    # Cards erase in blocks of 4 MiB.
    assert all(entry["start"] % 8192 == 0 for entry in partitions)
    assert partitions[1]["size"] == partitions[2]["size"]
    ends = [entry["start"] + entry["size"] for entry in partitions]
    assert [entry["start"] for entry in partitions[1:]] == ends[:-1]


@pytest.mark.parametrize("model", bootloader.MODELS)
def test_each_model_finds_what_it_starts(boot: dict[str, bytes], model: str) -> None:
    start = bootloader.choose(boot, model)
    assert boards.running(start.command_line) == ("a", False)
    # An uncompressed or gzip'ed Image: what the firmware can load. "ARM\x64" is at 56.
    kernel = boot[start.kernel]
    assert kernel[56:60] == b"ARMd" or kernel[:2] == b"\x1f\x8b"
    assert boot[start.device_tree][:4] == b"\xd0\x0d\xfe\xed"
    assert len(boot[start.initramfs]) > 1 << 20


def test_the_choice_has_the_size_of_a_sector(boot: dict[str, bytes]) -> None:
    assert len(boot["config.txt"]) == disk.SECTOR


def test_nothing_secret_is_on_a_fresh_card(boot: dict[str, bytes]) -> None:
    assert [name for name in boot if name.startswith("setup/")] == ["setup/README.txt"]


def test_the_root_names_no_machine(card: Disk, tmp_path: Path) -> None:
    root = tmp_path / "root.sqfs"
    start = (4 + 256) << 20
    with card.path.open("rb") as source, root.open("wb") as target:
        source.seek(start)
        target.write(source.read(512 << 20))
    listed = run("unsquashfs", "-l", "-no-progress", root).decode()
    assert "squashfs-root/usr/bin/edge" in listed
    assert "ssh_host_" not in listed
    assert run("unsquashfs", "-cat", root, "etc/machine-id") == b""
