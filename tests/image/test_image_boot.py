"""The image for virtual machines boots: settings from the boot partition, an answer by a guest, a
message to a guest, updates, power cuts. What the machines are: usermode.py. EDGE_IMAGE_VM=vm-arm64
or vm-amd64 takes those of vm.py, which are slower: with the image's kernel, by its bootloader.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import built
import bundles
import pytest
from usermode import UserModeMachine, needs_usermode
from vm import ArmMachine, Disk, Machine, MessageTap

VM = os.environ.get("EDGE_IMAGE_VM", "usermode")
BOARD = "vm-amd64" if VM == "usermode" else VM
KIND = {"usermode": UserModeMachine, "vm-amd64": Machine, "vm-arm64": ArmMachine}[VM]
pytestmark = [
    pytest.mark.skipif(
        os.environ.get("EDGE_IMAGE") != "full", reason="boots machines: make test-image"
    ),
]
if VM == "usermode":
    pytestmark.append(needs_usermode)
# Seconds of a first start within which power is cut: it takes less.
WITHIN = 90.0
# What an update says when it has come so far.
STAGES = ("kernel", "root,", *(f" {part} %" for part in range(10, 101, 10)), "at the next start")
CUTS = 5 if os.environ.get("EDGE_SOAK") == "full" else 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.pack("hello", tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Machine:
    """One that was never started, with what a user puts on its boot partition."""
    folder = tmp_path_factory.mktemp("fresh")
    machine = KIND(Disk.of(built.image(BOARD), folder / "disk.img"), folder)
    machine.configure(bundles.EDGE_TOML, bundle)
    return machine


@pytest.fixture
def new(fresh: Machine, tmp_path: Path) -> Iterator[Machine]:
    machine = fresh.copy(tmp_path)
    yield machine
    machine.close()


@pytest.fixture(scope="module")
def used(fresh: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for many tests: each finds what the one before left, after a power cut."""
    machine = fresh.copy(tmp_path_factory.mktemp("used"))
    yield machine
    machine.close()


@pytest.fixture
def machine(used: Machine) -> Iterator[Machine]:
    """… which answers."""
    used.start()
    used.wait_for("/", bundles.GREETING)
    yield used
    used.kill()


def test_the_first_boot_is_configured_and_guests_answer(machine: Machine) -> None:
    machine.wait_for("/thermostat", b"")
    assert machine.ssh("hostname").strip() == "shelf-1"
    assert machine.ssh("systemctl", "--failed", "--quiet", "--plain") == ""
    assert machine.ssh("ls", "/boot/firmware/setup").split() == ["README.txt", "bundles"]
    assert machine.ssh("ls", "/boot/firmware/setup/bundles") == ""
    # The disk is larger than the image, and the state partition has the rest of it.
    size = int(machine.ssh("df", "--output=size", "-BM", "/state").split()[1].rstrip("M"))
    assert size > 1024
    assert machine.ssh("findmnt", "-no", "FSTYPE,OPTIONS", "/").startswith("squashfs ro")
    for unit in ("edge-tls.socket", "ssh.socket"):  # nobody asked for these
        assert machine.ssh("systemctl", "is-enabled", unit, "||", "true").strip() == "disabled"


def test_a_message_by_the_broker_of_the_image_runs_a_guest(machine: Machine) -> None:
    with MessageTap(machine, "alerts/#") as tap:
        tap.publish("sensors/kitchen/temperature", "31.5")
        assert tap.next() == "alerts/kitchen kitchen: 31.5 is above 25"
    machine.wait_for("/thermostat", b"kitchen 31.5")


def test_the_second_boot_is_faster_and_keeps_everything(new: Machine) -> None:
    began = time.monotonic()
    new.start()
    new.wait_for("/", bundles.GREETING)
    first = time.monotonic() - began
    before = new.ssh("cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub")
    new.shut_down()
    began = time.monotonic()
    new.start()
    new.wait_for("/", bundles.GREETING)
    second = time.monotonic() - began
    assert new.ssh("cat", "/etc/machine-id", "/etc/ssh/ssh_host_ed25519_key.pub") == before
    print(f"the first answer after {first:.0f} s, after another start {second:.0f} s")
    assert second < first


def test_an_altered_update_is_refused(machine: Machine, tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    data = bytearray(built.update(BOARD).read_bytes())
    data[len(data) * 3 // 4] ^= 1
    altered.write_bytes(data)
    before = machine.image_status()
    with pytest.raises(AssertionError, match=r"root\.sqfs was altered"):
        send(machine, altered)
    assert machine.image_status() == before


def test_an_update_that_does_not_come_to_life_is_given_up(machine: Machine, tmp_path: Path) -> None:
    before = machine.image_status()
    send(machine, built.sick_update(BOARD, tmp_path))
    until(machine, slot="b", trial=True)
    until(machine, slot="a", trial=False)
    assert machine.image_status() == before
    machine.wait_for("/", bundles.GREETING)


def test_a_power_cut_at_any_time_of_the_first_boot(new: Machine) -> None:
    chance = random.Random(6)
    for _ in range(CUTS):
        new.start()
        time.sleep(chance.uniform(2, WITHIN))  # when the cut comes is the point
        new.kill()
    new.start()
    new.wait_for("/", bundles.GREETING)
    assert new.ssh("hostname").strip() == "shelf-1"
    assert new.ssh("ls", "/boot/firmware/setup/bundles") == ""


def test_a_power_cut_at_any_time_of_an_update(new: Machine) -> None:
    chance = random.Random(7)
    new.start()
    new.wait_for("/", bundles.GREETING)
    for stage in sorted(chance.sample(range(len(STAGES)), CUTS)):
        with new.sending(built.update(BOARD)) as said:
            eventually(lambda stage=stage: STAGES[stage] in said())
            time.sleep(chance.uniform(0, 1))  # when the cut comes is the point
            new.kill()
        new.start()
        new.wait_for("/", bundles.GREETING)
        print(f"power cut at {STAGES[stage]!r}: {new.image_status()}")
    if new.image_status()["version"] != built.NEW:
        send(new, built.update(BOARD))
    # It is a trial until the next start, also when it is kept.
    until(new, slot="b", default="b", version=built.NEW)
    new.wait_for("/", bundles.GREETING)


def test_an_update_is_tried_and_kept(machine: Machine) -> None:
    assert machine.image_status()["slot"] == "a"
    send(machine, built.update(BOARD))
    until(machine, slot="b", default="b", version=built.NEW)
    machine.wait_for("/", bundles.GREETING)
    machine.kill()
    machine.start()
    until(machine, slot="b", trial=False)
    machine.wait_for("/", bundles.GREETING)
    machine.wait_for("/thermostat", b"")


def send(machine: Machine, update: Path) -> None:
    machine.ssh("edge-image", "update", "-", data=update.read_bytes())


def eventually(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def until(machine: Machine, **wanted: object) -> None:
    deadline = time.monotonic() + 3000
    while True:
        found = machine.image_status()
        if {name: found.get(name) for name in wanted} == wanted:
            return
        assert time.monotonic() < deadline, found
        time.sleep(2)
