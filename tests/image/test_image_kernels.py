"""Each image boots with its own kernel, in QEMU: those for virtual machines by UEFI and
systemd-boot, the card of a Raspberry Pi by a model of its firmware, on an emulated processor of a
Raspberry Pi 3.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import built
import bundles
import pytest
from vm import ArmMachine, Disk, Machine, MessageTap, PiMachine

pytestmark = pytest.mark.skipif(
    os.environ.get("EDGE_IMAGE") != "full", reason="boots machines: make test-image"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.pack("hello", tmp_path_factory.mktemp("bundle"))


KINDS = {"pi": PiMachine, "vm-arm64": ArmMachine, "vm-amd64": Machine}


@pytest.fixture(params=KINDS)
def machine(request: pytest.FixtureRequest, tmp_path: Path, bundle: Path) -> Iterator[Machine]:
    board = request.param
    machine = KINDS[board](Disk.of(built.image(board), tmp_path / "disk.img"), tmp_path)
    machine.configure(bundles.EDGE_TOML, bundle)
    yield machine
    machine.kill()


def test_first_and_second_boot(machine: Machine) -> None:
    first = began_to_answer(machine)
    machine.wait_for("/thermostat", b"")
    assert machine.ssh("hostname").strip() == "shelf-1"
    assert ("aarch64" in machine.ssh("uname", "-m")) == isinstance(machine, ArmMachine)
    assert machine.ssh("systemctl", "--failed", "--quiet", "--plain") == ""
    if isinstance(machine, ArmMachine):
        brought = machine.ssh(
            "find", "/var/lib/edge/code", "-lname", "'/usr/lib/edge-image/code/*'"
        )
        assert brought.strip().endswith(".cwasm")  # a link still: it was not compiled anew
    with MessageTap(machine, "alerts/#") as tap:
        tap.publish("sensors/kitchen/temperature", "31.5")
        assert tap.next() == "alerts/kitchen kitchen: 31.5 is above 25"
    machine.shut_down()
    second = began_to_answer(machine)
    machine.wait_for("/thermostat", b"kitchen 31.5")
    print(f"the first answer after {first:.0f} s, after another start {second:.0f} s")
    assert second < first


def began_to_answer(machine: Machine) -> float:
    """Seconds from the start until a guest answered."""
    began = time.monotonic()
    machine.start()
    machine.wait_for("/", bundles.GREETING)
    return time.monotonic() - began
