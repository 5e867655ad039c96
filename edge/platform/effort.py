"""How much a process has computed, with the children that it waits for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["computed"]


def computed() -> float:
    """Processor seconds so far, those of running children included. Blocks for a moment."""
    times = os.times()
    ended = times.children_user + times.children_system
    return times.user + times.system + ended + sum(map(_ticks, _children())) / _HERTZ


_HERTZ = os.sysconf("SC_CLK_TCK")


def _children() -> Iterator[str]:
    for task in Path("/proc/self/task").glob("*/children"):
        try:
            yield from task.read_text().split()
        except OSError:  # the thread has ended
            continue


def _ticks(pid: str) -> int:
    try:
        fields = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    return int(fields[11]) + int(fields[12])  # utime and stime of proc(5)
