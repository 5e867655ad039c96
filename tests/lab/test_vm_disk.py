"""The disk of the power cuts: it forgets what was not flushed, and nothing else."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from vm_disk import SECTOR, ForgetfulDisk, forgetful_disk

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-io") is None, reason="needs the Debian package qemu-utils"
)


class Keeps(random.Random):
    """At a cut this share of what was not flushed stays."""

    def __init__(self, share: float) -> None:
        super().__init__(1)
        self._share = share

    def choice(self, seq: Any) -> Any:
        assert self._share in seq
        return self._share


def write(disk: ForgetfulDisk, *commands: str) -> None:
    """By another implementation, which is killed at the end and cannot flush."""
    words = [word for command in (*commands, "abort") for word in ("-c", command)]
    place = f"nbd+unix:///?socket={disk.address}"
    disk.switch_on()
    done = subprocess.run(
        ["qemu-io", "-t", "writeback", "-f", "raw", place, *words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGABRT, done.stdout + done.stderr
    disk.cut()


def sectors(disk: ForgetfulDisk, first: int, count: int) -> list[int]:
    data = disk.image.read_bytes()[first * SECTOR : (first + count) * SECTOR]
    return [data[at] for at in range(0, len(data), SECTOR)]


def test_what_was_flushed_stays_and_the_rest_is_forgotten(tmp_path: Path) -> None:
    with forgetful_disk(tmp_path, 1, 8 << 20) as disk:
        disk.chance = Keeps(0.0)
        write(disk, "write -P 1 512k 4k", "flush", "write -P 2 512k 2k", "write -f -P 3 516k 1k")
        assert sectors(disk, 1024, 10) == [1] * 8 + [3] * 2
        assert (disk.unflushed, disk.lost) == (4, 4)


def test_a_cut_may_tear_what_was_not_flushed(tmp_path: Path) -> None:
    with forgetful_disk(tmp_path, 1, 8 << 20) as disk:
        disk.chance = Keeps(0.5)
        write(disk, "write -P 1 512k 64k", "flush", "write -P 2 512k 64k")
        found = sectors(disk, 1024, 128)
        assert set(found) == {1, 2}
        assert found.count(1) == disk.lost
        write(disk, "write -P 3 512k 1k")  # it goes on
        assert disk.unflushed == 2


def test_one_that_lies_loses_what_it_said_was_flushed(tmp_path: Path) -> None:
    with forgetful_disk(tmp_path, 1, 8 << 20, lies=True) as disk:
        disk.chance = Keeps(0.0)
        write(disk, "write -P 1 512k 4k", "flush")
        assert sectors(disk, 1024, 8) == [0] * 8


def test_it_stops_at_a_write_and_waits_for_the_cut(tmp_path: Path) -> None:
    with forgetful_disk(tmp_path, 1, 8 << 20) as disk:
        disk.chance = Keeps(0.0)
        disk.switch_on()
        disk.stop_after(2)
        place = f"nbd+unix:///?socket={disk.address}"
        words = [w for n in range(1, 4) for w in ("-c", f"write -P {n} {511 + n}k 1k")]
        with subprocess.Popen(
            ["qemu-io", "-t", "writeback", "-f", "raw", place, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert disk.stopped.wait(60)
            process.kill()
        assert disk.writes == 2
        disk.cut()
        assert disk.lost == 4
