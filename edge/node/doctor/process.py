"""What a process gets on this machine: addresses, pages, what the engine needs of the kernel."""

from __future__ import annotations

import mmap
import os
import resource
from collections.abc import Iterator
from pathlib import Path

from edge.engine.pool import SLOT_CHOICES, fitting_options
from edge.node.doctor.findings import Finding, error, ok, warning
from edge.node.doctor.site import Site

__all__ = ["addresses", "kernel", "pages"]

# What Raspberry Pi's kernels with pages of 4 KiB give a process.
_NARROW = 39


def addresses(site: Site) -> Iterator[Finding]:
    bits, slots = _width(site.root), fitting_options().slots
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    found = f"{bits} bits of addresses, room for {slots} guests at once"
    if limit != resource.RLIM_INFINITY and slots < SLOT_CHOICES[0]:
        yield warning(
            "addresses",
            f"{found}: a limit of {limit >> 30} GiB is set",
            "`ulimit -v unlimited`; for a service, LimitAS=infinity",
        )
    elif bits <= _NARROW or slots < SLOT_CHOICES[0]:
        yield warning(
            "addresses",
            f"{found}, of {SLOT_CHOICES[0]}",
            "a kernel with more: Debian's for arm64 has 48 bits; Raspberry Pi OS has 47 on a Pi 5"
            " with kernel=kernel_2712.img in /boot/firmware/config.txt. Otherwise nothing:"
            " what does not fit waits",
        )
    else:
        yield ok("addresses", found)


def _width(root: Path) -> int:
    """Of user space: the stack is at its upper end."""
    ends = [
        int(line.split(maxsplit=1)[0].partition("-")[2], 16)
        for line in (root / "proc/self/maps").read_text().splitlines()
    ]
    # What the kernel maps for all processes lies in its own half.
    return max(end - 1 for end in ends if end < 1 << 63).bit_length()


def pages(_site: Site) -> Iterator[Finding]:
    size = os.sysconf("SC_PAGE_SIZE")
    text = f"{size >> 10} KiB"
    if size == 4096:
        yield ok("pages", text)
    elif size <= 16384:
        yield ok("pages", f"{text}: each one that a guest touches takes {size >> 12} times as much")
    else:
        yield warning("pages", f"{text}: edge was not tried with that", "a kernel with less")


def kernel(site: Site) -> Iterator[Finding]:
    found = list(_lacks(site))
    release = os.uname().release
    yield from found or [ok("kernel", f"{release}: has what the engine needs")]


def _lacks(site: Site) -> Iterator[Finding]:
    try:
        mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    except PermissionError:
        yield warning(
            "kernel",
            "no executable memory is allowed: guests are interpreted, ten times slower",
            "is that meant (drop-in pulley.conf)? Otherwise remove MemoryDenyWriteExecute=",
        )
    try:
        os.close(os.memfd_create("edge-doctor", os.MFD_CLOEXEC))
    except OSError:
        yield warning(
            "kernel",
            "memfd_create is not allowed: long lines are not in the journal",
            "a kernel from 3.17 on, and a container that lets it be called",
        )
    if _setting(site.root, "vm/overcommit_memory") == 2:
        yield warning(
            "kernel",
            "vm.overcommit_memory is 2: memory that guests reserve counts as used",
            "`sysctl vm.overcommit_memory=0`, and in /etc/sysctl.d",
        )
    if (most := _setting(site.root, "vm/max_map_count")) is not None and most < 65530:
        yield error(
            "kernel",
            f"vm.max_map_count is {most}: an instance takes several mappings",
            "`sysctl vm.max_map_count=65530`, the kernel's default, and in /etc/sysctl.d",
        )


def _setting(root: Path, name: str) -> int | None:
    try:
        return int((root / "proc/sys" / name).read_text())
    except (OSError, ValueError):
        return None
