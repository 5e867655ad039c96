"""Images that boot, in QEMU: settings from the boot partition, an answer by a guest, updates."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import built
import bundles
import pytest
from vm import Disk, Machine

pytestmark = pytest.mark.skipif(
    os.environ.get("EDGE_IMAGE") != "full", reason="boots machines: make test-image"
)
SECRETS = ["authorized_keys", "edge.toml", "hostname", "hello.tar"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.pack(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def machine(tmp_path: Path, bundle: Path) -> Iterator[Machine]:
    """A fresh one, with what a user puts on its boot partition."""
    disk = Disk.of(built.image("vm-amd64"), tmp_path / "disk.img")
    machine = Machine(disk, tmp_path)
    disk.put("setup/authorized_keys", machine.key.with_suffix(".pub").read_bytes())
    disk.put("setup/edge.toml", bundles.EDGE_TOML.encode())
    disk.put("setup/hostname", b"shelf-1\n")
    disk.make_folder("setup/bundles")
    disk.put("setup/bundles/hello.tar", bundle)
    yield machine
    machine.kill()


def test_the_first_boot_is_configured_and_a_guest_answers(machine: Machine) -> None:
    machine.start()
    machine.wait_for("/", bundles.GREETING)
    assert machine.ssh("hostname").strip() == "shelf-1"
    assert machine.ssh("systemctl", "is-failed", "edge-setup.service", "||", "true") == "active\n"
    assert "edge.toml" in machine.ssh("ls", "/etc/edge")
    assert machine.ssh("ls", "/boot/firmware/setup").split() == ["README.txt", "bundles"]
    assert machine.ssh("ls", "/boot/firmware/setup/bundles") == ""
    # The disk is larger than the image, and the state partition has the rest of it.
    size = int(machine.ssh("df", "--output=size", "-BM", "/state").split()[1].rstrip("M"))
    assert size > 1024
    assert machine.ssh("findmnt", "-no", "FSTYPE,OPTIONS", "/").startswith("squashfs ro")
    before = machine.boot_id()
    machine.kill()
    machine.network = True
    machine.start()
    machine.wait_for("/", bundles.GREETING)
    assert machine.boot_id() != before


def test_an_update_is_tried_and_kept(machine: Machine) -> None:
    machine.start()
    machine.wait_for("/", bundles.GREETING)
    assert machine.image_status()["slot"] == "a"
    send(machine, built.update("vm-amd64"))
    until(machine, slot="b", default="b", version=built.NEW)
    machine.wait_for("/", bundles.GREETING)
    machine.kill()
    machine.start()
    until(machine, slot="b", trial=False)
    machine.wait_for("/", bundles.GREETING)


def test_an_altered_update_is_refused(machine: Machine, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    data = bytearray(built.update("vm-amd64").read_bytes())
    data[len(data) * 3 // 4] ^= 1
    altered.write_bytes(data)
    machine.start()
    machine.wait_for("/", bundles.GREETING)
    with pytest.raises(AssertionError, match=r"root\.sqfs was altered"):
        send(machine, altered)
    assert machine.image_status() == machine.image_status() | {"slot": "a", "default": "a"}


def test_a_power_cut_at_any_time_of_the_first_boot(machine: Machine) -> None:
    chance = random.Random(6)
    for _ in range(10 if os.environ.get("EDGE_SOAK") == "full" else 2):
        machine.start()
        time.sleep(chance.uniform(1, 60))  # when the cut comes is the point
        machine.kill()
    machine.start()
    machine.wait_for("/", bundles.GREETING)
    assert machine.ssh("hostname").strip() == "shelf-1"


def send(machine: Machine, update: Path) -> None:
    machine.ssh("edge-image", "update", "-", data=update.read_bytes())


def until(machine: Machine, **wanted: object) -> None:
    deadline = time.monotonic() + 900
    while True:
        found = machine.image_status()
        if {name: found.get(name) for name in wanted} == wanted:
            return
        assert time.monotonic() < deadline, found
        time.sleep(2)
