"""The image for boards, against the boot documentation: partitions, boot files, firmware."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
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


@pytest.fixture(scope="module")
def root(card: Disk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file system of slot a."""
    path = tmp_path_factory.mktemp("root") / "root.sqfs"
    with card.path.open("rb") as source, path.open("wb") as target:
        source.seek((4 + 256) << 20)
        target.write(source.read(512 << 20))
    return path


@pytest.fixture(scope="module")
def listed(root: Path) -> set[str]:
    words = run("unsquashfs", "-l", "-no-progress", root).decode().splitlines()
    return {line.removeprefix("squashfs-root/") for line in words}


def test_the_root_names_no_machine(root: Path, listed: set[str]) -> None:
    assert not [name for name in listed if "ssh_host_" in name]
    assert run("unsquashfs", "-cat", root, "etc/machine-id") == b""


def test_the_root_has_what_a_board_runs(root: Path, listed: set[str]) -> None:
    enabled = "etc/systemd/system/multi-user.target.wants/{}.service"
    for unit in ("edge", "mosquitto", "edge-adopt", "edge-grow", "ssh"):
        assert enabled.format(unit) in listed
    assert {"usr/bin/edge", "usr/sbin/mosquitto"} <= listed
    assert [name for name in listed if name.endswith("updates/edge_tryboot.ko")]
    # Compiled for the board, as links will name it.
    assert [name for name in listed if re.fullmatch(r"usr/lib/edge-image/code/\w+\.cwasm", name)]
    assert b'url = "mqtt://localhost:1883"' in run("unsquashfs", "-cat", root, "etc/edge/edge.toml")


# What a kernel needs before it has a root: cards of Pi 3 and Zero 2 W, of Pi 4, sticks, and file
# systems.
EARLY = (
    "mmc_block", "bcm2835", "sdhci-iproc", "gpio-raspberrypi-exp", "clk-raspberrypi", "dwc2",
    "pcie-brcmstb", "xhci-pci", "usb-storage", "squashfs", "overlay", "ext4", "bcm2835_wdt",
)  # fmt: skip


def test_the_ram_disk_reaches_a_root(boot: dict[str, bytes], root: Path, listed: set[str]) -> None:
    names = set(cpio_names(boot["slot-a/initrd.img"]))
    (builtin,) = (name for name in listed if name.endswith("/modules.builtin"))
    there = {Path(name).name.split(".")[0] for name in names if ".ko" in name}
    there |= {Path(name).stem for name in run("unsquashfs", "-cat", root, builtin).decode().split()}
    assert set(EARLY) - there == set()
    assert {"scripts/init-bottom/edge", "usr/sbin/e2fsck"} <= names


def cpio_names(data: bytes) -> Iterator[str]:
    """Of archives one after the other, as the kernel reads them; the last is compressed."""
    at = 0
    while at < len(data):
        if data[at : at + 6] == b"070701":
            size, length = (int(data[at + start : at + start + 8], 16) for start in (54, 94))
            yield data[at + 110 : at + 109 + length].decode()
            at = (at + 110 + length + 3) // 4 * 4
            at = (at + size + 3) // 4 * 4
        elif data[at : at + 4] == b"\x28\xb5\x2f\xfd":
            done = subprocess.run(["zstd", "-dc"], input=data[at:], capture_output=True, check=True)
            data, at = done.stdout, 0
        else:
            assert data[at] == 0, f"no archive at {at}"
            at += 1


def test_the_boot_partition_is_fat32(card: Disk) -> None:
    with card.path.open("rb") as file:
        file.seek(4 << 20)
        sector = file.read(512)
    assert sector[82:90] == b"FAT32   "
    assert sector[71:82] == b"EDGE-BOOT  "
    # What is told from FAT16 by their number: at least 65,525 clusters.
    reserved, total, table = (
        int.from_bytes(sector[start:end], "little") for start, end in ((14, 16), (32, 36), (36, 40))
    )
    assert (total - reserved - sector[16] * table) // sector[13] >= 65_525
