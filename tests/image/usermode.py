"""An image's disk, started by Linux as a process (user-mode-linux): as fast as this machine.

File systems, page cache and system are as on a machine of its own, and a power cut takes what its
kernel had not written. Two things are not the image's: the kernel is Debian 12's for this, and the
bootloader is a model of systemd-boot, which starts the first entry and counts its tries. The
machines of vm.py have both. Needs root and the Debian package user-mode-linux.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from ab import boards
from vm import Disk, Machine, run

__all__ = ["UserModeMachine", "boot_entry", "needs_usermode"]

needs_usermode = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("linux.uml") is None,
    reason="needs root and the Debian package user-mode-linux",
)

MODULES = ("squashfs", "overlay", "vfat", "nls_cp437", "nls_iso8859-1", "nls_ascii", "ipv6")
TREES = Path("/usr/lib/uml/modules")
ENTRIES = "loader/entries"
# The machine's network card has no name that the image knows.
STRANGE = """#!/bin/sh
[ "$1" != prereqs ] || exit 0
mkdir -p /run/systemd/network
cat >/run/systemd/network/10-vec0.network <<'END'
[Match]
Name=vec0
[Network]
Address={address}/24
END
"""


class UserModeMachine(Machine):
    """As a Machine; what restarts it is whoever asks it something."""

    guest_http = 80
    number = 0
    more: tuple[str, ...] = ()
    off = False

    @property
    def host(self) -> str:
        return f"10.80.{self.number}.2"

    def http_place(self) -> tuple[str, int]:
        return self.host, 80

    def ssh_place(self) -> tuple[str, int]:
        return self.host, 22

    def command(self) -> list[str | Path]:
        self._connect()
        slot, options = boot_entry(self.disk)
        self._ram_disk(self.disk.get(f"slot-{slot}/initrd.img"))
        told = [word for word in options.split() if not word.startswith("console=")]
        return [
            "linux.uml", "mem=768M", f"uml_dir={self.folder}/uml", "noreboot",
            f"ubd0={self.disk.path}", f"initrd={self.folder / 'initrd'}",
            f"vec0:transport=tap,ifname={self._tap},depth=64,gro=1",
            "con=null", "con0=fd:0,fd:1", *told, "console=tty0", "systemd.watchdog_sec=0",
            *self.more,
        ]  # fmt: skip

    def qemu_words(self) -> list[str]:
        return []

    def start(self) -> None:
        self.off = False
        super().start()

    def shut_down(self) -> None:
        self.off = True
        super().shut_down()

    def _alive(self, deadline: float, what: str) -> None:
        assert self.process is not None
        if self.process.poll() is not None and not self.off:
            # It started anew: its bootloader chooses again.
            self.process = None
            self.start()
        assert time.monotonic() < deadline, f"{what}; its console:\n{self.console[-3000:]}"

    @property
    def _tap(self) -> str:
        return f"edgeimg{self.number}"

    def _connect(self) -> None:
        if self.number:
            return
        for number in range(1, 250):
            command = ["ip", "tuntap", "add", f"edgeimg{number}", "mode", "tap"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                self.number = number
                run("ip", "address", "add", f"10.80.{number}.1/24", "dev", self._tap)
                run("ip", "link", "set", self._tap, "up")
                return
        raise AssertionError("no free interface: ip link delete edgeimg1, …")

    def close(self) -> None:
        super().close()
        if self.number:
            run("ip", "link", "delete", self._tap)
            self.number = 0

    def _ram_disk(self, image: bytes) -> None:
        """The image's, and after it modules of this kernel and a network."""
        (tree,) = TREES.iterdir()
        files: dict[str, tuple[int, bytes]] = {}
        there = self.folder / "modules"
        if not there.exists():
            shutil.copytree(tree, there / "lib/modules" / tree.name)
            run("depmod", "--basedir", there, tree.name)
        for path in needed(there / "lib/modules" / tree.name):
            files[f"usr/{path.relative_to(there)}"] = (0o644, path.read_bytes())
        files["conf/modules"] = (0o644, "".join(f"{name}\n" for name in MODULES).encode())
        order = '/scripts/init-bottom/{0} "$@"\n[ -e /conf/param.conf ] && . /conf/param.conf\n'
        names = ("udev", "edge", "strange")
        files["scripts/init-bottom/ORDER"] = (0o644, "".join(map(order.format, names)).encode())
        strange = STRANGE.format(address=self.host).encode()
        files["scripts/init-bottom/strange"] = (0o755, strange)
        (self.folder / "initrd").write_bytes(image + bytes(-len(image) % 512) + cpio(files))


def needed(modules: Path) -> set[Path]:
    """MODULES, and what they depend on, and the lists by which they are found."""
    found = set(modules.glob("modules.*"))
    lines = (line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    depends = {Path(name).stem: (name, others.split()) for name, others in lines}
    for module in MODULES:
        if module in depends:
            name, others = depends[module]
            found |= {modules / part for part in (name, *others)}
    return found


def cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """An archive in the "new ASCII" form (Documentation/driver-api/early-userspace)."""
    folders = sorted({str(parent) for name in files for parent in Path(name).parents} - {"."})
    members = [_member(name, stat.S_IFDIR | 0o755, b"") for name in folders]
    members += [_member(name, stat.S_IFREG | mode, data) for name, (mode, data) in files.items()]
    return b"".join([*members, _member("TRAILER!!!", 0, b"")])


def _member(name: str, mode: int, data: bytes) -> bytes:
    label = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(label), 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + label
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def boot_entry(disk: Disk) -> tuple[str, str]:
    """The slot and the kernel's options of the entry that systemd-boot starts; a try is counted.
    https://systemd.io/AUTOMATIC_BOOT_ASSESSMENT/
    """
    entries = {}
    for name in (Path(path).name for path in disk.names(ENTRIES)):
        if name.endswith(".conf"):
            entries[name] = disk.get(f"{ENTRIES}/{name}").decode().rstrip("#\n")
    # Entries without tries left come last, and else the sort key decides.
    name = min(entries, key=lambda name: ("+0" in name, _key(entries[name], "sort-key")))
    if found := re.fullmatch(r"(.*)\+(\d+)(?:-(\d+))?\.conf", name):
        stem, left, done = found[1], int(found[2]) - 1, int(found[3] or 0) + 1
        disk.rename(f"{ENTRIES}/{name}", f"{stem}+{left}-{done}.conf")
    options = _key(entries[name], "options")
    return boards.running(options)[0], options


def _key(entry: str, key: str) -> str:
    return next(line.partition(" ")[2] for line in entry.splitlines() if line.startswith(key))
