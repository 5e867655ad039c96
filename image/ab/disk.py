"""The partitions, and writing to the boot partition so that a power cut is harmless."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

DISK = "ed9e5afe"
SLOTS = {"a": 2, "b": 3}
STATE = 4
BOOT = Path("/boot/firmware")
SECTOR = 512


class Problem(Exception):
    """What went wrong, for the operator; said in one line."""


def partition(number: int) -> str:
    """How kernel and udev name a partition of this disk."""
    return f"PARTUUID={DISK}-{number:02d}"


def device(number: int) -> Path:
    return Path(f"/dev/disk/by-partuuid/{DISK}-{number:02d}")


def sector(text: str) -> bytes:
    """A text file of exactly one sector: replacing it in place is a single write to the card."""
    data = text.encode()
    if len(data) > SECTOR - 1:
        raise Problem(f"{len(data)} bytes do not fit into a sector")
    return data + b"#" * (SECTOR - 1 - len(data)) + b"\n"


def replace_sector(path: Path, text: str) -> None:
    """Changes a file that `sector` made: the card has the old text or the new one, whatever
    happens. FAT's rename would be two writes with nothing between them.
    """
    data = sector(text)
    if not path.exists() or path.stat().st_size != SECTOR:
        write(path, data)
        return
    file = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(file, data, 0)
        os.fsync(file)
    finally:
        os.close(file)


def write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def scrub(path: Path) -> None:
    """Overwrites a file before it is removed. A card may keep an old copy all the same."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
    sync_directory(path.parent)


@contextlib.contextmanager
def writable(boot: Path = BOOT) -> Iterator[None]:
    """The boot partition, read-only otherwise: what is not being written can not be torn."""
    run("mount", "-o", "remount,rw", str(boot))
    try:
        yield
    finally:
        os.sync()
        run("mount", "-o", "remount,ro", str(boot))


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        reason = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise Problem(f"{command[0]}: {reason[-1]}")
    return done.stdout
