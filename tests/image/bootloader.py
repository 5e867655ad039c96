"""A small model of the Raspberry Pi's bootloader: what it would load from a boot partition.

Only what an edge image uses, from the boot documentation:
https://www.raspberrypi.com/documentation/computers/config_txt.html
https://www.raspberrypi.com/documentation/computers/raspberry-pi.html#raspberry-pi-boot-modes
Unknown settings are an error here, though the firmware ignores them: a misspelt one is a fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Whether each model's first stage comes from the card, its firmware, and its device trees in the
# order of preference with upstream_kernel=1.
MODELS: Mapping[str, tuple[bool, str, tuple[str, ...]]] = {
    "pi3b": (True, "start", ("bcm2837-rpi-3-b.dtb",)),
    "pi3b+": (True, "start", ("bcm2837-rpi-3-b-plus.dtb",)),
    "zero2w": (True, "start", ("bcm2837-rpi-zero-2-w.dtb",)),
    "pi4": (False, "start4", ("bcm2711-rpi-4-b.dtb",)),
}
KNOWN = {
    "arm_64bit", "upstream_kernel", "enable_uart", "gpu_mem", "os_prefix", "kernel", "cmdline",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Start:
    """What a board starts: paths on the boot partition, and the kernel's command line."""

    kernel: str
    initramfs: str
    device_tree: str
    command_line: str


class NoStart(Exception):
    """The board stays dark, and why."""


def choose(files: Mapping[str, bytes], model: str, *, tryboot: bool = False) -> Start:
    """`files`: path → content. `tryboot`: the flag that the firmware clears as it reads it."""
    first_stage, firmware, trees = MODELS[model]
    if first_stage:
        need(files, "bootcode.bin")
    chosen = "tryboot.txt" if tryboot and "tryboot.txt" in files else "config.txt"
    settings, initramfs = read(files, chosen)
    if settings.get("arm_64bit") != "1":
        raise NoStart("a 64-bit kernel needs arm_64bit=1")
    # 16 MB for the video core select the cut-down firmware.
    kind = {"start": "_cd", "start4": "cd"}[firmware] if settings.get("gpu_mem") == "16" else ""
    for name in (f"{firmware}{kind}.elf", f"{firmware.replace('start', 'fixup')}{kind}.dat"):
        need(files, name)
    prefix = settings.get("os_prefix", "")
    # A prefix whose kernel is missing is ignored.
    if prefix + settings["kernel"] not in files:
        prefix = ""
    kernel = prefix + settings["kernel"]
    need(files, kernel)
    need(files, prefix + initramfs)
    tree = next((prefix + name for name in trees if prefix + name in files), None)
    if tree is None:
        raise NoStart(f"no device tree of {trees} in {prefix!r}")
    words = files.get(prefix + settings.get("cmdline", "cmdline.txt"))
    if words is None:
        raise NoStart("no command line")
    return Start(kernel, prefix + initramfs, tree, words.decode().split("\n")[0])


def read(files: Mapping[str, bytes], name: str) -> tuple[dict[str, str], str]:
    """The settings of a configuration file, and the RAM disk, which has a syntax of its own."""
    need(files, name)
    settings: dict[str, str] = {}
    initramfs = ""
    for line in files[name].decode().splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if words[0] == "include":
            included, ram_disk = read(files, words[1]) if words[1] in files else ({}, "")
            settings |= included
            initramfs = ram_disk or initramfs
        elif words[0] == "initramfs":
            assert words[2] == "followkernel"
            initramfs = words[1]
        else:
            key, _, value = words[0].partition("=")
            assert key in KNOWN, f"{name}: {line}"
            settings[key] = value
    return settings, initramfs


def need(files: Mapping[str, bytes], name: str) -> None:
    if name not in files:
        raise NoStart(f"{name} is missing")
