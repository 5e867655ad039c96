"""The lab itself: what it says to cut is cut, what it counts is counted, nothing stays behind."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet_lab import REGISTRY, MiB, application, entry, lab, needs_root, until

pytestmark = needs_root
Guest = Callable[[str], Path]


def test_a_network_of_real_nodes(tmp_path: Path, guest: Guest) -> None:
    with lab(tmp_path) as net:
        size = MiB
        folder = application(tmp_path / "app", guest("hello"), size)
        net.uplink.edge("push", folder, f"{REGISTRY}/big:1", "--insecure")
        one, two = net.boards(2, more=entry("big", f"{REGISTRY}/big:1"))
        until(lambda: (one.get("/one"), two.get("/one")) == (200, 200), 60, lambda: one.text)

        # Without a fleet each pulls for itself; what the kernel counts is little more than that.
        for board in (one, two):
            assert size < net.uplink.sent()[board.address] < 1.1 * size
            assert size < board.traffic().received_bytes < 1.1 * size

        assert one.get("/one", two.address) == 200
        net.partition([one], [two])
        assert one.get("/one", two.address, 1) == 0
        net.heal()
        assert one.get("/one", two.address) == 200

        two.cable("down")
        assert two.run("cat", "/sys/class/net/eth0/carrier").strip() == "0"
        two.cable("up")
        before = two.address
        two.take_address(77)
        assert (one.get("/one", before, 1), one.get("/one", two.address)) == (0, 200)

        two.kill()
        assert one.get("/one", two.address) == 0
        net.uplink.cut()
        two.start()  # without its registry it serves what it has
        assert two.get("/one") == 200
        sent = net.uplink.sent()
        with pytest.raises(OSError, match="timed out"):
            two.call(lambda: socket.create_connection((net.uplink.address, 5000), 1))
        assert net.uplink.sent() == sent
        namespaces = {machine.namespace for machine in net.machines.values()} | {net.switch}
        assert namespaces <= _namespaces()
    assert not namespaces & _namespaces()


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    strays = []

    def fail() -> None:
        with lab(tmp_path) as net:
            board = net.board("n1")
            board.launch()
            strays.append((net.prefix, subprocess.Popen(board.command("sleep", "60"))))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    ((prefix, stray),) = strays
    assert stray.wait(5) == -9
    assert not {name for name in _namespaces() if name.startswith(prefix)}


def _namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines() if line}
