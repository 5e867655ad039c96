"""The state partition takes the rest of the card: the last of four, so only its end moves."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ab.disk import STATE, device, run

ALIGNMENT = 2048  # sectors


def grow(say: Callable[[str], None]) -> None:
    """Each step can be repeated: a power cut between them is mended by the next start."""
    state = device(STATE).resolve()
    disk = disk_of(state)
    start, size = (int(_of(state, name)) for name in ("start", "size"))
    wanted = (_sectors(disk) - start) // ALIGNMENT * ALIGNMENT
    if wanted > size:
        say(f"state partition: {size >> 11} to {wanted >> 11} MiB")
        # The table of a DOS label is one sector: the old one or the new one.
        run("sh", "-c", f"echo 'size={wanted}' | sfdisk --quiet --no-reread --no-tell-kernel"
            f" -N {STATE} {disk}")  # fmt: skip
        run("partx", "--update", "--nr", str(STATE), str(disk))
    run("resize2fs", str(state))


def disk_of(partition: Path) -> Path:
    """/dev/mmcblk0p4 → /dev/mmcblk0, /dev/vda4 → /dev/vda."""
    name = re.sub(r"(?<=\d)p\d+$|(?<=[a-z])\d+$", "", partition.name)
    return partition.with_name(name)


def _of(partition: Path, what: str) -> str:
    return Path("/sys/class/block", partition.name, what).read_text()


def _sectors(disk: Path) -> int:
    return int(_of(disk, "size"))
