"""Which slot a board's bootloader starts, and how it is made to try the other one once.

A Raspberry Pi's firmware reads config.txt; after a reboot with the flag "tryboot", once,
tryboot.txt instead. systemd-boot counts the tries of an entry whose name ends in "+N" and prefers
it while tries are left. Either way the choice that holds is one file of one sector.
https://www.raspberrypi.com/documentation/computers/config_txt.html
https://uapi-group.org/specifications/specs/boot_loader_specification/
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ab.disk import SLOTS, Problem, partition, replace_sector, run, sector, write

# panic: a kernel or a RAM disk that gives up starts the machine again, so the trial ends.
KERNEL = "rootfstype=squashfs ro rootwait quiet panic=10 edge.slot={slot}"
CONSOLES = {
    "pi": "console=ttyS1,115200 console=tty0",
    # An emulated timer may be late for the test, which is a panic.
    "vm-amd64": "no_timer_check console=tty0 console=ttyS0,115200",
    "vm-arm64": "console=tty0 console=ttyAMA0",
}
_CONFIG = """# Written by the system. Your own settings: usercfg.txt
arm_64bit=1
upstream_kernel=1
enable_uart=1
gpu_mem=16
os_prefix=slot-{slot}/
kernel=vmlinuz
initramfs initrd.img followkernel
cmdline={cmdline}
include usercfg.txt
"""
_ENTRY = """title edge, slot {slot}{note}
sort-key {order}
linux /slot-{slot}/vmlinuz
initrd /slot-{slot}/initrd.img
options {options}
"""


class Board(Protocol):
    """The bootloader's files, on a boot partition that is mounted writable."""

    def make(self, slot: str) -> None:
        """A fresh boot partition that starts `slot`."""

    def write_command_lines(self, slot: str) -> None:
        """What a kernel of that slot is told, beside it."""

    def default(self) -> str:
        """The slot that starts when nothing is tried."""

    def arm(self, slot: str) -> None:
        """The next start, and only that one, is `slot`."""

    def commit(self, slot: str) -> None:
        """From now on `slot` starts."""


def options(board: str, slot: str, *, trial: bool) -> str:
    words = [f"root={partition(SLOTS[slot])}", KERNEL.format(slot=slot)]
    return " ".join([*words, *(["edge.trial"] if trial else []), CONSOLES[board]])


@dataclass(frozen=True, slots=True)
class TryBoot:
    """A Raspberry Pi."""

    boot: Path

    def make(self, slot: str) -> None:
        self.commit(slot)

    def write_command_lines(self, slot: str) -> None:
        folder = self.boot / f"slot-{slot}"
        write(folder / "cmdline.txt", options("pi", slot, trial=False).encode() + b"\n")
        write(folder / "trial.txt", options("pi", slot, trial=True).encode() + b"\n")

    def default(self) -> str:
        return _slot_in(self.boot / "config.txt", r"^os_prefix=slot-([ab])/$")

    def arm(self, slot: str) -> None:
        replace_sector(self.boot / "tryboot.txt", _CONFIG.format(slot=slot, cmdline="trial.txt"))
        # Debian's kernel has no `reboot "0 tryboot"`: loading our module tells the firmware.
        run("modprobe", "--remove", "edge_tryboot")
        run("modprobe", "edge_tryboot")

    def commit(self, slot: str) -> None:
        config = _CONFIG.format(slot=slot, cmdline="cmdline.txt")
        replace_sector(self.boot / "config.txt", config)


@dataclass(frozen=True, slots=True)
class Efi:
    """A machine with UEFI: systemd-boot."""

    boot: Path
    name: str

    def make(self, slot: str) -> None:
        self._entries.mkdir(parents=True, exist_ok=True)
        self.commit(slot)

    def write_command_lines(self, slot: str) -> None:
        pass  # the entries hold them

    def default(self) -> str:
        return _slot_in(self._entries / "edge.conf", r"^linux /slot-([ab])/vmlinuz$")

    def arm(self, slot: str) -> None:
        self._disarm()
        temporary = self._entries / "trial.new"
        write(temporary, sector(self._entry(slot, trial=True)))
        temporary.rename(self._entries / "trial+1.conf")

    def commit(self, slot: str) -> None:
        replace_sector(self._entries / "edge.conf", self._entry(slot, trial=False))
        self._disarm()

    @property
    def _entries(self) -> Path:
        return self.boot / "loader" / "entries"

    def _disarm(self) -> None:
        for entry in self._entries.glob("trial*"):
            entry.unlink()

    def _entry(self, slot: str, *, trial: bool) -> str:
        return _ENTRY.format(
            slot=slot,
            note=", on trial" if trial else "",
            order="0-trial" if trial else "1-edge",
            options=options(self.name, slot, trial=trial),
        )


def of(name: str, boot: Path) -> Board:
    if name not in CONSOLES:
        raise Problem(f"no board {name!r}")
    return TryBoot(boot) if name == "pi" else Efi(boot, name)


def running(command_line: str) -> tuple[str, bool]:
    """The slot that runs, and whether it is on trial, by the kernel's command line."""
    words: Mapping[str, str] = dict(
        word.partition("=")[::2] for word in command_line.split() if word.startswith("edge.")
    )
    if words.get("edge.slot") not in SLOTS:
        raise Problem("not started from a slot: this system is not an edge image")
    return words["edge.slot"], "edge.trial" in words


def other(slot: str) -> str:
    return "b" if slot == "a" else "a"


def _slot_in(path: Path, pattern: str) -> str:
    found = re.search(pattern, path.read_text(), re.MULTILINE)
    if found is None:
        raise Problem(f"{path}: names no slot")
    return found[1]
